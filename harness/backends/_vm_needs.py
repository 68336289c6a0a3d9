"""What a guest needs of this host, told before anything is started."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness.agent.program import PATH as AGENT_PATH
from harness.backends import _accelerator, _connection, _ksm, _kvm_help, _remote, _remote_link, _vm_storage
from harness.backends._vm_levers import QBOOT
from harness.backends._vm_options import Options, guest_kernel
from harness.errors import CapabilityError
from harness.host.paths import cache_dir
from harness.host.process import find_program
from harness.images import stock
from harness.interfaces import Capability

EMULATOR = "qemu-system-x86_64"
_HUGE_HINT = "sysctl vm.nr_hugepages=N (of 2 MiB), and mount -t hugetlbfs none /dev/hugepages"


def needs(options: Options) -> Sequence[Capability]:
    """Return all of it but for what mounts need; cheap, starts nothing. A guest on another host needs nothing here."""
    try:
        remote = _remote.elsewhere(options)
    except CapabilityError as error:
        return (Capability("host", available=False, reason=error.message, hint=error.hint),)
    if remote is not None:
        return _remote_link.needs(remote, "libvirt", options)
    return (
        _need_emulator(),
        _need_libvirt(options),
        _need_kernel(options),
        *((_need_system(),) if options.boot == "disk" else ()),
        *_vm_storage.needs(options),
        *_lever_needs(options),
        *((_ksm.need(),) if options.ksm == "on" else ()),
        _need_accel(options),
    )


def verdict_key(vmlinux: Path, emulator: Path, machine: str) -> str:
    """What a verdict on KVM holds for: this boot of the host, these very files (the probe's too), this machine type."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    paths = (path for path in (vmlinux, emulator, AGENT_PATH) if path.exists())
    files = " ".join(f"{path.resolve()} {path.stat().st_mtime_ns}" for path in paths)
    return f"{boot_id} {machine} {hashlib.sha256(files.encode()).hexdigest()[:16]}"


def _need_emulator() -> Capability:
    try:
        return Capability("qemu", available=True, reason=str(find_program(EMULATOR)))
    except CapabilityError as error:
        return Capability("qemu", available=False, reason=error.message, hint=error.hint)


def _need_libvirt(options: Options) -> Capability:
    try:
        if options.uri is not None:
            _connection.check_uri(options.uri)
        libvirt = _connection.import_libvirt()
    except CapabilityError as error:
        return Capability("libvirt", available=False, reason=error.message, hint=error.hint)
    number = libvirt.getVersion()
    return Capability("libvirt", available=True, reason=f"libvirt {number // 10**6}.{number // 1000 % 1000}")


def _need_kernel(options: Options) -> Capability:
    try:
        return Capability("kernel", available=True, reason=guest_kernel(options, cache_dir()).release)
    except CapabilityError as error:
        return Capability("kernel", available=False, reason=error.message, hint=error.hint)


def _lever_needs(options: Options, proc: Path = Path("/proc")) -> list[Capability]:
    """Of levers that need more than a word to QEMU."""
    found = []
    if options.firmware == "qboot":
        there = Path(QBOOT).exists()
        hint = "apt-get install qemu-system-data has it, or firmware: seabios"
        found.append(
            Capability("firmware", there, QBOOT if there else f"{QBOOT}: no such file", None if there else hint)
        )
    if options.hugepages:
        free = next(
            (int(line.split()[1]) for line in (proc / "meminfo").read_text().splitlines() if "HugePages_Free" in line),
            0,
        )
        mounted = " hugetlbfs " in (proc / "mounts").read_text()
        reason = f"{free} free, hugetlbfs {'mounted' if mounted else 'not mounted'}"
        found.append(Capability("hugepages", free > 0 and mounted, reason, _HUGE_HINT))
    return found


def _need_system() -> Capability:
    """Of a distribution's own system; the first run makes it."""
    system = stock.find(cache_dir())
    if system is not None:
        return Capability("system", available=True, reason=f"{system.suite}, {system.release}")
    try:
        return Capability("system", available=True, reason=f"made at the first run by {find_program('mmdebstrap')}")
    except CapabilityError as error:
        return Capability("system", available=False, reason=error.message, hint=error.hint)


def _need_accel(options: Options) -> Capability:
    """Cheap: says what is known. The proof is a boot, made once when a run is prepared."""
    if options.accel == "tcg":
        return Capability("accel", available=True, reason="tcg: asked for by the scenario")
    missing = _accelerator.device_missing()
    verdict = _accelerator.Verdict(usable=False, reason=missing) if missing else _known_verdict(options)
    if verdict is None:
        return Capability("accel", available=True, reason="kvm, if a guest boots with it (tried at a run)")
    if verdict.usable:
        return Capability("accel", available=True, reason=f"kvm: {_accelerator.with_nested(verdict.reason)}")
    remedy = _kvm_help.remedy()
    if options.accel == "kvm":
        return Capability(
            "accel",
            available=False,
            reason=f"kvm is not usable: {verdict.reason}",
            hint=f"{remedy}; accel: auto lets the run fall back to TCG, named in every table",
        )
    return Capability("accel", available=True, reason=f"tcg: kvm is not usable: {verdict.reason}", hint=remedy)


def _known_verdict(options: Options) -> _accelerator.Verdict | None:
    """Return what was found since this host's boot, None where KVM was not tried yet."""
    try:
        vmlinux, emulator = guest_kernel(options, cache_dir()).vmlinux, find_program(EMULATOR)
    except CapabilityError:
        return None  # another need says so
    return _accelerator.cached(cache_dir(), verdict_key(vmlinux, emulator, options.machine))
