"""Functions of a kernel, traced for real in a guest that may trace its own: this host's kernel may let nobody do it."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from harness import plugins
from harness.host.paths import cache_dir
from harness.interfaces import RunContext
from harness.studies import _storage_guest
from harness.trials import ownership
from tests.vm._thorough import ON_REQUEST

pytestmark = [
    pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs", "apt"),
    pytest.mark.timeout(400),
    ON_REQUEST,
]
REPORT = Path(__file__).with_name("guest") / "functions_report.py"
TRACED_NS = 300 * 10**9


def test_functions_of_a_piece_of_work_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    token = secrets.token_hex(4)
    context = RunContext("test", token, ownership.claim(token, "functions"), cache_dir())
    try:
        guest = _storage_guest.Guest(context, {REPORT.name: REPORT})
        done = guest.run([_storage_guest.PYTHON, f"/opt/{REPORT.name}"], TRACED_NS)
        guest.close()
    finally:
        ownership.reap(token, [plugins.load("backends", "libvirt")], dry_run=False)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["before"].startswith("tracefs is not mounted")
    assert {"vfs_read", "do_exit", "do_filp_open"} <= set(found["functions"])
    assert found["both"] > 0.9 * len(found["functions"]) > 300
    assert (found["lost"], found["left"]) == (0, [])
    assert found["events"] > 10 * len(found["functions"])
