"""Mounts of OCI containers, as their /proc/self/mountinfo and the files in them show.

| item                     | what is shown here                                                                       |
|--------------------------|------------------------------------------------------------------------------------------|
| types                    | proc, sysfs, tmpfs, devpts, mqueue, cgroup (v1, v2), overlay, bind; an unknown one       |
| options                  | ro nosuid nodev noexec noatime nodiratime strictatime nosymfollow, and their opposites   |
| recursive                | rbind and bind, rro and rnosuid over a tree                                              |
| propagation              | rprivate, rslave, rshared, unbindable; rootfsPropagation                                 |
| targets                  | missing ones are made; files on files; behind links; never through a link for /proc      |
| idmap, ridmap            | with maps of their own, with those of the container                                      |
| tmpfs                    | size, mode, tmpcopyup                                                                    |
| overlay                  | lowerdir, upperdir, workdir; options longer than 255 bytes, and than a page              |
| root                     | read-only with writable volumes; its path relative, behind a link; missing               |
| masked, read-only paths  | file, directory, missing; /proc and /sys of the example                                  |
| the host                 | sees none of it                                                                          |
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.oci_kit import (
    Document,
    MountLine,
    Oci,
    bind,
    bundle,
    document,
    map_ids,
    mount,
    mounts_in,
    namespaces,
    new_id,
    until,
    write_bundle,
)

pytestmark = pytest.mark.needs("root", "overlayfs")
INFO = "cat /proc/self/mountinfo"
SLEEP = "exec sleep 1000"


@pytest.fixture
def oci() -> Iterator[Oci]:
    with Oci.at() as runtime:
        yield runtime


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A shared mount of the host, of which the host's mount events are seen by its peers and slaves."""
    place = tmp_path / "shared"
    place.mkdir()
    with ExitStack() as stack:
        _command("mount", "-t", "tmpfs", "tmpfs", place)
        stack.callback(_command, "umount", "--recursive", place)
        _command("mount", "--make-shared", place)
        yield place


def _command(*words: str | Path) -> None:
    subprocess.run([*map(str, words)], check=True)


def _mounts(oci: Oci, path: Path) -> dict[str, MountLine]:
    return mounts_in(oci.output(path))


# -- types -----------------------------------------------------------------------------------------------------------


def test_default_mounts(oci: Oci, tree: Path) -> None:
    found = _mounts(oci, bundle(tree, INFO))
    assert {path: found[path].type for path in ("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys")} == {
        "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
    }  # fmt: skip
    assert {"nosuid", "nodev", "noexec", "ro"} <= found["/sys"].options
    assert {"nosuid", "nodev", "noexec", "rw"} <= found["/proc"].options
    assert {"ptmxmode=666", "mode=620", "gid=5"} <= found["/dev/pts"].data
    assert {"size=65536k"} <= found["/dev/shm"].data


