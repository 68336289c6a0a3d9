"""The process of an OCI container: who it is, what it may do, what it was given.

| item                      | what is shown here                                                                     |
|---------------------------|----------------------------------------------------------------------------------------|
| user                      | uid, gid, additionalGids; the caller's groups are gone; umask                          |
| cwd, env, args            | a missing cwd is made; PATH decides; what cannot be executed is an error of `create`   |
| rlimits                   | each of the sixteen; one that makes no sense                                           |
| oomScoreAdj               | 0, -5, 1000; out of range                                                              |
| capabilities              | all five sets; ambient for an ordinary user; none by default; unknown ones             |
| noNewPrivileges           | set, not set                                                                           |
| seccomp                   | errno, kill, log, allow by default, conditions, notify, unknown words                  |
| scheduling                | scheduler with its fields, ioPriority                                                  |
| personality               | LINUX32                                                                                |
| apparmor, selinux         | refused where the host has none                                                        |
| sysctl                    | net.*, kernel.* of an own namespace; none of the host's                                |
| keyring, fds, session     | a session keyring of its own; a session of its own                                     |
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.oci_kit import Document, Oci, bind, bundle, map_ids, namespaces

pytestmark = pytest.mark.needs("root")
STATUS = "cat /proc/self/status"
SLEEP = "exec sleep 1000"
ALLOWING = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]}


@pytest.fixture
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


def _with_process(tree: Path, script: str | list[str], **fields: object) -> Path:
    def change(made: Document) -> None:
        made["process"] |= fields
        for key, value in fields.items():
            if value is None:
                del made["process"][key]

    return bundle(tree, script, change)


def _status(lines: list[str]) -> dict[str, str]:
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


# -- user ------------------------------------------------------------------------------------------------------------


def test_user_group_and_additional_groups(oci: Oci, tree: Path) -> None:
    path = _with_process(tree, STATUS, user={"uid": 12, "gid": 34, "additionalGids": [56, 78]})
    found = _status(oci.output(path))
    assert found["Uid"].split() == ["12"] * 4
    assert found["Gid"].split() == ["34"] * 4
    assert found["Groups"].split() == ["56", "78"]


def test_the_callers_groups_are_not_inherited(oci: Oci, tree: Path) -> None:
    prefix = ("/usr/bin/setpriv", "--groups", "4,24,27", *oci.prefix)
    assert _status(Oci(oci.root, prefix).output(bundle(tree, STATUS)))["Groups"] == ""


@pytest.mark.parametrize(("umask", "mode"), [(None, "644"), (0o77, "600"), (0, "666"), (0o27, "640")])
def test_umask(oci: Oci, tree: Path, umask: int | None, mode: str) -> None:
    user: Document = {"uid": 0, "gid": 0, **({} if umask is None else {"umask": umask})}
    assert oci.output(_with_process(tree, "touch /x; stat -c %a /x", user=user)) == [mode]


@pytest.mark.parametrize("user", [{"uid": -1}, {"uid": 1 << 32}, {"uid": "root"}, {"uid": 0, "additionalGids": [-5]}])
def test_a_user_that_is_none_is_refused(oci: Oci, tree: Path, user: Document) -> None:
    assert "process.user" in oci.refused(_with_process(tree, "true", user=user))


# -- cwd, env, args --------------------------------------------------------------------------------------------------


def test_cwd_is_made_where_it_is_missing(oci: Oci, tree: Path) -> None:
    assert oci.output(_with_process(tree, "pwd", cwd="/a/b c")) == ["/a/b c"]
    assert oci.output(_with_process(tree, "pwd", cwd="/tmp")) == ["/tmp"]


def test_a_cwd_that_is_relative_or_no_directory_is_refused(oci: Oci, tree: Path) -> None:
    assert "process.cwd" in oci.refused(_with_process(tree, "true", cwd="tmp"))
    assert "/bin/sh" in oci.refused(_with_process(tree, "true", cwd="/bin/sh"))


def test_env_is_what_the_configuration_says_and_nothing_of_the_caller(oci: Oci, tree: Path) -> None:
    path = _with_process(tree, ["env"], env=["PATH=/bin", "A=1 2", "EMPTY=", "LINES=a\nb"])
    result = Oci(oci.root, env={**os.environ, "FROM_CALLER": "x"}).run(path)
    assert sorted(result.lines) == sorted(["PATH=/bin", "A=1 2", "EMPTY=", "LINES=a", "b", "HOME=/root"])


def test_home_is_that_of_the_user_unless_it_is_given(oci: Oci, tree: Path) -> None:
    (tree / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nother:x:12:34::/home/other:/bin/sh\n")
    assert oci.output(_with_process(tree, "echo $HOME", user={"uid": 12, "gid": 0})) == ["/home/other"]
    assert oci.output(_with_process(tree, "echo $HOME", user={"uid": 99, "gid": 0})) == ["/"]
    assert oci.output(_with_process(tree, "echo $HOME", env=["PATH=/bin", "HOME=/given"])) == ["/given"]


def test_the_program_is_found_in_its_own_path(oci: Oci, tree: Path) -> None:
    (tree / "own").mkdir()
    (tree / "own" / "program").write_text("#!/bin/sh\necho own $0 $1\n")
    (tree / "own" / "program").chmod(0o755)
    assert oci.output(_with_process(tree, ["program", "x"], env=["PATH=/none:/own"])) == ["own /own/program x"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["nothing"], "nothing: executable file not found in $PATH"),
        (["/no/such/file"], "No such file or directory"),
        (["/etc/passwd"], "Permission denied"),
        (["/bin"], "Permission denied"),
    ],
)
def test_a_program_that_cannot_run_is_an_error_of_create(oci: Oci, tree: Path, args: list[str], why: str) -> None:
    said = oci.refused(_with_process(tree, args))
    assert args[0] in said
    assert why in said


def test_a_file_that_is_no_program_is_an_error_of_start(oci: Oci, tree: Path) -> None:
    (tree / "bin" / "text").write_text("no interpreter here\n")
    (tree / "bin" / "text").chmod(0o755)
    with oci.created(_with_process(tree, ["/bin/text"])) as container_id:
        assert "Exec format error" in oci.error("start", container_id)
        oci.await_status(container_id, "stopped")


@pytest.mark.parametrize("fields", [{"args": []}, {"args": None}, {"args": [""]}, {"env": ["X"]}, {"args": ["a\0b"]}])
def test_a_process_that_makes_no_sense_is_refused(oci: Oci, tree: Path, fields: Document) -> None:
    assert "process." in oci.refused(_with_process(tree, "true", **fields))


# -- limits ----------------------------------------------------------------------------------------------------------

LIMITS = {
    "CPU": "Max cpu time", "FSIZE": "Max file size", "DATA": "Max data size", "STACK": "Max stack size",
    "CORE": "Max core file size", "RSS": "Max resident set", "NPROC": "Max processes", "NOFILE": "Max open files",
    "MEMLOCK": "Max locked memory", "AS": "Max address space", "LOCKS": "Max file locks",
    "SIGPENDING": "Max pending signals", "MSGQUEUE": "Max msgqueue size", "NICE": "Max nice priority",
    "RTPRIO": "Max realtime priority", "RTTIME": "Max realtime timeout",
}  # fmt: skip


def _may_raise() -> bool:
    """Whether we have CAP_SYS_RESOURCE (24): root of a virtual machine's container may not."""
    return bool(int(_status(Path("/proc/self/status").read_text().splitlines())["CapEff"], 16) >> 24 & 1)


