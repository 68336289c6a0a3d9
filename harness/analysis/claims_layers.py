"""The text's statements on layers and storage, held against a run that measured them.

Each function returns its row, or None where the run has nothing on it. The text speaks of containers alone; what the
run shows of VMs beside them stands in their column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harness.analysis.evidence import Evidence, Row, contrast, times
from harness.analysis.statistics import EQUIVALENCE_MARGIN, Estimate
from harness.model.records import RunRecord, TrialRecord
from harness.model.report import Cell, Claim, Verdict
from harness.model.units import format_bytes

EFFICIENCY = "Layers: efficiency"
CHANGES = "Layers: changes"
CACHING = "Layers: caching"
OVERLAYFS = "OverlayFS"
AUFS = "aufs"
DEVICE_MAPPER = "Device Mapper"
VOLUMES = "Volumes"
BINDS = "Bind mounts"

STATEMENTS: Mapping[str, str] = {
    EFFICIENCY: "layers are shared between containers, which saves storage",
    CHANGES: "a change does not need the whole image to be built anew",
    CACHING: "layers are kept in a cache, which makes builds quicker",
    OVERLAYFS: "joins several layers to one file system",
    AUFS: "supports layers, is less common",
    DEVICE_MAPPER: "manages storage by blocks",
    VOLUMES: "data lives in storage of its own, apart from the container's layer",
    BINDS: "a directory of the host appears in the container",
}
"""The rows in the order of the text, and what each says of containers."""

_NOTHING_ON_VMS = ""
_FEW = "fewer than 6 blocks hold both values: no interval, no verdict"
_DISK = "layers.disk"
_BUILD = "build.duration"
_FIRST_WRITE = "storage.first_write.4k"


def layer_claims(run: RunRecord, trials: Sequence[TrialRecord], cells: Sequence[Cell]) -> tuple[Claim, ...]:
    """Return the rows on layers and storage that a run has something on."""
    evidence = Evidence(run, trials, cells)
    found = ((feature, _ROWS[feature](evidence)) for feature in STATEMENTS)
    return tuple(row.claim(feature, ("", STATEMENTS[feature])) for feature, row in found if row is not None)


def _judged(ratio: Estimate | None, said: str) -> tuple[Verdict, str]:
    """Return the verdict on `more than 1`: beyond what counts as the same, with the interval's lower end."""
    if ratio is None or ratio.lo is None or ratio.hi is None:
        return "not shown", _FEW
    limit = 1 + EQUIVALENCE_MARGIN
    if ratio.lo > limit:
        return "holds", f"{said} {times(ratio)}"
    if ratio.hi < limit:
        return "fails", f"{said} only {times(ratio)}"
    return "not shown", f"{said} {times(ratio)}: undecided"


def _efficiency(found: Evidence) -> Row | None:
    layers, flat = found.arm(form="layers"), found.arm(form="flattened")
    if layers is None or flat is None:
        return None
    count = found.facts(layers).get("images")
    ratio = found.ratio(flat, layers, _DISK)
    verdict, reason = _judged(ratio, "without shared layers the images take")
    cached = {arm: found.text(arm, "layers.cache.second") for arm in (layers, flat)}
    container = (
        f"{count} images on one base: {found.text(layers, _DISK)} with shared layers, {found.text(flat, _DISK)} "
        f"without; a second container reading the base adds {cached[layers]} to the page cache, not {cached[flat]}"
    )
    disks = [f"{name} {found.text(name, _DISK)}" for name in found.arms(side="vm") if found.median(name, _DISK)]
    remark = "disks of VMs share a base as well (qcow2, a disk for each layer): sharing is no privilege of containers"
    return Row(
        f"disks of {count} VMs: {', '.join(disks)}" if disks else _NOTHING_ON_VMS,
        container,
        verdict,
        f"{reason} the disk" if verdict == "holds" else reason,
        remark if disks else "",
        (disks[-1] if disks else "", f"{found.text(layers, _DISK)}, not {found.text(flat, _DISK)}"),
        contrast(f"{_DISK}, flattened / shared layers", ratio),
    )


def _steps(found: Evidence, arm: str | None) -> str:
    made, kept = (found.median(arm, f"build.steps.{name}") for name in ("run", "cached"))
    if made is None or kept is None:
        return found.text(arm, _BUILD)
    return f"{found.text(arm, _BUILD)}, {made:g} of {made + kept:g} steps made"


