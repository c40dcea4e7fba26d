"""`vmscale`: what is wrong is said in one line."""

from __future__ import annotations

import pytest

from pytest_vmscale import cleanup, cli
from pytest_vmscale.cluster.access import ClusterError

LAB = """
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: me}}]
clusters: [{name: lab, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: me, user: {token: abc}}]
"""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["embedded", "up", "--state-dir", "/dev/null/x"], 4, "--state-dir /dev/null/x: Not a directory"),
        (["cleanup", "--run-id", "r1"], 4, "no cluster is named: give --kubeconfig, or set KUBECONFIG"),
        (["cleanup", "--run-id", "A B", "--kubeconfig", "nope"], 4, "--run-id A B: must be"),
        (["cleanup", "--run-id", "r1", "--kubeconfig", "nope"], 4, "kubeconfig nope: No such file"),
        (["cleanup", "--run-id", "r1", "--kubeconfig", "lab", "--context", "prod"], 4, "has no context 'prod' (it has: lab)"),
        (["validate", "nope.yaml"], 1, "nope.yaml: no such file"),
    ],
)
def test_bad_input_is_one_line(capsys, monkeypatch, tmp_path, arguments, code, told):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    (tmp_path / "lab").write_text(LAB)
    assert cli.main(arguments) == code
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and told in said.err


def test_a_number_that_is_none_starts_nothing(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["embedded", "up", "--workers", "abc", "--state-dir", str(tmp_path / "state")])
    assert ended.value.code == 4 and "argument --workers: invalid int value: 'abc'" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_cluster_that_cannot_be_asked_is_no_bad_input(capsys, monkeypatch, tmp_path):
    def unreachable(*arguments: object, **more: object) -> None:
        raise ClusterError("https://127.0.0.1:1 cannot be reached: Connection refused")

    monkeypatch.setattr(cleanup, "remove_run", unreachable)
    (tmp_path / "lab").write_text(LAB)
    assert cli.main(["cleanup", "--run-id", "r1", "--kubeconfig", str(tmp_path / "lab")]) == 10
    assert capsys.readouterr().err == "vmscale: https://127.0.0.1:1 cannot be reached: Connection refused\n"


def test_a_cluster_that_cannot_be_as_asked_does_not_start(capsys, tmp_path):
    assert cli.main(["embedded", "up", "--detach", "--profile", "nope", "--state-dir", str(tmp_path / "state")]) == 4
    assert capsys.readouterr().err.startswith("vmscale: --profile nope: is no timing profile; there are ")


def test_ctrl_c_is_no_traceback(capsys, monkeypatch):
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_validate", interrupted)
    assert cli.main(["validate", "x"]) == 130
    assert capsys.readouterr().err == "vmscale: interrupted\n"
