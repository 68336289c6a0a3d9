"""Named volumes, options of mounts by hand, disks of many files: what needs neither root nor a kernel feature."""

import json
import os

import pytest

from harness.engine import idmap, request
from harness.engine.record import Shelf
from harness.engine.request import MountWish
from harness.engine.volumes import prune, remove, users
from harness.errors import BackendError, UsageError
from harness.images import trial_volumes
from harness.images.collection import collect
from harness.images.layer_disks import descriptor_text
from harness.images.store import Store
from harness.images.volumes import Volumes, used_bytes
from harness.model.spec import MountSpec


@pytest.fixture
def volumes(tmp_path):
    return Volumes(tmp_path)


def test_a_volume_is_made_once_and_keeps_its_labels(volumes):
    made = volumes.create("app-data", {"for": "test"})
    assert made.path.is_dir()
    assert made.created is not None
    assert volumes.create("app-data") == made == volumes.find("app-data")
    with pytest.raises(UsageError, match="volume: app-data: is there, with other labels"):
        volumes.create("app-data", {"for": "another"})


@pytest.mark.parametrize("name", ["", "-x", "a/b", "..", ".hidden", "a b", "x" * 256])
def test_bad_names_are_refused(volumes, name):
    with pytest.raises(UsageError, match="volume: "):
        volumes.create(name)
    with pytest.raises(UsageError, match="no such volume"):
        volumes.find(name)


def test_an_unknown_volume_is_told_with_the_nearest(volumes):
    volumes.create("app-data")
    with pytest.raises(UsageError, match="volume: app-dat: no such volume; did you mean 'app-data'"):
        volumes.find("app-dat")


def test_a_directory_without_a_record_is_a_volume_too(volumes):
    (volumes.path / "old").mkdir(parents=True)
    (volume,) = volumes.all()
    assert (volume.name, volume.created, volume.labels) == ("old", None, {})


def test_an_empty_volume_gets_what_the_image_has_there_whatever_links_lead_to_it(volumes, tmp_path):
    tree = tmp_path / "tree"
    (tree / "srv" / "real").mkdir(parents=True)
    (tree / "srv" / "real" / "f").write_text("x")
    (tree / "srv" / "real").chmod(0o750)
    (tree / "data").symlink_to("/srv/real")
    volume = volumes.create("v")
    assert volumes.fill("v", tree, "/data")
    assert (volume.path / "f").read_text() == "x"
    assert volume.path.stat().st_mode & 0o777 == 0o750
    (tree / "srv" / "real" / "f").write_text("y")
    assert not volumes.fill("v", tree, "/data"), "it is not empty any more"
    assert (volume.path / "f").read_text() == "x"


