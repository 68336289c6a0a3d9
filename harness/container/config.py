"""config.json of an OCI bundle, read and checked: the runtime specification 1.x with the fields of 1.2.

Every error names the field, as `config.json: linux.namespaces[2].type: 'netz' is unknown; did you mean 'network'?`.
What the specification does not know is passed over, as it demands; so are the sections of other platforms.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from harness.container import _fields, config_linux
from harness.container._fields import INT64, Fields, shown
from harness.container.config_process import ExecAffinity, exec_affinity, process_of
from harness.container.config_resources import resources_of
from harness.container.frozen import Frozen, replace
from harness.container.options import parse
from harness.container.resources import Resources
from harness.container.seccomp import Profile
from harness.container.spec import (
    Capabilities,
    ContainerSpec,
    Directory,
    Hook,
    HookPoint,
    Mount,
    Namespace,
    NamespaceKind,
    Process,
)

FILE = "config.json"
MAJOR = 1
"""The major version of the specification that is understood; all minor ones are compatible."""

_HOOK_POINTS: tuple[HookPoint, ...] = (
    "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
)  # fmt: skip
_MAX_NAME_BYTES = 64
"""__NEW_UTS_LEN of include/uapi/linux/utsname.h."""


class Config(Frozen):
    """A bundle.

    `process` is None where the document has none, and then `container.process` has no arguments: such a container can
    be created and never started. A process without `capabilities` has none. The filter of `seccomp` is not compiled
    yet. `exec_affinity` holds for processes that are added later, not for the first one.
    """

    version: str
    bundle: str
    container: ContainerSpec
    process: Process | None
    resources: Resources
    seccomp: Profile | None
    cgroups_path: str | None
    exec_affinity: ExecAffinity
    intel_rdt: bool


# -- version, root, names --------------------------------------------------------------------------------------------


def _is_semantic(version: str) -> bool:
    """Return whether a version has the form of semver.org 2.0.0."""
    core, _, build = version.partition("+")
    core, dash, pre = core.partition("-")
    numbers = core.split(".")
    labels = [*(pre.split(".") if dash else ()), *(build.split(".") if "+" in version else ())]
    return (
        len(numbers) == 3
        and all(
            number.isascii() and number.isdigit() and (number == "0" or not number.startswith("0"))
            for number in numbers
        )
        and all(label.isascii() and label.replace("-", "0").isalnum() for label in labels)
    )


def _version(document: Fields) -> str:
    version = document.needed_text("ociVersion")
    if not _is_semantic(version):
        document.fail("ociVersion", f"{shown(version)} is not a version like '1.2.0'")
    if version.split(".")[0] != str(MAJOR):
        document.fail("ociVersion", f"{shown(version)} is not compatible: {MAJOR}.x is understood")
    return version


def _root(document: Fields, bundle: str) -> tuple[Directory, bool]:
    document.need("root")
    root = document.fields("root")
    return Directory(os.path.join(bundle, root.needed_text("path"))), root.flag("readonly")


def _name(document: Fields, key: str, namespaces: Mapping[NamespaceKind, Namespace]) -> str | None:
    name = document.text(key) or None
    if name is not None and "uts" not in namespaces:
        document.fail(key, "needs a namespace of type 'uts'")
    if name is not None and len(name.encode()) > _MAX_NAME_BYTES:
        document.fail(key, f"is longer than {_MAX_NAME_BYTES} bytes")
    return name


# -- mounts ----------------------------------------------------------------------------------------------------------


def _destination(fields: Fields) -> str:
    """Return an absolute path. Older documents have relative ones, which are meant from the root."""
    path = fields.needed_text("destination")
    if ".." in path.split("/"):
        fields.fail("destination", f"{shown(path)} has '..' in it")
    return os.path.normpath("/" + path.lstrip("/"))


def _mount(fields: Fields, bundle: str, own: Mapping[NamespaceKind, Namespace]) -> Mount:
    options = parse(fields.texts("options"), fields.at("options"))
    fs_type, source = fields.text("type"), fields.text("source")
    bind = options.bind or fs_type == "bind"
    if bind:
        fs_type, source = "bind", os.path.join(bundle, fields.needed_text("source"))
    elif options.remount:
        fields.fail("options", "'remount' is for binds: what is mounted here is new")
    elif not fs_type:
        fields.fail("type", "is missing, and the mount is no bind")
    if options.copy_up and fs_type != "tmpfs":
        fields.fail("options", "'tmpcopyup' is for a tmpfs")
    uid_maps, gid_maps = config_linux.id_maps(fields, "uidMappings"), config_linux.id_maps(fields, "gidMappings")
    if bool(uid_maps) != bool(gid_maps):
        fields.fail("gidMappings" if uid_maps else "uidMappings", "is missing, and the other mappings are there")
    if options.idmap and not uid_maps and "user" not in own:
        fields.fail("options", f"{options.idmap!r} needs mappings here or a user namespace")
    return Mount(
        destination=_destination(fields),
        type=fs_type,
        source=source,
        bind=bind,
        recursive=options.recursive,
        attrs=options.attrs,
        clear=options.clear,
        recursive_attrs=options.recursive_attrs,
        recursive_clear=options.recursive_clear,
        propagation=options.propagation,
        data=options.data,
        copy_up=options.copy_up,
        uid_maps=uid_maps,
        gid_maps=gid_maps,
        idmap=options.idmap or ("idmap" if uid_maps else ""),
    )


# -- hooks -----------------------------------------------------------------------------------------------------------


def _hook(fields: Fields) -> Hook:
    return Hook(
        path=fields.absolute("path"),
        args=fields.texts("args"),
        env=fields.texts("env"),
        timeout_s=fields.number("timeout", 1, INT64),
    )


def _hooks(document: Fields) -> dict[HookPoint, tuple[Hook, ...]]:
    hooks = document.fields("hooks")
    return {point: hooks.each(point, _hook) for point in _HOOK_POINTS if hooks.has(point)}


# -- the whole -------------------------------------------------------------------------------------------------------


def _process(document: Fields) -> Process | None:
    if not document.has("process"):
        return None
    process = process_of(document.fields("process"))
    # Other runtimes give a process without the field none as well, so documents rely on it.
    return process if process.capabilities is not None else replace(process, capabilities=Capabilities())


def _container(document: Fields, bundle: str, workspace: str, process: Process) -> ContainerSpec:
    linux = document.fields("linux")
    namespaces = config_linux.namespaces_of(linux)
    own = {namespace.kind: namespace for namespace in namespaces}
    root, root_readonly = _root(document, bundle)
    config_linux.check_id_maps(linux, own)
    return ContainerSpec(
        root=root,
        process=process,
        workspace=workspace,
        namespaces=namespaces,
        uid_maps=config_linux.id_maps(linux, "uidMappings"),
        gid_maps=config_linux.id_maps(linux, "gidMappings"),
        hostname=_name(document, "hostname", own),
        domainname=_name(document, "domainname", own),
        mounts=document.each("mounts", lambda mount: _mount(mount, bundle, own)),
        devices=linux.each("devices", config_linux.device_of),
        masked_paths=linux.absolutes("maskedPaths"),
        readonly_paths=linux.absolutes("readonlyPaths"),
        root_readonly=root_readonly,
        root_propagation=config_linux.propagation_of(linux),
        mount_label=linux.text("mountLabel") or None,
        sysctl=config_linux.sysctls_of(linux, own),
        time_offsets=config_linux.time_offsets_of(linux, own),
        personality=config_linux.personality_of(linux),
        hooks=_hooks(document),
        annotations=document.pairs("annotations"),
    )


def read(document: Mapping[str, object], bundle: str, workspace: str) -> Config:
    """Return what a config.json says; `bundle` is the absolute path of its directory, `workspace` is ContainerSpec's.

    Raises: ContainerError, naming the field, for what the specification or the kernel does not allow.
    """
    top = Fields.of(FILE, "", document)
    version = _version(top)
    linux = top.fields("linux")
    process = _process(top)
    return Config(
        version=version,
        bundle=bundle,
        container=_container(top, bundle, workspace, process or Process(args=())),
        process=process,
        resources=resources_of(linux.fields("resources")),
        seccomp=config_linux.seccomp_of(linux),
        cgroups_path=linux.text("cgroupsPath") or None,
        exec_affinity=exec_affinity(top.fields("process")),
        intel_rdt=linux.has("intelRdt"),
    )


def load(bundle: str, workspace: str, path: str | None = None) -> Config:
    """Return what the config.json of a bundle says, or another file in its place.

    Raises: ContainerError as `read` does, and if the file cannot be read or is no JSON.
    """
    bundle = os.path.abspath(bundle)
    document = _fields.load(path or os.path.join(bundle, FILE), FILE)
    return read(Fields.of(FILE, "", document).values, bundle, workspace)


def read_process(document: object, field: str = "process", source: str = "process.json") -> Process:
    """Return the process of `exec --process`; its `capabilities` are None where the container's hold.

    Its CPUs are those it ends up with; to start on others first makes no difference to what runs.
    Raises: ContainerError that names a field of `field`.
    """
    fields = Fields.of(source, field, document)
    affinity = exec_affinity(fields)
    return replace(process_of(fields), cpu_affinity=affinity.final or affinity.initial)


def load_process(path: str) -> Process:
    """Return the process in a file, as `read_process` does. Raises ContainerError if it cannot be read as well."""
    return read_process(_fields.load(path, "process.json"))


def read_resources(document: object, field: str = "resources", source: str = "resources.json") -> Resources:
    """Return the limits of `update --resources`. Raises ContainerError that names a field of `field`."""
    return resources_of(Fields.of(source, field, document))
