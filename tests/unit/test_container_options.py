import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.container import options
from harness.container.errors import ContainerError
from harness.container.options import Options, parse

# Values of include/uapi/linux/mount.h and mount(2), written out: the kernel's, not the module's.
RDONLY, NOSUID, NODEV, NOEXEC, NODIRATIME, NOSYMFOLLOW = 0x1, 0x2, 0x4, 0x8, 0x80, 0x200000
ATIME, NOATIME, STRICTATIME = 0x70, 0x10, 0x20
REC, UNBINDABLE, PRIVATE, SLAVE, SHARED = 0x4000, 0x20000, 0x40000, 0x80000, 0x100000

ATTRIBUTES = [
    pytest.param("ro", RDONLY, 0, id="ro"),
    pytest.param("rw", 0, RDONLY, id="rw"),
    pytest.param("nosuid", NOSUID, 0, id="nosuid"),
    pytest.param("suid", 0, NOSUID, id="suid"),
    pytest.param("nodev", NODEV, 0, id="nodev"),
    pytest.param("dev", 0, NODEV, id="dev"),
    pytest.param("noexec", NOEXEC, 0, id="noexec"),
    pytest.param("exec", 0, NOEXEC, id="exec"),
    pytest.param("nodiratime", NODIRATIME, 0, id="nodiratime"),
    pytest.param("diratime", 0, NODIRATIME, id="diratime"),
    pytest.param("nosymfollow", NOSYMFOLLOW, 0, id="nosymfollow"),
    pytest.param("symfollow", 0, NOSYMFOLLOW, id="symfollow"),
    pytest.param("noatime", NOATIME, ATIME, id="noatime"),
    pytest.param("atime", 0, ATIME, id="atime"),
    pytest.param("relatime", 0, ATIME, id="relatime"),
    pytest.param("norelatime", 0, 0, id="norelatime"),
    pytest.param("strictatime", STRICTATIME, ATIME, id="strictatime"),
    pytest.param("nostrictatime", 0, ATIME, id="nostrictatime"),
]

# Every word of the table "Linux mount options" of the runtime specification 1.2.
SPECIFIED = (
    "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec "
    "noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime "
    "relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate "
    "rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime "
    "suid symfollow sync tmpcopyup unbindable idmap ridmap"
).split()
SUPERBLOCK = {"sync", "dirsync", "lazytime", "mand"}


def test_nothing_is_nothing() -> None:
    assert parse([]) == Options()


@pytest.mark.parametrize(("word", "attrs", "clear"), ATTRIBUTES)
def test_attribute(word: str, attrs: int, clear: int) -> None:
    assert parse([word]) == Options(attrs=attrs, clear=clear)


@pytest.mark.parametrize(("word", "attrs", "clear"), ATTRIBUTES)
def test_recursive_attribute(word: str, attrs: int, clear: int) -> None:
    assert parse(["r" + word]) == Options(recursive_attrs=attrs, recursive_clear=clear)


@pytest.mark.parametrize(
    ("words", "attrs", "clear"),
    [
        pytest.param(("ro", "rw"), 0, RDONLY, id="ro-rw"),
        pytest.param(("rw", "ro"), RDONLY, 0, id="rw-ro"),
        pytest.param(("noatime", "strictatime"), STRICTATIME, ATIME, id="atime-is-one-field"),
        pytest.param(("strictatime", "relatime"), 0, ATIME, id="relatime-is-its-zero"),
        pytest.param(("noatime", "nostrictatime"), NOATIME, ATIME, id="opposite-of-another"),
        pytest.param(("noatime", "atime"), 0, ATIME, id="back-to-the-default"),
        pytest.param(("noatime", "nodiratime"), NOATIME | NODIRATIME, ATIME, id="directories-apart"),
    ],
)
def test_last_word_counts(words: tuple[str, ...], attrs: int, clear: int) -> None:
    assert parse(words) == Options(attrs=attrs, clear=clear)


