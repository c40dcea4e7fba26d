"""The embedded server against the recorded answers of a real one, where those lie next to the checkout."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Api

ORACLE = Path(__file__).parents[3] / "shared" / "oracle"
# Why these answers differ, and may.
LEFT_OUT = {
    "api resources": "that server had three of KubeVirt's custom resource definitions, this one has more",
    "pod change of an immutable field": "the real message ends in a diff of Go structures",
    "pod eviction of one not there": "evictions are served by the cluster around the API server, which is not running here",
}


def answers(server: Api) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("probe", ORACLE / "probe.py")
    assert spec and spec.loader
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    here = {line["question"]: line for line in probe.answers(probe.Server(server.url, server.token, server.context))}
    recorded = {line["question"]: line for line in map(json.loads, (ORACLE / "answers-1.36.jsonl").read_text().splitlines())}
    return probe, here, recorded


@pytest.mark.skipif(not ORACLE.is_dir(), reason="no recorded answers of a real server")
def test_the_same_questions_have_the_same_answers(server: Api) -> None:
    if server.embedded is None:
        pytest.skip("the recorded answers are of one version of the real server")
    probe, here, recorded = answers(server)
    assert set(here) == set(recorded)
    differing = {question for question, line in here.items() if line != recorded[question]}
    unexplained = {question: list(probe.differences(recorded[question], here[question])) for question in differing - set(LEFT_OUT)}
    assert not unexplained
    assert set(LEFT_OUT) <= differing, "no longer differs: take it off the list"
