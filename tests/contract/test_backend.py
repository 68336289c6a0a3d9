"""What every backend promises, whatever it starts: one test file for all of them.

The arms are prepared once; every test launches its own instance. A VM takes some seconds each time, so a test asks as
much of one instance as belongs together.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.backends import _daemon, docker
from harness.errors import AgentError, ImageError, TrialTimeout
from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.resolve import ImageRef, resolve_image
from harness.images.store import Store
from harness.interfaces import Arm, ArmSpec, Instance, RunContext
from harness.model.metrics import Absent, Measurement
from harness.model.milestones import DELETED, EXEC, EXITED, INIT, READY, REQUESTED
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec
from harness.probes import boundary, surface
from harness.probes._surface import Finding
from harness.trials import ownership

NEEDS = {
    "process": ("root", "overlayfs"),
    "builtin": ("root", "overlayfs"),
    "libvirt": ("root", "qemu", "libvirt", "kernel", "erofs"),
}
NEEDS |= {name: (*NEEDS["builtin"], name) for name in ("runc", "crun", "bwrap", "nspawn", "podman")}
NEEDS |= {"oci": NEEDS["builtin"], "docker": (*NEEDS["builtin"], "dockerd")}
NEEDS |= {"containerd": (*NEEDS["builtin"], "ctr")}
NEEDS |= {name: ("root", "kvm", "kernel", "erofs", name) for name in ("cloud-hypervisor", "firecracker")}
# KVM is tried where the accelerator is the subject; here it must not cost the time-out of a failed boot.
OPTIONS: dict[str, dict[str, Any]] = {
    "libvirt": {"accel": "tcg"},
    "oci": {"path": str(Path(sys.executable).with_name("harness-oci"))},
}
SECOND_NS = 10**9
ENV = {"PATH": "/bin", "GREETING": "two words"}
LIMITS = Limits(cpus=1, memory_bytes=192 << 20, pids=64)


def deadline(seconds: float = 60) -> int:
    return time.monotonic_ns() + round(seconds * SECOND_NS)


@pytest.fixture(scope="session")
def tree() -> Iterator[RootTree]:
    store = Store(data_dir() / "images")
    try:
        found = resolve_image(ImageRef("name", "busybox"), Path(), store)
    except ImageError:
        bootstrap_busybox(store, cache_dir())
        found = resolve_image(ImageRef("name", "busybox"), Path(), store)
    yield found
    del store


@dataclass
class Ground:
    """One backend with a run's context; `arm` prepares a workload."""

    name: str
    backend: Any
    context: RunContext
    tree: RootTree
    options: dict[str, Any]

    @contextmanager
    def arm(self, workload: WorkloadSpec) -> Iterator[Arm]:
        options = self.backend.options.model_validate(self.options)
        arm = self.backend.prepare(ArmSpec(self.name, self.tree, workload, LIMITS), options, self.context)
        try:
            yield arm
        finally:
            arm.close()

    @contextmanager
    def running(self, workload: WorkloadSpec) -> Iterator[Instance]:
        with self.arm(workload) as arm:
            instance = arm.launch(f"t{secrets.token_hex(2)}")
            try:
                yield instance
            finally:
                instance.stop(deadline())
        assert self.backend.reap(self.context.token, dry_run=True) == []


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Path]:
    """The socket of one Docker daemon for all tests: its start takes longer than a test."""
    token = secrets.token_hex(4)
    context = RunContext("dockerd", token, ownership.claim(token, "dockerd"), cache_dir())
    daemon = _daemon.Daemon(context, docker.DAEMON)
    yield daemon.socket
    daemon.close()
    ownership.reap(token, [docker.PLUGIN], dry_run=False)


def grounds(*but: str) -> list[Any]:
    names = [
        name for name in plugins.names("backends") if name not in but or os.environ.get("HARNESS_CONTRACT") == "all"
    ]
    return [pytest.param(name, marks=pytest.mark.needs(*NEEDS[name])) for name in names]


AGENTS_OWN = pytest.mark.parametrize("ground", grounds("containerd", "podman"), indirect=True)
"""What the agent alone decides: engines that take long are not asked again, but with HARNESS_CONTRACT=all."""


@pytest.fixture(params=grounds())
def ground(request: pytest.FixtureRequest, tree: RootTree) -> Iterator[Ground]:
    token = secrets.token_hex(4)
    scratch = ownership.claim(token, "contract")
    backend = plugins.load("backends", request.param)
    options = OPTIONS.get(request.param, {})
    if request.param == "docker":
        options = {"engine": str(request.getfixturevalue("dockerd"))}
    yield Ground(request.param, backend, RunContext("contract", token, scratch, cache_dir()), tree, options)
    assert backend.reap(token, dry_run=True) == []
    ownership.reap(token, [backend], dry_run=False)


def shell(script: str, ready: Ready | None = None, **changes: Any) -> WorkloadSpec:
    return WorkloadSpec(("/bin/sh", "-c", script), ENV, ready=ready or Ready(), **changes)


