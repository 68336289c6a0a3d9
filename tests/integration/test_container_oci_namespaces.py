"""Namespaces of OCI containers: of their own, the host's, joined by path, and ids that are mapped.

| item                    | what is shown here                                                                    |
|-------------------------|---------------------------------------------------------------------------------------|
| each of the eight       | own where it is listed, the host's where it is not, another's by path                 |
| paths                   | /proc/PID/ns/X, bind-mounted files; one of a wrong type, or no namespace, is refused  |
| user                    | maps, owners, devices, binds from where its root may not go; joined with all others   |
| time                    | offsets of both clocks; refused without a namespace                                   |
| uts                     | hostname, domainname; refused without a namespace                                     |
| network                 | loopback is up; the host's is left as it is                                           |
| cgroup                  | the container's group is the root                                                     |
| no mount namespace      | refused, with the reason                                                              |
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.oci_kit import Document, Oci, bind, bundle, map_ids, mount, namespace_of, namespaces

pytestmark = pytest.mark.needs("root")
SLEEP = "exec sleep 1000"
LINKS = {"mount": "mnt", "pid": "pid", "network": "net", "uts": "uts", "ipc": "ipc", "user": "user",
         "cgroup": "cgroup", "time": "time"}  # fmt: skip
SHARED = sorted(set(LINKS) - {"mount", "user", "time"})


@pytest.fixture
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


def _all_own(made: Document) -> None:
    map_ids(made)
    namespaces(made, **dict.fromkeys(LINKS, ""))


def test_all_eight_are_its_own(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP, _all_own)) as container_id:
        pid = oci.pid(container_id)
        assert [kind for kind, link in LINKS.items() if namespace_of(pid, link) == namespace_of("self", link)] == []


def test_what_is_not_listed_is_the_hosts(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["namespaces"] = [{"type": "mount"}]
        del made["hostname"]

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        pid = oci.pid(container_id)
        apart = {kind for kind, link in LINKS.items() if namespace_of(pid, link) != namespace_of("self", link)}
        assert apart == {"mount"}


@pytest.mark.parametrize("kind", SHARED)
def test_each_by_itself_can_be_the_hosts(oci: Oci, tree: Path, kind: str) -> None:
    def change(made: Document) -> None:
        namespaces(made, **{kind: None})
        if kind == "uts":
            del made["hostname"]

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        pid = oci.pid(container_id)
        same = {kind for kind, link in LINKS.items() if namespace_of(pid, link) == namespace_of("self", link)}
        assert same == {kind, "user", "time"}


@pytest.mark.parametrize("kind", [*SHARED, "time"])
def test_each_can_be_another_containers_by_path(oci: Oci, tree: Path, kind: str) -> None:
    link = LINKS[kind]

    def with_time(made: Document) -> None:
        namespaces(made, time="")

    with oci.running(bundle(tree, SLEEP, with_time)) as first:
        other = oci.pid(first)

        def change(made: Document) -> None:
            namespaces(made, **{kind: f"/proc/{other}/ns/{link}"})
            if kind == "uts":
                del made["hostname"]

        with oci.running(bundle(tree, SLEEP, change)) as second:
            pid = oci.pid(second)
            assert namespace_of(pid, link) == namespace_of(other, link)
            assert namespace_of(pid, link) != namespace_of("self", link)
            assert namespace_of(pid, "mnt") != namespace_of(other, "mnt")
            assert oci.inside(second, f"readlink /proc/self/ns/{link}") == [namespace_of(other, link)]


def test_a_joined_pid_namespace_shows_the_others_processes(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as first:
        path = f"/proc/{oci.pid(first)}/ns/pid"
        lines = oci.output(bundle(tree, "cat /proc/1/cmdline | tr '\\0' ' '", lambda made: namespaces(made, pid=path)))
        assert lines == ["sleep 1000 "]
        assert oci.status(first) == "running"


def test_a_bind_mounted_namespace_outlives_its_process(oci: Oci, tree: Path, tmp_path: Path) -> None:
    """As engines keep networks: a file with the namespace mounted on it."""
    place = tmp_path / "net"
    place.touch()
    with oci.running(bundle(tree, SLEEP)) as first:
        identity = namespace_of(oci.pid(first), "net")
        subprocess.run(["mount", "--bind", f"/proc/{oci.pid(first)}/ns/net", place], check=True)
    try:
        path = bundle(tree, "readlink /proc/self/ns/net", lambda made: namespaces(made, network=str(place)))
        assert oci.output(path) == [identity]
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(
    ("path", "why"),
    [("/proc/self/ns/uts", "not a namespace of this kind"), ("/etc/hostname", "not a namespace of this kind"),
     ("/nowhere", "No such file or directory")],
)  # fmt: skip
def test_a_path_that_is_no_such_namespace_is_refused(oci: Oci, tree: Path, path: str, why: str) -> None:
    said = oci.refused(bundle(tree, "true", lambda made: namespaces(made, network=path)))
    assert path in said
    assert why in said


@pytest.mark.parametrize(
    ("entries", "word"),
    [([{"type": "netz"}], "did you mean"), ([{"type": "pid"}, {"type": "pid"}], "twice"),
     ([{"type": "pid", "path": "relative"}], "not an absolute path"), ([{}], "type")],
)  # fmt: skip
def test_namespaces_that_make_no_sense_are_refused(
    oci: Oci, tree: Path, entries: list[dict[str, str]], word: str
) -> None:
    def change(made: Document) -> None:
        made["linux"]["namespaces"] = [{"type": "mount"}, *entries]
        del made["hostname"]

    said = oci.refused(bundle(tree, "true", change))
    assert "linux.namespaces[" in said
    assert word in said


def test_without_a_mount_namespace_it_runs_in_a_chroot_with_a_warning(oci: Oci, tree: Path) -> None:
    """As with runc and crun: allowed, and no boundary. The host keeps its root, and has its mounts back at the end."""
    root, table = Path("/").stat().st_ino, Path("/proc/self/mountinfo").read_text()
    result = oci.run(bundle(tree, "readlink /proc/self/ns/mnt; ls /", lambda made: namespaces(made, mount=None)))
    assert result.code == 0, result.err
    assert result.lines[0] == namespace_of("self", "mnt")
    assert "work" not in result.lines
    assert "no mount namespace" in result.err
    assert Path("/").stat().st_ino == root
    assert Path("/proc/self/mountinfo").read_text() == table


def test_a_joined_mount_namespace_is_refused_or_really_joined(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP)) as first:
        path = f"/proc/{oci.pid(first)}/ns/mnt"
        said = oci.refused(bundle(tree, "true", lambda made: namespaces(made, mount=path)))
        assert "mount" in said
        assert oci.status(first) == "running"


# -- uts, network, cgroup, time --------------------------------------------------------------------------------------


def test_hostname_and_domainname(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["hostname"], made["domainname"] = "inside", "example"

    before = os.uname()
    script = "hostname; cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname"
    assert oci.output(bundle(tree, script, change)) == ["inside", "inside", "example"]
    assert os.uname() == before


@pytest.mark.parametrize("key", ["hostname", "domainname"])
def test_names_need_a_uts_namespace_and_end_at_64_bytes(oci: Oci, tree: Path, key: str) -> None:
    def without(made: Document) -> None:
        made.pop("hostname", None)
        made[key] = "x"
        namespaces(made, uts=None)

    def long(made: Document) -> None:
        made[key] = "x" * 65

    assert "uts" in oci.refused(bundle(tree, "true", without))
    assert "64 bytes" in oci.refused(bundle(tree, "true", long))


def test_own_network_has_loopback_alone_and_it_is_up(oci: Oci, tree: Path) -> None:
    script = "ls /sys/class/net; echo pong | nc -l -p 99 & sleep 0.3; nc 127.0.0.1 99"
    assert oci.output(bundle(tree, script)) == ["lo", "pong"]


def test_cgroup_namespace_hides_the_path(oci: Oci, tree: Path) -> None:
    script = "cut -d: -f3 /proc/self/cgroup | sort -u"
    assert "/" in oci.output(bundle(tree, script))
    shown = oci.output(bundle(tree, script, lambda made: namespaces(made, cgroup=None)))
    assert any("harness-oci/t-" in line for line in shown)


def test_clocks_are_moved(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        namespaces(made, time="")
        made["linux"]["timeOffsets"] = {"boottime": {"secs": 1000000, "nanosecs": 5}, "monotonic": {"secs": 7200}}

    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        uptime_s = float(oci.inside(container_id, "cat /proc/uptime")[0].split()[0])
        assert 1000000 <= uptime_s - before_s < 1000100
        lines = oci.inside(container_id, "cat /proc/self/timens_offsets")
        offsets = {line.split()[0]: line.split()[1:] for line in lines}
        assert offsets == {"monotonic": ["7200", "0"], "boottime": ["1000000", "5"]}


@pytest.mark.parametrize("offsets", [{"monotonic": {"secs": 1}}, {"realtime": {"secs": 1}}])
def test_clocks_without_a_namespace_or_unknown_are_refused(oci: Oci, tree: Path, offsets: object) -> None:
    def change(made: Document) -> None:
        made["linux"]["timeOffsets"] = offsets
        if isinstance(offsets, dict) and "realtime" in offsets:
            namespaces(made, time="")

    assert "timeOffsets" in oci.refused(bundle(tree, "true", change))


# -- user ------------------------------------------------------------------------------------------------------------


def test_ids_are_mapped_and_owners_are_seen_through_the_map(oci: Oci, tree: Path) -> None:
    for name, uid in (("root-inside", 100000), ("user-inside", 100007), ("host-root", 0)):
        (tree / name).touch()
        os.chown(tree / name, uid, uid)
    script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u:%g /root-inside /user-inside /host-root"
    lines = oci.output(bundle(tree, script, map_ids))
    assert [line.split() for line in lines[:2]] == [["0", "100000", "65536"]] * 2
    assert lines[2:] == ["0", "0:0", "7:7", "65534:65534"]


def test_files_made_inside_belong_to_mapped_ids_outside(oci: Oci, tree: Path) -> None:
    os.chown(tree, 100000, 100000)
    oci.output(bundle(tree, "touch /mine; touch /other; chown 5:6 /other", map_ids))
    assert [((tree / name).stat().st_uid, (tree / name).stat().st_gid) for name in ("mine", "other")] == [
        (100000, 100000), (100005, 100006),
    ]  # fmt: skip


def test_the_program_runs_as_a_mapped_id_on_the_host(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        map_ids(made)
        made["process"]["user"] = {"uid": 12, "gid": 34, "additionalGids": [56]}

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        status = Path(f"/proc/{oci.pid(container_id)}/status").read_text()
        assert "Uid:\t100012\t100012\t100012\t100012\n" in status
        assert "Gid:\t100034\t100034\t100034\t100034\n" in status
        assert "Groups:\t100056 \n" in status
        assert oci.inside(container_id, "id -u; id -g") == ["12", "34"]


def test_devices_work_in_a_user_namespace(oci: Oci, tree: Path) -> None:
    script = (
        "for name in null zero full random urandom tty; do test -c /dev/$name || echo missing $name; done;"
        "echo x >/dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c;"
        "readlink /dev/fd; readlink /dev/ptmx"
    )
    assert oci.output(bundle(tree, script, map_ids)) == ["4", "4", "/proc/self/fd", "pts/ptmx"]


def test_binds_and_a_root_that_the_mapped_root_cannot_reach(oci: Oci, tree: Path, tmp_path: Path) -> None:
    """Its root is nobody on the host: what only the host's root may traverse was opened before."""
    secret = tmp_path / "secret"
    (secret / "data").mkdir(parents=True)
    (secret / "data" / "file").write_text("bound\n")
    secret.chmod(0o700)
    tree.parent.chmod(0o700)
    script = "cat /data/file; cat /one"

    def change(made: Document) -> None:
        map_ids(made)
        bind(made, secret / "data", "/data", "rbind", "ro")
        bind(made, secret / "data" / "file", "/one", "bind")

    os.chown(tree, 100000, 100000)
    assert oci.output(bundle(tree, script, change)) == ["bound", "bound"]