def test_a_link_out_of_the_image_leads_nowhere(volumes, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("k")
    (tree / "data").symlink_to(tmp_path / "secret")
    (tree / "up").symlink_to("../secret")
    volume = volumes.create("v")
    assert not volumes.fill("v", tree, "/data")
    assert not volumes.fill("v", tree, "/up")
    assert list(volume.path.iterdir()) == []


def test_used_bytes_count_a_file_of_two_names_once(tmp_path):
    empty = used_bytes(tmp_path)
    (tmp_path / "a").write_bytes(bytes(range(256)) * 256)
    once = used_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert once - empty >= 64 << 10
    assert used_bytes(tmp_path) == once


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A shelf with a stopped container `keeper` that uses the volume `data`, and two volumes that nobody uses."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "run"))
    found = Shelf()
    for name in ("data", "spare"):
        found.volumes.create(name)
    found.volumes.create("f00d", anonymous=True)
    home = found.path / "0123456789ab"
    home.mkdir(parents=True)
    mount = {"type": "bind", "source": str(found.volumes.path / "data"), "destination": "/d"}
    (home / "config.json").write_text(json.dumps({"mounts": [{"type": "proc"}, mount]}))
    return found


def test_a_volume_that_a_container_uses_stays(shelf):
    assert [(user.container, user.target) for user in users(shelf)["data"]] == [("0123456789ab", "/d")]
    with pytest.raises(UsageError, match="volume: data: is used by 0123456789ab"):
        remove(shelf, "data")
    remove(shelf, "spare")
    assert [volume.name for volume in shelf.volumes.all()] == ["data", "f00d"]


def test_prune_takes_what_has_no_name_unless_it_is_told_otherwise(shelf):
    assert [volume.name for volume in prune(shelf, named=False)] == ["f00d"]
    assert [volume.name for volume in prune(shelf, named=True)] == ["spare"]
    assert [volume.name for volume in shelf.volumes.all()] == ["data"]


# -- options of mounts -----------------------------------------------------------------------------------------------


def test_idmap_ranges_are_mappings_of_config_json():
    assert idmap.mappings("idmap=uids=0-1000-1#1-2000-9;gids=5-6-7") == {
        "uidMappings": [
            {"containerID": 0, "hostID": 1000, "size": 1},
            {"containerID": 1, "hostID": 2000, "size": 9},
        ],
        "gidMappings": [{"containerID": 5, "hostID": 6, "size": 7}],
    }
    same = idmap.mappings("idmap=uids=0-1000-1")
    assert same["gidMappings"] == same["uidMappings"]


@pytest.mark.parametrize(
    "text", ["idmap", "idmap=", "idmap=uids=0-1", "idmap=uids=0-1-0", "idmap=uids=a-b-c", "idmap=pids=0-1-1",
             "idmap=uids=0-1-1;uids=0-1-1", "idmap=uids=4294967290-0-10"],
)  # fmt: skip
def test_bad_idmaps(text):
    with pytest.raises(UsageError, match="idmap"):
        request.parse_volume(f"/a:/b:{text}")


def test_the_long_form_knows_what_belongs_to_which_type():
    assert request.parse_mount("type=volume,src=v,dst=/b,volume-nocopy") == MountWish("volume", "v", "/b", ("nocopy",))
    assert request.parse_mount("type=bind,src=/a,dst=/b,bind-propagation=rslave").options == ("rslave",)
    for text in ("type=bind,src=/a,dst=/b,volume-nocopy", "src=v,dst=/b,bind-propagation=rslave",
                 "src=v,dst=/b,tmpfs-size=1m", "type=tmpfs,dst=/b,idmap=uids=0-1-1"):  # fmt: skip
        with pytest.raises(UsageError, match="is for type="):
            request.parse_mount(text)
    with pytest.raises(UsageError, match="propagation 'rslav' is unknown; did you mean 'rslave'"):
        request.parse_mount("type=bind,src=/a,dst=/b,bind-propagation=rslav")


# -- disks of many files ---------------------------------------------------------------------------------------------


def test_a_descriptor_names_the_layers_in_order_and_their_sizes_in_sectors(tmp_path):
    files = [tmp_path / name for name in ("base.erofs", "top.erofs")]
    for file, size in zip(files, (8192, 4096), strict=True):
        file.write_bytes(bytes(size))
    lines = [line for line in descriptor_text(files).splitlines() if line.startswith("RW ")]
    assert lines == [f'RW 16 FLAT "{files[0]}" 0', f'RW 8 FLAT "{files[1]}" 0']


def test_disks_whose_tree_or_layer_is_gone_are_collected(tmp_path):
    store = Store(tmp_path)
    disks = store.path / "disks"
    for name in ("aa.erofs", "aa.vmdk", "bb.ext4"):
        (disks / name).touch()
    (disks / "bb.chain").mkdir()
    (disks / "bb.chain" / "001").touch()
    collect(store)
    assert list(disks.iterdir()) == []


# -- volumes of a trial ----------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    return trial_volumes.place_of("0123abcd", "b00-vm")


def test_disks_of_a_trial_are_copies_and_go_with_it(place, tmp_path):
    template = tmp_path / "template"
    template.write_bytes(bytes(8192) + b"end")
    made = trial_volumes.make_disks(place, {"data": template})
    assert made == {"data": place / "data.ext4"}
    assert made["data"].read_bytes() == template.read_bytes()
    assert trial_volumes.tokens() == {"0123abcd"}
    assert trial_volumes.reap("0123abcd", dry_run=True) == [f"volumes: {place}"]
    trial_volumes.remove(place)
    assert trial_volumes.tokens() == set()
    trial_volumes.remove(place)


def test_of_a_failure_nothing_is_left_and_the_trial_says_why(place, tmp_path):
    template = tmp_path / "template"
    template.touch()
    with pytest.raises(BackendError, match=r"volume: .*no-such"):
        trial_volumes.make_disks(place, {"data": template, "more": tmp_path / "no-such"})
    assert trial_volumes.tokens() == set()


def test_directories_of_a_trial_are_of_the_workloads_user(place):
    mounts = [MountSpec("volume", "/a", "data"), MountSpec("volume", "/b", "data", read_only=True)]
    owner = trial_volumes.Owner(os.getuid(), os.getgid())
    (path,) = trial_volumes.make_directories(place, mounts, owner).values()
    assert path == place / "data"
    with pytest.raises(BackendError, match=r"volume: .*File exists"):
        trial_volumes.make_directories(place, mounts, owner)
