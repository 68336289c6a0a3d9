"""What the output of a validation program says: pass, fail or skip, and the assertion that says so."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

RESULT = re.compile(r"(?P<not>not )?ok\b\s*(?P<number>\d+)?\s*(?:- )?(?P<text>.*)")
DIRECTIVE = re.compile(r"#\s*(?P<word>SKIP|TODO)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one program or test under one runtime, with counts of its assertions."""

    word: str  # pass, fail, skip
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reason: str = ""


def assertions(output: str) -> list[tuple[str, str]]:
    """Return (pass|fail|skip, description) of each assertion; one that is marked TODO counts as skipped."""
    found = []
    for line in output.splitlines():
        match = RESULT.fullmatch(line)
        if match is None:
            continue
        word = "fail" if match["not"] else "pass"
        if DIRECTIVE.search(match["text"]):
            word = "skip"
        found.append((word, match["text"]))
    return found


def _bare_error(output: str) -> str:
    """Return the error of a block that stands before any assertion, "" where there is none.

    The programs about hooks tell of a failure in this way alone, and print nothing where they pass.
    """
    for line in output.splitlines():
        if RESULT.fullmatch(line):
            return ""
        if line.startswith("  {"):
            details = json.loads(line)
            return str(details.get("error", "")) if isinstance(details, dict) else ""
    return ""


def judge(output: str, code: int | None, complaint: str) -> Verdict:
    """Return the verdict on a program that printed `output`; code None: it was ended by the time limit."""
    found = assertions(output)
    count = {word: sum(1 for seen, _ in found if seen == word) for word in ("pass", "fail", "skip")}
    failures = [text for word, text in found if word == "fail"]
    reason = failures[0] if failures else _bare_error(output)
    if code is None:
        reason = "time limit"
    elif code and not reason:
        reason = (complaint.strip().splitlines() or [f"exit code {code}"])[0]
    word = "fail" if reason else "skip" if count["skip"] and not count["pass"] else "pass"
    return Verdict(word, count["pass"], count["fail"], count["skip"], " ".join(reason.split())[:200])


def judge_each(output: str, code: int | None, complaint: str) -> dict[str, Verdict]:
    """Return the verdict on each named test of a program, and on `(ended)` where it did not come to its end."""
    found: dict[str, Verdict] = {}
    seen = assertions(output)
    for number, (word, text) in enumerate(seen, 1):
        name = DIRECTIVE.split(text)[0].strip()
        name = f"{name} ({number})" if name in found else name
        found[name] = Verdict(word, int(word == "pass"), int(word == "fail"), int(word == "skip"))
    planned = re.search(r"^1\.\.(\d+)$", output, re.MULTILINE)
    broke_off = planned is None or int(planned[1]) != len(seen)  # bats exits with 1 after any failure
    if broke_off:
        reason = "time limit" if code is None else (complaint.strip().splitlines() or [f"exit code {code}"])[-1]
        found["(ended)"] = Verdict("fail", failed=1, reason=reason[:200])
    return found
