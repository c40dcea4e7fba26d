"""Charts as static SVG: reports run no scripts. Colours are told apart by the colour-blind (Okabe and Ito's set)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_vmscale.model import Measurement, Objective
from pytest_vmscale.scenarios import grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#666666"
_SIZE = (9.0, 5.0)  # inches; with SVG only the shape matters


def write_charts(
    folder: Path,
    measurements: Iterable[Measurement],
    objectives: Sequence[Objective] = (),
    subtitle: Callable[[Measurement], str] = lambda measurement: "",
) -> list[Path]:
    """Every chart of every scenario that there is data for. `subtitle` says on which cluster, and how fast."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for scenario, taken in grouped(measurements):
        for chart in scenario.report.charts(taken, objectives, subtitle(taken[0])):
            figure = chart.draw()
            if figure is not None:
                written.append(write(figure, folder / f"{chart.file}.svg"))
    return written


def new_figure(title: str, subtitle: str, rows: int = 1) -> tuple[Figure, Any]:
    # No pyplot: it keeps figures and a backend for the whole process, which is the user's.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True)
    figure.suptitle(title + (f"\n{subtitle}" if subtitle else ""), fontsize=12)
    for each in [axes] if rows == 1 else axes:
        each.grid(color="#dddddd", linewidth=0.8)
        each.set_axisbelow(True)
        each.yaxis.set_major_locator(MaxNLocator(integer=True))
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axes: Axes, place: Any = "best") -> None:
    axes.legend(fontsize=8, framealpha=0.9, loc=place)


def legend_beside(axes: Axes) -> None:
    """To the right of them, where curves leave no corner free."""
    axes.legend(fontsize=8, framealpha=0.9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def cumulative(axes: Axes, ascending: Sequence[float], size: int | None = None, **line: Any) -> None:
    """Steps: the percentage that is at most so much. `size`: of how many, where some have no value. Without any, only the legend has it."""
    shares = [(rank + 1) / (size or len(ascending)) * 100 for rank in range(len(ascending))]
    axes.step([*ascending[:1], *ascending], [0.0, *shares] if ascending else [], where="post", **line)


def plain_numbers(axis: Axis, leading: str) -> None:
    """Numbers on a logarithmic axis as numbers: those that begin with one of these digits."""
    from matplotlib.ticker import FuncFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in leading else "")
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(plain)


def svg(figure: Figure) -> str:
    """The same data give the same text: no date, and ids from a fixed salt."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.hashsalt": "pytest-vmscale"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def write(figure: Figure, path: Path) -> Path:
    path.write_text(svg(figure), encoding="utf-8")
    return path
