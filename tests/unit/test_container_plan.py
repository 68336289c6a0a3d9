import re
from pathlib import Path

import pytest

from harness.container import defaults, plan, plan_control, plan_process, syscalls
from harness.container.errors import ContainerError
from harness.container.frozen import replace
from harness.container.plan import Joins, Launch, Step
from harness.container.plan_control import ProcessSpec
from harness.container.spec import (
    Capabilities,
    ContainerSpec,
    Directory,
    Hook,
    IdMap,
    Mount,
    Namespace,
    Overlay,
    Process,
    Rlimit,
    Seccomp,
)
from harness.container.step import call

SOURCES = Path(__file__).parents[2] / "csrc" / "launch"
CALLS = {"call": 0, "try": 1}  # which argument is the name of the system call
FOURTEEN = defaults.DOCKER_CAPABILITIES
PROCESS = Process(("true",), capabilities=Capabilities(FOURTEEN, FOURTEEN, FOURTEEN), no_new_privs=True)
AGENT = Launch(7, agent=True, dies_with_parent=True)
VOLUME = Mount("/volume", source="/data", bind=True, attrs=syscalls.MOUNT_ATTR_RDONLY)


def spec(**changes: object) -> ContainerSpec:
    given = {
        "root": Overlay(("/a", "/b")), "process": PROCESS, "workspace": "/run/x", "namespaces": defaults.NAMESPACES,
        "mounts": defaults.mounts(), "masked_paths": defaults.MASKED_PATHS, "readonly_paths": defaults.READONLY_PATHS,
        "attested": "/a", **changes,
    }  # fmt: skip
    return ContainerSpec(**given)  # type: ignore[arg-type]


def names(steps: tuple[Step, ...]) -> list[str]:
    """A system call by its own name."""
    return [step.args[CALLS[step.name]] if step.name in CALLS else step.name for step in steps]


def full() -> tuple[Step, ...]:
    process = replace(PROCESS, rlimits=(Rlimit(7, 64, 64),))
    launch = replace(AGENT, joins=Joins(2, unified=True))
    return plan.container_steps(spec(process=process, mounts=(*defaults.mounts(), VOLUME)), launch)


def everything() -> tuple[Step, ...]:
    """A container with all that a plan can hold."""
    process = Process(
        ("sh", "-c", "true"), ("A=b",), "/work", 5, 6, (7, 8), 0o77, PROCESS.capabilities, True, (Rlimit(7, 64, 64),),
        -5, "profile", "label", Seccomp(b"12345678"), True, (24, 80), 3, (2, 4), {"policy": 1}, (0, 1),
    )  # fmt: skip
    hook = Hook("/bin/hook", ("hook", "a"), ("B=c",), 3)
    hooks = {"createRuntime": (hook,), "createContainer": (hook,), "startContainer": (hook,)}
    maps = (IdMap(0, 1000, 10),)
    mounts = (*defaults.mounts(), VOLUME, replace(VOLUME, destination="/v2", uid_maps=maps, gid_maps=maps))
    spaces = (*defaults.NAMESPACES[:4], Namespace("user"), Namespace("time"), Namespace("network", "/run/netns/x"))
    return plan.container_steps(
        spec(
            process=process, hooks=hooks, mounts=mounts, namespaces=spaces, uid_maps=maps, gid_maps=maps,
            hostname="h", domainname="d", sysctl=(("net.ipv4.ip_forward", "1"),), time_offsets=(("boottime", 5, 0),),
            personality=8, root_readonly=True, root_propagation=syscalls.MS_SHARED, root=Directory("/bundle/rootfs"),
        ),
        Launch(3, Joins(1, unified=True), waits=True, seccomp=True, trace=True, keyring="_ses.x"),
    )  # fmt: skip


def test_plan_is_strings_with_their_nul() -> None:
    assert plan.encode([Step("join", ("9",)), Step("exec")]) == b"join\0" + b"1\0" + b"9\0" + b"exec\0" + b"0\0"


def test_plan_with_a_nul_inside_is_refused() -> None:
    with pytest.raises(ContainerError, match="NUL"):
        plan.encode([Step("hostname", ("a\0b",))])


def test_bytes_of_paths_that_are_no_text_survive() -> None:
    assert plan.encode([Step("lower", ("/\udcff",))]) == b"lower\x001\0/\xff\0"


def test_description_numbers_the_steps_as_errors_do() -> None:
    lines = plan.describe([Step("mount", ("proc", "proc", "0xe", "")), Step("exec")]).splitlines()
    assert lines == ["  0 mount proc proc 0xe ''", "  1 exec"]


