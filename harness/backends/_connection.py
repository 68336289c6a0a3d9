"""One libvirt connection of this process: the event loop, the embedded driver's directory, errors as ours.

libvirt-python is imported here alone, and only when a VM is wanted.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import importlib
import os
import shutil
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.backends import _endings as endings
from harness.backends import _passwd
from harness.errors import BackendError, CapabilityError
from harness.host.paths import cache_dir, runtime_dir

# No daemon, no service, no change to the host: QEMU runs as the caller, and libvirt keeps its hands off cgroups,
# namespaces and security drivers (the harness meters and confines by itself).
QEMU_CONF = """\
stdio_handler = "file"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
max_core = 0
"""

T = TypeVar("T")

_ANSWER_S = 120  # a daemon that was never asked about this QEMU asks it first, which takes ten seconds and more
_THIS_HOST = ("localhost", "127.0.0.1", "::1")
_loop_started = threading.Event()
_locks: dict[Path, tuple[Path, int]] = {}
_DIRECTORIES_MAX = 16
_ROOT_PATH_MAX_BYTES = 107 - len("/lib/qemu/domain-1000-harness-0123abcd-b00/monitor.sock")


_FOR_PEOPLE = 1  # VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP


def import_libvirt() -> Any:
    """Return the module. Raises CapabilityError where libvirt-python is missing or does not fit the library."""
    log = _home(cache_dir()) / "libvirt.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Read when the library is loaded; without it libvirt's own warnings go to our stderr.
    os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", f"3:file:{log}")
    try:
        import libvirt  # noqa: PLC0415
    except ImportError as error:
        raise CapabilityError(
            f"libvirt-python: cannot be imported: {error}", hint="scripts/setup installs it (pip install .[vm])"
        ) from error
    return libvirt


def _run_loop(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _start_loop(libvirt: Any) -> None:
    """The embedded driver needs an event loop, registered before the first connection, on a thread of its own."""
    if _loop_started.is_set():
        return
    _loop_started.set()
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print to stderr
    libvirt.virEventAddTimeout(1000, lambda *_: None, None)
    threading.Thread(target=_run_loop, args=(libvirt,), name="libvirt-events", daemon=True).start()


def _home(cache: Path) -> Path:
    """Return the directory of the libvirt side: the log, and one directory for each process at a time."""
    return cache.resolve() / "libvirt"


def embed_root(cache: Path) -> Path:
    """Return the embedded driver's directory of this process, held locked until the process ends.

    libvirt allows one process a directory, keeps it until that process ends, and after a failed attempt a process
    cannot open one any more: so the first free one is locked before libvirt is asked. They are kept, because what
    libvirt finds out about QEMU takes 8 s; a new one starts with a copy of that.

    Raises: CapabilityError when very many harness processes run.
    """
    home = _home(cache)
    if home in _locks:
        return _locks[home][0]
    for number in range(_DIRECTORIES_MAX):
        root = home / str(number)
        root.mkdir(parents=True, exist_ok=True)
        fd = os.open(root / "harness.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        _share_capabilities(home / "0", root)
        _locks[home] = (_short(root), fd)
        return _locks[home][0]
    raise CapabilityError(
        f"libvirt: {home}: {_DIRECTORIES_MAX} harness processes use it already", hint="wait until some have ended"
    )


def _short(root: Path) -> Path:
    """Return a path of the directory that leaves room for libvirt's sockets below it: itself, or a link to it.

    A unix socket's path has at most 107 bytes (unix(7)); libvirt makes `lib/qemu/domain-ID-NAME/monitor.sock` below.
    """
    if len(os.fsencode(root)) <= _ROOT_PATH_MAX_BYTES:
        return root
    link = runtime_dir() / f".libvirt-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(root)
    return link


def _share_capabilities(first: Path, root: Path) -> None:
    known = first / "cache"
    if root != first and known.is_dir() and not (root / "cache").exists():
        shutil.copytree(known, root / "cache")


def knows_qemu(cache: Path) -> bool:
    """Return whether libvirt has asked QEMU for its capabilities before, in this process's directory."""
    return any((embed_root(cache) / "cache" / "qemu" / "capabilities").glob("*.xml"))


