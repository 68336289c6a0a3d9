"""Trials on another host: which host a URI means, what is said over the connection, what becomes of a broken one.

A script stands in for ssh: it is named by `command=`, as libvirt names it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.analysis.summary import analyse
from harness.backends import _remote, _remote_link
from harness.backends._remote_link import Link, encode
from harness.backends.libvirt import PLUGIN
from harness.cli.remote import Served, _ended_by_hangup
from harness.container.version import VERSION
from harness.errors import AgentError, BackendError, CapabilityError, HarnessError, ImageError, TrialTimeout
from harness.model.spec import MountSpec
from harness.report._tables import runtime_label
from tests.example_run import example_run, example_trials

HOST = {"kernel": "6.1", "cpu_model": "Abacus", "cpu_count": 4, "memory_bytes": 8 << 30, "boot_id": "b", "class": "c"}
GREETING = json.dumps({"schema": _remote_link.SCHEMA, "harness": VERSION, "host": HOST}, separators=(",", ":"))


def fake(tmp_path: Path, script: str) -> _remote.Remote:
    """Return another host, of which `script` stands in for ssh."""
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\ngreet() {{ echo '{GREETING}'; }}\n{script}\n")
    program.chmod(0o755)
    remote = _remote.parse(f"qemu+ssh://far/system?command={program}")
    assert remote is not None
    return remote


@pytest.mark.parametrize(
    ("uri", "there"),
    [
        ("qemu+ssh://far/system", "qemu:///system"),
        ("qemu+ssh://far/session", "qemu:///session"),
        ("qemu+ssh://far/embed", None),
        ("qemu+ssh://far/system?socket=/run/x", "qemu+unix:///system?socket=/run/x"),
    ],
)
def test_a_uri_of_another_host_means_the_same_driver_there(uri: str, there: str | None) -> None:
    remote = _remote.parse(uri)
    assert remote is not None
    assert (remote.host, remote.uri_there, remote.argv[-2:]) == ("far", there, ("far", "harness remote-serve"))


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu+ssh://localhost/system", "qemu+unix:///session?socket=/x"])
def test_a_uri_of_this_host_means_no_other(uri: str) -> None:
    assert _remote.parse(uri) is None


def test_parameters_of_ssh_are_those_of_libvirt() -> None:
    uri = "qemu+ssh://me@far:2222/system?command=/x/ssh&keyfile=/x/key&no_verify=1&no_tty=1&harness=sudo%20/x/harness"
    remote = _remote.parse(uri)
    assert remote is not None
    assert remote.argv[0] == "/x/ssh"
    assert remote.argv[-3:] == ("--", "far", "sudo /x/harness remote-serve")
    line = " ".join(remote.argv)
    for words in ("-p 2222", "-l me", "-i /x/key -o IdentitiesOnly=yes", "StrictHostKeyChecking=no", "BatchMode=yes"):
        assert words in line


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("qemu+tls://far/system", "over ssh alone"),
        ("qemu://far/system", "over ssh alone"),
        ("qemu+ssh://far/", "/: expected one of /system, /session, /embed"),
        ("qemu+ssh://far/system?netcat=/bin/nc", "netcat: not supported"),
    ],
)
def test_what_ssh_cannot_do_is_refused_before_it_is_tried(uri: str, words: str) -> None:
    with pytest.raises(CapabilityError, match=words):
        _remote.parse(uri)
    (need,) = PLUGIN.needs(PLUGIN.options.model_validate({"uri": uri}))
    assert not need.available


def test_a_directory_of_this_host_is_not_mounted_elsewhere() -> None:
    options = PLUGIN.options.model_validate({"uri": "qemu+ssh://far/system"})
    mounts = [MountSpec("bind", "/data", "/srv/data"), MountSpec("volume", "/v", "v", size_bytes=1 << 20)]
    (need,) = PLUGIN.mount_needs(options, mounts)
    assert not need.available
    assert need.reason.startswith("/srv/data: ")


def test_what_a_login_shell_prints_is_skipped(tmp_path: Path) -> None:
    link = Link(fake(tmp_path, "echo welcome; greet; cat >/dev/null"))
    assert link.greeting["host"] == HOST
    link.close()
    assert not link.usable


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'ssh: no route' >&2; exit 255", "cannot be reached: ssh: no route"),
        ("echo 'sh: harness: not found' >&2; exit 127", "no harness there: sh: harness: not found"),
        ("echo boom >&2; exit 3", "ended with code 3: boom"),
        ("greet | sed s/0.1/9.9/", "harness 9.9.0 is there, 0.1.0 is here"),
        ("yes nonsense", "no harness"),
    ],
)
def test_a_host_without_this_harness_is_one_clear_error(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(CapabilityError, match=words):
        Link(fake(tmp_path, script))


def test_events_come_before_the_answer(tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    script = (
        """greet; read -r asked; echo '{"say":"a"}'; echo '{"phase":"b"}'; echo '{"done":{"x":1}}'; cat >/dev/null"""
    )
    link = Link(fake(tmp_path, script))
    assert link.ask("trial", lambda kind, text: said.append((kind, text))) == {"x": 1}
    assert said == [("say", "a"), ("phase", "b")]
    assert link.usable
    link.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [(TrialTimeout("m: late"), TrialTimeout), (AgentError("m: x"), AgentError), (OSError(1, "m"), HarnessError)],
)
def test_an_error_there_is_the_same_error_here_with_the_name_of_the_host(
    tmp_path: Path, error: Exception, kind: type[HarnessError]
) -> None:
    answer = encode({"error": _remote_link.error_document(error)}).decode().strip()
    link = Link(fake(tmp_path, f"greet; read -r asked; echo '{answer}'; cat >/dev/null"))
    with pytest.raises(kind, match=r"^on far: ") as raised:
        link.ask("trial")
    assert type(raised.value) is kind
    link.close()


def test_a_connection_that_ends_in_the_middle_is_told_with_the_last_words_of_ssh(tmp_path: Path) -> None:
    link = Link(fake(tmp_path, "greet; read -r asked; echo 'Timeout, server not responding' >&2; exit 255"))
    with pytest.raises(BackendError, match=r"far: the connection was lost: ssh ended with code 255: Timeout") as raised:
        link.ask("trial")
    assert raised.value.ending == "host-lost"
    assert not link.usable
    link.close()


def test_needs_are_those_of_the_other_host(tmp_path: Path) -> None:
    answer = encode({"done": {"needs": [{"name": "qemu", "available": False, "reason": "gone", "hint": "get it"}]}})
    remote = fake(tmp_path, f"greet; read -r asked; echo '{answer.decode().strip()}'; cat >/dev/null")
    host, qemu = _remote_link.needs(remote, "libvirt", PLUGIN.options.model_validate({"uri": remote.uri}))
    assert (host.available, host.reason) == (True, "far: Abacus, 4 CPUs, 8.00 GiB, Linux 6.1")
    assert (qemu.available, qemu.reason, qemu.hint) == (False, "on far: gone", "get it")


@pytest.mark.parametrize(
    ("elsewhere", "code"), [(("vm",), "hosts-differ"), (("process", "container", "vm"), "elsewhere")]
)
def test_a_report_says_on_which_host(elsewhere: tuple[str, ...], code: str) -> None:
    run = example_run()
    arms = {n: {**a, "host": {"name": "far", **HOST}} if n in elsewhere else a for n, a in run.arms.items()}
    report = analyse(replace(run, arms=arms, runtimes=tuple(arms)), example_trials())
    (finding,) = [finding for finding in report.findings if finding.code in {"elsewhere", "hosts-differ"}]
    assert finding.code == code
    assert "vm: on far (Abacus, 4 CPUs, 8.00 GiB, Linux 6.1)" in finding.message
    assert runtime_label(report, "vm") == "vm (tcg, on far)"


# The other side


def test_an_image_that_is_another_than_was_said_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    request = encode({"do": "image", "manifest": f"sha256:{'0' * 64}", "size_bytes": 4})
    out = io.BytesIO()
    Served(io.BytesIO(request + b"junk"), out).serve()
    answer = json.loads(out.getvalue())
    assert answer["error"]["kind"] == "ImageError"
    assert not (tmp_path / "data/images/index.json").read_text().count("from-elsewhere")


def test_an_image_that_breaks_off_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    served = Served(io.BytesIO(b"ju"), io.BytesIO())
    with pytest.raises(ImageError, match="ended in the middle"):
        served._image({"manifest": f"sha256:{'0' * 64}", "size_bytes": 4})


def test_a_hangup_ends_what_goes_on_and_nothing_else_does() -> None:
    reading, writing = os.pipe()
    with _ended_by_hangup(reading):
        pass
    threading.Timer(0.05, os.close, [writing]).start()
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), _ended_by_hangup(reading):
            time.sleep(30)
    finally:
        signal.signal(signal.SIGTERM, former)
        os.close(reading)