def _changes(found: Evidence) -> Row | None:
    arms = {change: found.arm(change=change, engine="harness") for change in ("cold", "top", "middle", "end")}
    if arms["cold"] is None or arms["end"] is None:
        return None
    ratio = found.ratio(arms["cold"], arms["end"], _BUILD)
    verdict, reason = _judged(ratio, "building all of it takes")
    parts = [f"{change}: {_steps(found, arm)}" for change, arm in arms.items() if arm is not None]
    top, total = found.median(arms["top"], "build.steps.run"), found.median(arms["cold"], "build.steps.run")
    remark = "a change of the first line does build all of it anew" if top is not None and top == total else ""
    reason = f"{reason} as long as after a change of its last line" if verdict == "holds" else reason
    short = f"{found.text(arms['end'], _BUILD)}, all anew {found.text(arms['cold'], _BUILD)}"
    effect = contrast(f"{_BUILD}, all anew / last line changed", ratio)
    said = f"one changed line; {'; '.join(parts)}"
    return Row(_NOTHING_ON_VMS, said, verdict, reason, remark, ("", short), effect)


def _caching(found: Evidence) -> Row | None:
    cold = found.arm(change="cold", engine="harness")
    warm = found.arm(change="none", engine="harness")
    if cold is None or warm is None:
        return None
    ratio = found.ratio(cold, warm, _BUILD)
    verdict, reason = _judged(ratio, "a build without the cache takes")
    others = [
        f"{engine}: {found.text(found.arm(change='none', engine=engine), _BUILD)}"
        for engine in ("docker", "podman")
        if found.median(found.arm(change="none", engine=engine), _BUILD) is not None
    ]
    container = f"cold {_steps(found, cold)}; unchanged {_steps(found, warm)}"
    reason = f"{reason} as long" if verdict == "holds" else reason
    remark = f"unchanged, by {', '.join(others)}" if others else ""
    short = f"{found.text(warm, _BUILD)}, without {found.text(cold, _BUILD)}"
    effect = contrast(f"{_BUILD}, without cache / unchanged", ratio)
    return Row(_NOTHING_ON_VMS, container, verdict, reason, remark, ("", short), effect)


def _driver(found: Evidence, driver: str) -> Row | None:
    """A driver of the study `storage`: it works where it was measured, and says why not elsewhere."""
    arm = found.arm(driver=driver)
    if arm is None:
        return None
    facts = found.facts(arm)
    where = "in a guest" if facts.get("in") == "guest" else "on this host"
    if found.median(arm, "driver.mount") is None:
        return Row(_NOTHING_ON_VMS, f"{driver}: not measured {where}", "not shown", found.text(arm, "driver.mount"))
    names = {"prepare": "prepared in", "mount": "mounted in", "copy_up.1m": "first write to a file of 1 MiB"}
    parts = [f"{word} {found.text(arm, f'driver.{name}')}" for name, word in names.items()]
    overlay = found.arm(driver="overlay")
    ratio = found.ratio(arm, overlay, "driver.copy_up.1m") if arm != overlay else None
    remark = f"that first write takes {times(ratio)} as long as with OverlayFS there" if ratio else ""
    depth = facts.get("depth")
    reason = f"a writable layer on {depth} others was one root, written to, {where}"
    short = f"mounted in {found.text(arm, 'driver.mount')}"
    effect = contrast(f"driver.copy_up.1m, {driver} / overlay", ratio)
    return Row(_NOTHING_ON_VMS, f"{driver}: {', '.join(parts)}", "holds", reason, remark, ("", short), effect)


def _overlay(found: Evidence) -> Row | None:
    """OverlayFS: of the study of drivers, or of containers whose workload wrote to their root, beside other drivers."""
    return _driver(found, "overlay") or _written_roots(found)


def _written_roots(found: Evidence) -> Row | None:
    texts: dict[str, list[str]] = {"container": [], "vm": []}
    overlays = [name for name in found.run.runtimes if _is_overlay(found, name)]
    if not overlays:
        return None
    for name in found.run.runtimes:
        boundary, storage = str(found.facts(name).get("boundary")), found.facts(name).get("storage")
        driver = storage.get("driver") if isinstance(storage, dict) else storage
        elsewhere = found.facts(name).get("mounts")  # what it wrote to may have been one of these
        if boundary not in texts or driver is None or elsewhere or found.median(name, _FIRST_WRITE) is None:
            continue
        sizes = [f"{size} {found.text(name, f'storage.first_write.{size}')}" for size in ("4k", "1m", "16m")]
        texts[boundary].append(f"{name}: {', '.join(sizes)}")
    words = {side: f"first write to a file by its size: {'; '.join(parts)}" for side, parts in texts.items() if parts}
    reason = "the layers and a writable one above them were one root, and the workload wrote to it"
    disk = next((name for name in found.arms(boundary="vm") if found.median(name, _FIRST_WRITE) is not None), None)
    short = tuple(f"copy-up of 4 KiB {found.text(arm, _FIRST_WRITE)}" if arm else "" for arm in (disk, overlays[0]))
    vm = words.get("vm", "not measured in a VM")
    return Row(vm, words["container"], "holds", reason, short=(short[0], short[1]))