def test_default_devices_and_links(oci: Oci, tree: Path) -> None:
    names = ("null", "zero", "full", "random", "urandom", "tty")
    show = "for l in fd stdin stdout stderr ptmx; do readlink $l; done"
    script = f"cd /dev; stat -c '%n %F %t:%T %a' {' '.join(names)}; {show}"
    assert oci.output(bundle(tree, script)) == [
        *(f"{name} character special file {numbers} 666" for name, numbers in zip(
            names, ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0"), strict=True)),
        "/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx",
    ]  # fmt: skip


def test_devices_of_the_configuration(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["devices"] = [
            {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 5, "gid": 6},
            {"path": "/dev/sub/loop", "type": "b", "major": 7, "minor": 0},
            {"path": "/dev/queue", "type": "p", "fileMode": 0o600},
        ]

    script = "stat -c '%F %t:%T %a %u:%g' /dev/mine /dev/sub/loop /dev/queue"
    assert oci.output(bundle(tree, script, change)) == [
        "character special file 1:3 640 5:6", "block special file 7:0 666 0:0", "fifo 0:0 600 0:0",
    ]  # fmt: skip


def test_devices_may_be_used_only_where_a_rule_allows_it(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["devices"] = [{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229}]  # fuse

    def allow(made: Document) -> None:
        made["linux"]["devices"] = [{"path": "/dev/mine", "type": "c", "major": 10, "minor": 229}]
        made["linux"]["resources"]["devices"].append(
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
        )

    script = "exec 2>&1; : <>/dev/mine && echo opened"
    assert oci.run(bundle(tree, script, change)).out.endswith("Operation not permitted\n")
    assert oci.run(bundle(tree, script, allow)).out == "opened\n"


def test_an_unknown_type_is_refused(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        mount(made, "/mnt", "nosuchfs", "none")

    said = oci.refused(bundle(tree, "true", change))
    assert "nosuchfs" in said
    assert "/mnt" in said


def test_an_unknown_option_is_refused_with_what_the_kernel_says(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        mount(made, "/mnt", "tmpfs", "tmpfs", "nonsense=1")

    assert "nonsense" in oci.refused(bundle(tree, "true", change))


@pytest.mark.parametrize("cgroup_namespace", [True, False])
@pytest.mark.parametrize("options", [["ro"], []])
def test_cgroup_mount_shows_the_containers_own_group(
    oci: Oci, tree: Path, cgroup_namespace: bool, options: list[str]
) -> None:
    def change(made: Document) -> None:
        made["mounts"] = [entry for entry in made["mounts"] if entry["type"] != "cgroup"]
        mount(made, "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "nodev", "noexec", *options)
        if not cgroup_namespace:
            namespaces(made, cgroup=None)

    files = "$(find /sys/fs/cgroup -name cgroup.procs -maxdepth 2)"
    script = f"{INFO}; for p in {files}; do grep -qx 1 $p || echo not in $p; done;"
    script += f"for p in {files}; do mkdir ${{p%/*}}/new 2>/dev/null && echo made; done"
    lines = oci.run(bundle(tree, script, change)).lines
    found = mounts_in([line for line in lines if " - " in line])
    below = {path: line for path, line in found.items() if path.startswith("/sys/fs/cgroup")}
    assert any(line.type in {"cgroup", "cgroup2"} for line in below.values())
    assert not [line for line in lines if line.startswith("not in")]
    hierarchies = [line for line in below.values() if line.type in {"cgroup", "cgroup2"}]
    if options:
        assert all("ro" in line.options for line in hierarchies)
        assert "made" not in lines
    else:
        assert "made" in lines


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        (["ro", "nosuid", "nodev", "noexec"], {"ro", "nosuid", "nodev", "noexec", "relatime"}, set()),
        (["noatime"], {"noatime"}, {"relatime"}),
        (["nodiratime"], {"nodiratime"}, set()),
        (["strictatime"], set(), {"relatime", "noatime"}),
        (["nosymfollow"], {"nosymfollow"}, set()),
        (["ro", "rw", "nosuid", "suid"], {"rw"}, {"ro", "nosuid"}),
        (["defaults"], {"rw", "relatime"}, {"ro"}),
    ],
)
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_options_of_a_mount(
    oci: Oci, tree: Path, kind: str, options: list[str], there: set[str], absent: set[str]
) -> None:
    def change(made: Document) -> None:
        mount(made, "/mnt", kind, str(tree / "etc") if kind == "bind" else "tmpfs", *options)

    line = _mounts(oci, bundle(tree, INFO, change))["/mnt"]
    assert there <= line.options
    assert not absent & line.options


def test_bind_and_rbind_and_what_is_below(oci: Oci, tree: Path, tmp_path: Path, shared: Path) -> None:
    (shared / "below").mkdir()
    _command("mount", "-t", "tmpfs", "tmpfs", shared / "below")

    def change(made: Document) -> None:
        bind(made, shared, "/one", "bind", "ro")
        bind(made, shared, "/all", "rbind", "ro")
        bind(made, shared, "/recursive", "rbind", "rro", "rnosuid")

    found = _mounts(oci, bundle(tree, INFO, change))
    assert "/one/below" not in found
    assert "ro" in found["/one"].options
    assert "ro" in found["/all"].options
    assert "rw" in found["/all/below"].options
    assert {"ro", "nosuid"} <= found["/recursive"].options
    assert {"ro", "nosuid"} <= found["/recursive/below"].options


def test_bind_keeps_the_options_of_its_source_that_nobody_changed(oci: Oci, tree: Path, shared: Path) -> None:
    _command("mount", "-o", "remount,bind,nosuid,noexec", shared)

    def change(made: Document) -> None:
        bind(made, shared, "/same", "bind")
        bind(made, shared, "/changed", "bind", "exec", "ro")

    found = _mounts(oci, bundle(tree, INFO, change))
    assert {"nosuid", "noexec", "rw"} <= found["/same"].options
    assert {"nosuid", "ro"} <= found["/changed"].options
    assert "noexec" not in found["/changed"].options


def test_tmpfs_with_size_and_mode(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        mount(made, "/mnt", "tmpfs", "tmpfs", "size=64k", "mode=1710", "uid=5", "gid=6")

    script = (
        "stat -c '%a %u:%g' /mnt; dd if=/dev/zero of=/mnt/x bs=1k count=100 2>/dev/null || echo full; stat -c %s /mnt/x"
    )
    assert oci.output(bundle(tree, script, change)) == ["1710 5:6", "full", "65536"]


def test_tmpcopyup_holds_what_it_covers(oci: Oci, tree: Path) -> None:
    (tree / "data" / "sub").mkdir(parents=True)
    (tree / "data" / "file").write_text("x\n")
    (tree / "data" / "link").symlink_to("file")
    os.chown(tree / "data" / "file", 5, 6)
    (tree / "data").chmod(0o750)

    def change(made: Document) -> None:
        mount(made, "/data", "tmpfs", "tmpfs", "tmpcopyup")

    script = "stat -c '%n %a %u:%g' /data /data/file; readlink /data/link; cat /data/file; echo y >/data/file; ls /data"
    lines = oci.output(bundle(tree, script, change))
    assert lines[0].startswith("/data 750")
    assert lines[1:] == ["/data/file 644 5:6", "file", "x", "file", "link", "sub"]
    assert (tree / "data" / "file").read_text() == "x\n"


# -- targets ---------------------------------------------------------------------------------------------------------


def test_targets_are_made_where_they_are_missing(oci: Oci, tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_text("content\n")

    def change(made: Document) -> None:
        bind(made, source, "/a/b/file", "bind")
        bind(made, source, "/bin/there", "bind")
        bind(made, tmp_path, "/c/d", "rbind")
        mount(made, "/e/f/g", "tmpfs", "tmpfs")

    (tree / "bin" / "there").touch()
    script = "cat /a/b/file /bin/there /c/d/file; test -d /e/f/g && echo made"
    assert oci.output(bundle(tree, script, change)) == ["content", "content", "content", "made"]


def test_a_file_on_a_directory_and_a_missing_source_are_refused(oci: Oci, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = oci.refused(bundle(tree, "true", lambda made: bind(made, tmp_path / "file", "/bin")))
    assert "/bin" in said
    said = oci.refused(bundle(tree, "true", lambda made: bind(made, tmp_path / "nothing", "/mnt")))
    assert "nothing" in said
    assert "No such file or directory" in said


def test_links_in_the_root_lead_inside_of_it(oci: Oci, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "outside").mkdir()
    (tree / "real").mkdir()
    (tree / "link").symlink_to("/real")
    (tree / "escape").symlink_to(f"../../../../../../{tmp_path}/outside")

    def change(made: Document) -> None:
        bind(made, tmp_path / "source", "/link/below")
        bind(made, tmp_path / "source", "/escape/below")

    found = _mounts(oci, bundle(tree, INFO, change))
    assert "/real/below" in found
    assert not (tmp_path / "outside" / "below").exists()


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
def test_the_kernels_file_systems_are_mounted_through_no_link(oci: Oci, tree: Path, place: str) -> None:
    (tree / place).rmdir()
    (tree / place).symlink_to("/tmp")
    assert f"/{place}" in oci.refused(bundle(tree))


@pytest.mark.parametrize("destination", ["/a/../../x", "", "/"])
def test_destinations_that_make_no_sense_are_refused(oci: Oci, tree: Path, destination: str) -> None:
    oci.refused(bundle(tree, "true", lambda made: bind(made, "/etc", destination)))


def test_a_relative_source_is_the_bundles(oci: Oci, tree: Path) -> None:
    path = bundle(tree, "cat /data/x", lambda made: bind(made, "data", "/data"))
    (path / "data").mkdir()
    (path / "data" / "x").write_text("y\n")
    assert oci.output(path) == ["y"]


def test_later_mounts_lie_over_earlier_ones(oci: Oci, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("from the host\n")

    def change(made: Document) -> None:
        mount(made, "/mnt", "tmpfs", "tmpfs")
        bind(made, tmp_path / "x", "/mnt/sub/x", "bind")

    assert oci.output(bundle(tree, "cat /mnt/sub/x", change)) == ["from the host"]


# -- propagation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "field"),
    [("rprivate", ""), ("private", ""), ("rslave", "master:"), ("slave", "master:"), ("rshared", "shared:"),
     ("shared", "shared:"), ("unbindable", "unbindable"), ("runbindable", "unbindable")],
)  # fmt: skip
def test_propagation_is_as_asked_for(oci: Oci, tree: Path, shared: Path, word: str, field: str) -> None:
    line = _mounts(oci, bundle(tree, INFO, lambda made: bind(made, shared, "/mnt", "rbind", word)))["/mnt"]
    assert line.propagation.startswith(field) if field else line.propagation == ""


def test_private_is_the_default(oci: Oci, tree: Path, shared: Path) -> None:
    found = _mounts(oci, bundle(tree, INFO, lambda made: bind(made, shared, "/mnt")))
    assert {line.propagation for line in found.values()} == {""}


def test_mounts_of_the_host_reach_a_slave_and_none_come_back(oci: Oci, tree: Path, shared: Path) -> None:
    (shared / "late").mkdir()

    def change(made: Document) -> None:
        bind(made, shared, "/slave", "rbind", "rslave")
        bind(made, shared, "/private", "rbind", "rprivate")
        sets = made["process"]["capabilities"]
        for kind in sets:
            sets[kind] = [*sets[kind], "CAP_SYS_ADMIN"]

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        _command("mount", "-t", "tmpfs", "tmpfs", shared / "late")
        found = mounts_in(oci.inside(container_id, INFO))
        assert "/slave/late" in found
        assert "/private/late" not in found
        oci.inside(container_id, "mkdir /slave/mine; mount -t tmpfs tmpfs /slave/mine")
        assert str(shared / "mine") not in Path("/proc/self/mountinfo").read_text()


def test_mounts_in_a_shared_one_reach_the_host(oci: Oci, tree: Path, shared: Path) -> None:
    """With a shared rootfsPropagation, as engines ask for it: the container's mounts are peers of the host's then."""

    def change(made: Document) -> None:
        made["linux"]["rootfsPropagation"] = "rshared"
        bind(made, shared, "/shared", "rbind", "rshared")
        sets = made["process"]["capabilities"]
        for kind in sets:
            sets[kind] = [*sets[kind], "CAP_SYS_ADMIN"]

    with oci.running(bundle(tree, SLEEP, change)) as container_id:
        oci.inside(container_id, "mkdir /shared/mine; mount -t tmpfs tmpfs /shared/mine")
        assert str(shared / "mine") in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize(
    ("word", "field"),
    [("private", ""), ("rprivate", ""), ("slave", "master:"), ("rslave", "master:"), ("shared", "shared:"),
     ("rshared", "shared:"), ("unbindable", "unbindable"), ("runbindable", "unbindable")],
)  # fmt: skip
def test_rootfs_propagation(oci: Oci, shared: Path, tree: Path, word: str, field: str) -> None:
    """The root is on a shared mount, so that each word can be told from the others."""
    (shared / "root").mkdir()
    _command("cp", "-a", f"{tree}/.", shared / "root")
    made = document(shared / "root", INFO)
    made["linux"]["rootfsPropagation"] = word
    before = Path("/proc/self/mountinfo").read_text()
    line = _mounts(oci, write_bundle(tree.parent, made))["/"]
    if field == "master:":  # of its own mounts alone: the root itself is a private clone
        assert "shared:" not in line.propagation
    else:
        assert line.propagation.startswith(field) if field else line.propagation == ""
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("word", [None, "rslave", "rshared"])
def test_a_host_whose_mounts_are_shared_loses_none(oci: Oci, tree: Path, word: str | None) -> None:
    """As on every host with systemd: what is unmounted when the old root goes must not be unmounted there."""

    def change(made: Document) -> None:
        if word:
            made["linux"]["rootfsPropagation"] = word

    command = " ".join(oci.argv("run", "--bundle", bundle(tree, "true", change), new_id()))
    script = f"cat /proc/self/mountinfo >{tree}/before; {command}; cat /proc/self/mountinfo >{tree}/after"
    _command("unshare", "--mount", "--propagation", "shared", "sh", "-ec", script)
    assert (tree / "before").read_text().count("shared:") > 3
    assert (tree / "after").read_text() == (tree / "before").read_text()


def test_an_unknown_rootfs_propagation_is_refused(oci: Oci, tree: Path) -> None:
    def change(made: Document) -> None:
        made["linux"]["rootfsPropagation"] = "salve"

    assert "did you mean 'slave'" in oci.refused(bundle(tree, "true", change))


# -- ids -------------------------------------------------------------------------------------------------------------

MAPS = [{"containerID": 0, "hostID": 1000, "size": 10}]


def test_an_idmapped_bind_shows_and_stores_other_owners(oci: Oci, tree: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").touch()
    os.chown(data, 0, 0)
    os.chown(data / "file", 3, 3)

    def change(made: Document) -> None:
        bind(made, data, "/data", "bind", "idmap")
        made["mounts"][-1] |= {"uidMappings": MAPS, "gidMappings": MAPS}

    script = "stat -c %u:%g /data /data/file"
    assert oci.output(bundle(tree, script, change)) == ["1000:1000", "1003:1003"]


def test_idmap_without_maps_takes_the_containers(oci: Oci, tree: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").touch()
    os.chown(tree, 100000, 100000)

    def change(made: Document) -> None:
        map_ids(made)
        bind(made, data, "/data", "bind", "idmap")

    script = "stat -c %u:%g /data/file; touch /data/new; stat -c %u:%g /data/new"
    assert oci.output(bundle(tree, script, change)) == ["0:0", "0:0"]
    assert (data / "new").stat().st_uid == 0


def test_ridmap_reaches_what_is_below(oci: Oci, tree: Path, shared: Path) -> None:
    (shared / "below").mkdir()
    _command("mount", "-t", "tmpfs", "tmpfs", shared / "below")

    def change(made: Document) -> None:
        for place, word in (("/one", "idmap"), ("/all", "ridmap")):
            bind(made, shared, place, "rbind", word)
            made["mounts"][-1] |= {"uidMappings": MAPS, "gidMappings": MAPS}

    assert oci.output(bundle(tree, "stat -c %u /one /one/below /all /all/below", change)) == [
        "1000",
        "0",
        "1000",
        "1000",
    ]


def test_idmap_without_any_maps_is_refused(oci: Oci, tree: Path, tmp_path: Path) -> None:
    assert "needs mappings" in oci.refused(
        bundle(tree, "true", lambda made: bind(made, tmp_path, "/x", "bind", "idmap"))
    )


# -- overlay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [20, 300, 3000])
@pytest.mark.parametrize("writable", [True, False])
def test_overlay_with_layers_by_long_names(oci: Oci, tree: Path, tmp_path: Path, length: int, writable: bool) -> None:
    layers = []
    base = tmp_path
    while len(str(base)) + 60 < length // 2:
        base = base / ("d" * 50)
    for number in range(2):
        layer = base / f"layer{number}"
        layer.mkdir(parents=True)
        (layer / f"from{number}").touch()
        layers.append(layer)
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()

    def change(made: Document) -> None:
        upper = [f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work"] if writable else []
        mount(made, "/mnt", "overlay", "overlay", f"lowerdir={':'.join(map(str, layers))}", *upper)

    script = "ls /mnt; touch /mnt/new 2>/dev/null && echo written; true"
    assert oci.output(bundle(tree, script, change)) == ["from0", "from1", *(["written"] if writable else [])]
    assert (tmp_path / "upper" / "new").exists() == writable


def test_overlay_whose_options_need_more_than_a_page(oci: Oci, tree: Path, tmp_path: Path) -> None:
    layers = [tmp_path / f"{'x' * 100}{number}" for number in range(60)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"from{number:02}").touch()

    def change(made: Document) -> None:
        mount(made, "/mnt", "overlay", "overlay", f"lowerdir={':'.join(map(str, layers))}")

    assert oci.output(bundle(tree, "ls /mnt | wc -l", change)) == ["60"]


# -- the root --------------------------------------------------------------------------------------------------------


def test_a_read_only_root_with_writable_volumes(oci: Oci, tree: Path, tmp_path: Path) -> None:
    def change(made: Document) -> None:
        made["root"]["readonly"] = True
        bind(made, tmp_path, "/data")
        mount(made, "/tmp", "tmpfs", "tmpfs")

    script = "for d in / /bin /data /tmp /dev; do touch $d/x 2>/dev/null && echo $d; done; true"
    assert oci.output(bundle(tree, script, change)) == ["/data", "/tmp", "/dev"]
    assert (tmp_path / "x").exists()


def test_a_writable_root(oci: Oci, tree: Path) -> None:
    oci.output(bundle(tree, "echo x >/new"))
    assert (tree / "new").read_text() == "x\n"


def test_the_roots_path_is_relative_or_a_link_and_must_be_there(oci: Oci, tree: Path) -> None:
    def relative(made: Document) -> None:
        made["root"]["path"] = "rootfs"

    path = bundle(tree, "echo ran", relative)
    said = oci.refused(path)
    assert "rootfs" in said
    assert "No such file" in said
    (path / "rootfs").symlink_to(tree)
    assert oci.output(path) == ["ran"]


def test_the_old_root_is_gone(oci: Oci, tree: Path) -> None:
    lines = oci.output(bundle(tree, f"{INFO}; ls -a /"))
    found = mounts_in([line for line in lines if " - " in line])
    assert "/" in found
    assert not [path for path in found if path.startswith(("/work", "/tmp"))]
    assert "old_root" not in lines


# -- masked and read-only --------------------------------------------------------------------------------------------


def test_masked_file_and_directory_and_a_read_only_path(oci: Oci, tree: Path) -> None:
    (tree / "secret").mkdir()
    (tree / "secret" / "x").touch()
    (tree / "key").write_text("key\n")
    (tree / "kept").mkdir()

    def change(made: Document) -> None:
        made["linux"]["maskedPaths"] = ["/secret", "/key", "/missing"]
        made["linux"]["readonlyPaths"] = ["/kept", "/missing"]

    script = (
        "ls /secret; cat /key; exec 2>/dev/null; touch /secret/y && echo made; touch /kept/y && echo made; touch /free"
    )
    assert oci.output(bundle(tree, script, change)) == []
    assert (tree / "free").exists()
    assert not (tree / "missing").exists()


def test_the_examples_masked_and_read_only_paths(oci: Oci, tree: Path) -> None:
    script = (
        "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; cat /proc/keys | wc -l; exec 2>/dev/null;"
        "(echo 1 >/proc/sys/kernel/printk) && echo written; (echo x >/proc/sysrq-trigger) && echo written; true"
    )
    assert oci.output(bundle(tree, script)) == ["0", "0", "0"]


# -- the host --------------------------------------------------------------------------------------------------------


def test_the_host_sees_nothing_of_it(oci: Oci, tree: Path, tmp_path: Path) -> None:
    def change(made: Document) -> None:
        bind(made, tmp_path, "/a/b/c")
        mount(made, "/mnt", "overlay", "overlay", f"lowerdir={tree}/bin:{tree}/etc")

    before = Path("/proc/self/mountinfo").read_text()
    with oci.created(bundle(tree, SLEEP, change)) as container_id:
        assert Path("/proc/self/mountinfo").read_text() == before
        oci.ok("start", container_id)
        assert Path("/proc/self/mountinfo").read_text() == before
        oci.ok("kill", container_id, "KILL")
        until(lambda: oci.status(container_id) == "stopped")
    assert Path("/proc/self/mountinfo").read_text() == before
