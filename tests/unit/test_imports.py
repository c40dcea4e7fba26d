"""The rules of the house: which way imports may go."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pytest_vmscale"

# What a folder (or file) of the package may import from the rest of it, beside what lies in itself.
ALLOWED = {
    "embedded": set(),
    "model.py": set(),
    "records.py": {"model"},
    "clock.py": set(),
    "yamlfile.py": set(),
    "quantity.py": set(),
    "site.py": {"quantity"},
    "settings.py": {"site", "yamlfile"},
    "manifests": {"model", "site"},
    "rights.py": {"settings"},
    "cluster": {"model", "clock", "rights"},
    "guest": {"model", "clock", "cluster"},
    "procedures": {"model", "records", "clock", "quantity", "cluster", "guest", "manifests"},
    "slo": {"model", "records", "quantity", "settings", "yamlfile"},
    "scenarios.py": {"model", "records", "rights", "run", "settings", "slo"},
    "report": {"model", "records", "rights", "slo", "scenarios", "fleets", "plan", "run"},
}


def imported(path: Path) -> set[str]:
    """The parts of the package that a file imports, by their first name below it."""
    inside = path.relative_to(PACKAGE).parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                package = ["pytest_vmscale", *inside[:-1]][: len(inside) - node.level + 1]
                base = [*package, *(node.module.split(".") if node.module else [])]
            else:
                base = (node.module or "").split(".")
            names = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        found |= {parts[1] for parts in names if parts[0] == "pytest_vmscale" and len(parts) > 1}
    return found


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part):
    where = PACKAGE / part
    own = part.removesuffix(".py")
    for path in [where] if where.is_file() else sorted(where.rglob("*.py")):
        forbidden = imported(path) - ALLOWED[part] - {own}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {sorted(forbidden)}"


def test_nobody_imports_the_embedded_cluster():
    files = [
        *PACKAGE.glob("*.py"),
        *(f for part in PACKAGE.iterdir() if part.is_dir() and part.name != "embedded" for f in part.rglob("*.py")),
    ]
    assert len(files) > 20
    assert not [str(path) for path in files if "embedded" in imported(path)]


def test_the_plugin_costs_other_peoples_runs_nothing():
    heavy = ["pydantic", "aiohttp", "kubernetes", "paramiko", "asyncssh", "matplotlib", "numpy", "allure", "yaml"]
    code = f"import sys, pytest; before = set(sys.modules); import pytest_vmscale.plugin; print([m for m in {heavy} if m in set(sys.modules) - before])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
