"""The first screen of a report on isolation in a real browser: runtimes are told apart without scrolling."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report.html import PLUGIN
from tests.integration.test_html_browser import LOOK, look
from tests.unit.test_report_isolation import surface_report

pytestmark = pytest.mark.needs("chromium")
SCREEN = 800


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(PLUGIN.render(surface_report()).replace("</body>", f"<script>{LOOK}</script></body>"))
    return path


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (500, True)], ids=["desktop", "phone, dark"])
def test_first_screen(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    found = look(page, tmp_path, width, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
    assert found["wide"] <= 0
    assert found["contrast"] >= 4.5  # WCAG 2, AA
    assert found["dark"] == dark
    assert [card["badge"] for card in found["cards"]] == ["no isolation", "host's kernel", "own kernel"]
    assert len({card["colour"] for card in found["cards"]}) == 3
    assert all(card["bottom"] <= SCREEN for card in found["cards"]), "on the first screen"
