"""`oc adm inspect` on failure, with a stand-in for oc."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_vmscale.cluster.openshift import inspect_namespaces


@pytest.fixture
def fake_oc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An oc that writes down how it was called, and fails if a file says so."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "oc"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ -e {tmp_path}/fail ] && echo "no such namespace" >&2 && exit 3\nexit 0\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path


def test_each_namespace_is_asked_for(fake_oc: Path) -> None:
    line = inspect_namespaces(Path("/k"), "lab", ["a", "b"], fake_oc / "out")
    assert line == f"oc adm inspect: 2 namespaces in {fake_oc / 'out'}"
    (call,) = (fake_oc / "calls").read_text().splitlines()
    assert all(word in call.split() for word in ("adm", "inspect", "ns/a", "ns/b", f"--dest-dir={fake_oc / 'out'}", "--kubeconfig=/k", "--context=lab"))


def test_what_goes_wrong_is_one_line(fake_oc: Path) -> None:
    (fake_oc / "fail").touch()
    line = inspect_namespaces(None, None, ["a"], fake_oc / "out")
    assert line.startswith("oc adm inspect: failed (3): ") and "no such namespace" in line and "\n" not in line


def test_without_oc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no oc on the PATH" in inspect_namespaces(None, None, ["a"], tmp_path)