def _limits_of(lines: list[str]) -> dict[str, list[str]]:
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def test_every_rlimit(oci: Oci, tree: Path) -> None:
    """None is raised: that takes CAP_SYS_RESOURCE, which even root may lack."""
    own = _limits_of(Path("/proc/self/limits").read_text().splitlines())
    values = {}
    for number, (name, shown) in enumerate(LIMITS.items()):
        size = 20 if name in {"AS", "DATA", "FSIZE", "STACK", "RSS"} else 0
        wanted = ((100 + number) << size, (200 + number) << size)
        most = own[shown][1]
        values[name] = tuple(value if most == "unlimited" else min(value, int(most)) for value in wanted)
    limits = [{"type": f"RLIMIT_{name}", "soft": soft, "hard": hard} for name, (soft, hard) in values.items()]
    found = _limits_of(oci.output(_with_process(tree, "cat /proc/self/limits", rlimits=limits)))
    assert {name: found[shown] for name, shown in LIMITS.items()} == {
        name: [str(soft), str(hard)] for name, (soft, hard) in values.items()
    }


def test_unlimited_and_inherited_limits(oci: Oci, tree: Path) -> None:
    endless = (1 << 64) - 1
    limits = [{"type": "RLIMIT_CORE", "soft": endless, "hard": endless}]
    found = _limits_of(oci.output(_with_process(tree, "cat /proc/self/limits", rlimits=limits)))
    own = _limits_of(Path("/proc/self/limits").read_text().splitlines())
    assert found["Max core file size"] == ["unlimited", "unlimited"]
    assert found["Max msgqueue size"] == own["Max msgqueue size"]