@pytest.mark.parametrize(
    ("word", "flags"),
    [
        pytest.param("private", PRIVATE, id="private"),
        pytest.param("rprivate", PRIVATE | REC, id="rprivate"),
        pytest.param("shared", SHARED, id="shared"),
        pytest.param("rshared", SHARED | REC, id="rshared"),
        pytest.param("slave", SLAVE, id="slave"),
        pytest.param("rslave", SLAVE | REC, id="rslave"),
        pytest.param("unbindable", UNBINDABLE, id="unbindable"),
        pytest.param("runbindable", UNBINDABLE | REC, id="runbindable"),
    ],
)
def test_propagation(word: str, flags: int) -> None:
    assert parse([word]) == Options(propagation=(flags,))


def test_propagation_keeps_its_order() -> None:
    assert parse(["slave", "rbind", "shared"]).propagation == (SLAVE, SHARED)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param(["bind"], Options(bind=True), id="bind"),
        pytest.param(["rbind"], Options(bind=True, recursive=True), id="rbind"),
        pytest.param(["rbind", "bind"], Options(bind=True), id="the-last-bind"),
        pytest.param(["idmap"], Options(idmap="idmap"), id="idmap"),
        pytest.param(["idmap", "ridmap"], Options(idmap="ridmap"), id="ridmap"),
        pytest.param(["tmpcopyup"], Options(copy_up=True), id="tmpcopyup"),
        pytest.param(["remount"], Options(remount=True), id="remount"),
        pytest.param(["sync", "lazytime"], Options(data=("sync", "lazytime")), id="superblock"),
        pytest.param(["sync", "async"], Options(), id="async"),
        pytest.param(["nolazytime", "lazytime"], Options(data=("lazytime",)), id="lazytime"),
        pytest.param(["mand", "mand", "nomand"], Options(), id="nomand"),
        pytest.param(["defaults", "silent", "loud", "iversion", "noiversion", ""], Options(), id="without-effect"),
        pytest.param(["x-note=1"], Options(), id="comment"),
    ],
)
def test_word(words: list[str], expected: Options) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize(
    ("option", "data"),
    [
        pytest.param("size=64k", ("size=64k",), id="plain"),
        pytest.param("mode=755,size=64k", ("mode=755", "size=64k"), id="joined"),
        pytest.param('context="u:r:t:s0:c1,c2"', ("context=u:r:t:s0:c1,c2",), id="quoted-label"),
        pytest.param(r"lowerdir=/a\,b:/c", (r"lowerdir=/a\,b:/c",), id="escaped"),
        pytest.param('name="a,b"', ('name="a,b"',), id="quotes-of-others-stay"),
        pytest.param("RO", ("RO",), id="case-matters"),
    ],
)
def test_unknown_word_is_data(option: str, data: tuple[str, ...]) -> None:
    assert parse(["ro", option]) == Options(attrs=RDONLY, data=data)


def test_every_specified_word_is_understood() -> None:
    assert [word for word in SPECIFIED if set(parse([word]).data) - SUPERBLOCK] == []


def test_nul_is_refused() -> None:
    with pytest.raises(ContainerError, match=r"mounts\[3\]\.options\[1\]: .* NUL"):
        parse(["ro", "a\0b"], "mounts[3].options")


@given(st.lists(st.sampled_from(SPECIFIED), max_size=8))
def test_kernel_can_take_any_combination(words: list[str]) -> None:
    """mount_setattr(2) refuses to change a part of the access time's field, or two settings of it at once."""
    found = parse(words)
    for attrs, clear in ((found.attrs, found.clear), (found.recursive_attrs, found.recursive_clear)):
        assert clear & ATIME in {0, ATIME}
        assert attrs & ATIME in {0, NOATIME, STRICTATIME}
        assert not attrs & ATIME or clear & ATIME
        assert not attrs & clear & ~ATIME


def test_words_are_not_ambiguous() -> None:
    tables = (options._ATTRIBUTES, options._RECURSIVE, options.PROPAGATION, options._UNDO, options._NOTHING)
    assert [set(one) & set(other) for one, other in itertools.combinations(tables, 2) if set(one) & set(other)] == []
