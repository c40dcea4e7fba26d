"""fio's job files, as they go into guests, and its results, as they come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_vmscale.guest.fio import Dataset, FioError, Job, parse, render_job, render_layout

GOLDEN = Path(__file__).with_name("golden")


@pytest.mark.parametrize(
    "name, text",
    [
        ("layout.fio", render_layout(Dataset())),
        ("baseline-read.fio", render_job(Job("baseline-read", "read", iops=1, runtime_seconds=330))),
        ("workload-write.fio", render_job(Job("workload-write", "write", iops=1000, runtime_seconds=60, engine="io_uring", depth=4))),
        ("mixed.fio", render_job(Job("mixed", "mixed", iops=500, runtime_seconds=60, ramp_seconds=0))),
    ],
)
def test_job_files_are_as_reviewed(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


def test_the_references_dataset_is_what_fits_its_disk() -> None:
    assert Dataset().files == 2400
    assert Dataset().bytes == 4800 * 2**20


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"iops": 0}, "the iops must be at least 1, not 0"),
        ({"runtime_seconds": 0}, "runtime must be at least 1"),
        ({"ramp_seconds": -1}, "ramp time must be at least 0"),
        ({"block_bytes": 1}, "block size must be at least 512"),
        ({"depth": 0}, "iodepth must be at least 1"),
        ({"name": "a/../b"}, "cannot be called 'a/../b'"),
        ({"name": "a b"}, "cannot be called"),
        ({"engine": "x\nexec_prerun=rm"}, "there is no fio ioengine"),
    ],
)
def test_a_job_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Job(**{"name": "a", "access": "read", "iops": 1, "runtime_seconds": 1, **wrong})


def side(ios: int) -> dict[str, Any]:
    bins = {"bins": {"304128": ios, "308224": 0}} if ios else {}
    return {"total_ios": ios, "iops": ios / 3, "runtime": 3000,
            "clat_ns": {"mean": 3e5, "stddev": 2.5, "min": 300000, "max": 310000, "N": ios, **bins}}  # fmt: skip


def document(**job: Any) -> dict[str, Any]:
    return {"fio version": "fio-3.33", "jobs": [{"jobname": "a", "error": 0, "read": side(9), "write": side(0), **job}]}


def test_a_result() -> None:
    result = parse(json.dumps(document()))
    assert (result.job, result.version, list(result.directions)) == ("a", "fio-3.33", ["read"])
    read = result.directions["read"]
    assert (read.ios, read.iops, read.seconds, read.mean_ns, read.min_ns, read.max_ns) == (9, 3.0, 3.0, 3e5, 300000, 310000)
    assert read.histogram.counts == {304128: 9}


def test_what_fio_complains_of_before_its_result_does_no_harm() -> None:
    assert parse("fio: a word of warning\n" + json.dumps(document())).job == "a"


def without_bins() -> dict[str, Any]:
    found = document()
    del found["jobs"][0]["read"]["clat_ns"]["bins"]
    return found


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no result: nothing at all"),
        ("Bad option <foo=1>\nfio: job a dropped\n", "no result: Bad option <foo=1> fio: job a dropped"),
        (json.dumps(document())[:-20], "cut off or broken"),
        ("fio: pid=0, err=28/file:filesetup.c:240\n" + json.dumps(document(error=28)), "error 28: fio: pid=0, err=28/file"),
        (json.dumps({"jobs": []}), "reports 0 jobs"),
        (json.dumps({"nonsense": 1}), "not as fio 3 writes it"),
        (json.dumps(without_bins()), "has no bins"),
    ],
)
def test_what_is_no_result_says_why(text: str, said: str) -> None:
    with pytest.raises(FioError, match=said):
        parse(text)
