import json
import multiprocessing
import random
from dataclasses import replace

import pytest

from harness.analysis.history import breaks, entry_of, judge, series
from harness.analysis.summary import analyse
from harness.errors import StoreError
from harness.results.history import append, history_name, history_path, read
from tests.example_run import example_run, example_trials

REPORT = analyse(example_run(), example_trials())


def runs(n, step_at=None, factor=1.2, **changed):
    source = random.Random(n)
    entry = entry_of(REPORT, commit="c" * 40)
    made = []
    for place in range(n):
        level = (factor if step_at is not None and place >= step_at else 1.0) * source.lognormvariate(0, 0.02)
        vm = {**entry.cells["vm"], "startup.ready": (2e9 * level, None, None, 400 * level, None, None, 10)}
        cells = {**entry.cells, "vm": vm}
        made.append(replace(entry, run_id=f"r{place:03}", started=f"2026-01-{place + 1:02}", cells=cells, **changed))
    return made


def test_each_cell_of_a_matrix_has_a_history_of_its_own():
    def name(**cell):
        return history_name(example_run(matrix={"series": "a", "number": 1, "cells": 2, "cell": cell}))

    assert history_name(example_run()) == "http-start"
    assert name(**{"limits.memory": "1GiB"}) == "http-start,limits.memory=1GiB"
    hostile = name(**{"workload.argv": '["../../etc", "\\n"]'})
    assert "/" not in hostile
    assert hostile != name(**{"workload.argv": '[".._.._etc", "\\n"]'})
    assert len(name(a="x" * 500)) < 200


def test_what_is_written_comes_back(tmp_path):
    path = history_path(tmp_path, "boot", "x86-2c")
    first, second = runs(2)
    assert append(path, second)
    assert append(path, first)
    assert not append(path, second)  # once
    found = read(path)
    assert [entry.run_id for entry in found] == ["r000", "r001"]
    assert found[0].point("vm", "startup.ready").n == 10
    assert found[0].point("vm", "no.such") is None


def test_both_sides_of_a_merge_count_once(tmp_path):
    path = tmp_path / "h.jsonl"
    append(path, runs(1)[0])
    path.write_bytes(path.read_bytes() * 2)
    assert len(read(path)) == 1


def test_half_a_line_of_a_killed_run_is_passed_over(tmp_path):
    path = tmp_path / "h.jsonl"
    first, second = runs(2)
    append(path, first)
    with path.open("ab") as file:
        file.write(b'{"schema":"harness.history/1","run_i')
    assert len(read(path)) == 1
    append(path, second)
    assert len(read(path)) == 2


@pytest.mark.parametrize(
    ("text", "said"), [("[]", "JSON object"), ('{"schema":"harness.history/2"}', "not known"), ("{}x", "damaged")]
)
def test_damage_is_told_with_its_line(tmp_path, text, said):
    path = tmp_path / "h.jsonl"
    append(path, runs(1)[0])
    path.write_bytes(path.read_bytes() + text.encode() + b"\n")
    with pytest.raises(StoreError, match=rf"h\.jsonl:2.*{said}"):
        read(path)


def test_minor_versions_and_unknown_keys_are_read(tmp_path):
    path = tmp_path / "h.jsonl"
    append(path, runs(1)[0])
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema": "harness.history/1.7", "more": 1}) + "\n")
    assert len(read(path)) == 1


def _append_many(path, names):
    for name in names:
        append(path, replace(runs(1)[0], run_id=name))


def test_writers_beside_each_other_lose_nothing(tmp_path):
    path = tmp_path / "h.jsonl"
    workers = [
        multiprocessing.Process(target=_append_many, args=(path, [f"{w}-{n}" for n in range(5)])) for w in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(read(path)) == 15


def test_a_step_is_a_regression_and_says_where():
    found = judge(series(runs(25, step_at=20), "vm", "startup.ready"), 0.05)
    assert found.verdict == "regressed"
    assert abs(found.step.index - 20) <= 1
    assert "since r0" in found.reason
    assert judge(series(runs(25), "vm", "startup.ready"), 0.05).verdict == "no-step"


def test_faster_is_no_regression():
    assert judge(series(runs(25, step_at=20, factor=0.8), "vm", "startup.ready"), 0.05).verdict == "no-step"


def test_a_declared_change_starts_the_series_anew():
    history = [*runs(20), *[replace(e, run_id=f"s{n}", image="sha256:other") for n, e in enumerate(runs(5, step_at=0))]]
    found = series(history, "vm", "startup.ready")
    assert [mark.reason for mark in breaks(found)] == ["image"]
    judged = judge(found, 0.05)
    assert (judged.verdict, judged.first) == ("too-few-runs", 20)


def test_the_control_has_its_own_values():
    found = series(runs(3), "process", "startup.ready")
    assert not found.relative
    assert series(runs(3), "vm", "startup.ready").relative
    assert series(runs(3), "vm", "no.such") is None
