"""`oc adm inspect` on failure, with a stand-in for oc."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from pytest_vmscale.cluster import openshift
from pytest_vmscale.cluster.openshift import Inspection, inspect_namespaces, pack


@pytest.fixture
def fake_oc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An oc that writes down how it was called, gathers one file, and fails if a file says so."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "oc"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nmkdir {tmp_path}/out && echo of-a > {tmp_path}/out/a.yaml\n[ -e {tmp_path}/fail ] && echo "no such namespace" >&2 && exit 3\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path


def test_each_namespace_is_asked_for(fake_oc: Path) -> None:
    found = inspect_namespaces(Path("/k"), "lab", ["a", "b"], fake_oc / "out")
    assert found == Inspection(f"oc adm inspect: 2 namespaces in {fake_oc / 'out'}", "", fake_oc / "out.tar.gz")
    (call,) = (fake_oc / "calls").read_text().splitlines()
    assert all(word in call.split() for word in ("adm", "inspect", "ns/a", "ns/b", f"--dest-dir={fake_oc / 'out'}", "--kubeconfig=/k", "--context=lab"))


def test_what_goes_wrong_is_one_line_and_what_was_gathered_is_kept(fake_oc: Path) -> None:
    (fake_oc / "fail").touch()
    found = inspect_namespaces(None, None, ["a"], fake_oc / "out")
    assert found.line == "oc adm inspect: failed (3): no such namespace" and found.complaint == "no such namespace"
    assert found.archive and contents(found.archive) == {"out/a.yaml": "of-a\n"}


def test_without_oc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = inspect_namespaces(None, None, ["a"], tmp_path)
    assert "there is no oc on the PATH" in found.line and found.archive is None


def test_what_is_too_much_to_pack_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(openshift, "PACKED_AT_MOST_BYTES", 10)
    (tmp_path / "gathered" / "logs").mkdir(parents=True)
    (tmp_path / "gathered" / "logs" / "a.log").write_text("x" * 11)
    (tmp_path / "gathered" / "events.yaml").write_text("y" * 10)
    archive = pack(tmp_path / "gathered", tmp_path / "gathered.tar.gz")
    assert archive and contents(archive) == {"gathered/events.yaml": "y" * 10, "gathered/LEFT-OUT.txt": "gathered/logs/a.log (11 bytes)\n"}


def test_nothing_gathered_is_not_packed(tmp_path: Path) -> None:
    assert pack(tmp_path / "none", tmp_path / "none.tar.gz") is None and list(tmp_path.iterdir()) == []


def contents(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as packed:
        return {each.name: packed.extractfile(each).read().decode() for each in packed.getmembers()}
