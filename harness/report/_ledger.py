"""The table of what the host's memory went to: one line an account, their sum at the end, one column a runtime."""

from __future__ import annotations

from harness.analysis import ledger
from harness.model.report import Report
from harness.report import _tables as tables

TITLE = "Where the host's memory went"
NOTE = (
    "one instance, ready and idle, against the host without it; of each runtime the trial whose sum is the median. "
    "Unexplained: what others took or gave back meanwhile, and kernel memory that no cgroup is charged for"
)


def matrix(report: Report) -> list[list[str]]:
    """Return the table, its head first; without accounts that nobody has. Empty where nobody has `memory.host`."""
    found = {name: ledger.of_runtime(report.records, name) for name in report.run.runtimes}
    columns = {name: own for name, own in found.items() if own is not None}
    if not columns:
        return []
    lines = [
        [words, *(_bytes(own.accounts.get(account)) for own in columns.values())]
        for account, words in ledger.ACCOUNTS.items()
        if any(account in own.accounts for own in columns.values())
    ]
    return [
        ["memory of the host", *(tables.runtime_label(report, name) for name in columns)],
        *lines,
        ["unexplained", *(_bytes(own.rest_bytes) for own in columns.values())],
        ["= what was free again after it", *(_bytes(own.host_bytes) for own in columns.values())],
    ]


def _bytes(value: int | None) -> str:
    return tables.NONE if value is None else tables.format_value(value, "bytes")
