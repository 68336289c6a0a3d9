"""The guest's kernel: downloaded from the distribution into the cache, unpacked, never installed on the host.

    CACHE/kernels/PACKAGE_VERSION/   boot/vmlinuz-*, lib/modules/RELEASE, vmlinux, kernel.json
    CACHE/kernels/current            link to the one that `find` returns
    CACHE/kernels/file-SHA256/       vmlinux, kernel.json of a kernel that the user names by its path

`python -m harness.images.kernel fetch` gets it, `show` says which one is there.

Debian's cloud kernel is tested. Ubuntu's way (linux-image-virtual, whose modules are in a package of their own) follows
its documentation and has not been run; any other distribution needs a path (`from_path`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import CapabilityError, HarnessError
from harness.host.paths import cache_dir
from harness.host.process import run
from harness.images import elf, kmodules
from harness.images.bzimage import vmlinux_of

_DOWNLOAD_TIMEOUT_NS = 600 * 10**9
_QUERY_TIMEOUT_NS = 60 * 10**9
_APT_HINT = "apt-get update, check that the package mirror is reachable, or name a kernel image by its path"
_PATH_HINT = "name a kernel image (vmlinuz or vmlinux) and its lib/modules/RELEASE by their paths"
_BANNER = re.compile(rb"Linux version (\d\S*) \(")
_KERNEL_PACKAGE = re.compile(r"linux-(image|modules)-(unsigned-)?\d")


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """A kernel that a guest can boot.

    `release` as `uname -r` says it in the guest; `vmlinux` is the uncompressed ELF file, checked to have a PVH note;
    `bzimage` the compressed form, None where the user gave a vmlinux; `modules` is lib/modules/RELEASE, None where the
    user gave none; `digest` is `sha256:HEX` of the vmlinux; `source` says where it came from.
    """

    release: str
    vmlinux: Path
    bzimage: Path | None
    modules: Path | None
    digest: str
    source: str


def find(cache: Path) -> GuestKernel | None:
    """Return the kernel that was fetched last into `cache`, None when there is none."""
    return _load((cache / "kernels" / "current").resolve())


def fetch(cache: Path) -> GuestKernel:
    """Return the distribution's current cloud kernel; download and unpack it unless `cache` has that version already.

    Raises: CapabilityError when this distribution or machine is not known, or its packages cannot be had.
    """
    packages = _resolve(_meta_package(platform.freedesktop_os_release(), platform.machine()))
    image, version = next((name, version) for name, version in packages if name.startswith("linux-image-"))
    kernels = cache / "kernels"
    final = kernels / f"{image}_{version.replace(':', '-')}"

    def fill(partial: Path) -> None:
        for package in packages:
            _unpack("=".join(package), partial)
        boot = _only(partial, "boot/vmlinuz-*")
        modules = _only(partial, "lib/modules/*", "usr/lib/modules/*")
        _describe(partial, _read(boot), f"package {image} {version}", bzimage=boot, modules=modules)

    kernel = _load(final) or _publish(final, fill)
    _point(kernels / "current", final)
    return kernel


def from_path(cache: Path, image: Path, modules: Path | None) -> GuestKernel:
    """Return a kernel that the user names: a bzImage or a vmlinux, and its lib/modules/RELEASE where there are modules.

    The extracted vmlinux is kept in `cache`, under the digest of `image`.

    Raises: CapabilityError when a path is missing, or `image` is no kernel that can be booted by PVH.
    """
    data = _read(image)
    if modules is not None and not modules.is_dir():
        raise CapabilityError(f"kernel modules: {modules}: no such directory", hint="give lib/modules/RELEASE")
    final = cache / "kernels" / f"file-{hashlib.sha256(data).hexdigest()[:16]}"
    kernel = _load(final) or _publish(final, lambda partial: _describe(partial, data, f"file {image}"))
    compressed = None if elf.is_elf(data) else image
    return replace(kernel, bzimage=compressed, modules=modules, source=f"file {image}")


def module_files(kernel: GuestKernel, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the module files that `names` need, in load order; what is built in needs none.

    Raises: CapabilityError when the kernel came without modules, or one of them is missing or damaged.
    """
    wanted = tuple(names)
    if not wanted:
        return ()
    if kernel.modules is None:
        raise CapabilityError(
            f"kernel modules: {kernel.source}: given without a modules directory, but needs {', '.join(wanted)}",
            hint="give its lib/modules/RELEASE too",
        )
    return kmodules.load_order(kernel.modules, wanted)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CapabilityError(f"guest kernel: {path}: {error.strerror}", hint="check the path") from error


def _load(directory: Path) -> GuestKernel | None:
    """Return the kernel of a cache directory, None unless it is complete."""
    try:
        facts = json.loads((directory / "kernel.json").read_text())
        vmlinux = directory / "vmlinux"
        size_bytes = vmlinux.stat().st_size
    except FileNotFoundError:
        return None
    if size_bytes != facts["vmlinux_bytes"]:
        raise CapabilityError(f"guest kernel: {vmlinux}: cut off", hint=f"remove {directory} and fetch it again")
    return GuestKernel(
        release=facts["release"],
        vmlinux=vmlinux,
        bzimage=directory / facts["bzimage"] if facts["bzimage"] else None,
        modules=directory / facts["modules"] if facts["modules"] else None,
        digest=facts["digest"],
        source=facts["source"],
    )


