"""The loop of a run: its order, what a resume skips, when it gives up, refuses, or has enough."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.analysis.statistics import decide
from harness.errors import BackendError, RunFailed, StoreError
from harness.model.records import Noise, TrialRecord, TrialSpec
from harness.probes.startup import PLUGIN as STARTUP
from harness.trials.planner import Plan
from harness.trials.runner import Bench, Stopping, beyond_tolerance, has_complete_block, measure, settled
from harness.trials.trial import RuntimeContender
from tests.fakes import ATTESTATION, FakeArm, FakeInstance

RUNTIMES = (("process", "fake"), ("vm", "fake"))
PLAN = Plan("s", 7, "process", RUNTIMES, warmup_blocks=1, min_blocks=7, max_blocks=20)
STOPPING = Stopping(("startup.ready",), margin=0.05, precision=0.05)
NEVER = replace(STOPPING, metrics=())
Start = Callable[[str], FakeInstance]


class Journal:
    """Keeps records in memory; `room` of them, then the disk is full."""

    def __init__(self, logs: Path, room: int | None = None) -> None:
        self.records: list[TrialRecord] = []
        self.logs = logs
        self.room = room

    def append(self, record: TrialRecord) -> None:
        if len(self.records) == self.room:
            raise StoreError("trials.jsonl: cannot be written: No space left on device")
        self.records.append(record)

    def log_dir(self, trial_id: str) -> Path:
        return self.logs / trial_id


class Watcher:
    """Notes what is shown, and how many trials were stored by then."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.phases: list[tuple[str, str]] = []
        self.counts: list[tuple[int, int]] = []

    def phase(self, spec: TrialSpec, phase: str) -> None:
        self.phases.append((spec.trial_id, phase))

    def finished(self, record: TrialRecord, done: int, total: int) -> None:
        assert self.journal.records[-1] is record, "a trial is shown only once it is on the disk"
        self.counts.append((done, total))


def after(*ready_ns: int) -> Start:
    """Start after these times in turn, and the last one from then on."""
    left = list(ready_ns)
    return lambda _id: FakeInstance(ready_ns=left.pop(0) if len(left) > 1 else left[0])


def failing(*which: str, start: Start | None = None) -> Start:
    """Fail in these trials (in all without a name), start like `start` in others."""

    def make(trial_id: str) -> FakeInstance:
        if not which or trial_id in which:
            raise BackendError(f"no luck in {trial_id}")
        return (start or after(1_000_000))(trial_id)

    return make


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    def make(process: Start | None = None, vm: Start | None = None, room: int | None = None) -> Bench:
        journal = Journal(tmp_path, room)
        arms = {"process": FakeArm(process or after(1_000_000)), "vm": FakeArm(vm or after(40_000_000))}
        contenders = {name: RuntimeContender(arm, [STARTUP], 2 * 10**9) for name, arm in arms.items()}
        return Bench(contenders, journal, Watcher(journal))

    return make


def ids(bench: Bench) -> list[str]:
    return [record.spec.trial_id for record in bench.journal.records]


def test_trials_run_in_the_order_of_the_plan(bench) -> None:
    made = bench()
    assert measure(replace(PLAN, max_blocks=7), made, NEVER) == "all 7 blocks ran"
    assert ids(made) == [spec.trial_id for spec in replace(PLAN, max_blocks=7).trials]
    assert made.observer.counts == [(n, 16) for n in range(1, 17)]


def test_phases_are_told_before_and_after_the_timed_path_but_not_in_it(bench) -> None:
    told: list[str] = []

    class Timed(FakeInstance):
        def wait(self, milestone, deadline_ns):
            told.append(f"{len(made.observer.phases)} phases told when waiting")
            return super().wait(milestone, deadline_ns)

    made = bench(vm=lambda _id: Timed())
    measure(
        replace(PLAN, runtimes=RUNTIMES[1:], control="vm", warmup_blocks=0, min_blocks=1, max_blocks=1), made, NEVER
    )
    assert told == ["1 phases told when waiting"]
    assert [phase for _, phase in made.observer.phases] == ["starting", "ready", "stopping"]


@pytest.mark.parametrize("kept", [0, 1, 3, 5, 16])
def test_a_resumed_run_measures_only_what_is_missing_and_ends_like_an_unbroken_one(bench, kept: int) -> None:
    whole = bench()
    reason = measure(PLAN, whole, STOPPING)
    first = whole.journal.records[:kept]
    rest = bench()
    assert measure(PLAN, rest, STOPPING, first) == reason
    assert ids(whole)[:kept] + ids(rest) == ids(whole)


def test_later_records_do_not_change_where_a_resumed_run_stops(bench) -> None:
    """Twelve blocks were measured because seven did not tell enough: a resume must not find that seven do."""
    noisy = after(*[40_000_000, 900_000] * 4, 40_000_000)
    whole = bench(vm=noisy)
    assert measure(PLAN, whole, STOPPING) == "every contrast is decided after 12 blocks"
    assert settled(PLAN, STOPPING, whole.journal.records) == "every contrast is decided after 12 blocks"
    again = bench()
    measure(PLAN, again, STOPPING, whole.journal.records)
    assert ids(again) == []