def check_uri(uri: str) -> None:
    """Raise CapabilityError for another host, whose clock and files are not ours, and for what is not QEMU's.

    Trials on another host do not come here: the harness of that host makes them (harness.backends._remote). A remote
    transport (ssh, tcp, tls, ext) to this very host is as good as a local one.
    """
    parts = urlsplit(uri)
    driver = parts.scheme.partition("+")[0]
    if driver != "qemu":
        raise CapabilityError(f"libvirt: {uri}: not a URI of the QEMU driver", hint="for instance uri: qemu:///system")
    if not is_here(uri):
        raise CapabilityError(
            f"libvirt: {uri}: a remote host cannot be timed by this host's clock",
            hint="harness run has its trials made there: uri: qemu+ssh://HOST/system; all else: run the harness there",
        )


def is_here(uri: str | None) -> bool:
    """Return whether a URI means this host."""
    return uri is None or urlsplit(uri).hostname in {None, *_THIS_HOST}


def is_daemon(uri: str | None) -> bool:
    """Return whether a daemon is behind a URI, and not the driver embedded in this process."""
    return uri is not None and urlsplit(uri).path != "/embed"


def qemu_owner(connection: Any) -> str | None:
    """Return this process's user and group as a privileged daemon takes them, None for a daemon that has no choice.

    Source: libvirt's host capabilities: the security model `dac` is there only where the daemon may change users.
    """
    models = ET.fromstring(connection.getCapabilities()).findall("host/secmodel/model")
    return f"+{os.geteuid()}:+{os.getegid()}" if "dac" in {model.text for model in models} else None


_embedded: dict[Path, Any] = {}
"""The one connection to the driver in this process: libvirt 9 registers it anew with each, and has room for twenty."""


def connect(uri: str | None, cache: Path) -> Any:
    """Return an open virConnect; `uri` None is the embedded driver. Raises CapabilityError."""
    if uri is not None:
        check_uri(uri)
        libvirt = import_libvirt()
        _start_loop(libvirt)
        hint = "is the daemon running, and may this user talk to it?"
        return _answered(lambda: _open(libvirt, uri, hint), f"libvirt: {uri}")
    root = embed_root(cache)
    if root in _embedded and _embedded[root].isAlive():
        return _embedded[root]
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "qemu.conf").write_text(QEMU_CONF)
    libvirt = import_libvirt()
    _start_loop(libvirt)
    embedded = f"qemu:///embed?root={root}"
    hint = "the embedded driver needs the package libvirt-daemon-driver-qemu"
    if os.geteuid() == 0 and _passwd.is_missing():
        _embedded[root] = _passwd.call_with_user(root / "etc", lambda: _open(libvirt, embedded, hint))
    else:
        _embedded[root] = _open(libvirt, embedded, hint)
    return _embedded[root]


def release(connection: Any) -> None:
    """Close a connection of `connect`, unless it is the embedded driver's, which lasts as long as this process."""
    if not any(connection is kept for kept in _embedded.values()):
        connection.close()


def _open(libvirt: Any, uri: str, hint: str) -> Any:
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise CapabilityError(f"libvirt: {uri}: {error}", hint=hint) from error


def create(connection: Any, xml: str, *, by_daemon: bool) -> Any:
    """Start a transient domain. Raises BackendError with libvirt's own words.

    A daemon ends it when this process ends, however it does; the embedded driver cannot.
    """
    libvirt = import_libvirt()
    try:
        if not by_daemon:  # in this very thread, whose cgroup QEMU gets
            return connection.createXML(xml, 0)
        flags = libvirt.VIR_DOMAIN_START_AUTODESTROY
        return _answered(lambda: connection.createXML(xml, flags), "libvirt: the daemon")
    except libvirt.libvirtError as error:
        message, hint = endings.refused(str(error))
        raise BackendError(message, hint=hint) from error


