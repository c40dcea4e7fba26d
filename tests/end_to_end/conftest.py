"""Runs the suites as a user does: a pytest process of its own, in an empty folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Outcome:
    """What a run left: its exit code, output, and result folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def results(self) -> Path:
        """The run's own folder; there must be exactly one."""
        (folder,) = (self.folder / "vmscale-results").iterdir()
        return folder

    def json(self, name: str) -> Any:
        return json.loads((self.results / name).read_text())

    @property
    def nothing_started(self) -> bool:
        return not (self.folder / "vmscale-results").exists()


@pytest.fixture
def scale(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`scale("--vms", "20")` runs the boot storm suite."""
    for name in ("KUBECONFIG", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, suite: str = "suites/test_bootstorm.py") -> Outcome:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(ROOT / "pyproject.toml"),
            "--rootdir",
            str(ROOT),
            "-p",
            "no:cacheprovider",
            str(ROOT / suite),
        ]
        done = pytester.run(*command, *arguments)
        return Outcome(int(done.ret), "\n".join(done.outlines), "\n".join(done.errlines), Path(os.getcwd()))

    return run
