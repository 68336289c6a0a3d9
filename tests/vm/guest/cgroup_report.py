"""Runs inside a guest: mount cgroups as one kind of host has them, use the container runtime, print what was seen.

    cgroup_report.py v2|hybrid|v1

One JSON object on stdout: each observation under its name, or {"failed": TRACEBACK} in its place. Nothing is judged
here. What the kernel holds is read from its files directly, not through the code under test.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["HARNESS_RUNTIME"] = "/run/harness"
os.environ["HARNESS_HOME"] = "/run/home"

from harness.backends import _local, _metering
from harness.container import cgroups, defaults, hostroot, launcher, mountinfo, plan, plan_control, syscalls
from harness.container.errors import ContainerError
from harness.container.spec import Capabilities, ContainerSpec, Overlay, Process
from harness.interfaces import ArmSpec, RunContext
from harness.model.spec import Limits, Ready, RootTree, WorkloadSpec

TOKEN = "0123abcd"
IMAGE = "/image"
MIB = 1 << 20
SECOND_NS = 10**9
LIMITS = Limits(cpus=0.25, memory_bytes=64 * MIB, pids=20)
V1_TREES = ("memory", "cpu,cpuacct", "pids", "freezer")
ROOT = Path("/sys/fs/cgroup")
# What the hint of a refused start says, with the applets of busybox.
HINT = "mkdir /sys/fs/cgroup/init; busybox xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs"


def mount_cgroups(mode: str) -> None:
    if mode == "v2":
        syscalls.mount("cgroup2", str(ROOT), "cgroup2", 0)
        return
    syscalls.mount("tmpfs", str(ROOT), "tmpfs", 0, "mode=0755")
    for names in V1_TREES:
        (ROOT / names).mkdir()
        syscalls.mount("cgroup", str(ROOT / names), "cgroup", 0, names)
    if mode == "hybrid":
        (ROOT / "unified").mkdir()
        syscalls.mount("cgroup2", str(ROOT / "unified"), "cgroup2", 0)


def deadline(seconds: float = 30) -> int:
    return time.monotonic_ns() + round(seconds * SECOND_NS)


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    end_ns = deadline(seconds)
    while not condition():
        if time.monotonic_ns() > end_ns:
            return False
        time.sleep(0.02)
    return True


def context() -> RunContext:
    scratch = Path(os.environ["HARNESS_RUNTIME"]) / TOKEN
    scratch.mkdir(parents=True, exist_ok=True)
    return RunContext("guest", TOKEN, scratch, Path("/tmp"))


@contextmanager
def running(script: str, *, ready: bool = True, boundary: str = "container") -> Iterator[_local.LocalInstance]:
    """One instance as the backends `builtin` and `process` start it; with `ready` its script must print `up`."""
    when = Ready("line", "up") if ready else Ready()
    workload = WorkloadSpec(("/bin/sh", "-c", script), {"PATH": "/bin"}, ready=when)
    kit = _local.Kit(ArmSpec("arm", RootTree(Path(IMAGE), "", 0), workload, LIMITS), boundary, context())
    root = f"{kit.context.scratch}/root"
    if boundary == "container":
        names = defaults.DOCKER_CAPABILITIES
        process = Process((), capabilities=Capabilities(names, names, names), no_new_privs=True)
        container = ContainerSpec(
            Overlay((IMAGE,)), process, str(kit.context.scratch), workspace_bytes=16 * MIB,
            namespaces=defaults.NAMESPACES, hostname="inside", mounts=defaults.mounts(),
            masked_paths=defaults.MASKED_PATHS, readonly_paths=defaults.READONLY_PATHS, attested=IMAGE,
        )  # fmt: skip
        steps = plan.container_steps(container, kit.launch())
    else:
        made = plan_control.ProcessSpec(hostroot.mount_root(root, IMAGE, 16 * MIB), IMAGE)
        steps = plan_control.process_steps(made, kit.launch())
    memfd = launcher.plan_memfd(steps)
    undo = (lambda: None) if boundary == "container" else (lambda: hostroot.unmount_root(root))
    try:
        instance = _local.start(kit, memfd, "t0", time.monotonic_ns(), undo)
        try:
            instance.wait("ready" if ready else "exited", deadline())
            yield instance
        finally:
            instance.stop(deadline())
    finally:
        os.close(memfd)
        kit.close()


def group_file(controller: str, name: str) -> str:
    """Return a file of the running instance's group, found where this script mounted the trees."""
    homes = {"memory": "memory", "cpu": "cpu,cpuacct", "pids": "pids"}
    home = ROOT / homes[controller] if (ROOT / "memory").is_dir() else ROOT
    return (home / f"harness-{TOKEN}" / "t0" / name).read_text()


def stat_of(controller: str, name: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in group_file(controller, name).splitlines())}


def is_v2() -> bool:
    return not (ROOT / "memory").is_dir()


def memberships(pid: int | str) -> list[str]:
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def text_of(instance: _local.LocalInstance) -> list[str]:
    stdout, stderr = instance.output()
    return (stdout + stderr).decode().splitlines()


