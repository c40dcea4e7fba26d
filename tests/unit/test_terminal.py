"""What a run says at its end, and while it goes."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vmscale.model import Measurement, Moment, Status
from pytest_vmscale.report import boot_storm, terminal
from pytest_vmscale.report.phases import breakdowns
from pytest_vmscale.report.progress import Progress
from pytest_vmscale.report.terminal import FAILED_SHOWN, WIDTH, objective_lines, summary_lines
from pytest_vmscale.slo.judge import verdict
from pytest_vmscale.slo.profile import load_profile
from tests.unit.factories import judge_storm, judge_sweep, make_measurement, make_record, make_storm

PROFILE = load_profile("reference")


def summary(*measurements: Measurement) -> str:
    objectives = [each for measurement in measurements for each in judge_storm(measurement, PROFILE)]
    ruling = verdict([*objectives, *judge_sweep(measurements, PROFILE)])
    return "\n".join(summary_lines(ruling, measurements, Path("vmscale-results/r"), lambda measurement: "embedded, simulated at 60x"))


def point_lines(measurement: Measurement) -> list[str]:
    return boot_storm.lines([measurement], "")


def line_with(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if words in line)


LONG = {"vm_name": "v" * 63, "namespace": "n" * 63, "os": "o" * 63, "error": "no\nroute " * 50}


@pytest.mark.parametrize(
    "measurements",
    [
        [make_storm(1000, 1060.0)],
        [make_storm(100, 130.0, lost=30)],
        [make_measurement([None] * 3)],
        [make_measurement([])],
        [make_measurement([9.0], complete=False, incomplete_reason="a very long story " * 20)],
        [make_measurement([], records=(make_record(0, None, **LONG), make_record(1, 99999.5, **LONG)), parameters={})],
        [make_storm(size, size * 1.07) for size in (100, 200, 400)],
        [make_storm(20, 30.0, lost=12), make_measurement([])],
    ],
)
def test_everything_fits_and_is_plain(measurements: list[Measurement]) -> None:
    text = summary(*measurements)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert text.isascii()
    assert "Verdict: " in text
    assert text.endswith("Results: vmscale-results/r")
    assert "simulated at 60x" in text


def test_a_pass_is_shown_with_its_limit_margin_and_source() -> None:
    text = summary(make_storm(1000, 1060.0))
    row = line_with(text, "Storm duration")
    assert row.split()[-7:] == ["1061.0", "s", "1171.5", "s", "+9.4", "%", "pass", "[2]"][-7:]
    assert "[2] Red Hat reference architecture" in text
    assert "limit from 1065 s, reference point + 10 %" in text
    assert "Verdict: PASS (exit code 0)" in text
    assert "Boot time p50" in line_with(text, "Reported without a limit")


def test_what_two_scenarios_report_of_as_many_vms_is_told_apart() -> None:
    storm = judge_storm(make_storm(10, 20.0), PROFILE)
    deployed = replace(storm[-1], id="deployment.duration", title="Deployment duration", measured_text="9.0 s")
    told = [line for line in objective_lines([*storm, deployed]) if line.startswith("Reported without a limit")]
    assert len(told) == 2 and told[1].startswith("Reported without a limit: Deployment duration 9.0 s")


def test_words_instead_of_a_figure_take_their_room_from_the_title() -> None:
    (row,) = [
        line
        for line in objective_lines([replace(judge_storm(make_storm(10, 20.0), PROFILE)[1], measured_text="no migration under both loads")])
        if "no migration under both loads" in line
    ]
    head, *_ = objective_lines(judge_storm(make_storm(10, 20.0), PROFILE))
    assert len(row) <= WIDTH and row.index("112.2 s") + len("112.2 s") == head.index("limit") + len("limit")


def test_a_long_heading_is_wrapped() -> None:
    lines = terminal.heading_lines(
        make_storm(1000, 1060.0),
        "Deployment: 1000 of 1000 VMs in bulks of 100, the last after 834.9 s",
        "embedded cluster, simulated at 30x",
    )
    assert len(lines) == 2 and max(map(len, lines)) <= WIDTH


def test_failed_vms_are_named_with_the_phase_reached() -> None:
    lines = point_lines(make_storm(50, 60.0, lost=FAILED_SHOWN + 2))
    named = [line for line in lines if "TimedOut, reached Scheduling" in line]
    assert len(named) == FAILED_SHOWN
    assert "vmscale-0/storm-0038" in named[0]
    assert lines[-1] == "  and 2 more"
    exactly = point_lines(make_storm(50, 60.0, lost=FAILED_SHOWN))
    assert not any("more" in line for line in exactly)


def test_a_failed_vm_shows_as_beyond_the_deadline_not_as_a_time() -> None:
    text = "\n".join(point_lines(make_measurement([10.0, 20.0, 30.0, None])))
    ssh = line_with(text, "  SSH answers  ")
    assert ssh.split()[2:] == ["10.0", "20.0", "30.0", ">3600", ">3600", ">3600", ">3600"]
    assert "max" not in [line.split()[0] for line in text.splitlines() if line.strip()]


def test_a_phase_that_was_not_seen_is_no_missed_deadline() -> None:
    records = (make_record(0, 10.0), make_record(1, 20.0, time_to_vmi_ready_seconds=None))
    text = "\n".join(point_lines(make_measurement([], records=records, parameters={}, duration_seconds=20.0)))
    assert line_with(text, "VMI ready").split()[-1] == "-"
    assert line_with(text, "SSH answers").split()[-1] == "20.0"


def test_a_sweep_is_a_row_a_point() -> None:
    text = summary(*(make_storm(size, size * 1.07) for size in (100, 200, 400)), make_storm(500, 540.0, lost=1))
    assert [line.split()[:2] for line in text.splitlines()[2:6]] == [["100", "100"], ["200", "200"], ["400", "400"], ["500", "499"]]
    assert "Of 500 VMs:" in text
    assert "Storm duration, 400 VMs" in text


def test_objectives_that_share_a_source_share_a_note() -> None:
    objectives = judge_storm(make_storm(100, 90.0), PROFILE)
    notes = [line for line in objective_lines(objectives) if line.startswith("[")]
    assert len(notes) == len({each.source for each in objectives}) == 3


def test_odd_records_do_not_stop_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "FAILED_SHOWN", 1)
    record = make_record(0, None, status=Status.FAILED, last_phase=None, error=None, node="worker-1", timeline=())
    lines = point_lines(make_measurement([], records=(record,), parameters={}, gaps=(), details={}, duration_seconds=None))
    assert "  vmscale-0/storm-0000: Failed, reached nothing on worker-1: no error given" in lines


# Phases


@given(st.lists(st.one_of(st.none(), st.floats(0.5, 1e4)), min_size=1, max_size=30))
def test_phases_add_up_to_the_boot_of_a_real_vm(times: list[float | None]) -> None:
    measurement = make_measurement(times)
    for row in breakdowns(measurement):
        assert row.record in measurement.records
        assert row.total_seconds == pytest.approx(row.record.time_to_ssh_seconds)
    labels = [row.label for row in breakdowns(measurement)]
    assert ("max" in labels) == (None not in times)


def test_an_unseen_phase_goes_to_the_next() -> None:
    record = make_record(0, 10.0, time_to_vm_created_seconds=None, timeline=(Moment("Scheduled", 2.0),))
    (row, *_) = breakdowns(make_measurement([], records=(record,), parameters={}))
    assert row.seconds == (None, 2.0, 4.0, 4.0)
    assert [each.label for each in breakdowns(make_measurement([1.0, 2.0, 3.0]))][-2:] == ["fedora p50", "rhel p50"]


# Progress


class Watch:
    """Seconds of the wall that a test tells."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def update(progress: Progress, booted: int) -> None:
    progress.update(f"{booted}/100 up, 80 running, 1 failed", (booted + 1) / 100, booted * 2.0, 60)


