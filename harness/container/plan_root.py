"""The part of a plan that makes the root: layers or a directory, mounts, devices, what is hidden."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.container import syscalls
from harness.container.defaults import DEVICE_LINKS, DEVICE_NODES
from harness.container.errors import ContainerError
from harness.container.spec import ContainerSpec, Detached, Device, Directory, IdMap, Mount, Overlay
from harness.container.step import Step, call

_KERNELS = ("/proc", "/sys", "/dev")
"""Where no link may lead: what is written there is meant for the kernel (CVE-2019-19921, CVE-2023-27561)."""
_MAX_SOURCES = 256  # SOURCES_MAX of csrc/launch/launch.h
_WORKSPACE = (("upper", "0755"), ("work", "0700"), ("root", "0755"))
_AT_FDCWD = -100
_OPTION_MAX = 255  # bytes, the longest that fsconfig(2) takes
_PAGE_BYTES = 3900  # of options that mount(2) takes, with room for what we add
_OVERLAY = "index=off,metacopy=off,redirect_dir=off,xino=off"
"""index and metacopy tie an upper directory to its first lower ones; none of them may differ between two arms."""


def inside(path: str) -> str:
    """Return a path of the container relative to its root. Raises ContainerError for `..` and the root itself."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or not parts:
        raise ContainerError("plan", 0, f"{path}: not a plain path below /")
    return "/".join(parts)


def map_text(maps: Sequence[IdMap]) -> str:
    """Return the lines of uid_map or gid_map, as the kernel reads them (user_namespaces(7))."""
    return "".join(f"{entry.inside} {entry.outside} {entry.size}\n" for entry in maps)


# -- what the caller's own privileges must open ----------------------------------------------------------------------


class _Sources:
    """Detached clones that are made before the clone: those with mapped ids, and all where the root of a user
    namespace, whose maker has privileges, may not be able to reach the host's paths."""

    def __init__(self, spec: ContainerSpec, *, rootless: bool) -> None:
        self.steps: list[Step] = []
        self._all = spec.has("user") and not rootless

    def name(self, path: str, *, recursive: str, maps: tuple[str, str] | None = None) -> str:
        """Return what later steps take for the path: itself, or `#N`. Raises ContainerError for too many.

        `recursive` is the word of `source`: `recursive`, `top` where the ids of the topmost mount alone are mapped.
        """
        if not self._all and maps is None:
            return path
        if len(self.steps) == _MAX_SOURCES:
            raise ContainerError("plan", 0, f"{path}: more than {_MAX_SOURCES} binds")
        words = (path, recursive, *(maps or ()))
        self.steps.append(Step("source", (str(len(self.steps)), *words)))
        return f"#{len(self.steps) - 1}"


def _maps_of(mount: Mount, spec: ContainerSpec) -> tuple[str, str] | None:
    if mount.uid_maps:
        return map_text(mount.uid_maps), map_text(mount.gid_maps)
    return (map_text(spec.uid_maps), map_text(spec.gid_maps)) if mount.idmap else None


# -- mounts ----------------------------------------------------------------------------------------------------------


def _bind(mount: Mount, spec: ContainerSpec, sources: _Sources) -> Step:
    depth = "" if not mount.recursive else "top" if mount.idmap == "idmap" else "recursive"
    source = sources.name(mount.source, recursive=depth, maps=_maps_of(mount, spec))
    attrs = (mount.attrs, mount.clear, mount.recursive_attrs, mount.recursive_clear)
    propagation = mount.propagation[-1] if mount.propagation else 0
    words = (source, inside(mount.destination), "recursive" if mount.recursive else "")
    return Step("bind", (*words, *map(hex, attrs), hex(propagation)))


def _file_system(mount: Mount, spec: ContainerSpec) -> Step:
    own = "own" if f"/{inside(mount.destination)}" in _KERNELS else ""
    if mount.type in {"proc", "sysfs"} and not own:
        own = "own"
    words = ["copy"] if mount.copy_up else [own] if own else []
    data = tuple(option for option in _split_layers(mount) if _is_mapped(option, spec))
    if spec.mount_label and mount.type in {"tmpfs", "devpts", "mqueue"}:
        data += (f"context={spec.mount_label}",)
    propagation = mount.propagation[-1] if mount.propagation else 0
    attrs = mount.attrs | mount.recursive_attrs
    if _is_late(mount):
        attrs &= ~syscalls.MOUNT_ATTR_RDONLY
    source = mount.source if mount.source and mount.source != "none" else mount.type
    if any(len(os.fsencode(option)) > _OPTION_MAX for option in data):
        words.append("long")
    what = (mount.type, inside(mount.destination), hex(attrs), source, " ".join(words), hex(propagation))
    return Step("mount", (*what, *data))