# -- what is looked at -----------------------------------------------------------------------------------------------


def see_layout() -> dict[str, Any]:
    layout = cgroups.detect()
    joins = layout.joins
    need = {capability.name: [capability.available, capability.reason] for capability in _local.needs()}
    return {
        "mode": layout.mode, "missing": layout.missing(), "tasks": joins.tasks, "unified": joins.unified, "needs": need,
        "kernel": os.uname().release,
    }  # fmt: skip


def see_container() -> dict[str, Any]:
    with running("echo up; cat /proc/self/cgroup; hostname; exec sleep 600") as instance:
        until(lambda: "inside" in text_of(instance))
        own = {path.name: str(path.readlink()) for path in Path("/proc/self/ns").iterdir()}
        inside = instance.inside()["namespaces"]
        assert isinstance(inside, dict)
        v2 = is_v2()
        limits = {
            "memory": group_file("memory", "memory.max" if v2 else "memory.limit_in_bytes").strip(),
            "cpu": group_file("cpu", "cpu.max" if v2 else "cpu.cfs_quota_us").strip(),
            "pids": group_file("pids", "pids.max").strip(),
        }
        return {
            "said": text_of(instance), "memberships": memberships(instance.pid), "limits": limits,
            "own_namespaces": sorted(name for name, link in inside.items() if link != own[name]),
            "pids": len(instance.pids()),
        }  # fmt: skip


def see_process() -> dict[str, Any]:
    with running("echo up; exec sleep 600", boundary="process") as instance:
        return {"memberships": memberships(instance.pid), "pids": len(instance.pids())}


def see_memory_limit() -> dict[str, Any]:
    with running("dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo $?", ready=False) as instance:
        events = stat_of("memory", "memory.events") if is_v2() else stat_of("memory", "memory.oom_control")
        peak = instance.cgroup_memory().peak_bytes
        until(lambda: text_of(instance))
        return {"said": text_of(instance), "oom_kill": events["oom_kill"], "peak_bytes": peak}


def see_memory_use() -> dict[str, Any]:
    file, variable = (
        "dd if=/dev/zero of=/tmp/f bs=1M count=8 2>/dev/null",
        "x=$(head -c 6000000 /dev/zero | tr '\\0' x)",
    )
    script = f"{file}; {variable}; echo up; sleep 600; echo $x"
    with running(script) as instance:
        use = instance.cgroup_memory()
        raw = {
            "current_bytes": int(group_file("memory", "memory.current" if is_v2() else "memory.usage_in_bytes")),
            "stat": stat_of("memory", "memory.stat"),
        }
        fields = ("anon_bytes", "file_bytes", "kernel_bytes", "current_bytes", "peak_bytes")
        return {"use": {name: getattr(use, name) for name in fields}, "raw": raw}


def see_pids_limit() -> dict[str, Any]:
    bomb = "echo up; i=0; while [ $i -lt 200 ]; do sleep 600 & i=$((i+1)); done; wait"
    with running(bomb) as instance:
        reached = until(lambda: stat_of("pids", "pids.events")["max"] > 0)
        pids = instance.pids()
        current = int(group_file("pids", "pids.current"))
        started_ns = time.monotonic_ns()
    return {
        "reached": reached, "count": len(pids), "current": current, "alive_after": sum(map(is_alive, pids)),
        "stop_ns": time.monotonic_ns() - started_ns,
    }  # fmt: skip


def see_cpu_limit() -> dict[str, Any]:
    with running("echo up; while :; do :; done") as instance:
        (busy,) = (pid for pid in instance.pids() if pid != instance.pid)
        before, first_ns, first = stat_of("cpu", "cpu.stat"), time.monotonic_ns(), cpu_ns(busy)
        time.sleep(2)
        share = (cpu_ns(busy) - first) / (time.monotonic_ns() - first_ns)
        after = stat_of("cpu", "cpu.stat")
    return {"share": share, "throttled": after["nr_throttled"] - before["nr_throttled"]}


def cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


@contextmanager
def bare_group(name: str) -> Iterator[cgroups.Group]:
    layout = cgroups.detect()
    cgroups.prepare_parent(layout, f"harness-{TOKEN}")
    group = cgroups.Group(layout, f"harness-{TOKEN}/{name}")
    group.create(None)
    try:
        yield group
    finally:
        group.kill(deadline())
        group.remove(deadline())
        cgroups.remove_parent(layout, f"harness-{TOKEN}")


def see_caller_inside() -> dict[str, Any]:
    home = memberships("thread-self")
    with bare_group("caller") as group:
        with group.caller_inside():
            there = memberships("thread-self")
            child = subprocess.Popen(["/image/bin/busybox", "sleep", "600"])
        seen = {
            "home": home, "there": there, "back": memberships("thread-self"), "child": memberships(child.pid),
            "child_is_in": group.pids() == (child.pid,),
        }  # fmt: skip
        group.kill(deadline())
        return {**seen, "child_ended": child.wait(10)}


