"""What a guest's memory levers become in its domain, and which do not go together."""

import xml.etree.ElementTree as ET

import pytest

from harness.backends._hardware import Hardware, add_balloon, add_memory, add_memory_backing
from harness.backends._vm_options import Options

MIB = 1 << 20


def domain(hardware: Hardware) -> ET.Element:
    root = ET.Element("domain")
    add_memory(root, hardware, 128 * MIB)
    add_memory_backing(root, hardware, shared=False)
    add_balloon(root, hardware, lambda balloon: balloon.set("placed", "yes"))
    return root


def test_by_default_there_is_no_balloon_and_the_host_decides_on_merging():
    root = domain(Options().hardware)
    assert root.find("memballoon").attrib == {"model": "none"}
    assert root.find("memoryBacking") is None
    assert root.find("currentMemory") is None


def test_a_balloon_takes_what_exceeds_a_size_that_the_guest_has():
    root = domain(Options(balloon=80 * MIB).hardware)
    assert root.find("memballoon").attrib == {"model": "virtio", "placed": "yes"}
    assert root.find("currentMemory").text == str(80 * 1024)
    assert domain(Options(balloon=1024 * MIB).hardware).find("currentMemory").text == str(128 * 1024)


def test_reporting_needs_a_balloon_and_leaves_the_size():
    root = domain(Options(free_page_reporting=True).hardware)
    assert root.find("memballoon").attrib == {"model": "virtio", "freePageReporting": "on", "placed": "yes"}
    assert root.find("currentMemory") is None


def test_memory_that_is_not_to_be_merged_says_so():
    assert domain(Options(ksm="off").hardware).find("memoryBacking/nosharepages") is not None
    assert domain(Options(ksm="on").hardware).find("memoryBacking") is None


def test_a_balloon_does_not_go_with_memory_that_is_all_taken():
    with pytest.raises(ValueError, match="not beside prealloc"):
        Options(balloon=80 * MIB, prealloc=True)
