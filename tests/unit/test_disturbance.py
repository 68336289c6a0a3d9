"""What the studies of interference and containment make of what was seen: no root, no clock."""

from __future__ import annotations

import pytest

from harness.backends._vm_events import in_words
from harness.model.metrics import Absent, Measurement
from harness.studies import _interference as m
from harness.studies import _watch
from harness.studies._caps import above_of, devices_of
from harness.studies._disturbed import jain, metrics_of
from harness.studies._faults import ENDS, FAULTS, LIVES_ON
from harness.studies._host_watch import judge
from harness.studies._watch import Counted

_KILLED = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={0},task_memcg={0},"
    "task=exe,pid=9848,uid=0"
)
_GLOBAL = (
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=eat,"
    "pid=1,uid=0"
)
_OWN, _NEIGHBOUR = "/harness-0a1b2c3d", "/harness-0a1b2c3d/b00-vm-b"


@pytest.mark.parametrize(
    ("line", "killed", "trouble"),
    [
        pytest.param(_KILLED.format(f"{_OWN}/b00-vm-w"), 1, 0, id="own"),
        pytest.param(_KILLED.format("/harness-99999999/b00"), 0, 0, id="another run's"),
        pytest.param(_KILLED.format("/docker/0a1b"), 0, 0, id="another's"),
        pytest.param(_KILLED.format(_NEIGHBOUR), 0, 1, id="the neighbour's"),
        pytest.param(_KILLED.format(f"{_NEIGHBOUR}/payload"), 0, 1, id="below the neighbour's"),
        pytest.param(_KILLED.format(f"{_NEIGHBOUR}2"), 1, 0, id="a name that begins alike"),
        pytest.param(_GLOBAL, 0, 1, id="the whole host's"),
        pytest.param("BUG: kernel NULL pointer dereference, address: 0000000000000008", 0, 1, id="bug"),
        pytest.param("INFO: task dockerd:123 blocked for more than 120 seconds.", 0, 1, id="stall"),
        pytest.param("tap184: entered promiscuous mode", 0, 0, id="everyday"),
    ],
)
def test_the_hosts_log_tells_own_kills_from_trouble(line: str, killed: int, trouble: int) -> None:
    told = judge(["device eth0 left", line], _OWN, _NEIGHBOUR)
    assert (len(told.killed), len(told.trouble)) == (killed, trouble)


def test_without_a_group_of_the_neighbours_nothing_is_taken_for_one() -> None:
    assert judge([_KILLED.format(f"{_OWN}/b00-vm-w")], _OWN, "").trouble == ()


def test_only_disks_of_volumes_are_capped() -> None:
    said = (
        "libvirt-2-format: /data/images/disks/cd00.erofs (raw, read-only)\r\n"
        "    Attached to:      /machine/peripheral/virtio-disk0/virtio-backend\r\n    Cache mode:  writeback\r\n\r\n"
        "libvirt-1-format: /data/trial-volumes/901e41a8/b00-w/scratch.ext4 (raw)\r\n"
        "    Attached to:      /machine/peripheral/virtio-disk1/virtio-backend\r\n    Cache mode:       writeback\r\n"
    )
    assert devices_of(said) == ["/machine/peripheral/virtio-disk1/virtio-backend"]


def test_controllers_are_handed_down_from_the_root_to_the_parent() -> None:
    assert above_of("/harness-0a1b2c3d/b00-vm-w") == ["", "/harness-0a1b2c3d"]


def test_an_event_of_the_monitor_in_words() -> None:
    said = in_words("SHUTDOWN", '{"guest": true, "reason": "guest-reset"}')
    assert said == "SHUTDOWN guest=true reason=guest-reset"
    assert in_words("STOP", None) == "STOP"


def test_fairness_is_1_of_equals_and_1_of_n_where_one_has_all() -> None:
    assert jain([5, 5, 5, 5]) == pytest.approx(1)
    assert jain([7, 0, 0, 0]) == pytest.approx(0.25)
    assert jain([0, 0]) == 0


def _counted(own: float | None, other: float | None = None, waited: float | None = None) -> Counted:
    return Counted(own, other, waited, 3, 0.25)


def test_what_the_disturbed_one_got_is_held_against_its_quiet_windows() -> None:
    found = _watch.shrunk(_counted(0.8), _counted(0.5), _counted(1.2))
    assert isinstance(found, Measurement)
    assert found.value == pytest.approx(0.5)
    assert isinstance(_watch.shrunk(_counted(0), _counted(0), _counted(0)), Absent)
    assert isinstance(_watch.shrunk(_counted(1), _counted(None), _counted(1)), Absent)


def test_what_the_antagonist_took_is_held_against_its_limit() -> None:
    found = _watch.used(_counted(0.5, other=0.48), 0.5)
    assert isinstance(found, Measurement)
    assert found.value == pytest.approx(0.96)
    assert found.labels == {"allowed_cpus": "0.5", "periods_at_its_quota": "3"}


def test_waiting_that_nobody_counts_is_absent_and_not_zero() -> None:
    assert isinstance(_watch.pressure(m.PRESSURE["io"], _counted(1)), Absent)
    assert isinstance(_watch.pressure(m.PRESSURE["io"], _counted(1, waited=0.0)), Measurement)


def test_every_metric_is_of_one_kind_or_of_all() -> None:
    of_kinds = [metric for kind in m.KINDS for metric in metrics_of(kind)]
    assert len(set(of_kinds)) == len(of_kinds)
    assert set(of_kinds) < set(m.METRICS)


def test_every_fault_has_a_cause() -> None:
    assert set(FAULTS) == set(LIVES_ON) | set(ENDS)