@pytest.mark.parametrize(
    "limits",
    [
        [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}],
        [{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}],
        [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1}],
        [{"type": "RLIMIT_NOFILE"}],
    ],
)
def test_rlimits_that_make_no_sense_are_refused(oci: Oci, tree: Path, limits: list[Document]) -> None:
    assert "process.rlimits[" in oci.refused(_with_process(tree, "true", rlimits=limits))


def test_rlimits_in_a_user_namespace(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        map_ids(made)
        made["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 99}]

    assert oci.output(bundle(tree, "ulimit -n; ulimit -Hn", change)) == ["77", "99"]


@pytest.mark.parametrize("score", [0, -5, 1000])
def test_oom_score(oci: Oci, tree: Path, score: int) -> None:
    if score < 0 and not _may_raise():
        said = oci.refused(_with_process(tree, "true", oomScoreAdj=score))
        assert "oom_score_adj" in said
        assert "-5: Permission denied" in said
        return
    assert oci.output(_with_process(tree, "cat /proc/self/oom_score_adj", oomScoreAdj=score)) == [str(score)]


def test_oom_score_is_inherited_or_refused(oci: Oci, tree: Path) -> None:
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert oci.output(bundle(tree, "cat /proc/self/oom_score_adj")) == [own]
    assert "process.oomScoreAdj" in oci.refused(_with_process(tree, "true", oomScoreAdj=1001))


# -- capabilities ----------------------------------------------------------------------------------------------------


def test_all_five_sets(oci: Oci, tree: Path) -> None:
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_TIME"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL", "CAP_NET_RAW"],
        "ambient": ["CAP_KILL"],
    }
    user = {"uid": 1000, "gid": 1000}
    # A program without file capabilities has, after exec, its ambient set as permitted and effective (capabilities(7)).
    found = _status(oci.output(_with_process(tree, ["cat", "/proc/self/status"], capabilities=sets, user=user)))
    masks = {key: int(found[key], 16) for key in ("CapBnd", "CapInh", "CapPrm", "CapEff", "CapAmb")}
    chown, kill, net_raw, sys_time = 1 << 0, 1 << 5, 1 << 13, 1 << 25
    assert masks == {
        "CapBnd": chown | kill | net_raw | sys_time, "CapInh": kill | net_raw, "CapPrm": kill, "CapEff": kill,
        "CapAmb": kill,
    }  # fmt: skip


