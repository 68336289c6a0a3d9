import re
from pathlib import Path

import pytest

from harness.container import launcher, plan
from harness.container.errors import ContainerError
from harness.container.plan import Bind, ContainerSpec, Joins, ProcessSpec, Step

SOURCES = Path(plan.__file__).parent / "src"


def spec(**changes: object) -> ContainerSpec:
    given = {"lowers": ("/a", "/b"), "attested": "/a", "workspace": "/run/x", "upper_bytes": 1 << 20, **changes}
    return ContainerSpec(**given)  # type: ignore[arg-type]


def names(steps: tuple[Step, ...]) -> list[str]:
    return [step.name for step in steps]


def full() -> tuple[Step, ...]:
    binds = (Bind("/data", "/volume"),)
    return plan.container_steps(spec(binds=binds, rlimits=((7, 64, 64),), joins=Joins(2, unified=True)))


def test_plan_is_strings_with_their_nul() -> None:
    assert plan.encode([Step("join", ("9",)), Step("exec")]) == b"join\0" + b"9\0" + b"exec\0"


def test_plan_with_a_nul_inside_is_refused() -> None:
    with pytest.raises(ContainerError, match="NUL"):
        plan.encode([Step("hostname", ("a\0b",))])


def test_bytes_of_paths_that_are_no_text_survive() -> None:
    assert plan.encode([Step("lower", ("/\udcff",))]) == b"lower\0/\xff\0"


def test_description_numbers_the_steps_as_errors_do() -> None:
    lines = plan.describe([Step("mount", ("proc", "proc", "0xe", "")), Step("exec")]).splitlines()
    assert lines == ["  0 mount proc proc 0xe ''", "  1 exec"]


def test_launcher_knows_every_step_with_as_many_arguments() -> None:
    table = re.findall(r'\{"([a-z-]+)", (\d), step_', (SOURCES / "main.c").read_text())
    arity = {name: int(count) for name, count in table}
    steps = (*full(), *plan.process_steps(ProcessSpec("/root", "/a")))
    assert {step.name: len(step.args) for step in steps} == arity


def test_fd_numbers_are_the_launchers() -> None:
    header = (SOURCES / "launch.h").read_text()
    assert f"FD_AGENT = {plan.FD_CGROUP - 1}" in header
    assert f"FD_PLAN = {launcher.AGENT_FDS}" in header


def test_cgroup_fds_are_joined_in_order_and_the_directory_comes_last() -> None:
    steps = plan.container_steps(spec(joins=Joins(3, unified=True)))
    assert [step.args[0] for step in steps if step.name == "join"] == ["9", "10", "11"]
    assert steps[0] == Step("clone", ("0x6c020000", "12"))


def test_without_cgroup2_the_clone_gets_no_directory() -> None:
    assert plan.container_steps(spec(joins=Joins(1)))[0].args[1] == "-1"


def test_cgroup_namespace_comes_after_joining() -> None:
    order = names(full())
    assert max(i for i, name in enumerate(order) if name == "join") < order.index("unshare")


def test_parent_death_is_set_again_after_the_last_change_of_credentials() -> None:
    order = names(full())
    last = len(order) - 1 - order[::-1].index("parent-death")
    assert last > order.index("capabilities")
    assert last > order.index("no-new-privs")
    assert order[-1] == "exec"


def test_host_paths_are_opened_before_the_workspace_covers_one() -> None:
    order = names(full())
    assert order.index("workspace") > max(i for i, name in enumerate(order) if name in {"lower", "tree"})


def test_every_mount_is_made_before_the_old_root_goes() -> None:
    order = names(full())
    made = [i for i, name in enumerate(order) if name in {"mount", "device", "mask", "readonly", "bind", "overlay"}]
    assert max(made) < order.index("pivot")


def test_nothing_but_device_nodes_can_be_opened_as_a_device() -> None:
    nodev = plan.syscalls.MS_NODEV
    flags = {step.args[1]: int(step.args[2], 16) for step in full() if step.name == "mount"}
    assert {path for path, value in flags.items() if not value & nodev} == {"dev/pts"}


def test_dockers_fourteen_capabilities_are_the_known_mask() -> None:
    assert plan.capability_mask(plan.DOCKER_CAPABILITIES) == 0xA80425FB
    assert len(plan.DOCKER_CAPABILITIES) == 14


def test_unknown_capability_is_named() -> None:
    with pytest.raises(ContainerError, match="fly: unknown"):
        plan.capability_mask(["chown", "fly"])


@pytest.mark.parametrize("path", ["/a/../b", "a", "/", "/.", ""])
def test_destination_that_is_no_plain_path_is_refused(path: str) -> None:
    with pytest.raises(ContainerError, match="not a plain absolute path"):
        plan.container_steps(spec(binds=(Bind("/data", path),)))


def test_destination_is_relative_to_the_root() -> None:
    steps = plan.container_steps(spec(binds=(Bind("/data", "//var/./lib/", read_only=False),)))
    assert Step("bind", ("/data", "var/lib", "rw")) in steps


def test_container_without_layers_is_refused() -> None:
    with pytest.raises(ContainerError, match="at least one"):
        plan.container_steps(spec(lowers=()))


def test_no_new_privs_can_be_left_out() -> None:
    assert "no-new-privs" not in names(plan.container_steps(spec(no_new_privs=False)))


def test_process_keeps_the_hosts_namespaces_and_privileges() -> None:
    steps = plan.process_steps(ProcessSpec("/root", "/a", Joins(1)))
    assert steps[0] == Step("clone", ("0x0", "-1"))
    assert not {"unshare", "capabilities", "no-new-privs", "pivot", "mask"} & set(names(steps))
