import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.container import _fields, config, config_example
from harness.container.config_process import ExecAffinity
from harness.container.errors import ContainerError
from harness.container.frozen import Frozen, values
from harness.container.resources import DeviceRule, RdmaLimit, Resources, Throttle, WeightDevice
from harness.container.seccomp import Arg, Profile, Rule
from harness.container.spec import Capabilities, Device, Directory, Hook, IdMap, Mount, Namespace, Process, Rlimit

RICH: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 0o27, "additionalGids": [5, 6], "username": "of Windows"},
        "args": ["sh", "-c", ""],
        "env": ["PATH=/bin", "EMPTY="],
        "cwd": "/root",
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_BPF"],
            "effective": ["CAP_KILL"],
            "permitted": ["CAP_KILL"],
            "inheritable": [],
            "ambient": None,
        },
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": (1 << 64) - 1},
        ],
        "apparmorProfile": "profile",
        "selinuxLabel": "u:r:t:s0",
        "noNewPrivileges": True,
        "oomScoreAdj": -500,
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {"policy": "SCHED_FIFO", "priority": 10, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "execCPUAffinity": {"initial": "0", "final": "1-3,7"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "inside",
    "domainname": "example.org",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {
            "destination": "data/",
            "source": "volume",
            "options": ["rbind", "ro", "rprivate", "ridmap"],
            "uidMappings": [{"containerID": 0, "hostID": 5000, "size": 10}],
            "gidMappings": [{"containerID": 0, "hostID": 5000, "size": 10}],
        },
    ],
    "hooks": {
        "createRuntime": [{"path": "/bin/hook", "args": ["hook", "a"], "env": ["A=b"], "timeout": 5}],
        "poststop": [{"path": "/bin/other"}],
    },
    "annotations": {"org.example.key": "value", "empty": ""},
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": "/run/netns/a"},
            {"type": "uts"},
            {"type": "ipc"},
            {"type": "mount"},
            {"type": "user"},
            {"type": "cgroup"},
            {"type": "time"},
        ],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1, "hostID": 100000, "size": 9}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 32000}],
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 3, "gid": 4},
            {"path": "/dev/raw", "type": "u", "major": 1, "minor": 3},
            {"path": "/run/fifo", "type": "p"},
        ],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "rootfsPropagation": "rslave",
        "mountLabel": "u:r:m:s0",
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "kernel/domainname": "a"},
        "timeOffsets": {"monotonic": {"secs": -172800, "nanosecs": 5}, "boottime": {"secs": 604800}},
        "personality": {"domain": "LINUX32"},
        "cgroupsPath": "/a/b",
        "intelRdt": {"closID": "a"},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/listener",
            "listenerMetadata": "m",
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 2114060288, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}],
                },
            ],
        },
        "resources": {
            "memory": {
                "limit": 1 << 28,
                "reservation": 1 << 27,
                "swap": -1,
                "kernel": 0,
                "kernelTCP": 0,
                "swappiness": 0,
                "disableOOMKiller": False,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 1024,
                "quota": 50000,
                "period": 100000,
                "burst": 10,
                "realtimeRuntime": 950000,
                "realtimePeriod": 1000000,
                "cpus": "0-1",
                "mems": "0",
                "idle": 0,
            },
            "pids": {"limit": 128},
            "devices": [{"allow": False}, {"allow": True, "type": "c", "major": 10, "minor": -1, "access": "rw"}],
            "blockIO": {
                "weight": 500,
                "leafWeight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 400, "leafWeight": 300}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 300}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854772000}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
            "unified": {"memory.high": "1000"},
        },
    },
    "windows": {"not": "ours"},
    "futureProperty": [1, 2],
}

DELETE = object()


def rich() -> dict[str, Any]:
    return copy.deepcopy(RICH)


def read(document: Any) -> config.Config:
    return config.read(document, "/bundle", "/run/workspace")


