"""The command lines of other runtimes: each asks for the same limits, mounts, network, and the agent as pid 1."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.backends import _oci, _peer, bwrap, containerd, docker, nspawn, podman
from harness.interfaces import ArmSpec
from harness.model.spec import Limits, MountSpec, RootTree, WorkloadSpec

MOUNTS = (
    MountSpec("volume", "/data", "data", size_bytes=1 << 20),
    MountSpec("bind", "/given", "/srv/given", read_only=True),
    MountSpec("tmpfs", "/mem", size_bytes=4096),
)
SPEC = ArmSpec("peer", RootTree(Path("/tree"), "sha256:0", 0), WorkloadSpec(("/bin/true",)), Limits(1.5, 64 << 20, 32),
               mounts=MOUNTS)  # fmt: skip
START = _peer.Start(
    "harness-t-b0", Path("/s"), Path("/s/d"), Path("/s/r/root"), "/proc/1/fd/9", {"data": Path("/v/data")}
)
AGENT = ["--connect", "/.harness/socket"]


def ground(network: str) -> Any:
    """What the functions read of a `_peer.Ground`."""
    return SimpleNamespace(
        spec=SPEC, limits=SPEC.limits, network=network, parent="/harness-t", context=SimpleNamespace(token="t")
    )


def pairs(words: list[str], key: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == key]


def test_docker_is_asked_for_the_same_in_both_of_its_languages() -> None:
    wanted = docker.Wanted("image", grouped=True, runtime="crun")
    document = docker.create_document(ground("none"), START, wanted)
    words = docker.run_words(ground("none"), START, wanted)
    host = document["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 64 << 20, 1.5e9, 32)
    assert [pairs(words, f"--{key}") for key in ("memory", "memory-swap", "cpus", "pids-limit")] == [
        ["67108864"], ["67108864"], ["1.5"], ["32"],
    ]  # fmt: skip
    assert host["CgroupParent"] == pairs(words, "--cgroup-parent")[0] == "/harness-t"
    assert host["Runtime"] == pairs(words, "--runtime")[0] == "crun"
    assert [(mount["Source"], mount["ReadOnly"]) for mount in host["Mounts"]] == [
        ("/s/d", True), ("/v/data", False), ("/srv/given", True),
    ]  # fmt: skip
    assert pairs(words, "--mount")[1:] == [
        "type=bind,source=/v/data,target=/data", "type=bind,source=/srv/given,target=/given,readonly",
    ]  # fmt: skip
    assert list(host["Tmpfs"]) == ["/mem"]
    assert document["Cmd"] == words[-2:] == AGENT


@pytest.mark.parametrize(("network", "wanted"), [("none", "none"), ("host", "host"), ("bridge", "ns:/proc/1/fd/9")])
def test_podman_joins_the_network_that_is_asked_for(network: str, wanted: str) -> None:
    start = (
        START if network == "bridge" else _peer.Start("n", Path("/s"), Path("/s/d"), Path("/r"), None, START.volumes)
    )
    words = podman.run_words(ground(network), start, "image", podman.Options())
    assert pairs(words, "--network") == [wanted]
    assert ("--hostname" in words) == (network != "host")
    assert pairs(words, "--memory-swap") == ["67108864"]


def test_podman_without_privileges_leaves_the_limits_to_the_group_around_it() -> None:
    words = podman.run_words(ground("none"), START, "image", podman.Options(user="alice"))
    assert pairs(words, "--cgroups") == ["disabled"]
    assert not {"--memory", "--pids-limit", "--cgroup-parent"} & set(words)


def test_nspawn_and_bwrap_end_with_the_agent_and_mount_in_order() -> None:
    theirs = nspawn.argv(SPEC, "bridge", START, ["--read-only"])
    assert theirs[-3:] == ["/.harness/agent", *AGENT]
    assert "--network-namespace-path=/proc/1/fd/9" in theirs
    assert "--tmpfs=/mem:mode=1777,size=4096" in theirs
    assert "--bind-ro=/srv/given:/given" in theirs
    words = bwrap.argv(SPEC, "none", START, [])
    assert words[-3:] == ["/.harness/agent", *AGENT]
    assert "--unshare-net" in words
    assert words.index("/data") < words.index("/given") < words.index("/mem") < words.index("/.harness")


def test_ctr_gets_a_group_below_ours_since_it_cannot_limit_processes() -> None:
    words = containerd.run_words(ground("host"), START, "image", [])
    assert pairs(words, "--cgroup") == ["/harness-t/s/c"]
    assert "--net-host" in words
    assert pairs(words, "--mount")[1] == "type=bind,src=/v/data,dst=/data,options=rbind:rw"


def test_a_bundle_has_the_limits_and_the_built_in_containers_security() -> None:
    document = _oci.config(["/agent"], SPEC.limits, "/harness-t/b0", _oci.seccomp_document("x86_64"))
    assert document["linux"]["resources"]["memory"] == {"limit": 64 << 20, "swap": 64 << 20}
    assert document["linux"]["resources"]["cpu"]["quota"] == 150_000
    assert len(document["process"]["capabilities"]["bounding"]) == 14
    assert _oci.namespaces("bridge", "/proc/1/fd/9")[-1] == {"type": "network", "path": "/proc/1/fd/9"}
    assert {"type": "network"} not in _oci.namespaces("host", None)


def test_where_docker_keeps_its_images_is_asked_of_its_containerd_where_it_leaves_them_to_it() -> None:
    """As GET /info answers in API v1.44 and v1.47 with the containerd image store, and with overlay2."""
    usual = Path("/run/engine/containerd/containerd.sock")
    status = [["driver-type", "io.containerd.snapshotter.v1"]]
    assert docker.containerd_store({"Driver": "overlay2", "DriverStatus": [["Supports d_type", "true"]]}, usual) is None
    assert docker.containerd_store({"Driver": "vfs", "DriverStatus": None}, usual) is None
    found = docker.containerd_store({"Driver": "overlayfs", "DriverStatus": status}, usual)
    assert found == docker.Store(usual, "moby", "overlayfs")
    told = {"Address": "/run/c.sock", "Namespaces": {"Containers": "mine", "Plugins": "plugins.moby"}}
    found = docker.containerd_store({"Driver": "stargz", "DriverStatus": status, "Containerd": told}, usual)
    assert found == docker.Store(Path("/run/c.sock"), "mine", "stargz")