def test_root_has_what_is_bounding_and_nothing_without_sets(oci: Oci, tree: Path) -> None:
    sets = {kind: ["CAP_CHOWN"] for kind in ("bounding", "permitted", "effective")}
    found = _status(oci.output(_with_process(tree, STATUS, capabilities=sets)))
    assert [int(found[key], 16) for key in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")] == [1, 1, 1, 0, 0]
    for nothing in ({}, None):
        found = _status(oci.output(_with_process(tree, STATUS, capabilities=nothing)))
        assert {int(found[key], 16) for key in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}


def test_an_ordinary_user_with_an_ambient_capability_binds_a_low_port(oci: Oci, tree: Path) -> None:
    user = {"uid": 1000, "gid": 1000}
    again = "until echo hello | nc 127.0.0.1 80; do [ $((n += 1)) -lt 20 ] && kill -0 $! || exit 0; sleep 0.1; done"
    script = f"nc -l -p 80 2>/dev/null & n=0; {{ {again}; }} 2>/dev/null; wait"
    kinds = ("bounding", "permitted", "effective", "inheritable", "ambient")

    def change(made: Document, kept: tuple[str, ...]) -> None:
        made["process"]["user"] = user
        made["process"]["capabilities"] = {kind: ["CAP_NET_BIND_SERVICE"] for kind in kept}
        made["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "1024"}

    assert oci.output(bundle(tree, script, lambda made: change(made, kinds))) == ["hello"]
    assert oci.run(bundle(tree, script, lambda made: change(made, kinds[:3]))).lines == []


@pytest.mark.parametrize("word", ["CAP_CHOWM", "CAP_NEW_IN_2040"])
def test_unknown_capabilities_are_warned_of_and_not_granted(oci: Oci, tree: Path, word: str) -> None:
    """config.md: a warning, no failure."""
    result = oci.run(_with_process(tree, STATUS, capabilities={"bounding": [word, "CAP_KILL"]}))
    assert result.code == 0
    assert word in result.err
    assert int(_status(result.lines)["CapBnd"], 16) == 1 << 5


def test_no_new_privileges(oci: Oci, tree: Path) -> None:
    for flag, expected in ((True, "1"), (False, "0"), (None, "0")):
        assert _status(oci.output(_with_process(tree, STATUS, noNewPrivileges=flag)))["NoNewPrivs"] == expected


# -- seccomp ---------------------------------------------------------------------------------------------------------


def _filtered(tree: Path, script: str | list[str], *rules: Document, **more: object) -> Path:
    def change(made: Document) -> None:
        made["linux"]["seccomp"] = {**ALLOWING, **more, "syscalls": list(rules)}

    return bundle(tree, script, change)


def test_a_filter_is_there(oci: Oci, tree: Path) -> None:
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    lines = oci.output(_filtered(tree, "grep Seccomp: /proc/self/status; exec 2>&1; mkdir /x || touch /y", rule))
    assert lines == ["Seccomp:\t2", "mkdir: can't create directory '/x': Function not implemented"]


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_without_errno_it_is_eperm_for_an_ordinary_user_too(oci: Oci, tree: Path, no_new_privs: bool) -> None:
    def change(made: Document) -> None:
        made["process"] |= {"noNewPrivileges": no_new_privs, "user": {"uid": 1000, "gid": 1000}}
        made["linux"]["seccomp"] = {**ALLOWING, "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO"}]}

    assert "Operation not permitted" in oci.run(bundle(tree, "kill -0 1 2>&1", change)).out


@pytest.mark.parametrize("action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"])
def test_kill_and_trap(oci: Oci, tree: Path, action: str) -> None:
    result = oci.run(_filtered(tree, ["uname"], {"names": ["uname"], "action": action}))
    assert (result.code, result.out) == (128 + signal.SIGSYS, "")


def test_log_lets_it_pass(oci: Oci, tree: Path) -> None:
    assert oci.output(_filtered(tree, "uname", {"names": ["uname"], "action": "SCMP_ACT_LOG"})) == ["Linux"]


@pytest.mark.parametrize(
    ("op", "value", "two", "refused"),
    [("EQ", 10, 0, [10]), ("NE", 10, 0, [0, 12]), ("LT", 10, 0, [0]), ("LE", 10, 0, [0, 10]), ("GT", 10, 0, [12]),
     ("GE", 10, 0, [10, 12]), ("MASKED_EQ", 8, 8, [10, 12])],
)  # fmt: skip
def test_conditions_on_arguments(oci: Oci, tree: Path, op: str, value: int, two: int, refused: list[int]) -> None:
    """kill(2) of some signals is refused; they are sent to a process that ignores them."""
    rule = {"names": ["kill"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 1, "value": value, "valueTwo": two, "op": f"SCMP_CMP_{op}"}]}  # fmt: skip
    script = "trap '' 10 12; for n in 0 10 12; do kill -$n $$ 2>/dev/null || echo $n; done; true"
    assert oci.output(_filtered(tree, script, rule)) == [str(number) for number in refused]


