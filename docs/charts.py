#!/usr/bin/env python3
"""The documentation's charts, drawn from what real runs on the embedded cluster left.

    docs/charts.py RUN-FOLDER CHART [CHART ...]

writes docs/charts/CHART.png, small enough to be kept: a vector picture of a thousand VMs is not. Without a chart's name, says which there are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_vmscale.report import offline
from pytest_vmscale.scenarios import grouped

HERE = Path(__file__).parent / "charts"
DOTS_PER_INCH = 90


def main(folder: str, *names: str) -> int:
    run = offline.read(Path(folder))
    charts = {
        chart.file: chart
        for scenario, taken in grouped(run.measurements)
        for chart in scenario.report.charts(taken, run.verdict.objectives, run.subtitle(taken[0]))
    }
    if not names:
        print("\n".join(charts))
    for name in names:
        figure = charts[name].draw()
        if figure is None:
            raise SystemExit(f"{folder} has no data for {name}")
        figure.savefig(HERE / f"{name}.png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]) if len(sys.argv) > 1 else __doc__)