def test_an_unfinished_run_is_not_settled(bench) -> None:
    made = bench()
    measure(PLAN, made, STOPPING)
    assert settled(PLAN, STOPPING, made.journal.records) == "every contrast is decided after 7 blocks"
    assert settled(PLAN, STOPPING, made.journal.records[:-1]) is None
    assert settled(PLAN, STOPPING, []) is None


def test_a_runtime_that_never_starts_is_given_up_after_two_trials(bench) -> None:
    made = bench(vm=failing())
    with pytest.raises(RunFailed, match=r"vm: its first 2 trials failed: no luck in b01-vm") as caught:
        measure(PLAN, made, STOPPING)
    assert caught.value.hint == "it left no output"
    assert [trial_id for trial_id in ids(made) if trial_id.endswith("vm")] == ["w00-vm", "b01-vm"]


def test_what_a_hopeless_workload_wrote_is_pointed_to(bench, tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as caught:
        measure(PLAN, bench(vm=lambda _id: FakeInstance(ready_ns=None)), STOPPING)
    assert caught.value.hint == f"it got 2.00 s (workload.timeout); what it wrote is in {tmp_path / 'b01-vm'}"


def test_a_program_that_the_image_lacks_is_named_as_such(bench) -> None:
    def lacking(_id: str) -> FakeInstance:
        raise BackendError("agent: exec: /app/server: No such file or directory")

    with pytest.raises(RunFailed) as caught:
        measure(PLAN, bench(vm=lacking), STOPPING)
    assert caught.value.hint.startswith("the image lacks this program")


@pytest.mark.parametrize(
    "failed",
    [pytest.param(("b01-vm", "b02-vm"), id="after a success"), pytest.param(("w00-vm",), id="once at the start")],
)
def test_a_runtime_that_starts_sometimes_is_tried_further(bench, failed: tuple[str, ...]) -> None:
    made = bench(vm=failing(*failed, start=after(40_000_000)))
    measure(PLAN, made, STOPPING)
    assert [record.spec.trial_id for record in made.journal.records if record.status != "ok"] == list(failed)


def test_a_runtime_that_fails_is_given_up_alone(tmp_path: Path) -> None:
    plan = replace(PLAN, runtimes=(*RUNTIMES, ("docker", "fake")), max_blocks=8)
    journal = Journal(tmp_path)
    starts = {"process": after(1_000_000), "vm": after(2_000_000), "docker": failing()}
    contenders = {name: RuntimeContender(FakeArm(start), (STARTUP,), 10**9) for name, start in starts.items()}
    measure(plan, Bench(contenders, journal, Watcher(journal)), NEVER)
    count = {name: sum(record.spec.runtime == name for record in journal.records) for name in starts}
    assert count == {"process": 9, "vm": 9, "docker": 2}
    assert has_complete_block(plan, journal.records)
    assert [line[:23] for line in beyond_tolerance(journal.records)] == ["docker: 2 of 2 trials f"]


def test_a_resumed_run_tries_a_runtime_that_was_given_up_once_more(bench) -> None:
    broken = bench(vm=failing())
    with pytest.raises(RunFailed):
        measure(PLAN, broken, STOPPING)
    mended = bench()
    measure(PLAN, mended, STOPPING, broken.journal.records)
    assert "b02-vm" in ids(mended)
    still = bench(vm=failing())
    with pytest.raises(RunFailed, match="its first 3 trials failed"):
        measure(PLAN, still, STOPPING, broken.journal.records)


def test_more_than_a_tenth_of_failed_trials_is_no_measurement() -> None:
    spec = TrialSpec("t", 0, 0, "vm", "fake")
    good, bad = TrialRecord(spec, "ok", "now"), TrialRecord(spec, "failed", "now", error="boom")
    assert beyond_tolerance([good] * 9 + [bad]) == []
    assert beyond_tolerance([good] * 8 + [bad]) == ["vm: 1 of 9 trials failed: boom"]
    other = replace(good, spec=replace(spec, runtime="process"))
    assert beyond_tolerance([other] * 100 + [good] * 8 + [bad]), "each runtime is judged by its own trials"


def test_arms_that_run_something_else_are_refused_after_the_first_block_by_name(bench) -> None:
    other = replace(ATTESTATION, argv=("/bin/false",))
    made = bench(vm=lambda _id: FakeInstance(attestation=other))
    with pytest.raises(RunFailed, match=r"not identical: argv: vm \['/bin/false'\] differs from process .*w00-"):
        measure(PLAN, made, STOPPING)
    assert len(ids(made)) == 2
    with pytest.raises(RunFailed, match="not identical: argv"):
        settled(PLAN, STOPPING, made.journal.records)


@pytest.mark.parametrize(
    ("vm_ns", "blocks"),
    [
        pytest.param((40_000_000,), 7, id="beyond the margin"),
        pytest.param((1_000_001,), 7, id="inside the margin"),
        pytest.param((1_050_000, 1_052_000, 1_048_000), 7, id="precise enough"),
        pytest.param((900_000, 1_200_000) * 11, 20, id="never clear"),
    ],
)
def test_a_run_stops_when_every_contrast_is_decided(bench, vm_ns: tuple[int, ...], blocks: int) -> None:
    made = bench(vm=after(*vm_ns))
    measure(PLAN, made, STOPPING)
    assert len(ids(made)) == 2 * (1 + blocks)


def test_it_is_asked_only_every_fifth_block(bench) -> None:
    """Six blocks do not tell enough here, seven would: the next look is after eleven."""
    ratios = [1.03, *[1.2] * 11]
    assert [decide(ratios[:n], STOPPING.margin, STOPPING.precision) for n in (6, 7)] == ["more", "beyond"]
    made = bench(vm=after(1_000_000, *(round(ratio * 1_000_000) for ratio in ratios)))
    assert measure(replace(PLAN, min_blocks=6), made, STOPPING) == "every contrast is decided after 11 blocks"


def test_a_used_up_budget_ends_the_run_after_its_first_counted_block(bench) -> None:
    made = bench()
    assert measure(PLAN, made, replace(NEVER, budget_ns=0)) == "the time budget was used up after 1 block"
    assert len(ids(made)) == 4


@pytest.mark.parametrize(("budget_ns", "counted"), [(55, "2 blocks"), (75, "3 blocks")])
def test_no_block_is_begun_that_would_not_end_within_the_budget(bench, monkeypatch, budget_ns, counted) -> None:
    """Every look at the clock takes 10 ns, so a block takes 10 and what lies between two as much."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr("harness.trials.runner.time", SimpleNamespace(monotonic_ns=lambda: next(clock)))
    stopping = replace(NEVER, budget_ns=budget_ns)
    assert measure(replace(PLAN, max_blocks=9), bench(), stopping) == f"the time budget was used up after {counted}"


def test_a_budget_is_for_what_is_measured_now(bench) -> None:
    first = bench()
    measure(PLAN, first, replace(NEVER, budget_ns=0))
    second = bench()
    reason = measure(PLAN, second, replace(NEVER, budget_ns=0), first.journal.records)
    assert reason == "the time budget was used up after 2 blocks"
    assert len(ids(second)) == 2


def test_a_full_disk_ends_the_run_with_what_was_stored(bench) -> None:
    made = bench(room=5)
    with pytest.raises(StoreError, match="No space left"):
        measure(PLAN, made, STOPPING)
    assert len(ids(made)) == 5


def test_a_block_is_complete_when_all_its_trials_succeeded_and_it_counts(bench) -> None:
    made = bench()
    measure(replace(PLAN, max_blocks=7), made, NEVER)
    records = made.journal.records
    assert not has_complete_block(PLAN, records[:3])
    assert has_complete_block(PLAN, records[:4])
    assert not has_complete_block(PLAN, [*records[:3], replace(records[3], status="failed")])


def noisy_in(made: Bench, *blocks: int) -> Bench:
    """Let the host be disturbed in these blocks, and quiet in all others, whatever it really is."""

    class Disturbed:
        timeout_ns = None

        def __init__(self, inner) -> None:
            self.inner = inner

        def run(self, spec, log_dir, progress) -> TrialRecord:
            flags = ("steal",) if spec.block in blocks else ()
            return replace(self.inner.run(spec, log_dir, progress), noise=Noise(flags=flags))

    return replace(made, contenders={name: Disturbed(one) for name, one in made.contenders.items()})


@pytest.mark.parametrize(
    ("noisy", "extra", "ran"),
    [((), 3, 7), ((0,), 3, 7), ((2, 5), 3, 9), ((1, 2, 3, 4), 3, 10), ((2, 8), 3, 8), ((2, 5), 0, 7)],
    ids=["quiet", "in the warm-up", "one for each", "bounded", "an extra one queues no more", "switched off"],
)
def test_an_extra_block_is_queued_for_each_noisy_one(bench, noisy, extra: int, ran: int) -> None:
    plan = replace(PLAN, max_blocks=7, extra_blocks=extra)
    made = noisy_in(bench(), *noisy)
    told = measure(plan, made, NEVER)
    assert told.startswith(f"all {ran} blocks ran")
    assert len(made.journal.records) == 2 * (1 + ran)
    assert made.observer.counts[-1] == (2 * (1 + ran), 2 * (1 + ran))
    assert settled(plan, NEVER, made.journal.records) == told
    assert settled(plan, NEVER, made.journal.records[:-1]) is None


def test_a_run_with_a_base_stops_by_its_pairs_not_by_the_control(bench) -> None:
    pairs = (("process", "vm"),)
    made = noisy_in(bench(vm=after(1_000_000)))
    told = measure(replace(PLAN, bases=pairs, control="nobody"), made, STOPPING)
    assert told == "every contrast is decided after 7 blocks"