def test_a_default_that_refuses_needs_only_what_the_program_uses(oci: Oci, tree: Path) -> None:
    """What waiting for `start` takes is no concern of the filter."""
    names = "execve exit exit_group write brk mmap munmap mprotect arch_prctl set_tid_address getuid setuid".split()
    names += "prlimit64 getrandom rseq set_robust_list readlink newfstatat fstat ioctl rt_sigaction access".split()

    def change(made: Document) -> None:
        made["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": ALLOWING["architectures"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
        }  # fmt: skip

    assert oci.output(bundle(tree, ["/bin/echo", "hello"], change)) == ["hello"]


def test_exec_has_the_filter_too(oci: Oci, tree: Path) -> None:
    rule = {"names": ["kill"], "action": "SCMP_ACT_ERRNO"}
    with oci.running(_filtered(tree, SLEEP, rule)) as container_id:
        assert oci.inside(container_id, "kill -0 1 2>/dev/null || grep Seccomp: /proc/self/status") == ["Seccomp:\t2"]


def test_a_listener_gets_the_fd_and_the_state(oci: Oci, tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "listener"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        server.settimeout(10)
        rule = {"names": ["getcwd"], "action": "SCMP_ACT_NOTIFY"}
        path = _filtered(tree, SLEEP, rule, listenerPath=str(place), listenerMetadata="mine")
        with oci.running(path) as container_id:
            peer, _ = server.accept()
            with peer:
                text, fds, _, _ = socket.recv_fds(peer, 1 << 16, 4)
            for fd in fds:
                os.close(fd)
            message = json.loads(text)
            assert len(fds) == 1
            assert message["fds"] == ["seccompFd"]
            assert message["metadata"] == "mine"
            assert message["state"]["id"] == container_id
            assert message["pid"] == oci.pid(container_id)


@pytest.mark.parametrize(
    "seccomp",
    [
        {"defaultAction": "SCMP_ACT_NONE"},
        {},
        {**ALLOWING, "architectures": ["SCMP_ARCH_Z80"]},
        {**ALLOWING, "flags": ["SECCOMP_FILTER_FLAG_NONE"]},
        {**ALLOWING, "syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]},
        {**ALLOWING, "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_X"}]},
        {**ALLOWING, "syscalls": [{"names": ["uname"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 6, "value": 0,
                                                                                             "op": "SCMP_CMP_EQ"}]}]},
        {**ALLOWING, "listenerMetadata": "x"},
    ],
)  # fmt: skip
def test_a_profile_that_makes_no_sense_is_refused(oci: Oci, tree: Path, seccomp: Document) -> None:
    def change(made: Document) -> None:
        made["linux"]["seccomp"] = seccomp

    assert "linux.seccomp" in oci.refused(bundle(tree, "true", change))


def test_a_syscall_that_no_kernel_has_is_passed_over(oci: Oci, tree: Path) -> None:
    rule = {"names": ["no_such_call", "kill"], "action": "SCMP_ACT_ERRNO"}
    assert oci.run(_filtered(tree, "kill -0 1 2>/dev/null || echo refused", rule)).lines == ["refused"]


# -- scheduling, personality -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "policy", "priority"),
    [
        ({"policy": "SCHED_OTHER", "nice": 5}, "0", "125"),
        ({"policy": "SCHED_BATCH", "nice": 7}, "3", "127"),
        ({"policy": "SCHED_IDLE"}, "5", None),
    ],
)
def test_scheduler(oci: Oci, tree: Path, scheduler: Document, policy: str, priority: str | None) -> None:
    lines = oci.output(_with_process(tree, ["cat", "/proc/self/sched"], scheduler=scheduler))
    found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    assert found["policy"] == policy
    assert priority is None or found["prio"] == priority


@pytest.mark.parametrize(
    "scheduler",
    [{"policy": "SCHED_X"}, {"policy": "SCHED_OTHER", "nice": 20}, {"policy": "SCHED_FIFO"},
     {"policy": "SCHED_OTHER", "priority": 5}, {"policy": "SCHED_OTHER", "flags": ["X"]}, {}],
)  # fmt: skip
def test_a_scheduler_that_makes_no_sense_is_refused(oci: Oci, tree: Path, scheduler: Document) -> None:
    assert "process.scheduler" in oci.refused(_with_process(tree, "true", scheduler=scheduler))


@pytest.mark.parametrize(
    ("words", "shown"), [({"class": "IOPRIO_CLASS_BE", "priority": 6}, "best-effort: prio 6"),
                         ({"class": "IOPRIO_CLASS_IDLE"}, "idle")],
)  # fmt: skip
def test_io_priority(oci: Oci, tree: Path, words: Document, shown: str) -> None:
    with oci.running(_with_process(tree, SLEEP, ioPriority=words)) as container_id:
        pid = str(oci.pid(container_id))
        seen = subprocess.run(["ionice", "-p", pid], capture_output=True, text=True, check=True).stdout
        assert seen.strip() == shown


