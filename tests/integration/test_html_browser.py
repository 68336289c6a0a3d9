"""The HTML report in a real browser: nothing is fetched, nothing sticks out, tables sort, texts can be read."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.cli.report import load_report
from harness.report.html import PLUGIN
from harness.results.store import RunDirectory

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


def test_dark(page, tmp_path):
    found = look(page, tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert found["dark"]
    assert found["contrast"] >= 4.5
