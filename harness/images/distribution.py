"""Base images of Debian and its kin, made by mmdebstrap from the distribution's own archive: no registry is needed."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from harness.errors import CommandError, ImageError, UsageError
from harness.host.process import find_program, run
from harness.images import oci
from harness.images.disk_errors import disk_errors_told
from harness.images.oci import Document, Image, Layer
from harness.images.store import Store

Variant = Literal["extract", "custom", "essential", "apt", "minbase", "buildd", "important", "standard"]

_ROOM = "make room where the store is (harness image gc), and in $TMPDIR, where mmdebstrap works"
_TIMEOUT_NS = 3600 * 10**9
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DISTRIBUTIONS = ("debian", "ubuntu")
_NEWEST = {"debian": "stable"}
_NUMBERS = {
    "debian": {"11": "bullseye", "12": "bookworm", "13": "trixie"},
    "ubuntu": {"20.04": "focal", "22.04": "jammy", "24.04": "noble"},
}
_WORD = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_MOUNT_POINTS = {"dev": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777}
_WITHOUT_BASH = ("extract", "custom")  # what they hold is what was included


@dataclass(frozen=True, slots=True)
class Base:
    """What is to be made: a suite of a distribution, the packages beside those of its variant, and where from.

    `mirrors` are URLs, lines of sources.list(5) or files of them; without any, the host's own sources are taken where
    they know the distribution, and mmdebstrap's otherwise. `keyring` is a file of keys that sign the archive.
    """

    distribution: str
    suite: str
    variant: Variant = "minbase"
    include: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    keyring: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.distribution}:{self.suite}"


def parse_base(text: str) -> tuple[str, str]:
    """Return distribution and suite of `debian:bookworm`, `debian:12`, `debian`. Raises: UsageError."""
    distribution, _, suite = text.partition(":")
    if distribution not in _DISTRIBUTIONS:
        known = ", ".join(("busybox", *(f"{name}:SUITE" for name in _DISTRIBUTIONS)))
        raise UsageError(f"bootstrap: {text}: unknown base", hint=f"one of {known}; others: harness image pull {text}")
    suite = _NUMBERS[distribution].get(suite, suite) or _NEWEST.get(distribution, "")
    if not _WORD.fullmatch(suite):
        raise UsageError(f"bootstrap: {text}: no suite", hint="for instance: debian:bookworm, ubuntu:24.04")
    return distribution, suite


def bootstrap_distribution(base: Base, store: Store, *, name: str) -> Image:
    """Make a base image with mmdebstrap and name it; takes some 20 seconds, as root or in a user namespace.

    With SOURCE_DATE_EPOCH set no time in it is later than that, and the same packages give the same digest.
    Raises: CapabilityError without mmdebstrap; UsageError; ImageError with what apt or dpkg said.
    """
    for package in base.include:
        if not _WORD.fullmatch(package):
            raise UsageError(f"bootstrap: --include: {package}: not a package's name")
    find_program("mmdebstrap")
    moment = _moment()
    with disk_errors_told(f"bootstrap: {base.name}", _ROOM), store.adding(), store.scratch() as scratch:
        scratch.chmod(0o755)  # apt's own user reads there
        tar = scratch / "root.tar"
        make_tar(base, tar)
        _add_mount_points(tar, int(moment.timestamp()))
        with tar.open("rb") as content:
            blob = store.add_stream(oci.LAYER, content)
        layer = Layer(blob, blob.digest)
        return store.add_image(_document(base, layer, moment), [layer], name)


def make_tar(base: Base, tar: Path) -> None:
    """Write the files of a base into an archive. Raises: CapabilityError without mmdebstrap; ImageError."""
    find_program("mmdebstrap")
    try:
        run(_argv(base, tar), timeout_ns=_TIMEOUT_NS)
    except CommandError as error:
        raise _explain(error, base) from error


def _argv(base: Base, tar: Path) -> list[str]:
    """Return mmdebstrap's command line: without device nodes, for who runs the image fills /dev."""
    options = [f"--variant={base.variant}", "--format=tar", "--skip=output/dev"]
    options += [f"--include={','.join(base.include)}"] if base.include else []
    options += [f"--keyring={base.keyring}"] if base.keyring is not None else []
    return ["mmdebstrap", *options, base.suite, str(tar), *(base.mirrors or _host_sources(base))]


def _add_mount_points(tar: Path, mtime_s: int) -> None:
    """Add the empty directories that every runtime mounts on, where the archive has them not."""
    with tarfile.open(tar, "a", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        there = {os.path.normpath(name) for name in archive.getnames()}
        for name, mode in _MOUNT_POINTS.items():
            if name not in there:
                entry = tarfile.TarInfo(f"./{name}")
                entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, mode, mtime_s
                archive.addfile(entry)


def _host_sources(base: Base) -> Sequence[str]:
    """Return the lines of the host's apt that lead to the suite, or that lead to its distribution; none: unknown."""
    words = "$(ORIGIN)|$(LABEL)|$(SITE)|$(RELEASE)|$(COMPONENT)"
    try:
        said = run(["apt-get", "indextargets", "Created-By: Packages", f"--format={words}"]).stdout.decode()
    except CommandError:
        return ()
    rows = [row.split("|") for row in said.splitlines()]
    mine = [row for row in rows if len(row) == 5 and row[0].lower() == base.distribution]
    suites = {base.suite, f"{base.suite}-updates", f"{base.suite}-security"}
    lines = [f"deb {site} {release} {part}" for _, _, site, release, part in mine if release in suites]
    if not lines:
        lines = [f"deb {site} {base.suite} main" for _, label, site, *_ in mine if label.lower() == base.distribution]
    return tuple(dict.fromkeys(lines))


def _explain(error: CommandError, base: Base) -> ImageError:
    """Return the first thing that went wrong: mmdebstrap's last line only says that something did."""
    lines = error.stderr_tail.splitlines()
    why = next((line[3:] for line in lines if line.startswith("E: ")), error.message)
    hint = None
    if "No space left on device" in error.stderr_tail:
        why, hint = "no space left on device", _ROOM
    elif any("NO_PUBKEY" in line for line in lines) or "not signed" in error.stderr_tail:
        hint = f"its keys are missing: apt-get install {base.distribution}-archive-keyring, or --keyring FILE"
        hint = hint.replace("ubuntu-archive-keyring", "ubuntu-keyring")
    elif "does not have a Release file" in error.stderr_tail:
        hint = f"no suite {base.suite} there; another mirror: --mirror URL"
    return ImageError(f"bootstrap: {base.name}: {why}", hint=hint)


def _moment() -> datetime:
    """Return what the image says of its making. Source: reproducible-builds.org/specs/source-date-epoch."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(UTC)
    if not epoch.isdigit():
        raise UsageError(f"environment: SOURCE_DATE_EPOCH: {epoch!r}: expected seconds since 1970")
    return datetime.fromtimestamp(int(epoch), UTC)


def _document(base: Base, layer: Layer, moment: datetime) -> Document:
    created = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    including = f" --include {','.join(base.include)}" if base.include else ""
    made_by = f"harness image bootstrap {base.name} --variant {base.variant}{including}"
    return {
        "created": created,
        "architecture": oci.host_architecture(),
        "os": "linux",
        "config": {
            "Env": [f"PATH={_PATH}"],
            "Cmd": ["/bin/sh"] if base.variant in _WITHOUT_BASH else ["bash"],
            "WorkingDir": "/",
            "Labels": {"org.opencontainers.image.title": base.name},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created": created, "created_by": made_by}],
    }