def test_personality(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["personality"] = {"domain": "LINUX32"}

    assert oci.output(bundle(tree, "cat /proc/self/personality", change)) == ["00000008"]
    assert oci.output(bundle(tree, "cat /proc/self/personality")) == ["00000000"]


# -- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(Path("/sys/kernel/security/apparmor").exists(), reason="AppArmor is there")
def test_an_apparmor_profile_where_there_is_none(oci: Oci, tree: Path) -> None:
    """Not passed over: who asks for confinement must not go without."""
    said = oci.refused(_with_process(tree, "true", apparmorProfile="container-default"))
    assert "container-default" in said


@pytest.mark.skipif(Path("/sys/fs/selinux/enforce").exists(), reason="SELinux is there")
def test_an_selinux_label_where_there_is_none(oci: Oci, tree: Path) -> None:
    said = oci.refused(_with_process(tree, "true", selinuxLabel="system_u:system_r:container_t:s0"))
    assert "container_t" in said


# -- sysctl ----------------------------------------------------------------------------------------------------------


def test_sysctls_of_own_namespaces(oci: Oci, tree: Path) -> None:
    values = {
        "net.ipv4.ip_forward": "1", "net.ipv4.ping_group_range": "0 5", "kernel.shmmni": "1234", "kernel.sem":
        "100 200 30 40", "fs.mqueue.msg_max": "11", "net/ipv4/conf/lo/forwarding": "1",
    }  # fmt: skip

    def change(made: Document) -> None:
        made["linux"]["sysctl"] = values

    paths = [name.replace(".", "/") for name in values]
    before = [Path("/proc/sys", path).read_text() for path in paths]
    lines = oci.output(bundle(tree, f"cd /proc/sys; cat {' '.join(paths)}", change))
    assert [line.split() for line in lines] == [value.split() for value in values.values()]
    assert [Path("/proc/sys", path).read_text() for path in paths] == before


@pytest.mark.parametrize(
    ("name", "missing"),
    [("kernel.panic", None), ("vm.swappiness", None), ("net.ipv4.ip_forward", "network"), ("kernel.shmmni", "ipc"),
     ("net..x", None), ("../x", None), ("", None)],
)  # fmt: skip
def test_sysctls_of_the_host_are_refused(oci: Oci, tree: Path, name: str, missing: str | None) -> None:
    def change(made: Document) -> None:
        made["linux"]["sysctl"] = {name: "1"}
        if missing:
            namespaces(made, **{missing: None})

    assert "linux.sysctl" in oci.refused(bundle(tree, "true", change))


def test_a_sysctl_that_the_kernel_does_not_take_is_an_error(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["sysctl"] = {"net.ipv4.no_such_thing": "1"}

    assert "no_such_thing" in oci.refused(bundle(tree, "true", change))


# -- session, keyring, streams ---------------------------------------------------------------------------------------


def test_a_session_of_its_own(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as container_id:
        pid = oci.pid(container_id)
        assert os.getsid(pid) == pid
        assert oci.inside(container_id, "cut -d' ' -f6 /proc/self/stat")[0] != "0"


def test_a_session_keyring_of_its_own_unless_refused(oci: Oci, tree: Path) -> None:
    script = "cat /proc/keys"
    unmasked = bundle(tree, script, lambda made: made["linux"].update(maskedPaths=[]))
    assert any("_ses.t-" in line for line in oci.output(unmasked))
    done = oci.ok("run", "--no-new-keyring", "--bundle", unmasked, "t-without")  # those of others may still be listed
    assert "_ses.t-without" not in done.out


def test_pipes_belong_to_the_user_who_gets_them(oci: Oci, tree: Path) -> None:
    """/dev/stdout can be opened again by an ordinary user, as programs that log there do."""
    path = _with_process(tree, "echo one >/dev/stdout; echo two >/dev/stderr", user={"uid": 1000, "gid": 1000})
    done = subprocess.run(oci.argv("run", "--bundle", path, "t-pipes"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "one\n", "two\n")


def test_a_null_device_stays_as_it_is(oci: Oci, tree: Path) -> None:
    path = _with_process(tree, "true", user={"uid": 54321, "gid": 1000})
    subprocess.run(oci.argv("run", "--bundle", path, "t-null"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   check=True)  # fmt: skip
    assert Path("/dev/null").stat().st_uid != 54321


def test_a_read_only_bind_for_an_ordinary_user(oci: Oci, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("y\n")

    def change(made: Document) -> None:
        made["process"]["user"] = {"uid": 1000, "gid": 1000}
        bind(made, tmp_path / "x", "/x", "bind", "ro")

    assert oci.output(bundle(tree, "cat /x; (echo z >/x) 2>/dev/null || echo no", change)) == ["y", "no"]