def _publish(final: Path, fill: Callable[[Path], None]) -> GuestKernel:
    """Let `fill` make the directory beside its place and rename it there, so that a half-made one is never seen."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=final.parent))
    try:
        fill(partial)
        partial.chmod(0o755)
        try:
            partial.rename(final)
        except OSError:
            if _load(final) is None:  # else another process made the same meanwhile
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kernel = _load(final)
    assert kernel is not None, final
    return kernel


def _describe(
    partial: Path, image: bytes, source: str, *, bzimage: Path | None = None, modules: Path | None = None
) -> None:
    """Write the vmlinux that `image` holds, and kernel.json, which says what the directory holds."""
    vmlinux = vmlinux_of(image, source)
    banner = _BANNER.search(vmlinux)
    if banner is None:
        raise CapabilityError(f"guest kernel: {source}: holds no `Linux version` banner", hint=_PATH_HINT)
    (partial / "vmlinux").write_bytes(vmlinux)
    facts = {
        "release": banner[1].decode(),
        "source": source,
        "digest": f"sha256:{hashlib.sha256(vmlinux).hexdigest()}",
        "vmlinux_bytes": len(vmlinux),
        "bzimage": bzimage and str(bzimage.relative_to(partial)),
        "modules": modules and str(modules.relative_to(partial)),
    }
    (partial / "kernel.json").write_text(json.dumps(facts, indent=2) + "\n")


def _only(directory: Path, *patterns: str) -> Path:
    """Return the one path that matches one of `patterns`. Raises CapabilityError when none or several do."""
    found = [path for pattern in patterns for path in directory.glob(pattern)]
    if len(found) != 1:
        raise CapabilityError(
            f"guest kernel: {' or '.join(patterns)}: {len(found)} found in the package, not one", hint=_PATH_HINT
        )
    return found[0]


def _point(link: Path, target: Path) -> None:
    """Let `link` name `target`, replacing what it named before in one step."""
    partial = link.with_name(f".current-{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target.name)
    partial.replace(link)


def _meta_package(os_release: dict[str, str], machine: str) -> str:
    """Return the package that depends on the distribution's newest kernel for virtual machines."""
    if machine != "x86_64":
        raise CapabilityError(
            f"guest kernel: {machine}: only x86-64 kernels are known", hint="run the virtual machines on x86-64"
        )
    for family in (os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()):
        if family == "ubuntu":
            return "linux-image-virtual"
        if family == "debian":
            return "linux-image-cloud-amd64"
    name = os_release.get("PRETTY_NAME", "this distribution")
    raise CapabilityError(f"guest kernel: {name}: its kernel packages are not known", hint=_PATH_HINT)


def _resolve(meta: str) -> tuple[tuple[str, str], ...]:
    """Return (name, version) of the kernel packages that a meta package leads to: the image, maybe its modules."""
    found: dict[str, str] = {}
    pending = [meta]
    while pending:
        fields = _package_fields(pending.pop())
        if _KERNEL_PACKAGE.match(fields["Package"]):
            found[fields["Package"]] = fields["Version"]
        depends = re.split(r"[,|]", fields.get("Depends", ""))
        names = {word.split()[0] for word in depends if word.strip()}
        pending.extend(sorted(name for name in names if _KERNEL_PACKAGE.match(name) and name not in found))
    if not any(name.startswith("linux-image-") for name in found):
        raise CapabilityError(f"guest kernel: {meta}: depends on no kernel image", hint=_PATH_HINT)
    return tuple(found.items())


def _package_fields(name: str) -> dict[str, str]:
    """Return the one-line fields of a package's candidate version. Raises: CapabilityError when apt has none."""
    try:
        text = run(["apt-cache", "show", "--no-all-versions", name], timeout_ns=_QUERY_TIMEOUT_NS).stdout.decode()
    except HarnessError as error:
        raise CapabilityError(f"guest kernel: {name}: {error.message}", hint=_APT_HINT) from error
    fields = dict(re.findall(r"^(Package|Version|Depends): (.*)$", text, re.MULTILINE))
    if not {"Package", "Version"} <= fields.keys():
        raise CapabilityError(f"guest kernel: {name}: apt knows no such package", hint=_APT_HINT)
    return fields


def _unpack(package: str, target: Path) -> None:
    """Download `NAME=VERSION` and unpack its files under `target`; none of its maintainer scripts runs."""
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as directory:
        try:
            run(["apt-get", "download", package], cwd=Path(directory), timeout_ns=_DOWNLOAD_TIMEOUT_NS)
        except HarnessError as error:
            raise CapabilityError(f"guest kernel: {package}: {error.message}", hint=_APT_HINT) from error
        archive = _only(Path(directory), "*.deb")
        run(["dpkg-deb", "-x", str(archive), str(target)], timeout_ns=_QUERY_TIMEOUT_NS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fetch` or `show` and print the kernel. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.images.kernel", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("command", choices=("fetch", "show"))
    parser.add_argument("--cache", type=Path, default=cache_dir(), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    try:
        kernel = fetch(arguments.cache) if arguments.command == "fetch" else find(arguments.cache)
        if kernel is None:
            raise CapabilityError("guest kernel: none fetched yet", hint="python -m harness.images.kernel fetch")
    except HarnessError as error:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    sys.stdout.write(f"{kernel.release} {kernel.vmlinux} ({kernel.source}, {kernel.digest})\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
