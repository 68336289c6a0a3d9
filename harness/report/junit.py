"""JUnit XML of a run: a test case a runtime, an error where its trials failed. `harness gate` has one of verdicts."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from harness.interfaces import Renderer
from harness.model.report import Report


class JUnitRenderer:
    name = "junit"
    suffix = ".junit.xml"
    doc = "JUnit XML: which runtimes could be measured"

    def render(self, report: Report) -> str:
        run = report.run
        suite = ET.Element("testsuite", name=run.scenario, timestamp=run.started[:19])
        listed = ET.SubElement(suite, "properties")
        for name, value in (("run_id", run.run_id), ("host_class", str(run.host.get("class", "")))):
            ET.SubElement(listed, "property", name=name, value=value)
        errors = sum(_case(report, suite, runtime) for runtime in run.runtimes)
        numbers = {"tests": len(run.runtimes), "failures": 0, "errors": errors, "skipped": 0}
        suite.attrib.update({key: str(number) for key, number in numbers.items()})
        root = ET.Element("testsuites")
        root.append(suite)
        ET.indent(root)
        return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(report: Report, suite: ET.Element, runtime: str) -> bool:
    """Add one runtime's case; return whether a trial of it failed: something broken, not something slow."""
    case = ET.SubElement(suite, "testcase", classname=report.run.scenario, name=runtime)
    failed = [failure for failure in report.failures if failure.runtime == runtime]
    if failed:
        message = f"{len(failed)} trials failed"
        text = "\n".join(f"{failure.trial_id} ({failure.status}): {_printable(failure.error)}" for failure in failed)
        ET.SubElement(case, "error", type="trial", message=message).text = text
    return bool(failed)


def _printable(text: str) -> str:
    """Return text without what XML 1.0 forbids: a workload may have written anything."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


PLUGIN: Renderer = JUnitRenderer()
