"""The documentation: it builds without a warning, its commands and options exist, and its objectives are those that are judged."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_vmscale import cli, options, scenarios
from pytest_vmscale.embedded.faults import load_plan
from pytest_vmscale.plugin import MARKERS
from pytest_vmscale.slo.profile import load_profile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTEST = re.compile(r"(?:\.venv/bin/)?pytest|ci/run\.sh|vmscale run")
OURS = {option for option, *_ in (*options.OPTIONS, *options.SWITCHES, *options.LISTS)}


def commands(page: Path) -> list[str]:
    """What stands in code blocks, indented or fenced, and begins as a command of this project does; without what follows a #."""
    fenced = re.sub(r"(?m)^```.*$", "```", page.read_text()).split("```")
    lines = [line.strip() for block in fenced[1::2] for line in block.splitlines()]
    lines += [line.strip() for block in fenced[::2] for line in block.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.match(r"(\.venv/bin/)?(pytest|vmscale|ci/|docs/|benchmarks/|oc |mkdocs )\S*", line)]


def all_commands(begins: str) -> list[Any]:
    return [
        pytest.param(command, id=f"{page.stem}: {command[:60]}")
        for page in PAGES
        for command in commands(page)
        if re.match(begins, command)
    ]


def test_every_page_with_commands_is_read():
    assert {page.stem for page in PAGES if commands(page)} >= {
        "README",
        "accept",
        "gate",
        "suite",
        "bootstorm",
        "deployment",
        "latency",
        "upgrade",
    }


@pytest.mark.parametrize("command", all_commands(rf"({PYTEST.pattern})\s"))
def test_runs_of_pytest_have_options_and_suites_that_exist(pytester, command):
    words = shlex.split(PYTEST.sub("", command, count=1), comments=True)
    config = pytester.parseconfig(*words)  # an unknown option is an error
    named = set(re.findall(r"[a-z_]+", config.option.markexpr)) - {"and", "or", "not"}
    assert named <= set(MARKERS)
    for word in words:
        assert not word.startswith("suites/") or (ROOT / word).exists()


@pytest.mark.parametrize("command", all_commands(r"vmscale (?!run)"))
def test_commands_of_vmscale_exist(command, capsys):
    words = shlex.split(command, comments=True)[1:]
    actions = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
    given = {word.split("=")[0] for word in words if word.startswith("-")}
    with pytest.raises(SystemExit) as end:
        cli.main([*actions[: 2 if actions[0] in ("embedded", "slo") else 1], "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", told) for option in given), told


@pytest.mark.parametrize("command", all_commands(r"(ci|docs|benchmarks)/|oc "))
def test_files_of_commands_are_there(command):
    for path in re.findall(r"(?<![\w./-])((?:ci|docs|benchmarks)/[\w./-]+)", command):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_in_the_text_exist(page):
    """`--option` between backticks, alone or with a value."""
    of_oc = {
        "--timeout",
        "--to",
        "--to-image",
        "--allow-explicit-upgrade",
        "--allow-explicit-channel",
        "--allow-not-recommended",
        "--force",
    }
    pytests = {"--junitxml", "--alluredir", "--help", "--last-failed", "--pyargs", "--dry-run"}
    commands_own = {"--forget-edits", "--markdown", "--detach", "--state-dir", "--workers", "--runs"}
    found = {option for span in re.findall(r"`(--[^`]+)`", page.read_text()) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    assert found <= OURS | of_oc | pytests | commands_own


def test_fixtures_that_a_suite_is_written_with_exist():
    page = (ROOT / "docs" / "suite.md").read_text()
    table = page.split("| fixture | what |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    used = {name for arguments in re.findall(r"def test_\w+\(self, ([\w, ]+)\)", page) for name in arguments.split(", ")}
    defined = {
        node.name
        for path in (ROOT / "fixtures").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and any("fixture" in ast.unparse(each) for each in node.decorator_list)
    }
    assert len(named) >= 10 and used and named | used <= defined


def judged() -> set[str]:
    """The ids of all objectives."""
    profile = load_profile("reference")
    found = {each for scenario in scenarios.ALL for each in scenarios._built_in(scenario, profile)}
    # Keys of the profile that are no objectives, or two.
    return found - {"deployment.deadline", "latency.baseline_variance"} | {
        "latency.baseline_variance_read",
        "latency.baseline_variance_write",
    }


def objective_rows(page: Path) -> dict[str, str]:
    """By id, the row of a table that begins with it."""
    prefixes = "|".join(each.prefix for each in scenarios.ALL)
    rows = {}
    for line in page.read_text().splitlines():
        if line.startswith("| `"):
            for found in re.findall(rf"`((?:{prefixes})\.\w+)`", line.split("|")[1]):
                assert found not in rows, f"{page.name} has {found} twice"
                rows[found] = line
    return rows


def test_all_objectives_are_listed():
    assert set(objective_rows(ROOT / "docs" / "slo.md")) == judged()


def numbers(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [each for key, inner in value.items() if key not in ("source", "report", "minimum_points") for each in numbers([key, inner])]
    if isinstance(value, list):
        return [each for inner in value for each in numbers(inner)]
    return [f"{value:g}"] if isinstance(value, int | float) and not isinstance(value, bool) else []


def test_the_numbers_of_the_reference_are_those_of_the_list():
    rows = objective_rows(ROOT / "docs" / "slo.md")
    reference = yaml.safe_load((ROOT / "pytest_vmscale/slo/profiles/reference.yaml").read_text())
    for scenario in scenarios.ALL:
        for key, block in reference[scenario.prefix].items():
            told = " ".join(row for name, row in rows.items() if name.startswith(f"{scenario.prefix}.{key}"))
            if key in ("deadline", "percentiles"):  # when to give up; and what is reported
                continue
            assert [
                each for each in numbers(block) if each != "1" and not re.search(rf"(?<![\d.]){re.escape(each)}(?![\d.])", told)
            ] == [], key


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda each: each.name)
def test_each_scenarios_page_has_its_objectives(scenario):
    page = (ROOT / "docs" / f"{scenario.marker.split()[-1]}.md").read_text()
    for each in judged():
        prefix, _, name = each.partition(".")
        if prefix == scenario.prefix:
            stem, _, last = name.rpartition("_")
            assert each in page or f"`_{last}`" in page or (re.fullmatch(r"p\d+", last) and f"`{prefix}.{stem}_p" in page), (
                f"{each} is not there"
            )


def test_profiles_in_the_documentation_are_valid(tmp_path):
    text = (ROOT / "docs" / "slo.md").read_text() + (ROOT / "docs" / "deployment.md").read_text()
    shown = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if block.startswith("extends:")]
    assert len(shown) >= 3
    for number, block in enumerate(shown):
        path = tmp_path / f"profile-{number}.yaml"
        path.write_text(block)
        scenarios.check_profile(load_profile(path))


def test_a_plan_of_faults_in_the_documentation_is_valid(tmp_path):
    (shown,) = re.findall(r"```yaml\n(- \{fault: .*?)```", (ROOT / "docs" / "embedded.md").read_text(), re.S)
    (tmp_path / "plan.yaml").write_text(shown)
    assert len(load_plan(tmp_path / "plan.yaml")) == 2


def test_it_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml", "-d", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    fetched = [
        f"{page.name}: {tag}"
        for page in (tmp_path / "site").rglob("*.html")
        for tag in re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]+", page.read_text())
    ]
    assert fetched == []


def test_pictures_are_small():
    for picture in (ROOT / "docs").rglob("*.*"):
        assert picture.suffix not in (".png", ".svg") or picture.stat().st_size < 100 * 1024, picture