def test_a_server_from_requested_to_deleted(ground: Ground) -> None:
    server = WorkloadSpec(
        ("httpd", "-f", "-p", "8080", "-h", "/etc"), ENV, ready=Ready("http", port=8080, path="/passwd")
    )
    with ground.running(server) as instance:
        instance.wait(READY, deadline())
        assert instance.pids()
        seen = instance.inside()
        assert seen["subject"] == "workload"
        result = instance.exec(["sh", "-c", "echo out; echo err >&2; exit 7"], 20 * SECOND_NS)
        assert (result.returncode, result.stdout, result.stderr) == (7, b"out\n", b"err\n")
        assert len([mark for mark in instance.calibrate(5) if mark.milestone == "cal"]) == 5
        if instance.boundary != "vm":
            _both_ways_agree_on_system_calls(instance)
        else:
            _a_guest_is_told_from_the_host(instance, by_libvirt=ground.name == "libvirt")
        attested = instance.attest(deadline())
        assert attested.root_digest == ground.tree.digest
        assert attested.argv[0] == "httpd"
    names = [mark.milestone for mark in instance.marks]
    ladder = [name for name in names if name in {REQUESTED, INIT, EXEC, READY, DELETED}]
    assert ladder == [REQUESTED, INIT, EXEC, READY, DELETED]
    times = [mark.at_ns for mark in instance.marks]
    assert times == sorted(times)
    assert instance.pids() == () or all(not Path(f"/proc/{pid}").exists() for pid in instance.pids())


def _both_ways_agree_on_system_calls(instance: Instance) -> None:
    """Number by number: what seccomp lets through, tried inside, and by the filters that the host's kernel holds."""
    found: dict[str, Measurement | Absent] = {}
    with surface.PLUGIN.watch(instance, lambda item: found.update({item.metric.name: item})):
        pass
    disagree, inside, outside = (
        found[metric.name] for metric in (surface.DISAGREE, surface.REACHABLE, surface.BY_FILTERS)
    )
    assert isinstance(disagree, Measurement), disagree
    assert isinstance(inside, Measurement), inside
    assert isinstance(outside, Measurement), outside
    assert (disagree.value, disagree.labels["names"]) == (0, "")
    assert inside.value == outside.value > 0


def _a_guest_is_told_from_the_host(instance: Instance, *, by_libvirt: bool) -> None:
    """Everything inside acts on the guest's own kernel; what its monitor may do is the host's matter."""
    found: dict[str, Measurement | Absent] = {}
    with surface.PLUGIN.watch(instance, lambda item: found.update({item.metric.name: item})):
        pass
    reached = found[surface.REACHABLE.name]
    assert isinstance(reached, Measurement), reached
    assert (reached.labels["acts_on"], str(reached.value)) == ("own kernel", reached.labels["of"])
    assert isinstance(found[surface.BY_FILTERS.name], Absent)
    seen = found[surface.BRACKETING.name]
    assert isinstance(seen, Absent) or seen.value < 0.3
    if not by_libvirt:  # only QEMU has a monitor that tells
        return
    machine = boundary.emulated(instance)[boundary.VMM_DEVICES]
    assert isinstance(machine, Finding), machine
    assert machine.value > 5
    assert "virtio-blk-pci" in machine.labels["names"]


def test_a_command_gets_its_environment_directory_user_and_all_its_output_arrives(ground: Ground) -> None:
    script = 'pwd; id -u; id -g; echo "$GREETING"; echo problem >&2; head -c 300000 /dev/zero; touch /tmp/x; cat /tmp/x'
    with ground.running(shell(script, cwd="/etc", uid=1234, gid=4321)) as instance:
        instance.wait(EXITED, deadline())
    stdout, stderr = instance.output()
    assert stdout == b"/etc\n1234\n4321\ntwo words\n" + bytes(300_000)
    assert stderr == b"problem\n"


@AGENTS_OWN
def test_a_failing_command_says_so_and_keeps_its_last_words(ground: Ground) -> None:
    failure = pytest.raises(AgentError, match="ended with code 3 before it was ready")
    with ground.running(shell("echo no config >&2; exit 3")) as instance, failure:
        instance.wait(READY, deadline())
    assert instance.output()[1] == b"no config\n"


@AGENTS_OWN
def test_a_program_that_is_not_in_the_image_is_named(ground: Ground) -> None:
    failure = pytest.raises(AgentError, match=r"exec: /app/server: No such file")
    with ground.running(WorkloadSpec(("/app/server",), ENV)) as instance, failure:
        instance.wait(READY, deadline())


@AGENTS_OWN
def test_what_never_gets_ready_times_out_and_is_removed(ground: Ground) -> None:
    with ground.running(shell("sleep 600", Ready("line", text="never"))) as instance:
        instance.wait(EXEC, deadline())
        with pytest.raises(TrialTimeout, match=r"not reached in time; last: (exec|returned)"):
            instance.wait(READY, deadline(0.2))


def test_the_image_is_not_changed_by_what_runs_on_it(ground: Ground) -> None:
    script = "echo changed > /etc/passwd; rm -r /bin/[; mkdir /new; sync"
    before = sorted(path.name for path in ground.tree.path.iterdir())
    for _ in range(2):  # the second start finds the image as the first did
        with ground.running(shell(f"[ -e /new ] && exit 9; {script}")) as instance:
            instance.wait(READY, deadline())
            assert instance.attest(deadline()).root_digest == ground.tree.digest
    assert sorted(path.name for path in ground.tree.path.iterdir()) == before
