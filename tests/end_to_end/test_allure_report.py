"""ci/allure-report: what npm's Allure makes of our results, opened in a browser that reaches no network."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_allure import run_suite

from . import browser
from .conftest import ROOT

REQUIRED = os.environ.get("VMSCALE_TEST_ALLURE_REPORT") == "required"
NO_REGISTRY = ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT", "ENOTCACHED", "E403")


def unavailable(why: str) -> None:
    if REQUIRED:
        pytest.fail(f"VMSCALE_TEST_ALLURE_REPORT=required, but {why}")
    pytest.skip(why)


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page, of storms of which one broke its objectives, and the history beside it."""
    if not shutil.which("npx"):
        unavailable("there is no npx")
    if not browser.program():
        unavailable("there is no Chromium")
    folder = tmp_path_factory.mktemp("report")
    done = run_suite(folder, "--alluredir", str(folder / "results"))
    assert "4 failed, 8 passed" in done.stdout
    command = [ROOT / "ci" / "allure-report", folder / "results", folder / "report", folder / "history.jsonl"]
    rendered = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)
    if rendered.returncode and any(each in rendered.stderr for each in NO_REGISTRY):
        unavailable("the npm registry is not reached")
    assert rendered.returncode == 0, rendered.stdout + rendered.stderr
    return folder / "report" / "index.html"


def test_the_page_asks_nobody_and_history_is_kept(report):
    assert "googletagmanager" not in report.read_text() and "gtag(" not in report.read_text()
    (entry,) = (report.parent.parent / "history.jsonl").read_text().splitlines()
    assert len(json.loads(entry)["testResults"]) == 12


def test_a_chart_is_seen_where_its_objective_broke(report):
    asyncio.run(look_at_chart(report))


async def look_at_chart(report: Path) -> None:
    from PIL import Image

    async with browser.Browser() as page:
        await page.open(report)
        await page.click("[data-testid=nav-tab-categories]", "Categories")
        await page.wait_for("document.body.textContent.includes('SLO breach')")
        await page.click("[data-testid=nav-tab-results]", "Results")
        await page.click("[data-testid=tree-leaf-title]", "Storm duration, 300 VMs: > 3600 s (limit 347.6 s)")
        await page.wait_for("document.body.textContent.includes('Source of the limit') || document.querySelector('iframe')")
        await page.click("[data-testid=test-result-attachment-header]", "VMs up over time")
        chart = "document.querySelector('[data-testid=image-attachment-content] img, img[data-testid=image-attachment-content]')"
        await page.wait_for(f"{chart} && {chart}.complete && {chart}.naturalWidth > 300")
        await page.evaluate(f"{chart}.scrollIntoView()")
        box = await page.evaluate(
            f"(() => {{ const b = {chart}.getBoundingClientRect();"
            " return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height} })()"
        )
        assert box["width"] > 300 and box["height"] > 200
        picture = Image.open(io.BytesIO(await page.picture(box))).convert("RGB")
        colours = picture.getcolors(maxcolors=1 << 24)
        assert colours is not None
        curve = sum(number for number, (red, green, blue) in colours if blue > 140 and red < 60 and green < 150)
        assert len(colours) > 50 and curve > 200  # a line of the colour of VMs that are up
    assert page.asked == []
