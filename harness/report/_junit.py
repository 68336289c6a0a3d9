"""The frame of a JUnit document, for a run's trials and for a gate's verdicts: one suite with its properties.

Missing environment or broken trials are `error`, a regression is `failure`, what was not decided is `skipped`: readers
of JUnit (GitHub's reporters, GitLab, Jenkins) keep the three apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET


def suite(name: str, properties: Mapping[str, str], started: str = "") -> ET.Element:
    """Return an empty suite. `started` is an ISO 8601 time in UTC, of which JUnit keeps the seconds."""
    made = ET.Element("testsuite", name=name)
    if started:
        made.set("timestamp", started[:19])
    listed = ET.SubElement(made, "properties")
    for key, value in properties.items():
        ET.SubElement(listed, "property", name=key, value=value)
    return made


def text_of(one: ET.Element) -> str:
    """Return the document of one suite, its cases counted by what they hold."""
    cases = one.findall("testcase")
    counts = {f"{kind}s": sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error")}
    counts["skipped"] = sum(case.find("skipped") is not None for case in cases)
    one.attrib.update({"tests": str(len(cases)), **{kind: str(number) for kind, number in counts.items()}})
    root = ET.Element("testsuites")
    root.append(one)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def printable(text: str) -> str:
    """Return text without what XML 1.0 forbids: a workload may have written anything."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
