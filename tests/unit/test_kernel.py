import bz2
import gzip
import json
import lzma
import struct
from types import SimpleNamespace

import lz4.block
import pytest
import zstandard

from harness.errors import CapabilityError
from harness.images import elf
from harness.images.bzimage import vmlinux_of
from harness.images.kernel import GuestKernel, _meta_package, fetch, find, from_path, main, module_files
from harness.images.kmodules import module_name

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")


def make_elf(*, note=None, sections=()):
    """A minimal ELF file: one PT_NOTE segment with `note` (name, type, content), and sections (name, content)."""
    body, at = b"", HEADER.size
    program = b""
    if note is not None:
        name, kind, content = note
        packed = struct.pack("<III", len(name) + 1, len(content), kind) + pad(name + b"\0") + pad(content)
        program = struct.pack("<IIQQQQQQ", 4, 4, at, 0, 0, len(packed), len(packed), 4)
        body += packed
    names = b"\0" + b"".join(name + b"\0" for name, _ in sections) + b".shstrtab\0"
    table = [(0, 0, 0, 0)]
    for name, content in sections:
        table.append((names.index(name + b"\0"), 1, at + len(body), len(content)))
        body += content
    table.append((names.index(b".shstrtab\0"), 3, at + len(body), len(names)))
    body += names
    program_at, sections_at = at + len(body), at + len(body) + len(program)
    packed_table = b"".join(struct.pack("<IIQQQQIIQQ", n, kind, 0, 0, o, s, 0, 0, 1, 0) for n, kind, o, s in table)
    header = HEADER.pack(
        elf.MAGIC.ljust(16, b"\0"), 2, 62, 1, 0, program_at, sections_at, 0, 64, 56, bool(program), 64,
        len(table), len(table) - 1,
    )  # fmt: skip
    return header + body + program + packed_table


def pad(data):
    return data + b"\0" * (-len(data) % 4)


PVH = (b"Xen", 18, struct.pack("<Q", 0x1000850))
BANNER = b"Linux version %s\0 Linux version 6.1.0-cloud (builder) \0"
VMLINUX = make_elf(note=PVH, sections=[(b".rodata", BANNER + bytes(range(256)) * 100)])


def make_bzimage(compressed, *, setup_sects=27, version=0x020F):
    image = bytearray((setup_sects + 1) * 512 + 0x300)
    image[0x1F1] = setup_sects
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = version.to_bytes(2, "little")
    struct.pack_into("<II", image, 0x248, 0x300, len(compressed))
    return bytes(image) + compressed + b"trailing bytes such as a signature"


def sized(compressed):
    return compressed + len(VMLINUX).to_bytes(4, "little")


def lz4_legacy(data, block_bytes=8 << 20):
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), block_bytes):
        block = lz4.block.compress(data[at : at + block_bytes], store_size=False)
        out += len(block).to_bytes(4, "little") + block
    return out


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(sized(lz4_legacy(VMLINUX)), id="lz4"),
        pytest.param(sized(lz4_legacy(VMLINUX, 10_000)), id="lz4-blocks"),
        pytest.param(gzip.compress(VMLINUX), id="gzip"),
        pytest.param(sized(lzma.compress(VMLINUX)), id="xz"),
        pytest.param(sized(lzma.compress(VMLINUX, format=lzma.FORMAT_ALONE)), id="lzma"),
        pytest.param(sized(zstandard.compress(VMLINUX)), id="zstd"),
        pytest.param(sized(bz2.compress(VMLINUX)), id="bzip2"),
    ],
)
def test_vmlinux_is_found_by_the_boot_header_in_every_compression(payload):
    assert vmlinux_of(make_bzimage(payload), "x") == VMLINUX


def test_setup_size_zero_means_four_sectors():
    image = bytearray(make_bzimage(gzip.compress(VMLINUX), setup_sects=4))
    image[0x1F1] = 0
    assert vmlinux_of(bytes(image), "x") == VMLINUX


def test_vmlinux_is_taken_as_it_is():
    assert vmlinux_of(VMLINUX, "x") == VMLINUX


