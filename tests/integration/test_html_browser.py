"""The HTML report in a real browser: nothing is fetched, nothing sticks out, tables sort, texts can be read."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from harness.analysis.claims import whole_table
from harness.analysis.history import entry_of
from harness.analysis.summary import analyse
from harness.charts import style
from harness.cli.report import load_report
from harness.report import _claims as claims
from harness.report.html import PLUGIN
from harness.results.frame import Run
from harness.results.history import append, history_path
from harness.results.store import RunDirectory
from tests.example_run import dense_trials, example_run

pytestmark = pytest.mark.needs("chromium")

(REFERENCE,) = (Path(__file__).parents[2] / "results" / "reference").glob("*-quickstart-*")

LOOK = (Path(__file__).parents[1] / "data" / "look_at_page.js").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    text = PLUGIN.render(load_report(RunDirectory.open(REFERENCE)))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text.replace("</body>", f"<script>{LOOK}</script></body>"))
    return path


def look(page, tmp_path, width, *more):
    argv = [
        shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
        f"--window-size={width},1000", "--dump-dom", *more, page.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(argv, check=True, capture_output=True, timeout=90).stdout.decode()
    return json.loads(re.search(r'<script type="application/json" id="found">(.*?)</script>', dom)[1])


@pytest.mark.parametrize("width", [1280, 500])  # headless Chromium has no narrower window
def test_page(page, tmp_path, width):
    found = look(page, tmp_path, width)
    assert found["wide"] <= 0
    assert found["contrast"] >= 4.5  # WCAG 2, AA
    assert found["requests"] == 0
    assert found["headings"][0] == 1
    assert max(found["headings"]) <= 3
    assert found["images"]
    assert all(name and words for name, words in found["images"])
    assert found["overlaps"] == []
    assert found["up"] == sorted(found["up"])
    assert found["down"] == found["up"][::-1] or found["down"] == sorted(found["up"], reverse=True)
    assert found["sorted"] == "descending"


def test_claims_page_on_a_phone_in_the_dark(tmp_path):
    reports = [load_report(RunDirectory.open(path.parent)) for path in REFERENCE.parent.glob("*/run.json")]
    text = claims.html(reports, whole_table([(report.run.run_id, report.claims) for report in reports]))
    path = tmp_path / "claims.html"
    path.write_text(text.replace("</body>", f"<script>{LOOK}</script></body>"))
    found = look(path, tmp_path, 500, "--blink-settings=preferredColorScheme=0")
    assert found["wide"] <= 0
    assert found["contrast"] >= 4.5
    assert found["requests"] == 0
    assert found["headings"] == [1, 2]


def test_texts_of_charts_do_not_overlap(tmp_path):
    """Those that the page of the recorded run has not: density, a family of metrics, a history."""
    run = Run(example_run(), tuple(dense_trials()), tmp_path)
    entry = entry_of(analyse(run.meta, run.records))
    for place in range(14):
        at = f"2026-01-{place + 1:02d}T00:00:00+00:00"
        append(history_path(tmp_path, run.meta.scenario, run.meta.host["class"]), replace(entry, run_id=at, started=at))
    starts = {f"startup.{name}": name for name in ("init", "exec", "ready")}
    drawn = (run.plot.density("density.pss"), run.plot.family(starts, "Milestones"), run.plot.history(root=tmp_path))
    svgs = [style.to_svg(axes.figure, title="t", description="d", on_page=True) for axes in drawn]
    path = tmp_path / "charts.html"
    path.write_text(f"<!DOCTYPE html><body><h1>Charts</h1>{''.join(svgs)}<script>{LOOK}</script></body>")
    assert look(path, tmp_path, 500)["overlaps"] == []


def test_dark(page, tmp_path):
    found = look(page, tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert found["dark"]
    assert found["contrast"] >= 4.5