def put(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Put a value at a path like `linux.namespaces[2].type`, or take away what is there; return the document."""
    *steps, last = [int(part[1:]) if part.startswith("[") else part for part in re.findall(r"[^.\[\]]+|\[\d+", path)]
    node: Any = document
    for step in steps:
        node = node[step]
    if value is DELETE:
        del node[last]
    else:
        node[last] = value
    return document


def changed(*changes: tuple[str, object]) -> dict[str, Any]:
    document = rich()
    for path, value in changes:
        put(document, path, value)
    return document


def refusal(*changes: tuple[str, object]) -> str:
    with pytest.raises(ContainerError) as caught:
        read(changed(*changes))
    return str(caught.value)


# -- what is read ----------------------------------------------------------------------------------------------------


def test_every_field_of_the_container() -> None:
    found = read(rich())
    container = found.container
    assert (found.version, found.bundle, found.cgroups_path, found.intel_rdt) == ("1.2.0", "/bundle", "/a/b", True)
    assert container.root == Directory("/bundle/rootfs")
    assert container.root_readonly
    assert container.workspace == "/run/workspace"
    assert container.process == found.process
    assert container.namespaces[:2] == (Namespace("pid"), Namespace("network", "/run/netns/a"))
    assert len(container.namespaces) == 8
    assert container.uid_maps == (IdMap(0, 1000, 1), IdMap(1, 100000, 9))
    assert container.gid_maps == (IdMap(0, 1000, 32000),)
    assert (container.hostname, container.domainname) == ("inside", "example.org")
    assert container.devices == (
        Device("/dev/fuse", "c", 10, 229, 0o600, 3, 4),
        Device("/dev/raw", "c", 1, 3),
        Device("/run/fifo", "p"),
    )
    assert container.default_devices
    assert (container.masked_paths, container.readonly_paths) == (("/proc/kcore",), ("/proc/sys",))
    assert container.root_propagation == (1 << 19) | (1 << 14)
    assert container.mount_label == "u:r:m:s0"
    assert container.personality == 8
    assert container.time_offsets == (("monotonic", -172800, 5), ("boottime", 604800, 0))
    assert container.annotations == {"org.example.key": "value", "empty": ""}
    assert container.hooks == {
        "createRuntime": (Hook("/bin/hook", ("hook", "a"), ("A=b",), 5),),
        "poststop": (Hook("/bin/other"),),
    }


def test_mounts() -> None:
    ids = (IdMap(0, 5000, 10),)
    assert read(rich()).container.mounts == (
        Mount("/proc", "proc", "proc"),
        Mount("/dev", "tmpfs", "tmpfs", attrs=0x22, clear=0x70, data=("mode=755",)),
        Mount(
            "/data",
            "bind",
            "/bundle/volume",
            bind=True,
            recursive=True,
            attrs=1,
            propagation=((1 << 18) | (1 << 14),),
            uid_maps=ids,
            gid_maps=ids,
            idmap="ridmap",
        ),
    )


def test_type_bind_without_the_option_is_a_bind() -> None:
    mount = read(changed(("mounts", [{"destination": "/a", "type": "bind", "source": "/b"}]))).container.mounts[0]
    assert mount == Mount("/a", "bind", "/b", bind=True)


def test_process() -> None:
    assert read(rich()).process == Process(
        args=("sh", "-c", ""),
        env=("PATH=/bin", "EMPTY="),
        cwd="/root",
        uid=1,
        gid=2,
        additional_gids=(5, 6),
        umask=0o27,
        capabilities=Capabilities(bounding=("kill", "bpf"), effective=("kill",), permitted=("kill",)),
        no_new_privs=True,
        rlimits=(Rlimit(7, 512, 1024), Rlimit(4, 0, (1 << 64) - 1)),
        oom_score_adj=-500,
        apparmor_profile="profile",
        selinux_label="u:r:t:s0",
        terminal=True,
        console_size=(25, 80),
        io_priority=(2, 4),
        scheduler={
            "policy": 1, "flags": 1, "nice": 0, "priority": 10, "runtime": 0,
            "deadline": 0, "period": 0,
        },
    )  # fmt: skip


def test_type_of_a_file_is_no_part_of_its_mode() -> None:
    assert read(changed(("linux.devices[0].fileMode", 0o20660))).container.devices[0].mode == 0o660


def test_affinity_is_not_for_the_first_process() -> None:
    found = read(rich())
    assert found.exec_affinity == ExecAffinity((0,), (1, 2, 3, 7))
    assert found.process is not None
    assert found.process.cpu_affinity == ()


def test_resources() -> None:
    found = read(rich()).resources
    assert values(found.memory) == (1 << 28, 1 << 27, -1, None, 0, False, None, True)
    assert values(found.cpu) == (1024, 50000, 10, 100000, 950000, 1000000, "0-1", "0", 0)
    assert found.pids_limit == 128
    assert found.devices == (DeviceRule(allow=False), DeviceRule(allow=True, kind="c", major=10, access="rw"))
    block = found.block_io
    assert (block.weight, block.leaf_weight, block.weight_devices) == (500, 10, (WeightDevice(8, 0, 400, 300),))
    assert (block.read_bytes, block.write_operations) == ((Throttle(8, 0, 1000),), (Throttle(8, 16, 300),))
    assert (block.write_bytes, block.read_operations) == ((), ())
    assert found.hugepage_limits == (("2MB", 9223372036854772000),)
    assert (found.network_class_id, found.network_priorities) == (1048577, (("eth0", 500),))
    assert found.rdma == {"mlx5_1": RdmaLimit(3, 10000)}
    assert found.unified == {"memory.high": "1000"}


def test_seccomp() -> None:
    assert read(rich()).seccomp == Profile(
        default_action="SCMP_ACT_ERRNO",
        default_errno=38,
        architectures=("SCMP_ARCH_X86_64",),
        flags=("SECCOMP_FILTER_FLAG_LOG",),
        rules=(
            Rule(("read", "write"), "SCMP_ACT_ALLOW"),
            Rule(("clone",), "SCMP_ACT_ERRNO", 1, (Arg(0, 2114060288, 1, "SCMP_CMP_MASKED_EQ"),)),
        ),
        listener_path="/run/listener",
        listener_metadata="m",
    )


def test_smallest_document() -> None:
    found = read({"ociVersion": "1.0.0", "root": {"path": "/r"}})
    assert found.process is None
    assert (found.container.process, found.container.root) == (Process(args=()), Directory("/r"))
    assert (found.resources, found.seccomp, found.cgroups_path, found.intel_rdt) == (Resources(), None, None, False)


def test_null_is_not_there() -> None:
    plain = {"ociVersion": "1.0.0", "root": {"path": "/r"}}
    nulls = dict.fromkeys(("process", "hooks", "mounts", "annotations", "linux", "hostname"), None)
    assert read({**plain, **nulls}) == read(plain)


def test_process_without_capabilities_has_none_of_them() -> None:
    process = read(changed(("process.capabilities", DELETE))).process
    assert process is not None
    assert process.capabilities == Capabilities()


def test_zero_is_not_said_where_none_could_live() -> None:
    found = read(changed(("linux.resources", {"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0}})))
    assert found.resources == Resources()


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc5", "1.0.2-dev", "1.2.0+build.7", "1.99.0-a.b-c.1+x", "1.0.0--"])
def test_compatible_version(version: str) -> None:
    assert read(changed(("ociVersion", version))).version == version


@pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param("net.core.somaxconn", "net/core/somaxconn", id="dots"),
        pytest.param("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding", id="slashes"),
        pytest.param("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding", id="dots-first"),
        pytest.param("fs.mqueue.msg_max", "fs/mqueue/msg_max", id="mqueue"),
        pytest.param("kernel.msgmax", "kernel/msgmax", id="ipc"),
        pytest.param("kernel.domainname", "kernel/domainname", id="uts"),
    ],
)
def test_sysctl_is_a_path(name: str, path: str) -> None:
    assert read(changed(("linux.sysctl", {name: "1"}))).container.sysctl == ((path, "1"),)


@pytest.mark.parametrize("rootless", [False, True])
def test_example_is_accepted(*, rootless: bool) -> None:
    document = json.loads(json.dumps(config_example.example(rootless=rootless)))
    found = read(document)
    assert found.process is not None
    assert found.process.terminal
    assert found.container.has_new("user") is rootless
    assert found.container.has_new("network") is not rootless
    assert bool(found.container.uid_maps) is rootless
    assert len(found.container.masked_paths) > 5
    assert found.container.mounts[0].destination == "/proc"


# -- what is refused -------------------------------------------------------------------------------------------------

REFUSED = [
    ("version-missing", [("ociVersion", DELETE)], "ociVersion: is missing"),
    ("version-major", [("ociVersion", "2.0.0")], "ociVersion: '2.0.0' is not compatible: 1.x is understood"),
    ("version-zero", [("ociVersion", "0.5.0-dev")], "ociVersion: '0.5.0-dev' is not compatible"),
    ("version-short", [("ociVersion", "1.2")], "ociVersion: '1.2' is not a version"),
    ("version-leading-zero", [("ociVersion", "1.02.0")], "ociVersion: '1.02.0' is not a version"),
    ("version-empty-label", [("ociVersion", "1.0.0-")], "ociVersion: '1.0.0-' is not a version"),
    ("version-empty-build", [("ociVersion", "1.0.0+")], "ociVersion: '1.0.0+' is not a version"),
    ("version-number", [("ociVersion", 1)], "ociVersion: 1 is not a string"),
    ("root-missing", [("root", DELETE)], "root: is missing"),
    ("root-path-missing", [("root", {})], "root.path: is missing"),
    ("root-path-empty", [("root.path", "")], "root.path: is empty"),
    ("root-text", [("root", "rootfs")], "root: 'rootfs' is not an object"),
    ("root-readonly-number", [("root.readonly", 1)], "root.readonly: 1 is neither true nor false"),
    ("cwd-missing", [("process.cwd", DELETE)], "process.cwd: is missing"),
    ("cwd-relative", [("process.cwd", "root")], "process.cwd: 'root' is not an absolute path"),
    ("args-missing", [("process.args", DELETE)], "process.args: at least the program is needed"),
    ("args-empty", [("process.args", [])], "process.args: at least the program is needed"),
    ("program-empty", [("process.args[0]", "")], "process.args[0]: is empty"),
    ("args-text", [("process.args", "sh")], "process.args: 'sh' is not an array"),
    ("args-null", [("process.args[1]", None)], "process.args[1]: None is not a string"),
    ("nul", [("process.args[1]", "a\0b")], r"process.args[1]: 'a\x00b' contains a NUL byte"),
    ("surrogate", [("process.args[1]", "\udc80")], r"process.args[1]: '\udc80' is not Unicode text"),
    ("env-bare", [("process.env[0]", "PATH")], "process.env[0]: 'PATH' is not NAME=value"),
    ("env-nameless", [("process.env[0]", "=x")], "process.env[0]: '=x' is not NAME=value"),
    ("uid-negative", [("process.user.uid", -1)], "process.user.uid: -1 is not from 0 to 4294967294"),
    ("uid-none", [("process.user.uid", 4294967295)], "process.user.uid: 4294967295 is not from"),
    ("uid-bool", [("process.user.uid", True)], "process.user.uid: True is not an integer"),
    ("uid-float", [("process.user.uid", 1e3)], "process.user.uid: 1000.0 is not an integer"),
    ("uid-huge", [("process.user.uid", 1 << 9999)], "process.user.uid: a number of 10000 bits is not from"),
    ("gid-text", [("process.user.gid", "0")], "process.user.gid: '0' is not an integer"),
    ("groups", [("process.user.additionalGids[1]", -1)], "process.user.additionalGids[1]: -1 is not from"),
    ("umask", [("process.user.umask", 0o1000)], "process.user.umask: 512 is not from 0 to 511"),
    ("capability", [("process.capabilities.bounding[0]", 7)], "process.capabilities.bounding[0]: 7 is not a string"),
    ("rlimit-type", [("process.rlimits[0].type", "RLIMIT_NOFILES")],
     "process.rlimits[0].type: 'RLIMIT_NOFILES' is unknown; did you mean 'RLIMIT_NOFILE'?"),
    ("rlimit-twice", [("process.rlimits[1].type", "RLIMIT_NOFILE")], "process.rlimits[1].type: is there twice"),
    ("rlimit-order", [("process.rlimits[0].soft", 2048)], "process.rlimits[0].soft: 2048 is above the hard limit 1024"),
    ("rlimit-hard-missing", [("process.rlimits[0].hard", DELETE)], "process.rlimits[0].hard: is missing"),
    ("rlimit-range", [("process.rlimits[0].hard", 1 << 64)], "process.rlimits[0].hard: 18446744073709551616 is not"),
    ("oom-score", [("process.oomScoreAdj", 1001)], "process.oomScoreAdj: 1001 is not from -1000 to 1000"),
    ("console", [("process.consoleSize.width", DELETE)], "process.consoleSize.width: is missing"),
    ("console-range", [("process.consoleSize.height", 65536)], "process.consoleSize.height: 65536 is not"),
    ("io-class", [("process.ioPriority.class", "IOPRIO_CLASS_RTT")], "did you mean 'IOPRIO_CLASS_RT'?"),
    ("io-class-missing", [("process.ioPriority.class", DELETE)], "process.ioPriority.class: is missing"),
    ("io-level", [("process.ioPriority.priority", 8)], "process.ioPriority.priority: 8 is not from 0 to 7"),
    ("policy", [("process.scheduler.policy", "SCHED_FIFI")], "process.scheduler.policy: 'SCHED_FIFI' is unknown"),
    ("priority-missing", [("process.scheduler.priority", 0)], "process.scheduler.priority: from 1 to 99 with"),
    ("priority-of-others", [("process.scheduler.policy", "SCHED_OTHER")], "process.scheduler.priority: from 1 to 99"),
    ("nice", [("process.scheduler.nice", 20)], "process.scheduler.nice: 20 is not from -20 to 19"),
    ("scheduler-flag", [("process.scheduler.flags", ["X"])], "process.scheduler.flags[0]: 'X' is unknown"),
    ("deadline-alone", [("process.scheduler.deadline", 5)], "process.scheduler.deadline: is of SCHED_DEADLINE alone"),
    ("cpus-order", [("process.execCPUAffinity.final", "3-1")], "process.execCPUAffinity.final: '3-1' has a range"),
    ("cpus-words", [("process.execCPUAffinity.initial", "all")], "process.execCPUAffinity.initial: 'all' is no list"),
    ("cpus-many", [("process.execCPUAffinity.initial", "0-99999999")], "process.execCPUAffinity.initial: '0-99999999'"),
    ("hostname-long", [("hostname", "ä" * 33)], "hostname: is longer than 64 bytes"),
    ("hostname-shared", [("linux.namespaces[2]", DELETE)], "hostname: needs a namespace of type 'uts'"),
    ("domainname-shared", [("linux.namespaces[2]", DELETE), ("hostname", DELETE)], "domainname: needs a namespace"),
    ("mount-destination", [("mounts[0].destination", DELETE)], "mounts[0].destination: is missing"),
    ("mount-dots", [("mounts[0].destination", "/a/../b")], "mounts[0].destination: '/a/../b' has '..' in it"),
    ("mount-type", [("mounts[1].type", DELETE)], "mounts[1].type: is missing, and the mount is no bind"),
    ("mount-source", [("mounts[2].source", DELETE)], "mounts[2].source: is missing"),
    ("mount-option", [("mounts[1].options[0]", 5)], "mounts[1].options[0]: 5 is not a string"),
    ("mount-remount", [("mounts[1].options[0]", "remount")], "mounts[1].options: 'remount' is for binds"),
    ("mount-copy-up", [("mounts[0].options", ["tmpcopyup"])], "mounts[0].options: 'tmpcopyup' is for a tmpfs"),
    ("mount-half-mapped", [("mounts[2].gidMappings", DELETE)], "mounts[2].gidMappings: is missing"),
    ("mount-half-mapped-2", [("mounts[2].uidMappings", DELETE)], "mounts[2].uidMappings: is missing"),
    ("mount-unmapped", [("mounts[2].uidMappings", DELETE), ("mounts[2].gidMappings", DELETE),
                        ("linux.namespaces[5]", DELETE), ("linux.uidMappings", DELETE), ("linux.gidMappings", DELETE)],
     "mounts[2].options: 'ridmap' needs mappings here or a user namespace"),
    ("hook-relative", [("hooks.createRuntime[0].path", "hook")], "hooks.createRuntime[0].path: 'hook' is not an abs"),
    ("hook-timeout", [("hooks.createRuntime[0].timeout", 0)], "hooks.createRuntime[0].timeout: 0 is not from 1"),
    ("hook-array", [("hooks.poststop", {"path": "/a"})], "hooks.poststop: an object is not an array"),
    ("annotation", [("annotations.empty", 1)], "annotations.empty: 1 is not a string"),
    ("annotation-nameless", [("annotations", {"": "a"})], "annotations.: the name '' is empty"),
    ("annotation-nul", [("annotations", {"a\0": "a"})], r"annotations.a\x00: the name 'a\x00' contains a NUL byte"),
    ("namespace", [("linux.namespaces[2].type", "netz")],
     "config.json: linux.namespaces[2].type: 'netz' is unknown; did you mean 'network'?"),
    ("namespace-twice", [("linux.namespaces[3].type", "uts")], "linux.namespaces[3].type: 'uts' is there twice"),
    ("namespace-path", [("linux.namespaces[1].path", "a")], "linux.namespaces[1].path: 'a' is not an absolute path"),
    ("namespace-text", [("linux.namespaces[1]", "pid")], "linux.namespaces[1]: 'pid' is not an object"),
    ("maps-without-user", [("linux.namespaces[5]", DELETE)], "linux.uidMappings: needs a namespace of type 'user'"),
    ("user-without-maps", [("linux.uidMappings", DELETE)], "linux.uidMappings: is missing: a new user namespace needs"),
    ("user-with-empty-maps", [("linux.gidMappings", [])], "linux.gidMappings: is missing"),
    ("map-size", [("linux.uidMappings[0].size", 0)], "linux.uidMappings[0].size: 0 is not from 1"),
    ("map-end", [("linux.uidMappings[1].size", 4294967295)], "linux.uidMappings[1].size: 4294967295 ids from there on"),
    ("map-overlap", [("linux.uidMappings[1].containerID", 0)], "linux.uidMappings[1]: overlaps another mapping"),
    ("map-overlap-host", [("linux.uidMappings[1].hostID", 995)], "linux.uidMappings[0]: overlaps another mapping"),
    ("map-missing", [("linux.uidMappings[1].hostID", DELETE)], "linux.uidMappings[1].hostID: is missing"),
    ("map-count", [("linux.gidMappings", [{"containerID": n, "hostID": n, "size": 1} for n in range(341)])],
     "linux.gidMappings: 341 mappings"),
    ("device-type", [("linux.devices[0].type", "x")], "linux.devices[0].type: 'x' is unknown"),
    ("device-minor", [("linux.devices[0].minor", DELETE)], "linux.devices[0].minor: is missing"),
    ("device-major", [("linux.devices[1].major", 4096)], "linux.devices[1].major: 4096 is not from 0 to 4095"),
    ("device-path", [("linux.devices[0].path", "fuse")], "linux.devices[0].path: 'fuse' is not an absolute path"),
    ("device-mode", [("linux.devices[0].fileMode", 0o200666)], "linux.devices[0].fileMode: 65974 is not from 0"),
    ("masked", [("linux.maskedPaths[0]", "proc")], "linux.maskedPaths[0]: 'proc' is not an absolute path"),
    ("readonly", [("linux.readonlyPaths[0]", "")], "linux.readonlyPaths[0]: '' is not an absolute path"),
    ("propagation", [("linux.rootfsPropagation", "slaves")], "linux.rootfsPropagation: 'slaves' is unknown; did you"),
    ("sysctl-host", [("linux.sysctl", {"kernel.pid_max": "1"})], "linux.sysctl.kernel.pid_max: belongs to no"),
    ("sysctl-shared-network", [("linux.namespaces[1]", DELETE)], "linux.sysctl.net.ipv4.ip_forward: needs a namespace"),
    ("sysctl-shared-ipc", [("linux.namespaces[3]", DELETE)], "linux.sysctl.kernel.shm_rmid_forced: needs a namespace"),
    ("sysctl-shared-uts", [("linux.namespaces[2]", DELETE), ("hostname", DELETE), ("domainname", DELETE)],
     "linux.sysctl.kernel/domainname: needs a namespace of type 'uts'"),
    ("sysctl-dots", [("linux.sysctl", {"net/../kernel/pid_max": "1"})], "linux.sysctl.net/../kernel/pid_max: is not"),
    ("sysctl-number", [("linux.sysctl", {"net.a": 1})], "linux.sysctl.net.a: 1 is not a string"),
    ("clock", [("linux.timeOffsets", {"boot": {"secs": 1}})], "linux.timeOffsets.boot: 'boot' is unknown"),
    ("clock-shared", [("linux.namespaces[7]", DELETE)], "linux.timeOffsets: needs a new namespace of type 'time'"),
    ("clock-joined", [("linux.namespaces[7].path", "/proc/1/ns/time")], "linux.timeOffsets: needs a new namespace"),
    ("clock-ns", [("linux.timeOffsets.monotonic.nanosecs", 10**9)], "linux.timeOffsets.monotonic.nanosecs: 1000000000"),
    ("personality", [("linux.personality.domain", "LINUX64")], "linux.personality.domain: 'LINUX64' is unknown"),
    ("personality-flag", [("linux.personality.flags", ["A"])], "linux.personality.flags[0]: 'A' is unknown"),
    ("seccomp-default", [("linux.seccomp.defaultAction", DELETE)], "linux.seccomp.defaultAction: is missing"),
    ("seccomp-action", [("linux.seccomp.syscalls[0].action", "ALLOW")], "linux.seccomp.syscalls[0].action: 'ALLOW' is"),
    ("seccomp-names", [("linux.seccomp.syscalls[0].names", [])], "linux.seccomp.syscalls[0].names: at least one"),
    ("seccomp-operator", [("linux.seccomp.syscalls[1].args[0].op", "EQ")], "linux.seccomp.syscalls[1].args[0].op: 'EQ"),
    ("seccomp-index", [("linux.seccomp.syscalls[1].args[0].index", 6)], "linux.seccomp.syscalls[1].args[0].index: 6"),
    ("seccomp-arch", [("linux.seccomp.architectures[0]", "x86")], "linux.seccomp.architectures[0]: 'x86' is unknown"),
    ("seccomp-flag", [("linux.seccomp.flags[0]", "LOG")], "linux.seccomp.flags[0]: 'LOG' is unknown"),
    ("seccomp-metadata", [("linux.seccomp.listenerPath", DELETE)], "linux.seccomp.listenerMetadata: needs a"),
    ("memory", [("linux.resources.memory.limit", 1 << 63)], "linux.resources.memory.limit: 9223372036854775808 is not"),
    ("memory-negative", [("linux.resources.memory.limit", -2)], "linux.resources.memory.limit: -2 is not from -1"),
    ("swap", [("linux.resources.memory.swap", 1 << 20)], "linux.resources.memory.swap: 1048576 is memory and swap"),
    ("swappiness", [("linux.resources.memory.swappiness", 201)], "linux.resources.memory.swappiness: 201 is not from"),
    ("shares", [("linux.resources.cpu.shares", 1)], "linux.resources.cpu.shares: 1 is not from 2 to 262144"),
    ("quota", [("linux.resources.cpu.quota", 999)], "linux.resources.cpu.quota: 999 is not from 1000"),
    ("period", [("linux.resources.cpu.period", 1000001)], "linux.resources.cpu.period: 1000001 is not from 0 to"),
    ("cpuset", [("linux.resources.cpu.cpus", "0;1")], "linux.resources.cpu.cpus: '0;1' is no list"),
    ("idle", [("linux.resources.cpu.idle", 2)], "linux.resources.cpu.idle: 2 is not from 0 to 1"),
    ("rule-allow", [("linux.resources.devices[0].allow", DELETE)], "linux.resources.devices[0].allow: is missing"),
    ("rule-type", [("linux.resources.devices[1].type", "p")], "linux.resources.devices[1].type: 'p' is not"),
    ("rule-access", [("linux.resources.devices[1].access", "rx")], "linux.resources.devices[1].access: 'rx' is not"),
    ("weight", [("linux.resources.blockIO.weight", 1001)], "linux.resources.blockIO.weight: 1001 is not from"),
    ("throttle", [("linux.resources.blockIO.throttleReadBpsDevice[0].rate", DELETE)],
     "linux.resources.blockIO.throttleReadBpsDevice[0].rate: is missing"),
    ("page-size", [("linux.resources.hugepageLimits[0].pageSize", "64kB")],
     "linux.resources.hugepageLimits[0].pageSize: '64kB' is not like"),
    ("page-zero", [("linux.resources.hugepageLimits[0].pageSize", "0MB")], "pageSize: '0MB' is not like"),
    ("class-id", [("linux.resources.network.classID", 1 << 32)], "linux.resources.network.classID: 4294967296 is not"),
    ("rdma", [("linux.resources.rdma.mlx5_1", {})], "linux.resources.rdma.mlx5_1.hcaHandles: this or hcaObjects is"),
    ("unified", [("linux.resources.unified", {"../a": "1"})], "linux.resources.unified.../a: is not the name of"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"), [pytest.param(changes, message, id=name) for name, changes, message in REFUSED]
)
def test_refusal_names_the_field(changes: list[tuple[str, object]], message: str) -> None:
    text = refusal(*changes)
    assert text.startswith("config.json: ")
    assert message in text


def test_no_object() -> None:
    with pytest.raises(ContainerError, match=r"^config\.json: an array is not an object$"):
        read([1])


def test_long_values_are_cut() -> None:
    assert len(refusal(("process.cwd", "x" * 100_000))) < 200


# -- the file --------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "config.json").write_bytes(content)
    return str(tmp_path)


def test_load_reads_the_bundle(tmp_path: Path) -> None:
    found = config.load(written(tmp_path, json.dumps(RICH).encode()), "/run/workspace")
    assert found == config.read(rich(), str(tmp_path), "/run/workspace")
    assert found.container.root == Directory(f"{tmp_path}/rootfs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "not a JSON document", id="empty"),
        pytest.param(b"{", "not a JSON document", id="cut-off"),
        pytest.param(b'"\xff"', "not a JSON document", id="not-utf-8"),
        pytest.param(b"[1]", "an array is not an object", id="array"),
        pytest.param(b'{"a": {"key": 1, "b": 2, "key": 3}}', "'key': the key is there twice", id="twice"),
        pytest.param(b'{"a": NaN}', "NaN is no number of JSON", id="nan"),
        pytest.param(b'{"a": -Infinity}', "-Infinity is no number of JSON", id="infinity"),
        pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "not a JSON document", id="endless-number"),
        pytest.param(b"[" * 200_000, "nested too deeply", id="deep"),
        pytest.param(b" " * (_fields.MAX_BYTES + 1), "longer than 8388608 bytes", id="long"),
    ],
)
def test_load_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ContainerError, match=r"^config\.json: ") as caught:
        config.load(written(tmp_path, content), "/run/workspace")
    assert message in str(caught.value)


def test_load_without_a_file(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="No such file or directory") as caught:
        config.load(str(tmp_path), "/run/workspace")
    assert caught.value.errno == 2


# -- the process of `exec`, the limits of `update` -------------------------------------------------------------------


def test_process_by_itself(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"args": ["id"], "cwd": "/", "execCPUAffinity": {"initial": "0", "final": "1"}}')
    assert config.load_process(str(tmp_path / "p.json")) == Process(args=("id",), cwd="/", cpu_affinity=(1,))


def test_process_by_itself_names_its_fields() -> None:
    with pytest.raises(ContainerError, match=r"^process\.json: process\.cwd: is missing$"):
        config.read_process({"args": ["id"]})


def test_first_cpus_hold_where_no_last_ones_are_said() -> None:
    process = config.read_process({"args": ["id"], "cwd": "/", "execCPUAffinity": {"initial": "2,0"}})
    assert process.cpu_affinity == (0, 2)


def test_resources_by_themselves() -> None:
    assert config.read_resources({"pids": {"limit": -1}}) == Resources(pids_limit=-1)
    with pytest.raises(ContainerError, match=r"^resources\.json: resources\.pids\.limit: 'x' is not an integer$"):
        config.read_resources({"pids": {"limit": "x"}})


# -- whatever else ---------------------------------------------------------------------------------------------------


def places(node: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield where each node of a document is."""
    if path:
        yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


PLACES = list(places(RICH))
WEIRD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1 << 31, (1 << 32) - 1, 1 << 63, 1 << 64, 10**5000, -(10**5000)]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\0", "\ud800", "/", "..", "/../..", "a" * 5000, "net.", "." * 9, "0-", ",", "1.0.0", "²"]),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2)),
    st.sampled_from([[[[[[[[[[]]]]]]]]], {"a": {"a": {"a": {}}}}, [{}], [[]], {"": ""}, {"\0": "\0"}, {"type": "pid"}]),
)
VALUES = st.booleans().flatmap(lambda gone: st.just(DELETE) if gone else WEIRD)
CHANGES = st.lists(st.tuples(st.sampled_from(PLACES), VALUES), min_size=1, max_size=3)