@pytest.mark.parametrize(
    ("image", "why"),
    [
        pytest.param(b"", "neither a bzImage nor an ELF", id="empty"),
        pytest.param(b"\x7fELF\x01\x01" + bytes(100), "neither a bzImage nor an ELF", id="32-bit"),
        pytest.param(make_bzimage(gzip.compress(VMLINUX))[:-100], "cut off", id="cut"),
        pytest.param(make_bzimage(b"")[:0x210], "cut off", id="cut-header"),
        pytest.param(make_bzimage(gzip.compress(VMLINUX), version=0x0207), "2.08", id="old"),
        pytest.param(make_bzimage(b"\x89LZO" + bytes(100)), "unknown compression", id="lzo"),
        pytest.param(make_bzimage(lz4_legacy(VMLINUX) + bytes(4)), "not the size that it states", id="size"),
        pytest.param(make_bzimage(b"\x1f\x8b\x08" + b"\xff" * 100), "damaged", id="gzip"),
        pytest.param(make_bzimage(b"\xfd7zXZ\0" + b"\xff" * 100), "damaged", id="xz"),
        pytest.param(make_bzimage(b"\x28\xb5\x2f\xfd" + b"\xff" * 100), "damaged", id="zstd"),
        pytest.param(make_bzimage(b"\x02\x21\x4c\x18" + b"\x0a\0\0\0" + b"\xff" * 100), "damaged", id="lz4"),
        pytest.param(make_elf(), "no PVH note", id="no-note"),
        pytest.param(make_elf(note=(b"GNU", 18, b"1234")), "no PVH note", id="other-note"),
        pytest.param(VMLINUX[:200], "cut off", id="cut-elf"),
    ],
)
def test_what_cannot_be_booted_is_refused_with_the_reason(image, why):
    with pytest.raises(CapabilityError, match=why) as caught:
        vmlinux_of(image, "vmlinuz-test")
    assert caught.value.message.startswith("guest kernel: vmlinuz-test: ")
    assert caught.value.hint


def test_pvh_entry_is_the_address_in_the_note():
    assert elf.pvh_entry(VMLINUX) == 0x1000850


def test_section_is_found_by_its_name():
    data = make_elf(sections=[(b".a", b"one"), (b".modinfo", b"two")])
    assert elf.section(data, b".modinfo") == b"two"
    assert elf.section(data, b".none") is None


def test_kernel_of_a_user_is_extracted_once(tmp_path):
    image, modules = tmp_path / "vmlinuz", tmp_path / "modules"
    image.write_bytes(make_bzimage(gzip.compress(VMLINUX)))
    modules.mkdir()
    kernel = from_path(tmp_path / "cache", image, modules)
    assert kernel.release == "6.1.0-cloud"
    assert kernel.vmlinux.read_bytes() == VMLINUX
    assert (kernel.bzimage, kernel.modules, kernel.source) == (image, modules, f"file {image}")
    written_ns = kernel.vmlinux.stat().st_mtime_ns
    assert from_path(tmp_path / "cache", image, None).vmlinux.stat().st_mtime_ns == written_ns
    assert sorted(path.name for path in kernel.vmlinux.parent.parent.iterdir()) == [kernel.vmlinux.parent.name]


def test_failed_extraction_leaves_nothing(tmp_path):
    image = tmp_path / "vmlinuz"
    image.write_bytes(make_elf(note=PVH))
    with pytest.raises(CapabilityError, match="banner"):
        from_path(tmp_path / "cache", image, None)
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


def test_vmlinux_of_a_user_has_no_compressed_form(tmp_path):
    (tmp_path / "vmlinux").write_bytes(VMLINUX)
    assert from_path(tmp_path / "cache", tmp_path / "vmlinux", None).bzimage is None


@pytest.mark.parametrize(("image", "modules"), [("none", None), ("vmlinux", "none")])
def test_missing_path_is_named(tmp_path, image, modules):
    (tmp_path / "vmlinux").write_bytes(VMLINUX)
    with pytest.raises(CapabilityError, match=r"none: [Nn]o such"):
        from_path(tmp_path / "cache", tmp_path / image, modules and tmp_path / modules)


def cached(cache, name, **changes):
    directory = cache / "kernels" / name
    directory.mkdir(parents=True)
    (directory / "vmlinux").write_bytes(VMLINUX)
    facts = {"release": "6.1", "source": "package x", "digest": "sha256:0", "vmlinux_bytes": len(VMLINUX)}
    facts |= {"bzimage": "boot/vmlinuz-6.1", "modules": "lib/modules/6.1"} | changes
    (directory / "kernel.json").write_text(json.dumps(facts))
    (cache / "kernels" / "current").symlink_to(name)
    return directory


def test_find_returns_the_current_one(tmp_path):
    directory = cached(tmp_path, "a")
    kernel = find(tmp_path)
    assert kernel == GuestKernel(
        release="6.1",
        vmlinux=directory / "vmlinux",
        bzimage=directory / "boot/vmlinuz-6.1",
        modules=directory / "lib/modules/6.1",
        digest="sha256:0",
        source="package x",
    )


def test_find_in_an_empty_cache_is_none(tmp_path):
    assert find(tmp_path) is None


def test_truncated_vmlinux_is_not_booted(tmp_path):
    cached(tmp_path, "a", vmlinux_bytes=len(VMLINUX) + 1)
    with pytest.raises(CapabilityError, match="cut off"):
        find(tmp_path)