def test_launcher_knows_every_step_with_so_many_arguments() -> None:
    table = re.findall(r'X\("([a-z-]+)", (\d+), (\d+|ARGS_MAX), ', (SOURCES / "launch.h").read_text())
    arity = {name: (int(least), 4096 if most == "ARGS_MAX" else int(most)) for name, least, most in table}
    assert [name for name, _, _ in table] == sorted(arity)
    attached = plan.exec_steps(PROCESS, Launch(), 0)
    steps = (*full(), *everything(), *attached, *plan_control.process_steps(ProcessSpec("/root", "/a", "/n"), AGENT))
    for step in steps:
        least, most = arity[step.name]
        assert least <= len(step.args) <= most, step
    assert {step.name for step in steps} == set(arity), "no step that the planner never uses"


def test_launcher_knows_every_system_call_with_so_many_arguments() -> None:
    table = re.findall(r'\{"([a-z_]+)", SYS_\w+, "([iswq]*)"\}', (SOURCES / "process.c").read_text())
    attached = plan.exec_steps(PROCESS, Launch(), 0)
    steps = (*full(), *everything(), *attached, *plan_control.process_steps(ProcessSpec("/root", "/a"), AGENT))
    calls = [step.args[CALLS[step.name] :] for step in steps if step.name in CALLS]
    assert {name for name, *_ in calls} == {name for name, _ in table}
    for name, *args in calls:
        assert len(args) == len(dict(table)[name]), name


def test_cgroup_fds_are_joined_in_order_and_the_directory_comes_last() -> None:
    steps = plan.container_steps(spec(), replace(AGENT, joins=Joins(3, unified=True)))
    assert [step for step in steps if "join" in step.args] == [call("join", fd, "0", 1) for fd in (10, 11, 12)]
    assert Step("clone", ("0x6c020000", "13")) in steps


def test_without_cgroup2_the_clone_gets_no_directory() -> None:
    steps = plan.container_steps(spec(), replace(AGENT, joins=Joins(1)))
    assert next(step for step in steps if step.name == "clone").args[1] == "-1"


def test_cgroup_namespace_comes_after_joining() -> None:
    order = names(full())
    assert max(i for i, name in enumerate(order) if name == "join") < order.index("unshare")


def test_parent_death_is_set_again_after_the_last_change_of_credentials() -> None:
    order = names(full())
    last = len(order) - 1 - order[::-1].index("parent-death")
    assert last > order.index("capabilities")
    assert order[-1] == "exec-fd"


def test_host_paths_are_opened_before_the_workspace_covers_one() -> None:
    order = names(full())
    assert order.index("workspace") > max(i for i, name in enumerate(order) if name in {"lower", "tree"})


def test_every_mount_is_made_before_the_old_root_goes() -> None:
    order = names(full())
    made = [i for i, name in enumerate(order) if name in {"mount", "device", "mask", "readonly", "bind", "overlay"}]
    assert max(made) < order.index("pivot")


def test_nothing_but_device_nodes_can_be_opened_as_a_device() -> None:
    nodev = syscalls.MOUNT_ATTR_NODEV
    flags = {step.args[1]: int(step.args[2], 16) for step in full() if step.name == "mount"}
    assert {path for path, value in flags.items() if not value & nodev} == {"dev/pts"}


def test_numbers_that_a_call_has_in_memory_are_as_the_kernel_lays_them_out() -> None:
    scheduler = {"policy": 6, "runtime": 1 << 32, "period": 5}
    process = replace(PROCESS, rlimits=(Rlimit(7, 64, 1 << 63),), cpu_affinity=(1, 64), scheduler=scheduler)
    steps = plan.container_steps(spec(process=process), AGENT)
    assert call("rlimit", 0, 7, f"64,{1 << 63}") in steps
    assert call("affinity", 0, 16, "2,1") in steps
    assert call("scheduler", 0, "48,6,0,0,0,0,0,1,0,0,5,0", 0) in steps
    kept = Capabilities(("chown",), ("chown",), ("chown", "checkpoint_restore"), (), ("chown",))
    steps = plan.container_steps(spec(process=replace(PROCESS, capabilities=kept)), AGENT)
    assert call("capabilities", f"{0x20080522},0", "1,1,0,0,256,0") in steps
    assert call("prctl", plan_process.PR_CAP_AMBIENT, plan_process.PR_CAP_AMBIENT_RAISE, 0, 0, 0) in steps


@pytest.mark.parametrize(("rootless", "order"), [(False, ["net", "user"]), (True, ["user", "net"])])
def test_user_namespace_is_joined_when_it_costs_no_privilege(rootless: bool, order: list[str]) -> None:
    spaces = (Namespace("network", "/p/net"), Namespace("user", "/p/user"))
    steps = plan.container_steps(spec(namespaces=spaces), replace(AGENT, rootless=rootless))
    joined = next(step for step in steps if step.name == "namespaces")
    assert [path.removeprefix("/p/") for path in joined.args[1::2]] == order


