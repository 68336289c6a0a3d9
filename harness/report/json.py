"""The report as one JSON document, for programs: values in base units, nothing rounded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from harness.interfaces import Renderer
from harness.model.report import Claim, Report
from harness.report import _tables as tables

SCHEMA = "harness.report/1"
CLAIMS_SCHEMA = "harness.claims/1"


def claims_document(reports: Sequence[Report], claims: Sequence[Claim]) -> dict[str, Any]:
    """Return the claims that some runs were held against as JSON data; `run_id` is the first run's."""
    runs = [report.run.run_id for report in reports]
    return {
        "schema": CLAIMS_SCHEMA, "run_id": runs[0], "run_ids": runs, "claims": [asdict(claim) for claim in claims],
    }  # fmt: skip


class JsonRenderer:
    name = "json"
    suffix = ".json"
    doc = "one JSON document (harness.report/1), base units, unrounded"

    def render(self, report: Report) -> str:
        content = asdict(replace(report, records=()))
        del content["records"]  # trials.jsonl holds them
        document = {"schema": SCHEMA, "headline": tables.headline(report), **content}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


PLUGIN: Renderer = JsonRenderer()