@pytest.mark.parametrize("shared", ["network", "ipc", "pid", "cgroup"])
def test_a_user_namespace_with_one_of_the_hosts_others(oci: Oci, tree: Path, shared: str) -> None:
    def change(made: Document) -> None:
        map_ids(made)
        namespaces(made, **{shared: None})
        if shared == "ipc" and not Path("/dev/mqueue").is_dir():  # the host's is bound, and this host has none
            made["mounts"] = [entry for entry in made["mounts"] if entry["type"] != "mqueue"]

    os.chown(tree, 100000, 100000)
    there = "test -d /sys/class/net && test -e /proc/self/stat"
    script = f"{there} && readlink /proc/self/ns/{LINKS[shared]}"
    assert oci.output(bundle(tree, script, change)) == [namespace_of("self", LINKS[shared])]


def test_a_pod_of_two_with_one_user_namespace(oci: Oci, tree: Path) -> None:
    """Joined by path with all that its root owns, as engines build pods."""
    os.chown(tree, 100000, 100000)
    with oci.running(bundle(tree, SLEEP, _all_own)) as first:
        other = oci.pid(first)

        def change(made: Document) -> None:
            joined = {kind: f"/proc/{other}/ns/{LINKS[kind]}" for kind in ("user", "network", "ipc", "uts")}
            namespaces(made, **joined)
            del made["hostname"]

        with oci.running(bundle(tree, SLEEP, change)) as second:
            for kind in ("user", "network", "ipc", "uts"):
                assert namespace_of(oci.pid(second), LINKS[kind]) == namespace_of(other, LINKS[kind])
            assert namespace_of(oci.pid(second), "mnt") != namespace_of(other, "mnt")
            assert oci.inside(second, "id -u; cat /proc/self/uid_map")[0] == "0"
            assert "100000" in oci.inside(second, "cat /proc/self/uid_map")[0]