def see_kill() -> dict[str, Any]:
    """A process in a group below: only `cgroup.kill` reaches it, a list of the group's own pids does not."""
    below = Path(ROOT if is_v2() else ROOT / "unified") / f"harness-{TOKEN}" / "kill" / "below"
    with bare_group("kill") as group:
        with group.caller_inside():
            stubborn = subprocess.Popen(["/image/bin/busybox", "sh", "-c", "trap '' TERM INT HUP; while :; do :; done"])
            deep = subprocess.Popen(["/image/bin/busybox", "sleep", "600"])
        try:
            below.mkdir()
        except FileNotFoundError:  # v1: no cgroup2 anywhere
            deep.kill()
        else:
            (below / "cgroup.procs").write_text(str(deep.pid))
        group.kill(deadline())
        codes = [stubborn.wait(10), deep.wait(10)]
        if below.exists():
            below.rmdir()
        return {"codes": codes, "has_switch": (below.parent / "cgroup.kill").exists()}


def see_meter() -> dict[str, Any]:
    """The group around a VMM, as the libvirt backend uses it."""
    meter = _metering.Meter(TOKEN, "vmm")
    with meter.inside():
        script = "x = bytearray(30 << 20); import time; print('up', flush=True); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    use = meter.memory()
    assert use is not None
    meter.remove()
    _metering.release(TOKEN)
    return {"anon_bytes": use.anon_bytes, "current_bytes": use.current_bytes, "child_ended": child.wait(10)}


def see_reaping() -> dict[str, Any]:
    """What a dead run left: a group with a process in it, found by name alone."""
    layout = cgroups.detect()
    cgroups.prepare_parent(layout, f"harness-{TOKEN}")
    group = cgroups.Group(layout, f"harness-{TOKEN}/dead")
    group.create(None)
    with group.caller_inside():
        child = subprocess.Popen(["/image/bin/busybox", "sleep", "600"])
    tokens = sorted(_local.tokens())
    dry = _local.reap(TOKEN, dry_run=True)
    _local.reap(TOKEN, dry_run=False)
    return {"tokens": tokens, "dry": list(dry), "pid": child.pid, "child_ended": child.wait(10)}


def see_undelegated() -> dict[str, Any]:
    """In a group that is the root of a cgroup namespace and holds processes, v2 hands nothing on, until they move."""
    (ROOT / "cgroup.subtree_control").write_text("+memory +cpu +pids")
    box, answer = ROOT / "box", Path("/tmp/undelegated")
    box.mkdir()
    child = os.fork()
    if child == 0:
        try:
            answer.write_text(json.dumps(_prepare_in(box)))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    for path in (*box.glob("*/"), box):
        path.rmdir()
    seen: dict[str, Any] = json.loads(answer.read_text())
    return seen


def _prepare_in(box: Path) -> dict[str, Any]:
    """Become a process of a container that sees `box` as the root of all cgroups; be refused, follow the hint."""
    (box / "cgroup.procs").write_text("0")
    syscalls.unshare(syscalls.CLONE_NEWCGROUP | syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_PRIVATE | syscalls.MS_REC)
    syscalls.umount2(str(ROOT))
    syscalls.mount("cgroup2", str(ROOT), "cgroup2", 0)
    layout = cgroups.detect()
    seen: dict[str, Any] = {}
    try:
        cgroups.prepare_parent(layout, f"harness-{TOKEN}")
    except ContainerError as error:
        seen["refusal"] = errno.errorcode[error.errno]
    seen["handed_down"] = (ROOT / "cgroup.subtree_control").read_text().split()
    seen["left"] = [path.name for path in ROOT.iterdir() if path.is_dir()]
    subprocess.run(["/image/bin/busybox", "sh", "-c", HINT], check=True)
    with bare_group("delegated") as group:
        seen["delegated"] = sorted(path.name for path in Path(group.directories[0]).glob("*.max"))
    return seen


def see_remains() -> dict[str, Any]:
    return {
        "groups": [str(path) for path in ROOT.glob("**/harness*") if path.is_dir()],
        "mounts": [mount.point for mount in mountinfo.read() if "harness" in mount.point],
        "processes": [line for line in subprocess.check_output(["/image/bin/busybox", "ps"], text=True).splitlines()
                      if "sleep" in line],
    }  # fmt: skip


OBSERVATIONS = (
    see_layout, see_container, see_process, see_memory_limit, see_memory_use, see_pids_limit, see_cpu_limit,
    see_caller_inside, see_kill, see_meter, see_reaping, see_undelegated, see_remains,
)  # fmt: skip


def main(mode: str) -> None:
    signal.alarm(150)
    mount_cgroups(mode)
    report = {}
    for observe in OBSERVATIONS if is_v2() else [one for one in OBSERVATIONS if one is not see_undelegated]:
        started_ns = time.monotonic_ns()
        try:
            report[observe.__name__] = observe()
        except Exception:  # noqa: BLE001 - told by the report, where a test fails with it
            report[observe.__name__] = {"failed": traceback.format_exc()}
        print(observe.__name__, (time.monotonic_ns() - started_ns) // 10**6, "ms", file=sys.stderr)
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