def _split_layers(mount: Mount) -> tuple[str, ...]:
    """Return the options; an overlay's layers one by one (`lowerdir+`, Linux 6.8) where one page cannot hold them."""
    if mount.type != "overlay" or sum(map(len, mount.data)) < _PAGE_BYTES:
        return mount.data
    options: list[str] = []
    for option in mount.data:
        name, _, layers = option.partition("=")
        options += [f"lowerdir+={path}" for path in _split(layers)] if name == "lowerdir" else [option]
    return tuple(options)


def _split(layers: str) -> list[str]:
    """Split at `:`, where no `\\` stands before it: as overlay reads `lowerdir`."""
    found, escaped = [""], False
    for character in layers:
        if escaped or character not in ":\\":
            found[-1] += character
        elif character == ":":
            found.append("")
        escaped = character == "\\" and not escaped
    return found


def _is_late(mount: Mount) -> bool:
    """A /dev that shall be read-only becomes so when its nodes and mount points are there."""
    return mount.destination == "/dev" and not mount.bind and bool(mount.attrs & syscalls.MOUNT_ATTR_RDONLY)


def late_steps(spec: ContainerSpec) -> list[Step]:
    """Return what can be done only when everything in /dev is there, the console too."""
    return [Step("readonly", ("dev", "alone")) for mount in spec.mounts if _is_late(mount)]


def _is_mapped(option: str, spec: ContainerSpec) -> bool:
    """Terminals belong to group 5 (tty), unless a user namespace has no such group."""
    if not spec.has_new("user") or option != "gid=5":
        return True
    return any(entry.inside <= 5 < entry.inside + entry.size for entry in spec.gid_maps)


def _of_the_host(mount: Mount, spec: ContainerSpec) -> Mount:
    """In a new user namespace, the kernel's file systems can be mounted only where their namespace is its own too."""
    needs = {"sysfs": "network", "mqueue": "ipc", "proc": "pid"}.get(mount.type)
    if needs is None or not spec.has_new("user") or spec.has_new(needs):  # type: ignore[arg-type]
        return mount
    source = {"sysfs": "/sys", "mqueue": "/dev/mqueue", "proc": "/proc"}[mount.type]
    return Mount(mount.destination, "bind", source, bind=True, recursive=True, recursive_attrs=mount.attrs)


def _mounts(spec: ContainerSpec, sources: _Sources) -> list[Step]:
    steps = []
    for entry in spec.mounts:
        mount = _of_the_host(entry, spec)
        steps.append(_bind(mount, spec, sources) if mount.bind else _file_system(mount, spec))
    return steps


# -- devices ---------------------------------------------------------------------------------------------------------


def _device_steps(spec: ContainerSpec, *, rootless: bool) -> list[Step]:
    """Nodes in /dev itself; bound one by one where /dev is `nodev`; the host's where none may be made."""
    at_dev = [mount for mount in spec.mounts if mount.destination.rstrip("/") == "/dev"]
    if at_dev and at_dev[-1].bind:
        return []  # it has the host's
    how = "node"
    if rootless or spec.has("user"):
        how = "host"
    elif at_dev and at_dev[-1].attrs & syscalls.MOUNT_ATTR_NODEV:
        how = "bind"
    taken = {f"/{inside(mount.destination)}" for mount in spec.mounts}
    named = {device.path for device in spec.devices}
    defaults = [device for device in DEVICE_NODES if device.path not in named] if spec.default_devices else []
    steps = [_device(device, how) for device in (*defaults, *spec.devices) if device.path not in taken]
    links = DEVICE_LINKS if spec.default_devices else ()
    return steps + [Step("link", (content, f"dev/{name}")) for content, name in links]


def _device(device: Device, how: str) -> Step:
    numbers = (str(device.major), str(device.minor), f"0{device.mode:o}", str(device.uid), str(device.gid))
    return Step("device", (inside(device.path), device.kind, *numbers, how))


