"""`vmscale`: what is wrong is said in one line."""

from __future__ import annotations

import pytest

from pytest_vmscale import cli


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["embedded", "up", "--state-dir", "/dev/null/x"], "--state-dir /dev/null/x: Not a directory"),
        (["cleanup", "--run-id", "A B", "--kubeconfig", "nope"], "--run-id A B: must be"),
        (["cleanup", "--run-id", "r1", "--kubeconfig", "nope"], "kubeconfig nope: No such file"),
        (["validate", "nope.yaml"], "nope.yaml: no such file"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, told):
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and told in said.err


def test_a_number_that_is_none_starts_nothing(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["embedded", "up", "--workers", "abc", "--state-dir", str(tmp_path / "state")])
    assert ended.value.code == 2 and "argument --workers: invalid int value: 'abc'" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_ctrl_c_is_no_traceback(capsys, monkeypatch):
    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_validate", interrupted)
    assert cli.main(["validate", "x"]) == 130
    assert capsys.readouterr().err == "vmscale: interrupted\n"
