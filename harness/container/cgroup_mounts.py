"""What a mount of type `cgroup` becomes: cgroup2 is one file system, cgroup v1 a tmpfs with one for each hierarchy."""

from __future__ import annotations

from collections.abc import Sequence

from harness.container import syscalls
from harness.container.cgroup_layout import Hierarchy, Layout
from harness.container.frozen import replace
from harness.container.spec import ContainerSpec, Mount


def expand(spec: ContainerSpec, layout: Layout, directories: Sequence[str]) -> ContainerSpec:
    """Return the container with its cgroup mounts as what this host has; `directories` are its own groups'."""
    if not any(mount.type == "cgroup" for mount in spec.mounts):
        return spec
    mounts: list[Mount] = []
    links: list[tuple[str, str]] = []
    read_only: list[str] = []
    for mount in spec.mounts:
        if mount.type != "cgroup":
            mounts.append(mount)
        elif layout.mode == "v2" or layout.mode is None:
            mounts.append(_unified(mount, spec, directories))
        else:
            more, names = _v1(mount, spec, layout, directories)
            mounts += more
            links += names
            if mount.attrs & syscalls.MOUNT_ATTR_RDONLY:
                read_only.append(mount.destination)
    return replace(
        spec,
        mounts=tuple(mounts),
        links=(*spec.links, *links),
        readonly_paths=(*spec.readonly_paths, *read_only),
    )


def _unified(mount: Mount, spec: ContainerSpec, directories: Sequence[str]) -> Mount:
    """Mounted anew it shows the container's own part, if the cgroup namespace is new; else its directory is bound."""
    if spec.has_new("cgroup") and not spec.has("user"):
        return replace(mount, type="cgroup2", source="cgroup2")
    if spec.has("cgroup") or not directories:
        return replace(mount, type="bind", source="/sys/fs/cgroup", bind=True, recursive=True)
    return replace(mount, type="bind", source=directories[0], bind=True)


def _v1(
    mount: Mount, spec: ContainerSpec, layout: Layout, directories: Sequence[str]
) -> tuple[list[Mount], list[tuple[str, str]]]:
    writable = mount.attrs & ~syscalls.MOUNT_ATTR_RDONLY
    mounts = [replace(mount, type="tmpfs", source="tmpfs", attrs=writable, data=("mode=755",))]
    links = []
    for tree in layout.full():
        names = _names(tree)
        destination = f"{mount.destination}/{','.join(names)}"
        mounts.append(_hierarchy(replace(mount, destination=destination), tree, spec, directories))
        if len(names) > 1:
            links += [(",".join(names), f"{mount.destination}/{name}") for name in names]
    return mounts, links


def _names(tree: Hierarchy) -> tuple[str, ...]:
    return ("unified",) if tree.version == 2 else tuple(sorted(tree.controllers))


def _hierarchy(mount: Mount, tree: Hierarchy, spec: ContainerSpec, directories: Sequence[str]) -> Mount:
    if spec.has_new("cgroup") and not spec.has("user"):
        if tree.version == 2:
            return replace(mount, type="cgroup2", source="cgroup2", data=())
        return replace(mount, source="cgroup", data=tuple(sorted(tree.controllers)))
    inside = [path for path in directories if path.startswith(f"{tree.path}/")]
    return replace(mount, type="bind", source=inside[0] if inside else tree.path, bind=True, data=())
