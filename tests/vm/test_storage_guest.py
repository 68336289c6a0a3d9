"""Storage drivers in a guest with a distribution's kernel: the contract, devicemapper's above all, and the study."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.host.paths import cache_dir
from harness.interfaces import RunContext
from harness.model.metrics import Absent, Measurement
from harness.studies import _storage_guest
from harness.trials import ownership
from tests import storage_contract

pytestmark = [pytest.mark.needs("root", "qemu", "libvirt", "kernel", "erofs", "apt"), pytest.mark.timeout(280)]

TESTS = Path(__file__).parents[1]
REPORT = Path(__file__).with_name("guest") / "storage_contract_report.py"
# devicemapper has no other place to be tested. Of the others, which the host tests too, what another kernel changes.
FEW = "whiteouts_hide,read_only_mount_refuses_writes,removal_leaves_nothing"
WANTED = {"devicemapper": "all", "overlay": FEW, "btrfs": FEW, "erofs": FEW, "fuse-overlayfs": FEW}
ASK_NS = 200 * 10**9


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunContext]:
    place = tmp_path_factory.mktemp("storage-guest")
    token = secrets.token_hex(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(place / "data"))
        yield RunContext("test", token, ownership.claim(token, "storage"), cache_dir())
    ownership.reap(token, [plugins.load("backends", "libvirt")], dry_run=False)
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def guest(context: RunContext) -> Iterator[_storage_guest.Guest]:
    files = {"tests/storage_contract.py": TESTS / "storage_contract.py", REPORT.name: REPORT}
    guest = _storage_guest.Guest(context, files)
    yield guest
    guest.close()


@pytest.fixture(scope="module")
def told(guest: _storage_guest.Guest) -> dict[str, Any]:
    argv = [_storage_guest.PYTHON, f"/opt/{REPORT.name}", *(f"{name}={checks}" for name, checks in WANTED.items())]
    done = guest.run(argv, ASK_NS)
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("name", WANTED)
def test_contract(name: str, told: dict[str, Any], subtests: pytest.Subtests) -> None:
    expected = storage_contract.CHECKS if WANTED[name] == "all" else WANTED[name].split(",")
    assert sorted(told["report"][name]) == sorted(expected), told["report"][name]
    for check, failed in told["report"][name].items():
        with subtests.test(check):
            assert failed == ""


def test_nothing_is_left(told: dict[str, Any]) -> None:
    assert told["left"] == []
    assert told["devices"] == []


def test_study_measures_in_the_guest(guest: _storage_guest.Guest, context: RunContext) -> None:
    study = plugins.load("studies", "storage")
    study._guests[context.token] = (guest, {"the test"})
    options = study.arm_options.model_validate({"driver": "overlay", "in": "guest"})
    arm = study.prepare("overlay", study.options(), options, context)
    emitted: list[Measurement | Absent] = []
    arm.measure("t0", emitted.append)
    arm.close()
    del study._guests[context.token]
    values = {one.metric.name: one.value for one in emitted if isinstance(one, Measurement)}
    assert [*values] == [metric.name for metric in study.metrics]
    assert values["driver.used"] > 64 << 20  # a byte written into a file of 64 MiB: overlay copies it whole
    assert arm.facts["kernel"] != os.uname().release


def test_driver_that_a_guest_lacks_is_absent_with_the_reason(guest: _storage_guest.Guest, context: RunContext) -> None:
    study = plugins.load("studies", "storage")
    study._guests[context.token] = (guest, {"the test"})
    options = study.arm_options.model_validate({"driver": "aufs", "in": "guest"})
    arm = study.prepare("aufs", study.options(), options, context)
    emitted: list[Measurement | Absent] = []
    arm.measure("t0", emitted.append)
    del study._guests[context.token]
    assert {one.reason for one in emitted if isinstance(one, Absent)} == {
        "in the guest: this kernel has no such file system"
    }
    assert len(emitted) == len(study.metrics)
