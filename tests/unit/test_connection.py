"""Where libvirt's embedded driver lives, and which URIs are refused."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.backends import _connection
from harness.errors import BackendError, CapabilityError


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "_locks", {})
    monkeypatch.setenv("HARNESS_RUNTIME", str(tmp_path / "r"))


def test_a_process_keeps_its_directory_and_another_gets_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_ROOT_PATH_MAX_BYTES", 1000)
    first = _connection.embed_root(tmp_path)
    assert _connection.embed_root(tmp_path) == first
    (first / "cache").mkdir()
    (first / "cache" / "known.xml").touch()
    monkeypatch.setattr(_connection, "_locks", {})  # as another process sees it: the lock is an open file's
    second = _connection.embed_root(tmp_path)
    assert second != first
    assert (second / "cache" / "known.xml").exists(), "what libvirt found out about QEMU is not asked again"


def test_a_long_path_gets_a_short_link(tmp_path: Path) -> None:
    cache = tmp_path / ("long" * 20)
    root = _connection.embed_root(cache)
    assert root.is_symlink()
    assert root.resolve() == (cache / "libvirt" / "0").resolve()
    assert len(os.fsencode(root)) < len(os.fsencode(cache))


@pytest.mark.parametrize("uri", ["qemu+ssh://host/system", "qemu+tls://host/system", "qemu://host/system"])
def test_a_remote_host_is_refused_because_its_clock_is_another(uri: str) -> None:
    with pytest.raises(CapabilityError, match="cannot be timed by this host's clock"):
        _connection.check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu:///session",
        "qemu+unix:///system?socket=/run/x",
        "qemu+ssh://localhost/system",
        "qemu+tcp://[::1]/system",
    ],
)
def test_local_daemons_are_taken(uri: str) -> None:
    _connection.check_uri(uri)


@pytest.mark.parametrize("uri", ["xen:///system", "test:///default", "/run/libvirt/libvirt-sock", ""])
def test_what_is_not_the_qemu_driver_is_refused(uri: str) -> None:
    with pytest.raises(CapabilityError, match="not a URI of the QEMU driver"):
        _connection.check_uri(uri)


def test_only_the_embedded_driver_is_no_daemon() -> None:
    assert not _connection.is_daemon(None)
    assert not _connection.is_daemon("qemu:///embed?root=/var/tmp/x")
    assert _connection.is_daemon("qemu:///system")
    assert _connection.is_daemon("qemu+unix:///session?socket=/run/x")


@dataclass
class FakeConnection:
    """A connection that knows its host's capabilities, as libvirt's `getCapabilities` answers."""

    models: tuple[str, ...]

    def getCapabilities(self) -> str:
        models = "".join(f"<secmodel><model>{name}</model><doi>0</doi></secmodel>" for name in self.models)
        return f"<capabilities><host><cpu/>{models}</host></capabilities>"


def test_qemu_runs_as_us_where_the_daemon_may_change_users() -> None:
    assert _connection.qemu_owner(FakeConnection(("apparmor", "dac"))) == f"+{os.geteuid()}:+{os.getegid()}"
    assert _connection.qemu_owner(FakeConnection(())) is None


def test_a_daemon_that_does_not_answer_is_an_error_and_not_a_run_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "_ANSWER_S", 0.01)
    never = threading.Event()
    with pytest.raises(BackendError, match=r"libvirt: the daemon: no answer in 0\.01 s"):
        _connection._answered(never.wait, "libvirt: the daemon")
    never.set()


def test_what_a_daemon_answers_comes_back_and_so_does_its_error() -> None:
    assert _connection._answered(lambda: 7, "x") == 7
    with pytest.raises(ZeroDivisionError):
        _connection._answered(lambda: 1 // 0, "x")


def test_a_qemu_that_has_ended_unheard_is_collected_and_one_that_runs_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connection, "_embedded", {tmp_path: None})
    (tmp_path / "run" / "qemu").mkdir(parents=True)
    ended = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
    runs = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    for name, pid in (("ended", ended), ("runs", runs)):
        (tmp_path / "run" / "qemu" / f"{name}.pid").write_text(str(pid))
        _connection.reap(name)
    _connection.reap("unknown")
    with pytest.raises(ChildProcessError):
        os.waitpid(ended, os.WNOHANG)
    assert os.waitpid(runs, os.WNOHANG) == (0, 0)
    os.kill(runs, signal.SIGKILL)
    os.waitpid(runs, 0)