def test_in_a_log_a_line_every_ten_seconds() -> None:
    stream, now = io.StringIO(), Watch()
    progress = Progress(stream, "boot storm", terminal=False, now=now)
    for second in range(25):
        now.seconds = second
        update(progress, second)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["boot storm: 10", "boot storm: 20", "boot storm: 24"]
    assert lines[0] == "boot storm: 10/100 up, 80 running, 1 failed, 20 s simulated at 60x"
    assert "\r" not in stream.getvalue()


def test_on_a_terminal_one_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream, now = io.StringIO(), Watch()
    progress = Progress(stream, "boot storm", terminal=True, now=now)
    for tenth in range(100):
        now.seconds = tenth / 100
        update(progress, tenth)
    progress.close()
    drawn = stream.getvalue()
    assert drawn.count("\n") == 1 and drawn.endswith("\n")
    assert 10 <= drawn.count("\r") <= 12
    assert all(len(line) < 60 for line in drawn.replace("\n", "").split("\r"))
    assert "[################]" in drawn.split("\r")[-1]


def test_a_shorter_line_wipes_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream, now = io.StringIO(), Watch()
    progress = Progress(stream, "s", terminal=True, now=now)
    progress.update("0/1 up, 1 running, 0 failed", 0.0, 1e9)
    now.seconds = 1
    progress.update("0/1 up, 1 running, 0 failed", 0.0, 1)
    first, second = stream.getvalue().split("\r")[1:]
    assert len(second) == len(first) and second.endswith("  ")


def test_nothing_to_show_shows_nothing() -> None:
    stream = io.StringIO()
    Progress(stream, "s").close()
    Progress(stream, "s", terminal=True).close()
    assert stream.getvalue() == ""
