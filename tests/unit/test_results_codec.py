import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.model.records import MetricValue, Noise
from harness.results.codec import parse_journal, parse_run, parse_trial, run_text, trial_line
from tests.example_run import example_run, example_trials

TRIALS = example_trials(blocks=2)

# A line as DESIGN publishes it, with keys that this version does not know.
PUBLISHED = {
    "schema": "harness.trial/1.3", "trial_id": "b03-vm", "block": 3, "order": 1, "runtime": "vm", "backend": "libvirt",
    "warmup": False, "status": "ok", "error": None, "accelerator": "tcg", "started": "2026-01-31T12:00:00Z",
    "marks": {"requested": 0, "vmm.exec": 24000000, "ready": 1950000000},
    "metrics": {"startup.ready": {"value": 1950000000, "unit": "ns", "confidence": 3}},
    "absent": {"memory.guest.balloon": "no balloon device in this profile"},
    "attestation": {
        "root_digest": "sha256:ab", "exe_sha256": "cd", "argv": ["/a"], "env": {"A": "b"}, "uid": 0, "gid": 0,
        "cwd": "/", "cpus": 1, "memory_bytes": 268435456, "kernel": "6.1.0-cloud-amd64", "boot_id": "x", "later": 1,
    },
    "noise": {"steal_ratio": 0.0, "psi_cpu_some_ratio": 0.01, "flags": ["steal"], "temperature": 70},
    "something_new": [1],
}  # fmt: skip


def test_every_trial_comes_back_as_it_was():
    for record in TRIALS:
        assert parse_trial(trial_line(record), "here") == record


def test_a_line_holds_the_published_keys_and_no_others():
    document = json.loads(trial_line(TRIALS[0]))
    assert set(document) == set(PUBLISHED) - {"something_new"}
    assert document["schema"] == "harness.trial/1"
    assert document["metrics"]["startup.ready"].keys() == {"value", "unit"}
    assert "\n" not in trial_line(replace(TRIALS[0], error="two\nlines"))


def test_what_became_of_an_instance_is_kept():
    record = replace(TRIALS[0], status="failed", error="guest: kernel panic", ending="guest-panic")
    assert json.loads(trial_line(record))["ending"] == "guest-panic"
    assert parse_trial(trial_line(record), "here") == record


def test_minor_versions_and_unknown_keys_are_read():
    record = parse_trial(json.dumps(PUBLISHED), "here")
    assert record.spec.trial_id == "b03-vm"
    assert record.metrics["startup.ready"] == MetricValue(1950000000, "ns")
    assert record.attestation is not None
    assert record.attestation.argv == ("/a",)
    assert record.noise == Noise(0.0, 0.01, ("steal",))


@pytest.mark.parametrize("schema", ["harness.trial/2", "harness.trial/10", "harness.trial/2.1"])
def test_other_majors_are_refused(schema):
    with pytest.raises(StoreError, match=r"this version reads harness\.trial/1"):
        parse_trial(json.dumps(PUBLISHED | {"schema": schema}), "here")


@pytest.mark.parametrize("schema", [None, 1, "harness.run/1", "harness.trial", "harness.trial/1x", "harness.trial/"])
def test_other_schemas_are_refused(schema):
    with pytest.raises(StoreError, match=r"expected harness\.trial/1, got"):
        parse_trial(json.dumps(PUBLISHED | {"schema": schema}), "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "great"}, "unknown value 'great'"),
        ({"metrics": {"a": {"value": "1", "unit": "ns"}}}, "expected a number"),
        ({"metrics": {"a": {"unit": "ns"}}}, "value is missing"),
        ({"marks": []}, "damaged"),
        ({"block": "third"}, "damaged"),
    ],
)
def test_damage_names_the_line(change, message):
    with pytest.raises(StoreError, match=message) as caught:
        parse_trial(json.dumps(PUBLISHED | change), "trials.jsonl:7")
    assert caught.value.message.startswith("trials.jsonl:7: ")


@given(st.dictionaries(st.text(min_size=1), st.text()), st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_number_survive(absent, error, value):
    record = replace(TRIALS[0], absent=absent, error=error, metrics={"m": MetricValue(value, "ns", {"a": error})})
    assert parse_trial(trial_line(record), "here") == record


def test_nan_is_refused_when_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        trial_line(replace(TRIALS[0], metrics={"m": MetricValue(float("nan"), "ns")}))


def test_run_comes_back_as_it_was():
    run = example_run(warnings=("w",))
    assert parse_run(run_text(run), "run.json") == run
    newer = json.loads(run_text(run)) | {"schema": "harness.run/1.7", "new": 1}
    assert parse_run(json.dumps(newer), "run.json") == run
    with pytest.raises(StoreError, match=r"run\.json: schema: harness\.run/2"):
        parse_run(json.dumps(newer | {"schema": "harness.run/2"}), "run.json")
    with pytest.raises(StoreError, match="expected a JSON object"):
        parse_run("[]", "run.json")


def test_half_a_line_at_the_end_is_left_out_wherever_it_was_cut():
    whole = "".join(trial_line(record) + "\n" for record in TRIALS[:3]).encode()
    last = (trial_line(TRIALS[3]) + "\n").encode()
    for cut in range(1, len(last)):
        journal = parse_journal(whole + last[:cut], "t")
        assert journal.torn
        assert journal.size_bytes == len(whole)
        assert len(journal.records) == 3
    assert not parse_journal(whole + last, "t").torn
    assert parse_journal(b"", "t").records == ()


def test_damage_in_the_middle_is_no_half_line():
    lines = [trial_line(record) for record in TRIALS[:3]]
    lines[1] = lines[1][:40]
    with pytest.raises(StoreError, match="t:2: damaged"):
        parse_journal("".join(line + "\n" for line in lines).encode(), "t")


def test_a_trial_twice_is_refused():
    with pytest.raises(StoreError, match=f"{TRIALS[0].spec.trial_id}: is there twice"):
        parse_journal((trial_line(TRIALS[0]) + "\n").encode() * 2, "t")
