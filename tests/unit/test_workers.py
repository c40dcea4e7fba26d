"""How pytest-xdist shares tests out: what touches the cluster to one worker, the rest as asked."""

from __future__ import annotations

import pytest

from pytest_vmscale.workers import scheduling

IDS = ["own/test_a.py::test_1", "own/test_a.py::test_2", "own/test_b.py::T::test_3", "own/test_b.py::test_4"]


@pytest.mark.parametrize(
    ("dist", "scopes"),
    [
        ("load", ["cluster", "own/test_a.py::test_2", "own/test_b.py::T::test_3", "cluster"]),
        ("worksteal", ["cluster", "own/test_a.py::test_2", "own/test_b.py::T::test_3", "cluster"]),
        ("loadfile", ["cluster", "own/test_a.py", "own/test_b.py", "cluster"]),
        ("loadscope", ["cluster", "own/test_a.py", "own/test_b.py::T", "cluster"]),
    ],
)
def test_what_touches_the_cluster_goes_to_one_worker(pytester, tmp_path, dist, scopes):
    (tmp_path / "gw0").write_text(f"{IDS[0]}\n{IDS[3]}")
    (tmp_path / "gw1").write_text(f"{IDS[0]}\n{IDS[3]}")
    scheduler = scheduling(pytester.parseconfig("--tx=2*popen", f"--dist={dist}"), None, tmp_path)
    for node in (Node("gw0"), Node("gw1")):
        scheduler.add_node(node)
        scheduler.add_node_collection(node, IDS)
    scheduler.schedule()
    assert [scheduler._split_scope(each) for each in IDS] == scopes
    assert any({0, 3} <= set(node.sent) for node in scheduler.nodes)


class Node:
    """A worker, as a scheduler sees it."""

    def __init__(self, name: str) -> None:
        self.gateway, self.sent, self.shutting_down = self, list[int](), False
        self.id = name

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True
