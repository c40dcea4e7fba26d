"""pytest-xdist's workers: all that touches the cluster goes to one of them, so that two scenarios never run at a time.

Only workers collect, and all that their controller learns of a test before it has to share them out is its id. So each writes down which of
its tests touch the cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest


def tell(folder: Path, touching: Iterable[pytest.Item]) -> None:
    """A worker's part."""
    text = "\n".join(item.nodeid for item in touching)
    (folder / os.environ["PYTEST_XDIST_WORKER"]).write_text(text, encoding="utf-8")


def scheduling(config: pytest.Config, log: Any, folder: Path) -> Any:
    """The controller's. What does not touch the cluster is shared out as --dist says."""
    from xdist.scheduler import LoadFileScheduling, LoadGroupScheduling, LoadScopeScheduling

    kinds = {"loadfile": LoadFileScheduling, "loadgroup": LoadGroupScheduling, "loadscope": LoadScopeScheduling}
    asked = kinds.get(config.getvalue("dist"))

    class OneClusterScheduling(asked or LoadScopeScheduling):  # type: ignore[misc]
        touching: frozenset[str] = frozenset()

        def schedule(self) -> None:
            self.touching = frozenset(line for told in folder.iterdir() for line in told.read_text(encoding="utf-8").splitlines())
            super().schedule()

        def _split_scope(self, nodeid: str) -> str:
            if nodeid in self.touching:
                return "cluster"
            return str(super()._split_scope(nodeid)) if asked else nodeid

    return OneClusterScheduling(config, log)
