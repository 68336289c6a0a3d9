"""How much of its work a sandbox keeps while another one beside it takes all it can of CPU, memory, disk or network.

In each trial both are fresh, and each window beside the antagonist lies between two quiet ones. The two quiet windows
against each other are the control (A/A): what differs no more than they do is not distinguishable. Every antagonist is
bounded in time, processes, memory and bytes before it starts, by itself (csrc/probe) and by the limits of its sandbox.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from harness.backends import _network
from harness.errors import CapabilityError
from harness.host.noise import CPU_PRESSURE, LOAD
from harness.interfaces import Capability, Emit, Instance, Json, RunContext, Study, StudyArm
from harness.loading.site import InstanceSite
from harness.model.fields import Strict, to_tuple
from harness.model.metrics import Absent, Measurement
from harness.model.spec import Limits, MountSpec, Ready, WorkloadSpec
from harness.studies import _caps, _pair
from harness.studies._beside import Sink
from harness.studies._disturbed import Disturbance, Setting, fairness_of
from harness.studies._interference import FAIR_MANY, KINDS, METRICS, PORT, SCRATCH, SCRATCH_BYTES, Kind

_WINDOW_MS_MAX = 3000  # the programs inside end by themselves after 10 s
DISK_BYTES_PER_S = 20 << 20
"""What each may write to its disk in `limited` mode."""
_ECHO = WorkloadSpec(("harness:echo", str(PORT)), ready=Ready("tcp", port=PORT))
_SCRATCH = MountSpec("volume", SCRATCH, "scratch", size_bytes=SCRATCH_BYTES)


class Options(Strict):
    """What is run, and how long each window lasts."""

    image: str = Field(default="busybox", description="image of the local store")
    window_ms: int = Field(default=700, ge=100, le=_WINDOW_MS_MAX, description="length of each window, in ms")
    kinds: Annotated[tuple[Kind, ...], BeforeValidator(to_tuple)] = Field(
        default=KINDS, min_length=1, description="which work is disturbed"
    )
    instances: int = Field(default=4, ge=2, le=8, description="how many equals share the CPUs for fairness.many")


class ArmOptions(Strict):
    """One runtime that is disturbed, and what stands beside it."""

    backend: str = Field(description="what the disturbed one runs in")
    options: Mapping[str, Any] = Field(default={}, description="options of that backend")
    beside: str | None = Field(default=None, description="backend of the antagonist; the same where it is left out")
    mode: Literal["default", "limited"] = Field(
        default="limited",
        description="default: no limit but the host's CPUs; limited: half a CPU and 20 MiB/s of disk writes each",
    )


@dataclass
class InterferenceArm:
    """One runtime beside another. `many` is how many equals are started, None where the antagonist is another."""

    pair: _pair.Pair
    context: RunContext
    setting: Setting
    limited: bool
    many: int | None
    facts: Mapping[str, Json]
    accelerator: str | None

    def measure(self, trial_id: str, emit: Emit) -> None:
        with contextlib.ExitStack() as cleanup:
            after = cleanup.enter_context(contextlib.ExitStack())  # what is to be undone when the instances are gone
            victim, other = cleanup.enter_context(self.pair.started(trial_id))
            setting = self._capped(trial_id, (victim, other), after) if self.limited else self.setting
            network = _network.of_run(self.context.token)
            site = InstanceSite(victim, network, self.pair.tree, self.context.scratch / f"{trial_id}-client")
            cleanup.callback(site.close)
            sink = None
            if network is not None and "network" not in setting.refused:
                sink = Sink(network)
                cleanup.callback(sink.close)
            Disturbance(victim, other, setting, site, sink, emit).measure()
            emit(self._of_many(trial_id, (victim, other), cleanup))

    def _capped(self, trial_id: str, both: Sequence[Instance], after: contextlib.ExitStack) -> Setting:
        """Set what the backends do not limit by themselves; what cannot be limited here is not measured."""
        refused = dict(self.setting.refused)
        for instance, suffix in zip(both, ("w", "b"), strict=True):
            if instance.boundary == "vm" and not _caps.cap_cpus(instance, self.setting.cpus):
                refused["cpu"] = "limited: the VM's monitor is in no cgroup of its own"
            if "disk" not in refused:
                why = _caps.cap_disk(instance, self.context.token, f"{trial_id}-{suffix}", DISK_BYTES_PER_S, after)
                if why:
                    refused["disk"] = f"limited: its disk cannot be: {why}"
        return replace(self.setting, refused=refused)

    def _of_many(
        self, trial_id: str, both: tuple[Instance, Instance], cleanup: contextlib.ExitStack
    ) -> Measurement | Absent:
        if self.many is None:
            return Absent(FAIR_MANY, "its antagonist is of another runtime: the arm without `beside` tells")
        more = (_pair.start(self.pair.watched, f"{trial_id}-{number}", cleanup) for number in range(2, self.many))
        equals = [*both, *more]
        if self.limited:
            for instance in equals[2:]:
                if instance.boundary == "vm" and not _caps.cap_cpus(instance, self.setting.cpus):
                    return Absent(FAIR_MANY, "limited: the VM's monitor is in no cgroup of its own")
        return fairness_of(equals, self.setting.window_ms)

    def close(self) -> None:
        self.pair.close()


class InterferenceStudy:
    name = "interference"
    doc = (
        "how much of its work a sandbox keeps while another beside it takes all the CPU, memory, disk or network it can"
    )
    options = Options
    arm_options = ArmOptions
    metrics = METRICS
    backends = _pair.BACKENDS
    disturbs = frozenset({CPU_PRESSURE, LOAD})

    def needs(self, options: BaseModel, arm_options: BaseModel) -> Sequence[Capability]:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        names = [(arm_options.backend, arm_options.options)]
        if arm_options.beside:
            names.append((arm_options.beside, {}))
        return _pair.needs(tuple(names), options.image)

    def prepare(self, arm: str, options: BaseModel, arm_options: BaseModel, context: RunContext) -> StudyArm:
        assert isinstance(options, Options)
        assert isinstance(arm_options, ArmOptions)
        limits = limits_of(arm_options.mode)
        watched = (arm_options.backend, arm_options.options)
        beside = (arm_options.beside, {}) if arm_options.beside else watched
        pair, refused = _prepared(arm, options, limits, (watched, beside), context)
        limited = arm_options.mode == "limited"
        facts: dict[str, Json] = {
            **pair.watched.facts, "mode": arm_options.mode, "beside": beside[0], "cpus": limits.cpus,
            "memory_bytes": limits.memory_bytes, "pids": limits.pids,
            "disk_bytes_per_s": DISK_BYTES_PER_S if limited else None, "left_out": {**refused},
        }  # fmt: skip
        setting = Setting(options.window_ms, limits.cpus, pair.watched.accelerator, beside == watched, refused)
        many = options.instances if beside == watched else None
        return InterferenceArm(pair, context, setting, limited, many, facts, pair.watched.accelerator)


_Choice = tuple[str, Mapping[str, Any]]


def _prepared(
    arm: str, options: Options, limits: Limits, choices: tuple[_Choice, _Choice], context: RunContext
) -> tuple[_pair.Pair, dict[str, str]]:
    """Return both runtimes with what the kinds need, and why a kind is left out.

    A runtime that is refused a place on the run's bridge goes without it: only the network is left out then.
    """
    refused: dict[str, str] = {kind: "not among the study's kinds" for kind in KINDS if kind not in options.kinds}
    mounts = (_SCRATCH,) if "disk" in options.kinds else ()
    plain = _pair.Ground(options.image, limits, mounts=mounts)
    if "network" in refused:
        return _pair.prepare(arm, plain, *choices, context), refused
    try:
        bridged = _pair.Ground(options.image, limits, _ECHO, "bridge", mounts)
        return _pair.prepare(arm, bridged, *choices, context), refused
    except CapabilityError as error:
        refused["network"] = error.message
        return _pair.prepare(arm, plain, *choices, context), refused


def limits_of(mode: str) -> Limits:
    """Return the same limits for both; processes and memory are bounded in every mode, for the host's sake."""
    cpus = 0.5 if mode == "limited" else float(os.cpu_count() or 1)
    return Limits(cpus=cpus, memory_bytes=256 << 20, pids=64)


PLUGIN: Study = InterferenceStudy()