def mutate(document: Any, place: tuple[str | int, ...], value: object) -> None:
    """Put a value at a place or take away what is there, unless an earlier change took the way to it."""
    *steps, last = place
    try:
        for step in steps:
            document = document[step]
        if value is DELETE:
            del document[last]
        else:
            document[last] = copy.deepcopy(value)
    except (KeyError, IndexError, TypeError):
        return


def nodes(value: object) -> Iterator[object]:
    """Yield all that a configuration is made of."""
    yield value
    if isinstance(value, Frozen):
        children: list[object] = list(values(value))
    elif isinstance(value, Mapping):
        children = [*value, *value.values()]
    else:
        children = list(value) if isinstance(value, tuple) else []
    for child in children:
        yield from nodes(child)


def attempt(reading: Callable[[], config.Config]) -> config.Config | str:
    """Return what was read, or the text of the error that the runtime may raise; any other error goes on."""
    try:
        return reading()
    except ContainerError as error:
        return str(error)


@settings(max_examples=600)
@given(CHANGES)
def test_any_change_is_read_or_refused_by_name(changes: list[tuple[tuple[str | int, ...], object]]) -> None:
    document = rich()
    for place, value in changes:
        mutate(document, place, value)
    found = attempt(lambda: read(document))
    if isinstance(found, str):
        field = re.match(r"config\.json: (\w+)", found)
        assert field is not None
        assert field[1] in RICH
        assert len(found) < 400
        return
    assert isinstance(found.container.root, Directory)
    for node in nodes(found):
        assert node is None or isinstance(node, str | int | tuple | Mapping | Frozen)
        assert not isinstance(node, str) or "\0" not in node


@given(st.binary(max_size=50) | st.sampled_from([b"[" * 5000, b"9" * 5000]), st.integers(0, 3000), st.integers(0, 300))
def test_any_damage_to_the_file_is_read_or_refused(junk: bytes, start: int, length: int) -> None:
    good = json.dumps(RICH).encode()
    content = good[:start] + junk + good[start + length :]

    def reading() -> config.Config:
        return read(_fields.parse(content, "config.json"))

    found = attempt(reading)
    assert isinstance(found, config.Config) or found.startswith("config.json: ")