def test_dockers_fourteen_capabilities_are_the_known_mask() -> None:
    assert plan_process.capability_mask(defaults.DOCKER_CAPABILITIES) == 0xA80425FB
    assert len(defaults.DOCKER_CAPABILITIES) == 14


def test_unknown_capability_is_named() -> None:
    with pytest.raises(ContainerError, match="fly: unknown"):
        plan_process.capability_mask(["chown", "fly"])


@pytest.mark.parametrize("path", ["/a/../b", "/", "/.", ""])
def test_destination_that_is_no_plain_path_is_refused(path: str) -> None:
    with pytest.raises(ContainerError, match="not a plain path"):
        plan.container_steps(spec(mounts=(Mount(path, source="/data", bind=True),)), AGENT)


def test_destination_is_relative_to_the_root() -> None:
    steps = plan.container_steps(spec(mounts=(Mount("//var/./lib/", source="/data", bind=True),)), AGENT)
    bind = next(step for step in steps if step.name == "bind")
    assert bind.args[:2] == ("/data", "var/lib")


def test_container_without_layers_is_refused() -> None:
    with pytest.raises(ContainerError, match="at least one"):
        plan.container_steps(spec(root=Overlay(())), AGENT)


def test_no_new_privs_can_be_left_out() -> None:
    process = replace(PROCESS, no_new_privs=False)
    taken = call("prctl", plan.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    assert taken in full()
    assert taken not in plan.container_steps(spec(process=process), AGENT)


@pytest.mark.parametrize("no_new_privs", [True, False])
def test_filter_is_taken_last_or_while_the_privilege_to_take_it_is_there(no_new_privs: bool) -> None:
    process = replace(PROCESS, no_new_privs=no_new_privs, seccomp=Seccomp(b"12345678"), uid=1)
    order = names(plan.container_steps(spec(process=process), Launch(seccomp=True, waits=True)))
    assert (order[-2] == "seccomp") is no_new_privs
    assert (order.index("seccomp") < order.index("setresuid")) is not no_new_privs


def test_labels_and_sysctls_are_written_before_the_hosts_proc_is_gone() -> None:
    order = names(everything())
    assert order.index("proc") < order.index("clone")
    assert order.count("write") == 5  # oom_score_adj, a clock, a sysctl, two labels
    assert max(i for i, name in enumerate(order) if name == "write") < order.index("pivot")


def test_nobody_inside_can_trace_what_attaches() -> None:
    steps = plan.exec_steps(PROCESS, Launch(), 0)
    assert steps.index(plan.UNDUMPABLE) < names(steps).index("setns")


def test_sources_are_opened_by_the_caller_where_the_containers_root_is_no_root_of_the_host() -> None:
    order = names(everything())
    assert order.count("source") == 4
    assert max(i for i, name in enumerate(order) if name == "source") < order.index("clone")


def test_container_without_mounts_of_its_own_gets_a_chroot_and_changes_no_mount_of_the_host() -> None:
    steps = plan.container_steps(spec(namespaces=()), AGENT)
    assert "chroot" in names(steps)
    assert "pivot" not in names(steps)
    assert [step.args[2] for step in steps if step.args[:1] == ("mount",)] == ["/run/x", "."]


def test_unprivileged_maps_forbid_setgroups() -> None:
    maps = (IdMap(0, 1000, 1),)
    spaces = (*defaults.NAMESPACES, Namespace("user"))
    steps = plan.container_steps(spec(namespaces=spaces, uid_maps=maps, gid_maps=maps), replace(AGENT, rootless=True))
    clone = next(step for step in steps if step.name == "clone")
    assert clone.args[2:] == ("root",)
    assert "groups" not in names(steps)
    assert plan.denies_setgroups(spec(uid_maps=maps, gid_maps=maps), rootless=True)
    ranges = (*maps, IdMap(1, 100000, 65536))
    assert not plan.denies_setgroups(spec(uid_maps=ranges, gid_maps=ranges), rootless=True)


def test_group_of_terminals_is_left_out_where_it_is_not_mapped() -> None:
    maps = (IdMap(0, 1000, 1),)
    spaces = (*defaults.NAMESPACES, Namespace("user"))
    steps = plan.container_steps(spec(namespaces=spaces, uid_maps=maps, gid_maps=maps), replace(AGENT, rootless=True))
    assert not [step for step in steps if "gid=5" in step.args]
    assert [step for step in full() if "gid=5" in step.args]


def test_process_keeps_the_hosts_namespaces_and_privileges() -> None:
    steps = plan_control.process_steps(ProcessSpec("/root", "/a"), AGENT)
    assert Step("clone", ("0", "-1")) in steps
    assert not {"unshare", "capabilities", "prctl", "pivot", "mask"} & set(names(steps))
