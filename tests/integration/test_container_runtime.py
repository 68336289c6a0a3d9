"""Containers as the workload sees them: what is its own, what is limited."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.container import cgroups, defaults, plan_process
from harness.errors import CapabilityError
from harness.images.tree import root_digest
from harness.interfaces import Instance, RunContext
from harness.model.spec import Ready
from tests.container_kit import (
    BOTH,
    LIMITS,
    SLEEPER,
    deadline,
    host_namespaces,
    is_alive,
    output_of,
    running,
    shell,
    until,
)

pytestmark = pytest.mark.needs("root", "overlayfs")


def test_container_has_its_own_namespaces_and_the_process_the_hosts(tree: Path, context: RunContext) -> None:
    own = {"cgroup", "ipc", "mnt", "net", "pid", "uts"}
    for backend, expected in (("builtin", own), ("process", set())):
        with running(backend, tree, context, SLEEPER) as instance:
            instance.wait("ready", deadline())
            inside = instance.inside()["namespaces"]
        assert isinstance(inside, dict)
        assert {name for name, link in inside.items() if link != host_namespaces()[name]} == expected


def test_agent_is_pid_1_and_the_hostname_is_the_runtimes(tree: Path, context: RunContext) -> None:
    lines = output_of("builtin", tree, context, "echo $PPID; hostname; ls /sys/class/net; ls /proc | grep -c '^[0-9]'")
    assert lines == ["1", "arm", "lo", "4"]  # the agent, the shell, ls and grep


def test_cgroup_namespace_shows_the_container_as_the_root(tree: Path, context: RunContext) -> None:
    lines = output_of("builtin", tree, context, "cat /proc/self/cgroup")
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}
    for hierarchy in cgroups.detect().used():
        key = "" if hierarchy.version == 2 else next(key for key in paths if hierarchy.controllers & {*key.split(",")})
        assert paths[key] == "/"


def test_loopback_is_up_and_the_only_network(tree: Path, context: RunContext) -> None:
    script = "echo pong | nc -l -p 99 & sleep 0.2; nc 127.0.0.1 99; cat /proc/net/dev | tail -n +3 | wc -l"
    assert output_of("builtin", tree, context, script) == ["pong", "1"]


@BOTH
def test_root_is_an_overlay_and_writes_do_not_reach_the_image(backend: str, tree: Path, context: RunContext) -> None:
    before = root_digest(tree)
    script = (
        "rm /bin/cat; echo x > /new; chmod 700 /; mkdir /a; echo y > /etc/passwd; sync; ls /; grep ' / ' /proc/mounts"
    )
    lines = output_of(backend, tree, context, script)
    assert "new" in lines
    assert root_digest(tree) == before
    if backend == "builtin":
        assert any(line.startswith("overlay / overlay rw,nodev") for line in lines)


@BOTH
def test_root_directory_keeps_owner_and_mode(backend: str, tree: Path, context: RunContext) -> None:
    os.chown(tree, 12, 34)
    tree.chmod(0o751)
    assert output_of(backend, tree, context, "stat -c '%u %g %a' /") == ["12 34 751"]


def test_no_path_of_the_host_is_visible_in_mounts(tree: Path, context: RunContext) -> None:
    text = "\n".join(output_of("builtin", tree, context, "cat /proc/mounts /proc/self/mountinfo"))
    assert str(tree.parent) not in text
    assert str(context.scratch) not in text


def test_capabilities_and_no_new_privs_are_as_specified(tree: Path, context: RunContext) -> None:
    script = "grep -E '^(Cap|NoNew)' /proc/self/status"
    lines = dict(line.split(":\t") for line in output_of("builtin", tree, context, script))
    mask = f"{plan_process.capability_mask(defaults.DOCKER_CAPABILITIES):016x}"
    none = f"{0:016x}"
    assert lines == {"CapInh": none, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": none, "NoNewPrivs": "1"}


def test_capabilities_are_configurable_and_a_wrong_name_is_found_before_any_start(
    tree: Path, context: RunContext
) -> None:
    script = "grep -E '^(CapBnd|NoNew)' /proc/self/status; chown 1 /etc/passwd || echo refused"
    lines = output_of("builtin", tree, context, script, capabilities=["setuid", "setgid", "kill"], no_new_privs=False)
    assert lines[0] == f"CapBnd:\t{0xE0:016x}"
    assert lines[1] == "NoNewPrivs:\t0"
    assert lines[-1] == "refused" or "refused" in lines
    with pytest.raises(CapabilityError, match="fly: unknown"):
        output_of("builtin", tree, context, "true", capabilities=["fly"])


def test_process_has_all_privileges_since_it_is_the_control(tree: Path, context: RunContext) -> None:
    lines = output_of("process", tree, context, "grep -E '^(CapEff|NoNew)' /proc/self/status")
    host = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    assert lines == [f"CapEff:\t{host['CapEff']}", f"NoNewPrivs:\t{host['NoNewPrivs']}"]


def test_kernel_is_protected(tree: Path, context: RunContext) -> None:
    script = (
        "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/ksm/run; do "
        "echo 0 > $f && echo WROTE $f; done; wc -c < /proc/keys; ls /sys/firmware | wc -l; "
        "mount -t tmpfs x /mnt && echo MOUNTED; umount /proc/sys && echo UNMOUNTED; reboot -f && echo REBOOTED; true"
    )
    lines = output_of("builtin", tree, context, script)
    assert not [line for line in lines if line.startswith(("WROTE", "MOUNTED", "UNMOUNTED", "REBOOTED"))]
    assert [line for line in lines if line == "0"] == ["0", "0"]


def test_device_nodes_that_the_workload_makes_cannot_be_opened(tree: Path, context: RunContext) -> None:
    """CAP_MKNOD is one of the 14: without a device cgroup it is `nodev` that makes its nodes useless."""
    script = (
        "for d in /tmp /dev /dev/shm; do mknod $d/n c 1 5 && head -c 1 $d/n && echo OPENED $d; done; "
        "head -c 3 /dev/zero | wc -c; echo x > /dev/null && echo fine"
    )
    (tree / "tmp").mkdir(exist_ok=True)
    lines = output_of("builtin", tree, context, script)
    assert not [line for line in lines if line.startswith("OPENED")]
    assert len([line for line in lines if "Permission denied" in line]) == 3
    assert lines.count("3") == 1
    assert "fine" in lines


def test_pseudo_terminals_work(tree: Path, context: RunContext) -> None:
    lines = output_of("builtin", tree, context, "script -qc tty /dev/null </dev/null 2>&1 || ls /dev/pts/ptmx")
    assert any("pts" in line for line in lines)


@BOTH
def test_process_over_the_memory_limit_is_killed(backend: str, tree: Path, context: RunContext) -> None:
    with running(backend, tree, context, shell("dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?")) as instance:
        instance.wait("exited", deadline())
        memory = instance.cgroup_memory()
    assert instance.output()[0] == b"137\n"
    assert memory is not None
    assert memory.peak_bytes is None or memory.peak_bytes <= LIMITS.memory_bytes


def test_memory_below_the_limit_is_granted(tree: Path, context: RunContext) -> None:
    lines = output_of("builtin", tree, context, "dd if=/dev/zero of=/dev/null bs=16M count=1 && echo granted")
    assert "granted" in lines


@BOTH
def test_fork_bomb_is_bounded_and_ends(backend: str, tree: Path, context: RunContext) -> None:
    bomb = shell(
        "echo up; i=0; while [ $i -lt 500 ]; do sleep 600 & i=$((i+1)); done; wait", ready=Ready("line", text="up")
    )
    with running(backend, tree, context, bomb) as instance:
        instance.wait("ready", deadline())
        until(lambda: len(instance.pids()) >= LIMITS.pids - 1)
        pids = instance.pids()
        assert len(pids) <= LIMITS.pids
    until(lambda: not any(is_alive(pid) for pid in pids))


def test_cpu_is_limited(tree: Path, context: RunContext) -> None:
    """Half a CPU: a busy loop of 1 s of wall time gets clearly less than 1 s of CPU."""
    busy = shell("while :; do :; done", ready=Ready("exit"))
    with running("builtin", tree, context, busy) as instance:
        instance.wait("exec", deadline())
        (pid,) = (pid for pid in _settled(instance, 2) if pid != min(instance.pids()))
        first_ns, first = time.monotonic_ns(), _cpu_ns(pid)
        time.sleep(1)
        share = (_cpu_ns(pid) - first) / (time.monotonic_ns() - first_ns)
    assert share < 0.75


def _settled(instance: Instance, count: int) -> tuple[int, ...]:
    until(lambda: len(instance.pids()) == count)
    return instance.pids()


def _cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
