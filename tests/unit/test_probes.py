"""What the probes make of captured files and of what an instance says."""

from typing import Any

import pytest

from harness import plugins
from harness.host.memory import Sizes, parse_meminfo, parse_rollup, parse_smaps
from harness.interfaces import Probe
from harness.model.metrics import Absent, Measurement
from harness.model.milestones import Mark
from harness.probes.isolation import capability_names
from harness.trials.ownership import boot_id
from tests.fakes import FakeInstance

ROLLUP = """\
00400000-7ffd3e5f7000 ---p 00000000 00:00 0                              [rollup]
Rss:                1560 kB
Pss:                 611 kB
Pss_Dirty:           100 kB
Shared_Clean:        968 kB
Private_Clean:       432 kB
Private_Dirty:       160 kB
Private_Hugetlb:       0 kB
"""
SMAPS = """\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
KernelPageSize:        4 kB
Rss:               90112 kB
Pss:               90112 kB
Private_Dirty:     90112 kB
7f0010000000-7f0010010000 rwxp 00000000 00:00 0
Size:                 64 kB
Rss:                  64 kB
Private_Dirty:        64 kB
7f0018000000-7f0018001000 r-xp 00001000 08:01 1234                       /usr/bin/qemu-system-x86_64
Size:                  4 kB
Rss:                   4 kB
7f0020000000-7f0020001000 rw-p 00000000 00:00 0                          [heap]
Size:                  4 kB
Rss:                   4 kB
"""


def observed(probe: Probe, instance: FakeInstance) -> dict[str, Any]:
    """Return metric name -> value, or its Absent reason."""
    found: dict[str, Any] = {}

    def emit(item: Measurement | Absent) -> None:
        assert item.metric.name not in found
        found[item.metric.name] = item.value if isinstance(item, Measurement) else item.reason

    with probe.watch(instance, emit):
        pass
    instance.stop(0)
    probe.conclude(instance, emit)
    return found


def test_rollup_gives_bytes() -> None:
    assert parse_rollup(ROLLUP) == Sizes(pss=611 * 1024, rss=1560 * 1024, uss=592 * 1024)


def test_mappings_tell_guest_ram_translated_code_and_files_apart() -> None:
    ram, code, program, heap = parse_smaps(SMAPS)
    assert (ram.size_bytes, ram.sizes.rss, ram.executable, ram.file) == (256 << 20, 90112 * 1024, False, "")
    assert (code.executable, code.file, code.sizes.uss) == (True, "", 64 * 1024)
    assert (program.executable, program.file) == (True, "/usr/bin/qemu-system-x86_64")
    assert (heap.file, heap.sizes.rss) == ("[heap]", 4096)


def test_the_hosts_memory_is_used_without_page_cache_but_with_tmpfs() -> None:
    text = "".join(
        f"{name}: {size} kB\n"
        for name, size in {
            "MemTotal": 1000,
            "MemFree": 300,
            "MemAvailable": 600,
            "Buffers": 50,
            "Cached": 250,
            "Shmem": 100,
        }.items()
    )
    found = parse_meminfo(text)
    assert (found.used_bytes, found.cache_bytes) == (500 * 1024, 200 * 1024)


def test_capability_names_and_bits_newer_than_the_list() -> None:
    assert capability_names(0b1) == ["chown"]
    assert capability_names(1 << 21 | 1 << 50) == ["sys_admin", "cap_50"]


@pytest.mark.parametrize("name", plugins.names("probes"))
@pytest.mark.parametrize("boundary", ["process", "container", "vm"])
def test_every_metric_is_told_once_or_absent_with_a_reason(name: str, boundary: Any) -> None:
    probe = plugins.load("probes", name)
    found = observed(probe, FakeInstance(boundary=boundary))
    assert set(found) == {metric.name for metric in probe.metrics}
    assert all(value != "" for value in found.values())


def test_startup_counts_from_requested_and_the_forced_end_is_no_milestone() -> None:
    instance = FakeInstance()
    instance.marks += [Mark("init", 1500), Mark("ready", 3000)]
    found = observed(plugins.load("probes", "startup"), instance)
    assert (found["startup.init"], found["startup.ready"]) == (500, 2000)
    assert found["stop.deleted"] == 500
    assert found["startup.exited"] == "the workload ran until it was stopped"
    assert found["startup.kernel"] == "no VMM: it runs on the host's kernel"


def test_isolation_with_the_hosts_boot_id_is_a_shared_kernel() -> None:
    seen = {"boot_id": boot_id(), "namespaces": {"pid": "pid:[1]"}, "status": {"CapEff": "a80425fb", "Seccomp": "2"}}
    found = observed(plugins.load("probes", "isolation"), FakeInstance(seen=seen, own_pids=(1, 2)))
    assert found["isolation.kernel.shared"] == 1
    assert found["isolation.namespace.pid"] == 1
    assert found["isolation.namespaces.own"] == 1
    assert found["isolation.capabilities.effective"] == 14
    assert found["isolation.seccomp.mode"] == 2


def test_isolation_with_an_own_kernel_says_nothing_of_the_hosts_namespaces() -> None:
    found = observed(plugins.load("probes", "isolation"), FakeInstance(seen={"boot_id": "other"}, boundary="vm"))
    assert found["isolation.kernel.shared"] == 0
    assert "own kernel" in found["isolation.namespace.pid"]


def test_host_processes_are_those_that_are_not_its_own() -> None:
    seen = {"boot_id": boot_id(), "processes": 80}
    found = observed(plugins.load("probes", "isolation"), FakeInstance(seen=seen, own_pids=(1, 2)))
    assert found["isolation.host_processes.visible"] == 1
    seen["processes"] = 2
    found = observed(plugins.load("probes", "isolation"), FakeInstance(seen=seen, own_pids=(1, 2)))
    assert found["isolation.host_processes.visible"] == 0
