"""What the agent's `iobench` prints becomes measurements, or the reason why it is none."""

import json

import pytest

from harness import plugins
from harness.errors import UsageError
from harness.model.metrics import Absent
from harness.model.spec import ImageConfig

STORAGE = plugins.load("workloads", "storage")
ANSWER = {
    "schema": "harness.iobench/1",
    "filesystem": 0x794C7630,
    "parts": [
        {"part": "walk", "count": 935, "made": 0, "ns": 9350000},
        {"part": "first_write", "bytes": 4096, "count": 3, "made": 3, "ns": [900, 100, 200]},
        {
            "part": "metadata",
            "count": 10,
            "lookup_ns": 500,
            "create_ns": 1000,
            "stat_ns": 20,
            "rename_ns": 300,
            "unlink_ns": 45,
        },
        {"part": "sequential", "bytes": 1 << 20, "write_ns": 10**9, "read_ns": 5 * 10**8},
    ],
}


def parse(answer):
    text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return {item.metric.name: item for item in STORAGE.parse(text, b"")}


def test_every_metric_has_a_value_or_a_reason():
    found = parse(ANSWER)
    assert list(found) == [metric.name for metric in STORAGE.metrics]
    values = {name: item.value for name, item in found.items() if not isinstance(item, Absent)}
    assert values == {
        "storage.first_write.4k": 200,
        "storage.lookup": 50,
        "storage.create": 100,
        "storage.stat": 2,
        "storage.rename": 30,
        "storage.unlink": 4,
        "storage.write": 1 << 20,
        "storage.read": 2 << 20,
        "storage.walk": 10000,
    }
    assert found["storage.first_write.4k"].labels == {"filesystem": "overlay", "files": "made before"}
    assert found["storage.first_write.16m"].reason == "not asked for in this scenario"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"iobench: no\n",
        b"[" * 100_000,
        {"schema": "harness.iobench/2", "filesystem": 1, "parts": []},
        {"schema": "harness.iobench/1", "filesystem": 1},
        {**ANSWER, "parts": ["walk"]},
        {**ANSWER, "parts": [{"part": "dance"}]},
        {**ANSWER, "parts": [{"part": "walk", "count": 0, "made": 0, "ns": 5}]},
        {**ANSWER, "parts": [{"part": "walk", "count": 3, "made": 0}]},
        {**ANSWER, "parts": [{"part": "metadata", "count": 10, "lookup_ns": 1, "create_ns": 1, "stat_ns": -2}]},
        {**ANSWER, "parts": [{"part": "first_write", "bytes": 4096, "count": 2, "made": 0, "ns": [1]}]},
        {**ANSWER, "parts": [{"part": "first_write", "bytes": 77, "count": 1, "made": 0, "ns": [1]}]},
        {**ANSWER, "parts": [{"part": "sequential", "bytes": 10, "write_ns": 10**400, "read_ns": 1}]},
    ],
)
def test_an_answer_that_does_not_show_the_work_is_refused(answer):
    with pytest.raises(ValueError, match=r"."):
        parse(answer)


def test_the_scenario_says_what_is_measured():
    options = STORAGE.options.model_validate(
        {
            "directory": "/data",
            "first_write": {"4KiB": 2, "1MiB": 0},
            "sequential": "8MiB",
            "walk": None,
            "timeout": "9s",
        }
    )
    spec = STORAGE.compile(options, ImageConfig(entrypoint=("/server",)))
    assert spec.argv == (
        "harness:iobench",
        "/data",
        "first_write=4096:2",
        "first_write=16777216:1",
        "metadata=1000",
        "sequential=8388608",
    )
    assert (spec.timeout_ns, spec.ready.kind) == (9 * 10**9, "exit")


def test_nothing_to_measure_is_a_mistake():
    nothing = {"directory": "/d", "first_write": {"4KiB": 0, "1MiB": 0, "16MiB": 0}, "metadata": 0, "sequential": 0}
    options = STORAGE.options.model_validate({**nothing, "walk": None})
    with pytest.raises(UsageError, match=r"workload: every part is left out"):
        STORAGE.compile(options, ImageConfig())