def _answered(call: Callable[[], T], whom: str) -> T:
    """Return what a call to a daemon returns. libvirt itself waits for ever: raises BackendError after _ANSWER_S."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again, in the thread that asked
            answer.set_exception(error)

    threading.Thread(target=work, name="libvirt-call", daemon=True).start()
    try:
        return answer.result(_ANSWER_S)
    except TimeoutError:
        raise BackendError(f"{whom}: no answer in {_ANSWER_S} s", hint="see the daemon's log") from None


def destroy(connection: Any, name: str) -> None:
    """End a domain at once; one that has ended already is no error."""
    libvirt = import_libvirt()
    try:
        connection.lookupByName(name).destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}:
            raise BackendError(f"libvirt: {name}: cannot be destroyed: {error}") from error


def monitor(connection: Any, name: str, command: str) -> str:
    """Return what QEMU's own monitor answers to a command for people. Raises: BackendError."""
    libvirt = import_libvirt()
    try:
        libvirt_qemu = importlib.import_module("libvirt_qemu")  # part of libvirt-python, untyped
        return str(libvirt_qemu.qemuMonitorCommand(connection.lookupByName(name), command, _FOR_PEOPLE))
    except (ImportError, libvirt.libvirtError) as error:
        raise BackendError(f"libvirt: {name}: {command}: {error}") from error


def check_machine(connection: Any, emulator: str, machine: str, kind: str, cpu: str | None) -> None:
    """Raise CapabilityError for a machine or CPU model that this QEMU has not; `kind` is `kvm` or `qemu`."""
    libvirt = import_libvirt()
    try:
        known = ET.fromstring(connection.getDomainCapabilities(emulator, "x86_64", machine, kind, 0))
    except libvirt.libvirtError as error:
        message, hint = endings.refused(str(error))
        raise CapabilityError(message, hint=hint) from error
    models = {model.text for model in known.findall("cpu/mode[@name='custom']/model")}
    if cpu is not None and cpu not in {"host", "max"} and models and cpu not in models:
        near = difflib.get_close_matches(cpu, [name for name in models if name], 1)
        raise CapabilityError(
            f"cpu: {cpu}: libvirt knows no such model", hint=f"did you mean {near[0]}?" if near else endings.CPU_HINT
        )


def reset(connection: Any, name: str) -> None:
    """Reset a domain's machine. Raises: BackendError."""
    libvirt = import_libvirt()
    try:
        connection.lookupByName(name).reset()
    except libvirt.libvirtError as error:
        raise BackendError(f"libvirt: {name}: cannot be reset: {error}") from error


def paused(connection: Any, name: str) -> str | None:
    """Return why a domain is stopped that exists, None while it runs or where there is none.

    QEMU stops a guest by itself where KVM reports an internal error, and the log has its words.
    """
    libvirt = import_libvirt()
    try:
        state, _reason = connection.lookupByName(name).state()
    except libvirt.libvirtError:
        return None
    if state not in {libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_CRASHED}:
        return None
    return last_words(name) or "it did not say why"


def reap(name: str) -> None:
    """Collect the QEMU of the embedded driver if it has ended; it is our child while we are a sub-reaper."""
    for root in _embedded:
        with contextlib.suppress(OSError, ValueError):  # no such file yet, not a child of ours
            os.waitpid(int((root / "run" / "qemu" / f"{name}.pid").read_text()), os.WNOHANG)


def last_words(name: str) -> str | None:
    """Return the last line that QEMU itself wrote about a guest of the embedded driver, None without one."""
    for root in _embedded:
        try:
            lines = (root / "log" / "qemu" / f"{name}.log").read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        return endings.last_line(lines)
    return None


def domains(connection: Any, prefix: str) -> list[str]:
    """Return the names of the running domains that start with `prefix`."""
    return [name for domain in connection.listAllDomains() if (name := domain.name()).startswith(prefix)]


def versions(connection: Any) -> dict[str, str]:
    """Return what answers: the versions of libvirt and QEMU and the URI."""

    def dotted(number: int) -> str:
        return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"

    libvirt = import_libvirt()
    try:
        return {
            "libvirt": dotted(connection.getLibVersion()),
            "qemu": dotted(connection.getVersion()),
            "uri": connection.getURI(),
        }
    except libvirt.libvirtError as error:
        raise CapabilityError(f"libvirt: QEMU: {error}", hint="is qemu-system-x86 installed?") from error