def _is_overlay(found: Evidence, name: str) -> bool:
    """Whether an arm is a container whose root is the built-in runtime's overlay, and which wrote to that root."""
    facts = found.facts(name)
    storage = facts.get("storage")
    driver = storage.get("driver") if isinstance(storage, dict) else storage
    wrote = not facts.get("mounts") and found.median(name, _FIRST_WRITE) is not None
    return facts.get("boundary") == "container" and driver == "overlay" and wrote


def _mounted(found: Evidence, kind: str, container_reason: str) -> Row | None:
    """A kind of mount that a workload wrote to: beside the writable layer, and in a VM."""
    sides: dict[str, list[str]] = {"container": [], "vm": []}
    for name in found.run.runtimes:
        facts = found.facts(name)
        kinds = {str(mount.get("type")) for mount in facts.get("mounts") or [] if isinstance(mount, dict)}
        boundary = str(facts.get("boundary"))
        if boundary in sides and kind in kinds and found.median(name, _FIRST_WRITE) is not None:
            sides[boundary].append(name)
    if not sides["container"]:
        return None
    texts = {
        side: "; ".join(f"{name}: first write of 4 KiB {found.text(name, _FIRST_WRITE)}" for name in names)
        for side, names in sides.items()
    }
    first, layer = sides["container"][0], next((name for name in found.run.runtimes if _is_overlay(found, name)), None)
    short = tuple(f"first write {found.text(own[0], _FIRST_WRITE)}" if own else "" for own in (sides["vm"], [first]))
    effect = contrast(f"{_FIRST_WRITE}, {first} / writable layer", found.ratio(first, layer, _FIRST_WRITE))
    vm = texts["vm"] or "not measured in a VM"
    return Row(vm, texts["container"], "holds", container_reason, "", (short[0], short[1]), effect)


_ROWS: Mapping[str, Callable[[Evidence], Row | None]] = {
    EFFICIENCY: _efficiency,
    CHANGES: _changes,
    CACHING: _caching,
    OVERLAYFS: _overlay,
    AUFS: lambda found: _driver(found, "aufs"),
    DEVICE_MAPPER: lambda found: _driver(found, "devicemapper"),
    VOLUMES: lambda found: _mounted(
        found, "volume", "the same program wrote its files to a volume, outside the writable layer"
    ),
    BINDS: lambda found: _mounted(found, "bind", "the same program wrote its files to a directory of the host"),
}


def shipped(run: RunRecord, trials: Sequence[TrialRecord], cells: Sequence[Cell], texts: tuple[str, str]) -> Claim:
    """Return the row on portability, with its two texts, of a run that moved an image.

    The smallest form of each side stands for it: nobody ships a larger one.
    """
    found, size = Evidence(run, trials, cells), "portability.bytes"
    smallest = {
        side: min(names, key=lambda name: found.median(name, size) or 0)
        for side in ("vm", "container")
        if (names := [name for name in found.arms(side=side) if found.median(name, size) is not None])
    }
    moved = {side: _moved(found, name) for side, name in smallest.items()}
    vm, container = moved.get("vm", "no VM was moved"), moved.get("container", "no image was moved")
    if len(smallest) < 2:
        return Claim("Portability", *texts, vm, container, "not shown", "both sides of the comparison are needed")
    ratio = found.ratio(smallest["vm"], smallest["container"], size)
    verdict, reason = _judged(ratio, "the VM ships")
    return Row(
        vm,
        container,
        verdict,
        f"{reason} the bytes" if verdict == "holds" else reason,
        "a container is not independent of the platform: it needs a Linux kernel and the CPU it was made for",
        (found.text(smallest["vm"], size), found.text(smallest["container"], size)),
        contrast(f"{size}, VM / container", ratio),
    ).claim("Portability", texts)


def _moved(found: Evidence, arm: str) -> str:
    parts = {"export": "packed in", "import": "unpacked in", "first": "first start in"}
    times_ = ", ".join(f"{word} {found.text(arm, f'portability.{name}')}" for name, word in parts.items())
    needs = found.cell(arm, "portability.needs")
    names = needs.labels.get("names", "") if needs else ""
    accelerator = found.facts(arm).get("accelerator")
    label = f"{arm} ({accelerator})" if accelerator else arm
    size = found.median(arm, "portability.bytes") or 0
    return f"{label}: {format_bytes(size)} to ship, {times_}; needs {names or 'not recorded'}"
