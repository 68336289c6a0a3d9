"""JUnit XML of a run: a test case a runtime, an error where its trials failed. `harness gate` has one of verdicts."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from harness.interfaces import Renderer
from harness.model.report import Report
from harness.report import _junit
from harness.report import _tables as tables


class JUnitRenderer:
    name = "junit"
    suffix = ".junit.xml"
    doc = "JUnit XML: which runtimes could be measured"

    def render(self, report: Report) -> str:
        run = report.run
        properties = {"run_id": run.run_id, "host_class": str(run.host.get("class", ""))}
        suite = _junit.suite(run.scenario, properties, run.started)
        for runtime in run.runtimes:
            _case(report, suite, runtime)
        return _junit.text_of(suite)


def _case(report: Report, suite: ET.Element, runtime: str) -> None:
    """Add one runtime's case, with an error where a trial of it failed: something broken, not something slow."""
    case = ET.SubElement(suite, "testcase", classname=report.run.scenario, name=runtime)
    failed = [failure for failure in report.failures if failure.runtime == runtime]
    if failed:
        lines = (f"{one.trial_id} ({tables.how(one)}): {_junit.printable(one.error)}" for one in failed)
        ET.SubElement(case, "error", type="trial", message=f"{len(failed)} trials failed").text = "\n".join(lines)


PLUGIN: Renderer = JUnitRenderer()