def test_show_says_what_is_there_and_what_to_do_when_nothing_is(tmp_path, capsys):
    assert main(["show", "--cache", str(tmp_path)]) == 3
    assert "hint: python -m harness.images.kernel fetch" in capsys.readouterr().err
    cached(tmp_path, "a")
    assert main(["show", "--cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("6.1 ")


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ({"ID": "debian"}, "linux-image-cloud-amd64"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "linux-image-virtual"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "linux-image-virtual"),
    ],
)
def test_kernel_package_follows_the_distribution(release, package):
    assert _meta_package(release, "x86_64") == package


@pytest.mark.parametrize(("release", "machine"), [({"ID": "fedora"}, "x86_64"), ({"ID": "debian"}, "riscv64")])
def test_unknown_distribution_or_machine_is_said(release, machine):
    with pytest.raises(CapabilityError, match="known"):
        _meta_package(release, machine)


FAKE_APT_CACHE = """#!/bin/sh
[ "$1 $2" = "show --no-all-versions" ] && cat "$(dirname "$0")/packages/$3"
"""
FAKE_APT_GET = """#!/bin/sh
[ "$1" = download ] && echo "$2" >> "$(dirname "$0")/downloads" && echo "$2" > package.deb
"""
FAKE_DPKG_DEB = """#!/bin/sh
[ "$1" = -x ] && cp -r "$(dirname "$0")/files/$(cut -d= -f1 "$2")/." "$3"
"""


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A package mirror of its own: `add(name, depends, files)`; `downloads()` lists what was fetched from it."""
    root = tmp_path / "mirror"
    for name, script in (("apt-cache", FAKE_APT_CACHE), ("apt-get", FAKE_APT_GET), ("dpkg-deb", FAKE_DPKG_DEB)):
        (root / "packages").mkdir(parents=True, exist_ok=True)
        (root / name).write_text(script)
        (root / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}:/usr/bin:/bin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def add(name, depends, files=()):
        text = f"Package: {name}\nVersion: 6.1.2-1\nDescription: x\n more\n"
        (root / "packages" / name).write_text(text + (f"Depends: {depends}\n" if depends else ""))
        for path, content in dict(files).items():
            (root / "files" / name / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "files" / name / path).write_bytes(content)

    def downloads():
        listed = root / "downloads"
        return listed.read_text().split() if listed.exists() else []

    return SimpleNamespace(add=add, downloads=downloads)


IMAGE = {"boot/vmlinuz-6.1.0-cloud": make_bzimage(gzip.compress(VMLINUX))}
MODULES = {"lib/modules/6.1.0-cloud/modules.builtin": b""}


def test_fetch_on_debian_takes_the_image_that_the_meta_package_names(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    mirror.add("linux-image-cloud-amd64", "linux-image-6.1.0-cloud-amd64 (= 6.1.2-1)")
    mirror.add("linux-image-6.1.0-cloud-amd64", "kmod, linux-base (>= 4.3~), initramfs-tools | dracut", IMAGE | MODULES)
    kernel = fetch(tmp_path / "cache")
    assert mirror.downloads() == ["linux-image-6.1.0-cloud-amd64=6.1.2-1"]
    assert kernel == find(tmp_path / "cache")
    assert kernel.vmlinux.read_bytes() == VMLINUX
    assert kernel.bzimage.name == "vmlinuz-6.1.0-cloud"
    assert (kernel.release, kernel.modules.name) == ("6.1.0-cloud", "6.1.0-cloud")
    assert kernel.source == "package linux-image-6.1.0-cloud-amd64 6.1.2-1"
    assert fetch(tmp_path / "cache") == kernel
    assert len(mirror.downloads()) == 1


def test_fetch_on_ubuntu_takes_the_modules_from_their_own_package(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "ubuntu"})
    mirror.add("linux-image-virtual", "linux-image-6.8.0-31-generic, linux-firmware")
    mirror.add("linux-image-6.8.0-31-generic", "kmod, linux-modules-6.8.0-31-generic", IMAGE)
    mirror.add("linux-modules-6.8.0-31-generic", "", {f"usr/{path}": data for path, data in MODULES.items()})
    kernel = fetch(tmp_path / "cache")
    assert sorted(mirror.downloads()) == [
        "linux-image-6.8.0-31-generic=6.1.2-1",
        "linux-modules-6.8.0-31-generic=6.1.2-1",
    ]
    assert (kernel.modules / "modules.builtin").is_file()


def test_newer_package_becomes_the_current_one(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    for release in ("6.1.0-1", "6.1.0-2"):
        mirror.add("linux-image-cloud-amd64", f"linux-image-{release}-cloud-amd64")
        mirror.add(f"linux-image-{release}-cloud-amd64", "", IMAGE | MODULES)
        fetch(tmp_path / "cache")
    assert find(tmp_path / "cache").source == "package linux-image-6.1.0-2-cloud-amd64 6.1.2-1"


def test_unknown_package_leaves_nothing_and_says_what_to_do(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    with pytest.raises(CapabilityError, match="linux-image-cloud-amd64") as caught:
        fetch(tmp_path / "cache")
    assert "apt-get update" in caught.value.hint
    assert not (tmp_path / "cache").exists()


def test_package_without_a_kernel_leaves_nothing(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "debian"})
    mirror.add("linux-image-cloud-amd64", "linux-image-6.1.0-cloud-amd64")
    mirror.add("linux-image-6.1.0-cloud-amd64", "", MODULES)
    with pytest.raises(CapabilityError, match=r"boot/vmlinuz-\*: 0 found"):
        fetch(tmp_path / "cache")
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


def module_tree(tmp_path, depends, builtin=()):
    """A tree of modules: path -> names in its depends=."""
    tree = tmp_path / "modules"
    for path, names in depends.items():
        module = tree / "kernel" / path
        module.parent.mkdir(parents=True, exist_ok=True)
        info = b"license=GPL\0depends=" + names.encode() + b"\0name=x\0"
        data = make_elf(sections=[(b".text", b"code"), (b".modinfo", info)])
        pack = {".xz": lzma.compress, ".zst": zstandard.compress, ".gz": gzip.compress}.get(module.suffix)
        module.write_bytes(pack(data) if pack else data)
    (tree / "modules.builtin").write_text("".join(f"kernel/{path}\n" for path in builtin))
    return GuestKernel("6.1", tmp_path / "vmlinux", None, tree, "sha256:0", "test")


def loaded(kernel, *names):
    return [module_name(path) for path in module_files(kernel, names)]


def test_modules_come_after_what_they_depend_on_and_once(tmp_path):
    tree = {
        "virtio.ko": "virtio_ring",
        "virtio_ring.ko.xz": "",
        "blk/virtio_blk.ko.zst": "virtio,virtio_ring",
        "virtio_pci.ko.gz": "virtio",
    }
    kernel = module_tree(tmp_path, tree)
    assert loaded(kernel, "virtio_pci", "virtio_blk") == ["virtio_ring", "virtio", "virtio_pci", "virtio_blk"]


def test_dash_and_underscore_are_the_same_name(tmp_path):
    kernel = module_tree(tmp_path, {"virtio-blk.ko": "crc32c-intel", "crc32c_intel.ko": ""})
    assert loaded(kernel, "virtio_blk") == loaded(kernel, "virtio-blk") == ["crc32c_intel", "virtio_blk"]


def test_what_a_module_wants_before_it_is_loaded_where_there_is_such_a_module(tmp_path):
    tree = {
        "libcrc32c.ko": "\0softdep=pre: crc32c ghost",
        "ext4.ko": "\0softdep=pre: crypto-crc32c post: late",
        "crc32c_generic.ko": "",
    }
    kernel = module_tree(tmp_path, tree)
    assert loaded(kernel, "libcrc32c", "ext4") == ["crc32c_generic", "libcrc32c", "ext4"]
    assert loaded(kernel, "ext4") == ["crc32c_generic", "ext4"]


def test_built_in_modules_need_no_file(tmp_path):
    kernel = module_tree(tmp_path, {"erofs.ko": "libcrc32c"}, builtin=["fs/ext4/ext4.ko", "lib/libcrc32c.ko"])
    assert loaded(kernel, "ext4", "erofs") == ["erofs"]


def test_missing_module_is_named(tmp_path):
    kernel = module_tree(tmp_path, {"a.ko": "nine-p"})
    with pytest.raises(CapabilityError, match="kernel module: nine_p: neither in"):
        module_files(kernel, ["a"])


def test_modules_that_need_each_other_end(tmp_path):
    kernel = module_tree(tmp_path, {"a.ko": "b", "b.ko": "a"})
    assert sorted(loaded(kernel, "a")) == ["a", "b"]


def test_kernel_without_modules_is_said_only_when_one_is_needed(tmp_path):
    kernel = GuestKernel("6.1", tmp_path / "vmlinux", None, None, "sha256:0", "file x")
    assert module_files(kernel, []) == ()
    with pytest.raises(CapabilityError, match="virtio_blk"):
        module_files(kernel, ["virtio_blk"])


def test_damaged_module_is_named(tmp_path):
    kernel = module_tree(tmp_path, {"a.ko.xz": ""})
    (kernel.modules / "kernel/a.ko.xz").write_bytes(b"no xz")
    with pytest.raises(CapabilityError, match=r"a\.ko\.xz"):
        module_files(kernel, ["a"])