# -- the root --------------------------------------------------------------------------------------------------------


def propagation_of(spec: ContainerSpec) -> int:
    """Nothing that we mount may reach the host; what the host mounts reaches us only where somebody asks for it."""
    if spec.root_propagation & syscalls.MS_SHARED:
        return syscalls.MS_SHARED
    asked = {flag & ~syscalls.MS_REC for mount in spec.mounts for flag in mount.propagation}
    if spec.root_propagation & syscalls.MS_SLAVE or asked & {syscalls.MS_SHARED, syscalls.MS_SLAVE}:
        return syscalls.MS_SLAVE
    return syscalls.MS_PRIVATE


def is_shared(spec: ContainerSpec) -> bool:
    """Return whether what is mounted in the container appears in peers of the host's mounts."""
    return propagation_of(spec) == syscalls.MS_SHARED


def _layers(root: Overlay, spec: ContainerSpec, *, rootless: bool) -> tuple[list[Step], Step]:
    if not root.lowers:
        raise ContainerError("plan", 0, "lowers: at least one directory is needed")
    options = _OVERLAY + (",userxattr" if rootless or spec.has_new("user") else "")
    options += ",volatile" if root.upper and root.volatile else ""
    own = ("upper",) if not root.upper or not root.work else ()
    upper, work = (root.upper, root.work) if not own else ("upper", "work")
    overlay = Step("overlay", (f"{options},upperdir={upper},workdir={work}", *own))
    return [Step("lower", (path,)) for path in root.lowers], overlay


def propagate(path: str, flags: int) -> Step:
    """Return the step that makes a mount private, slave or shared."""
    return call("mount", "none", path, "none", hex(flags), "")


def change_root(path: str) -> list[Step]:
    return [call("chroot", path), call("chdir", "/")]


def _workspace(spec: ContainerSpec, place: str) -> list[Step]:
    """A tmpfs over a directory of the host, to which nothing of it comes: neither the mount nor those in it."""
    options = f"mode=0700,size={spec.workspace_bytes}"
    shared = is_shared(spec)
    return [
        *([propagate(spec.workspace_mount, syscalls.MS_PRIVATE)] if shared else []),
        call("mount", "tmpfs", place, "tmpfs", hex(syscalls.MS_NOSUID), options),
        call("chdir", place),
        *([propagate(".", syscalls.MS_PRIVATE)] if shared or not spec.has_new("mount") else []),
        *(call("mkdirat", _AT_FDCWD, name, mode) for name, mode in _WORKSPACE),
        call("symlinkat", "/proc/self/fd", _AT_FDCWD, "fd"),
        Step("workspace"),
    ]


def _root_bind(root: Directory | Detached, sources: _Sources) -> Step:
    whole = isinstance(root, Directory)
    source = sources.name(root.path, recursive="recursive") if isinstance(root, Directory) else f"@{root.fd}"
    private = hex(syscalls.MS_PRIVATE | syscalls.MS_REC)
    return Step("bind", (source, "root", "recursive" if whole else "", "0", "0", "0", "0", private))


def root_steps(spec: ContainerSpec, *, rootless: bool) -> tuple[list[Step], list[Step]]:
    """Return the steps before the clone, and those that make the root after it."""
    sources = _Sources(spec, rootless=rootless)
    # All sources are open by then where the mapped root may not be able to reach the directory: any other does.
    place = "/tmp" if spec.has_new("user") and not rootless else spec.workspace
    workspace = _workspace(spec, place)
    if isinstance(spec.root, Overlay):
        lowers, overlay = _layers(spec.root, spec, rootless=rootless)
        root = [*lowers, *workspace, overlay]
    else:
        root = [*workspace, _root_bind(spec.root, sources)]
    mounts = _mounts(spec, sources)
    steps = [
        *root,
        Step("root"),
        *mounts,
        *(Step("link", (content, inside(path))) for content, path in spec.links),
        *_device_steps(spec, rootless=rootless),
        *([Step("make-directory", (inside(cwd),))] if (cwd := spec.process.cwd).strip("/.") else []),
        *(Step("readonly", (inside(path),)) for path in spec.readonly_paths),
        *(Step("mask", (inside(path),)) for path in spec.masked_paths),
    ]
    return sources.steps, steps