def test_exec_in_a_user_namespace(oci: Oci, tree: Path) -> None:
    with oci.running(bundle(tree, SLEEP, map_ids)) as container_id:
        assert oci.inside(container_id, "id -u; id -g; grep -c . /proc/self/uid_map") == ["0", "0", "1"]
        assert oci.inside(container_id, "id -u; id -g; id -G", "--user", "5:6", "--additional-gids", "7") == [
            "5",
            "6",
            "6 7",
        ]


@pytest.mark.parametrize(
    ("maps", "word"),
    [(None, "is missing"), ([], "is missing"), ([{"containerID": 0, "hostID": 0, "size": 0}], "size"),
     ([{"containerID": 0, "hostID": 1, "size": 5}, {"containerID": 4, "hostID": 50, "size": 5}], "overlaps")],
)  # fmt: skip
def test_maps_that_make_no_sense_are_refused(oci: Oci, tree: Path, maps: object, word: str) -> None:
    def change(made: Document) -> None:
        map_ids(made)
        made["linux"]["uidMappings"] = maps

    said = oci.refused(bundle(tree, "true", change))
    assert "linux.uidMappings" in said
    assert word in said


def test_maps_without_a_user_namespace_are_refused(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        map_ids(made)
        namespaces(made, user=None)

    assert "needs a namespace of type 'user'" in oci.refused(bundle(tree, "true", change))


def test_several_maps_and_none_for_root(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        namespaces(made, user="")
        for key in ("uidMappings", "gidMappings"):
            made["linux"][key] = [
                {"containerID": 0, "hostID": 100000, "size": 10},
                {"containerID": 1000, "hostID": 200000, "size": 5},
            ]
        made["process"]["user"] = {"uid": 1001, "gid": 1002}

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        assert "Uid:\t200001\t" in Path(f"/proc/{oci.pid(container_id)}/status").read_text()


def test_an_unmapped_user_is_refused(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        map_ids(made, size=10)
        made["process"]["user"] = {"uid": 11, "gid": 0}

    assert "setresuid" in oci.refused(bundle(tree, "true", change))


def test_capabilities_are_the_namespaces_own(oci: Oci, tree: Path) -> None:
    """Full sets inside; on the host's files they are worth nothing."""

    def change(made: Document) -> None:
        map_ids(made)
        bind(made, "/etc/hostname", "/host-file", "bind")
        mount(made, "/mnt", "tmpfs", "tmpfs")

    os.chown(tree, 100000, 100000)
    script = "(echo x >/host-file) 2>/dev/null && echo written; mount -t tmpfs x /mnt 2>/dev/null && echo mounted; true"
    assert oci.output(bundle(tree, script, change)) == []
