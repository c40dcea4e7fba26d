"""The wheel alone is enough: an empty folder, no checkout, and the suites run."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs. (Its dependencies are this environment's.)"""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def vmscale(installed, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest_vmscale.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240)

    return run


def test_the_wheel_has_no_packages_but_its_own(installed):
    assert sorted(each.name for each in installed.iterdir() if not each.name.endswith(".dist-info")) == ["pytest_vmscale"]


def test_a_storm_runs_from_the_wheel_in_an_empty_folder(vmscale, installed, tmp_path):
    before = set(installed.rglob("*"))
    done = vmscale("run", "-m", "bootstorm", "--vms", "10", "--sim-workers", "10", "--run-id", "w1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verdict: PASS" in done.stdout and str(installed) in done.stdout + "".join(map(str, installed.rglob("test_bootstorm.py")))
    assert (tmp_path / "vmscale-results" / "w1" / "verdict.json").is_file()
    assert set(installed.rglob("*")) == before, "nothing is written beside the suites"
    told = vmscale("report", "vmscale-results/w1", "--markdown")
    assert told.stdout.startswith("**PASS**")


def test_one_suite_is_named_as_in_the_checkout(vmscale, tmp_path):
    (tmp_path / "vmscale.yaml").write_text("guests: {rhel: {}}\n")
    done = vmscale("run", "suites/test_bootstorm.py", "--plan")
    assert done.returncode == 4 and "vmscale.yaml:1: guests.rhel" in done.stderr
    (tmp_path / "vmscale.yaml").unlink()
    done = vmscale("run", "suites/test_bootstorm.py", "--plan", "--vms", "1000")
    assert done.returncode == 0 and "Would run: bootstorm" in done.stdout
