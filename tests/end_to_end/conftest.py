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
import yaml

ROOT = Path(__file__).parents[2]
# hypothesis' plugin takes as long to load as all of a run's start, and users do not have it.
PYTEST = (sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:hypothesispytest")


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

    def named(self, pattern: str) -> list[str]:
        """The names of the result files that a pattern matches; there must be one at least."""
        found = sorted(path.name for path in self.results.glob(pattern))
        assert found, pattern
        return found

    @property
    def nothing_started(self) -> bool:
        return not (self.folder / "vmscale-results").exists()


@pytest.fixture(autouse=True)
def nothing_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs a test starts do not learn of the run that starts them."""
    for name in ("KUBECONFIG", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def scale(pytester: pytest.Pytester) -> Callable[..., Outcome]:
    """`scale("--vms", "20")` runs the boot storm suite."""

    def run(*arguments: str, suite: str = "suites/test_bootstorm.py", in_process: bool = False) -> Outcome:
        """in_process: for what ends before anything is started, which is most of a process' time."""
        words = (*PYTEST, "-p", "no:cacheprovider", str(ROOT / suite), *arguments)
        done = pytester.runpytest_inprocess(*words[3:], syspathinsert=False) if in_process else pytester.run(*words)
        return Outcome(int(done.ret), "\n".join(done.outlines), "\n".join(done.errlines), Path(os.getcwd()))

    return run


def apply_roles(kubeconfig: Path) -> None:
    """All that is in ci/rbac, as `oc apply` would."""
    from kubernetes import config, utils

    with config.new_client_from_config(str(kubeconfig)) as api:
        base = ROOT / "ci" / "rbac" / "base.yaml"
        for file in (base, *sorted({*base.parent.rglob("*.yaml")} - {base})):
            utils.create_from_yaml(api, str(file))


def account_of(kubeconfig: Path, name: str, path: Path) -> Path:
    """A kubeconfig, written to `path`, for a ServiceAccount of ci/rbac."""
    from kubernetes import client, config

    with config.new_client_from_config(str(kubeconfig)) as api:
        wanted = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
        made = client.CoreV1Api(api).create_namespaced_service_account_token(name, "vmscale", wanted)
    told = yaml.safe_load(kubeconfig.read_text())
    told["users"][0]["user"]["token"] = made.status.token
    path.write_text(yaml.safe_dump(told))
    return path
