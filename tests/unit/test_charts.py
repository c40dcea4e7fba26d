"""Charts: what is drawn of which data. How they look a person has judged; that they say what was measured is tested here."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pytest_vmscale.model import Measurement
from pytest_vmscale.report.boot_storm import boot_time_distribution, phase_breakdown, ready_over_time, sweep
from pytest_vmscale.report.charts import svg, write_charts
from pytest_vmscale.slo.profile import load_profile
from tests.unit.factories import judge_storm, make_measurement, make_record, make_storm

PROFILE = load_profile("reference")
SIMULATED = "embedded, simulated at 60x"


def words(figure: object) -> str:
    """All text in a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("measurements", "names"),
    [
        ([make_storm(100, 90.0)], ["boot-storm_boot-times.svg", "boot-storm_phases.svg", "boot-storm_ready.svg"]),
        ([make_storm(10, 90.0, lost=10)], ["boot-storm_ready.svg"]),
        ([make_measurement([])], []),
        ([make_measurement([1.0])], ["boot-storm_boot-times.svg", "boot-storm_phases.svg", "boot-storm_ready.svg"]),
        (
            [make_storm(10, 30.0), make_storm(20, 40.0, lost=20)],
            [
                "boot-storm-10_boot-times.svg",
                "boot-storm-10_phases.svg",
                "boot-storm-10_ready.svg",
                "boot-storm-20_ready.svg",
                "boot-storm_sweep.svg",
            ],
        ),
        ([], []),
    ],
)
def test_a_chart_of_what_there_is_data_for(tmp_path: Path, measurements: list[Measurement], names: list[str]) -> None:
    objectives = [each for measurement in measurements for each in judge_storm(measurement, PROFILE)]
    written = write_charts(tmp_path / "charts", measurements, objectives, lambda measurement: SIMULATED)
    assert sorted(path.name for path in written) == names == sorted(path.name for path in (tmp_path / "charts").iterdir())
    for path in written:
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "<script" not in path.read_text()


def test_the_curve_rises_to_the_vms_that_came_up() -> None:
    measurement = make_measurement([10.0, 20.0, None])
    figure = ready_over_time(measurement, judge_storm(measurement, PROFILE), SIMULATED)
    assert figure is not None
    lines = {str(line.get_label()).split(" ")[0]: line for line in figure.axes[0].get_lines()}
    assert [float(value) for value in lines["up"].get_ydata()] == [0, 1, 2]  # type: ignore[union-attr]
    assert [float(value) for value in lines["up"].get_xdata()] == pytest.approx([0, 10, 20.001])  # type: ignore[union-attr]
    said = words(figure)
    assert "asked for: 3 (1 never came up)" in said
    assert "reference 102 s (held below the smallest point)" in said
    assert "limit 112.2 s" in said
    assert SIMULATED in said
    assert "cluster seconds" in said


def test_a_storm_is_drawn_against_its_own_limit() -> None:
    small, large = make_storm(100, 90.0), make_storm(1000, 1000.0)
    objectives = [*judge_storm(small, PROFILE), *judge_storm(large, PROFILE)]
    assert "limit 1171.5 s" in words(ready_over_time(large, objectives))
    assert "limit 112.2 s" in words(ready_over_time(small, objectives))


def test_the_distribution_marks_no_percentile_beyond_the_deadline() -> None:
    said = words(boot_time_distribution(make_storm(100, 90.0, lost=7)))
    assert "p90" in said and "p95" not in said
    assert "7 VMs not up after 3600 s" in said
    assert "p99" in words(boot_time_distribution(make_storm(100, 90.0)))


def test_phases_of_records_that_miss_some() -> None:
    record = make_record(0, 10.0, time_to_vm_created_seconds=None, time_to_vmi_running_seconds=None, timeline=())
    said = words(phase_breakdown(make_measurement([], records=(record,), parameters={})))
    assert "10.0 s" in said and "p50" in said


def test_a_sweep_does_not_draw_across_a_point_that_lost_vms() -> None:
    points = [make_storm(10, 20.0), make_storm(20, 30.0, lost=2), make_storm(30, 40.0)]
    figure = sweep(points, [each for point in points for each in judge_storm(point, PROFILE)])
    assert figure is not None
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "duration (all VMs up)")
    assert [float(value) for value in line.get_ydata()] == pytest.approx([20.009, float("nan"), 40.029], nan_ok=True)  # type: ignore[union-attr]
    assert "2 lost" in words(figure)
    assert sweep([make_storm(10, 20.0)] * 2) is None


def test_the_same_data_give_the_same_bytes() -> None:
    first, second = (svg(boot_time_distribution(make_storm(50, 60.0))) for _ in range(2))  # type: ignore[arg-type]
    assert first == second


def test_nothing_heavy_is_imported_before_a_chart_is_drawn() -> None:
    program = """
import sys
from pytest_vmscale.report import allure, charts, files, junit, terminal
heavy = {"matplotlib", "numpy", "scipy", "allure", "allure_commons"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
