"""Static HTML tables and sentences that more than one scenario tells itself with."""

from __future__ import annotations

import html
from collections.abc import Sequence

from pytest_vmscale.model import Measurement, Record

WORST = 10
# Facts of a cluster, as in the result files, and what people call them.
FACTS = {
    "kind": "Cluster",
    "openshift_version": "OpenShift",
    "kubernetes_version": "Kubernetes",
    "kubevirt_version": "KubeVirt",
    "cdi_version": "CDI",
    "node_count": "Nodes",
    "worker_count": "Workers",
    "node_shape": "Each worker",
    "time_rate": "Time rate",
    "slo_profile": "SLO profile",
    "run_id": "Run",
}


def worst_table(measurement: Measurement, outcome: str) -> str:
    """The VMs that were lost, then the slowest, as a static HTML table with their phases. `outcome`: what they were waited for."""
    done = [(seconds, record) for record in measurement.records if (seconds := record.value(record.OUTCOME)) is not None]
    slowest = [record for _, record in sorted(done, key=lambda each: -each[0])]
    rows = [_row(record) for record in [*measurement.failed, *slowest][:WORST]]
    heads = ("VM", "system", "node", "status", "phases, seconds from its request", outcome, "error")
    return page("Worst VMs", f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(rows)}</table>")


def page(title: str, body: str) -> str:
    """A page that needs nothing but itself."""
    style = (
        "body{font:13px sans-serif;max-width:1000px}table{border-collapse:collapse;margin:8px 0}tr.lost{background:#fbe3d6}"
        "td,th{border:1px solid #ccc;padding:4px 8px;text-align:left;vertical-align:top}caption{text-align:left}"
        "pre{font-size:11px;overflow-x:auto}figure{margin:16px 0;break-inside:avoid}figure svg{max-width:100%;height:auto}"
        ".pass{color:#00714f}.fail{color:#b0340a}.inconclusive,.unfit{color:#8a5a00}"
        "@media print{body{max-width:none;font-size:10px}pre{font-size:8px;white-space:pre-wrap}h2,h3{break-after:avoid}tr{break-inside:avoid}}"
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body>{body}</body></html>"
    )


def reached(what: str, moments: Sequence[float], size: int) -> str:
    """ "98 of 100 VMIs are running, the slowest 12.3 s after its request"; `moments` in seconds."""
    return f"{len(moments)} of {size} {what}" + (f", the slowest {max(moments):.1f} s after its request" if moments else "")


def _row(record: Record) -> str:
    timeline = sorted(record.timeline, key=lambda moment: moment.seconds)
    phases = [f"{html.escape(moment.phase)} {'&le; ' if moment.upper_bound else ''}{moment.seconds:.1f}" for moment in timeline]
    if not record.succeeded and record.last_phase:
        phases.append(f"no further than {html.escape(record.last_phase)}")
    seconds = record.value(record.OUTCOME)
    done = "never" if seconds is None else f"{seconds:.1f} s"
    cells = [f"{record.namespace}/{record.vm_name}", record.os, record.node or "none", str(record.status)]
    told = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    lost = "" if record.succeeded else " class='lost'"
    return f"<tr{lost}>{told}<td>{'<br>'.join(phases)}</td><td>{done}</td><td>{html.escape(record.error or '')}</td></tr>"
