"""One trial of the study `interference`: each window beside the antagonist lies between two quiet ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import TrialError
from harness.interfaces import Emit, Instance
from harness.loading.site import InstanceSite
from harness.model.metrics import Absent, Measurement, Metric
from harness.model.work import Load
from harness.studies import _interference as m
from harness.studies import _pair, _watch
from harness.studies._beside import Beside, Sink, press, spinners, work_of_all

_ROUNDS_PER_MS = 40  # more than any network here answers: the window ends the load, not its count
_WARMUP = 1  # the first pays for what it finds cold; more would use up a window in which each takes long


@dataclass(frozen=True, slots=True)
class Setting:
    """How one trial is made. `cpus`: what each instance may use of the host; `refused` says why a kind is left out.

    `equals`: both are of the same runtime.
    """

    window_ms: int
    cpus: float
    accelerator: str | None
    equals: bool
    refused: Mapping[str, str] = field(default_factory=dict)


def jain(shares: Sequence[float]) -> float:
    """Return Jain's fairness index (R. Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984): 1 for equal shares, 1/n for one."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def metrics_of(kind: str) -> tuple[Metric, ...]:
    """Return what is measured of one kind of work."""
    more = {"cpu": (m.USED, m.SHRUNK, m.STEAL), "network": (m.ROUND, m.ROUND_QUIET)}
    waiting = (m.PRESSURE[m.RESOURCE[kind]],) if kind in m.RESOURCE else ()
    return (m.KEPT[kind], m.SAME[kind], *more.get(kind, ()), *waiting)


@dataclass
class Disturbance:
    """Two ready instances, one disturbed and one that disturbs. `site` is the first's; `sink` takes what is sent."""

    victim: Instance
    other: Instance
    setting: Setting
    site: InstanceSite
    sink: Sink | None
    emit: Emit
    rounds_ns: list[int] = field(default_factory=list)

    def measure(self) -> None:
        """Say every metric once but the fairness of many. Raises: TrialError."""
        for kind in m.KINDS:
            if kind in self.setting.refused:
                self._leave_out(kind, self.setting.refused[kind])
            else:
                self._one(kind)
        self._late()
        self._fair()

    def _leave_out(self, kind: str, reason: str) -> None:
        for metric in metrics_of(kind):
            self.emit(Absent(metric, reason))

    def _one(self, kind: str) -> None:
        steals = kind == "cpu" and self.victim.boundary == "vm"
        watch = _watch.Watch(self.victim, self.other, m.RESOURCE.get(kind), steals=steals)
        with watch.window():
            before = self._rate(kind)
        with Beside(self.other, kind, self.setting.window_ms, self._where(kind)) as antagonist, watch.window():
            during = self._rate(kind)
        with watch.window():
            after = self._rate(kind)
        if min(before, after) <= 0:
            self._leave_out(kind, "nothing was done in a quiet window: it is too short here")
            return
        made, refused = antagonist.result
        labels = {"antagonist_did": str(made), "antagonist_refused": str(refused)}
        self.emit(Measurement(m.KEPT[kind], during / statistics.fmean((before, after)), labels))
        self.emit(Measurement(m.SAME[kind], after / before))
        self._emit_counted(kind, watch.windows)

    def _emit_counted(self, kind: str, windows: Sequence[_watch.Counted]) -> None:
        beside = windows[1]
        if kind in m.RESOURCE:
            self.emit(_watch.pressure(m.PRESSURE[m.RESOURCE[kind]], beside))
        if kind == "cpu":
            self.emit(_watch.used(beside, self.setting.cpus))
            self.emit(_watch.shrunk(*windows))
            self.emit(_watch.steal(self.victim, self.setting.accelerator, beside))
        if kind == "network":
            self.emit(Measurement(m.ROUND_QUIET, self.rounds_ns[0]))
            self.emit(Measurement(m.ROUND, self.rounds_ns[1]))

    # -- one window --------------------------------------------------------------------------------------------------

    def _where(self, kind: str) -> str:
        if kind == "network" and self.sink is not None:
            return self.sink.where
        return m.SCRATCH if kind == "disk" else spinners()

    def _rate(self, kind: str) -> float:
        if kind == "network":
            return self._rounds_per_s()
        words = ("victim", kind, str(self.setting.window_ms), *((m.SCRATCH,) if kind == "disk" else ()))
        done, took_ns = _pair.ask(self.victim, *words, bound_ms=self.setting.window_ms)
        return done / took_ns * 1e9

    def _rounds_per_s(self) -> float:
        """One connection asks for the whole window, which ends it; that it has more to ask then is no failure."""
        window_ms = self.setting.window_ms
        load = Load(m.PORT, "echo", b"x", window_ms * _ROUNDS_PER_MS, warmup=_WARMUP, connections=1,
                    timeout_ns=window_ms * _pair.NS_PER_MS)  # fmt: skip
        served = self.site.serve(load)
        if served.wrong or not served.answered:
            raise TrialError(f"network: {served.answered} round trips, {served.wrong} wrong: {served.error}")
        self.rounds_ns.append(served.latency_ns["99"])
        return served.rate_per_s

    def _wake_ups(self) -> tuple[int, int, int]:
        words = ("victim", "wakeup", str(self.setting.window_ms))
        median_ns, late_ns, count = _pair.ask(self.victim, *words, bound_ms=self.setting.window_ms)
        return median_ns, late_ns, count

    def _late(self) -> None:
        _, quiet_ns, _ = self._wake_ups()
        with Beside(self.other, "cpu", self.setting.window_ms):
            median_ns, late_ns, count = self._wake_ups()
        _, again_ns, _ = self._wake_ups()
        self.emit(Measurement(m.LATE, late_ns, {"sleeps": str(count)}))
        self.emit(Measurement(m.LATE_MEDIAN, median_ns))
        self.emit(Measurement(m.LATE_QUIET, quiet_ns))
        short = Absent(m.LATE_SAME, "no sleep of a quiet window ended late")
        self.emit(Measurement(m.LATE_SAME, again_ns / quiet_ns) if quiet_ns else short)

    def _fair(self) -> None:
        """Both at once for the same window; the one that is asked first begins a little earlier."""
        if not self.setting.equals:
            self.emit(Absent(m.FAIR, "the antagonist is of another runtime: the same loop is other work there"))
            return
        with Beside(self.other, "cpu", self.setting.window_ms, warm_ms=0) as antagonist:
            mine, _ = press(self.victim, "cpu", self.setting.window_ms, spinners())
        self.emit(Measurement(m.FAIR, jain((mine, antagonist.result[0]))))


def fairness_of(instances: Sequence[Instance], window_ms: int) -> Measurement | Absent:
    """Return how equal several equal instances are that all take all they can. Raises: TrialError."""
    shares = work_of_all(instances, window_ms)
    if not min(shares):
        return Absent(m.FAIR_MANY, "one of them got nothing done: the window is too short here")
    labels = {"instances": str(len(shares)), "largest_of_smallest": f"{max(shares) / min(shares):.3f}"}
    return Measurement(m.FAIR_MANY, jain(shares), labels)
