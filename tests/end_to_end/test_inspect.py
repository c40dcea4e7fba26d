"""`--inspect-on-failure`, with a stand-in for oc."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

OC = """#!/bin/sh
for word in "$@"; do
    case $word in
        --dest-dir=*) folder=${word#--dest-dir=} ;;
        ns/*) namespaces="$namespaces ${word#ns/}" ;;
    esac
done
mkdir -p "$folder" && echo $namespaces > "$folder/namespaces"
echo "error: one log could not be read" >&2
exit 1
"""


@pytest.fixture
def oc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oc that gathers the names of the namespaces, and then fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "oc"
    program.write_text(OC)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.mark.usefixtures("oc")
def test_a_fleet_that_was_never_provisioned_is_inspected_before_it_is_removed(scale):
    run = scale(
        "--vms", "2", "--sim-workers", "3", "--sim-fault", "stuck-clones=1", "--provision-deadline", "15s", "--sim-speed", "200",
        "--inspect-on-failure", "--run-id", "r", "--alluredir", "allure",
    )  # fmt: skip
    assert run.code == 10, run.out
    assert "vmscale: oc adm inspect: failed (1): error: one log could not be read" in run.out
    assert run.out.index("oc adm inspect") < run.out.index("removing the fleet")
    with tarfile.open(run.results / "inspect-main.tar.gz") as packed:
        gathered = packed.extractfile("inspect-main/namespaces")
        assert gathered and gathered.read().split() == [b"vmscale-r-0"]
    containers = [json.loads(path.read_text()) for path in Path("allure").glob("*-container.json")]
    attached = {
        each["name"]
        for container in containers
        for part in ("befores", "afters")
        for step in container.get(part, ())
        for each in step.get("attachments", ())
    }
    assert attached == {"oc adm inspect: main", "oc adm inspect failed: main"}
