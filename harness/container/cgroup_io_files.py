"""Which files hold `linux.resources.blockIO`: blkio.* of cgroup v1, io.* of v2. Pure.

Weights exist only with the schedulers BFQ (blkio.bfq.weight, io.bfq.weight), CFQ (blkio.weight, gone with Linux 5.0)
and iocost (io.weight); a kernel without any has no file, which is an error for whoever asked for a weight.

Source: Documentation/admin-guide/cgroup-v1/blkio-controller.rst, cgroup-v2.rst ("IO"), block/bfq-iosched.rst.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.container.cgroup_layout import Layout
from harness.container.cgroup_write import Version, Write, only_v1, version_of
from harness.container.errors import ContainerError
from harness.container.resources import BlockIo, Throttle


def writes(block: BlockIo, layout: Layout) -> tuple[Write, ...]:
    """Return what to write. Raises ContainerError for what this host has not, and for weights out of range."""
    throttles = _throttles(block)
    asked = [("blockIO.weight", bool(block.weight or block.leaf_weight or block.weight_devices))]
    asked += [(f"blockIO.{name}", any(limit.rate_per_s for limit in limits)) for name, _, _, limits in throttles]
    controller = "blkio" if layout.of("blkio") else "io"
    version = version_of(layout, controller, asked)
    if version is None:
        return ()
    return (
        *_weights("", block.weight, block.leaf_weight, version),
        *(
            write
            for device in block.weight_devices
            for write in _weights(f"{device.major}:{device.minor} ", device.weight, device.leaf_weight, version)
        ),
        *(
            _throttle(f"blockIO.{name}", v1, v2, limit, version)
            for name, v1, v2, limits in throttles
            for limit in limits
        ),
    )


def io_weight(weight: int) -> int:
    """Return the io.weight (1..10000) of a blkio.weight (10..1000), as runc and crun convert it."""
    return 1 + (weight - 10) * 9999 // 990


def _weights(device: str, weight: int | None, leaf_weight: int | None, version: Version) -> Iterator[Write]:
    """`device` is empty for the group's own weight, else "major:minor "; 0 is "not said"."""
    resource = "blockIO.weightDevice" if device else "blockIO.weight"
    for name, value in ((resource, weight), (resource.replace("weight", "leafWeight"), leaf_weight)):
        if value and not 10 <= value <= 1000:
            raise ContainerError("cgroup", 0, f"{name}: {device}{value}: not between 10 and 1000")
    suffix = "_device" if device else ""
    if weight and version == 1:
        line = f"{device}{weight}"
        yield Write("blkio", f"blkio.bfq.weight{suffix}", line, resource, instead=(f"blkio.weight{suffix}", line))
    if weight and version == 2:
        instead = ("io.weight", f"{device or 'default '}{io_weight(weight)}")
        yield Write("io", "io.bfq.weight", f"{device or 'default '}{weight}", resource, instead=instead)
    if leaf_weight:
        if version == 2:
            raise only_v1(resource.replace("weight", "leafWeight"))
        yield Write("blkio", f"blkio.leaf_weight{suffix}", f"{device}{leaf_weight}", "blockIO.leafWeight")


def _throttles(block: BlockIo) -> tuple[tuple[str, str, str, Sequence[Throttle]], ...]:
    """Return (field, word of the file of v1, key of io.max, limits)."""
    return (
        ("throttleReadBpsDevice", "read_bps", "rbps", block.read_bytes),
        ("throttleWriteBpsDevice", "write_bps", "wbps", block.write_bytes),
        ("throttleReadIOPSDevice", "read_iops", "riops", block.read_operations),
        ("throttleWriteIOPSDevice", "write_iops", "wiops", block.write_operations),
    )


def _throttle(resource: str, v1: str, v2: str, limit: Throttle, version: Version) -> Write:
    """A rate of 0 is none: so v1 has it, and v2 says "max"."""
    device = f"{limit.major}:{limit.minor}"
    if version == 1:
        return Write("blkio", f"blkio.throttle.{v1}_device", f"{device} {limit.rate_per_s}", resource)
    return Write("io", "io.max", f"{device} {v2}={limit.rate_per_s or 'max'}", resource)
