import json
import os
import tarfile

import pytest

from harness.images import containerfile
from harness.images.build import BuildOptions, build_image_of
from harness.images.build_plan import Wishes
from harness.images.store import Store

TEXT = "FROM scratch\nENV A=1\nCOPY one /\nWORKDIR /w\nCOPY two three/ ./\nCMD x\n"


@pytest.fixture(autouse=True)
def _as_time_goes_by(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path / "context")


def make_context(path):
    (path / "three").mkdir(parents=True)
    for name in ("one", "two", "three/four"):
        (path / name).write_text(name)
    return path


def build(store, context, text=TEXT, name="it", *, use_cache=True, **arguments):
    options = BuildOptions((name,), Wishes(arguments), use_cache=use_cache)
    return build_image_of(containerfile.parse(text, str(context / "Containerfile")), context, store, options)


def cached(result):
    return [step.cached for step in result.steps]


def test_a_second_build_makes_nothing_and_is_the_same_image(store, context):
    first = build(store, context)
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*") if path.is_file()}
    os.utime(context / "two", (5, 5))
    second = build(store, context, name="other")
    assert (cached(first), cached(second)) == ([False] * 3, [True] * 3)
    assert second.image == first.image
    assert set(store.names()) == {"it:latest", "other:latest"}
    changed = {path.relative_to(store.path).parts[0] for path in store.path.rglob("*")
               if path.is_file() and before.get(path) != path.stat().st_mtime_ns}  # fmt: skip
    assert changed <= {"index.json", "locks"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: (path / "two").write_text("new"), [True, True, False]),
        (lambda path: (path / "one").write_text("new"), [False, False, False]),
        (lambda path: (path / "three" / "four").chmod(0o755), [True, True, False]),
        (lambda path: (path / "three" / "five").touch(), [True, True, False]),
        (lambda path: (path / "three" / "four").rename(path / "three" / "six"), [True, True, False]),
        (lambda path: (path / "unused").write_text("new"), [True, True, True]),
    ],
    ids=["content", "below", "mode", "more", "name", "not copied"],
)
def test_what_changes_is_made_again_with_all_that_follows(store, context, change, expected):
    build(store, context)
    change(context)
    assert cached(build(store, context)) == expected


def test_a_changed_instruction_keeps_what_is_before_it(store, context):
    build(store, context)
    assert cached(build(store, context, TEXT.replace("three/ ./", "./"))) == [True, True, False]
    assert cached(build(store, context, TEXT.replace("A=1", "A=2"))) == [True, True, True]
    assert cached(build(store, context, TEXT, use_cache=False)) == [False] * 3


def test_a_damaged_layer_is_made_again(store, context):
    first = build(store, context)
    blob = store.blob_path(first.image.layers[0].blob.digest)
    blob.write_bytes(b"x" * blob.stat().st_size)
    again = build(store, context)
    assert cached(again)[0] is False
    blob.unlink()
    assert cached(build(store, context))[0] is False


def test_a_layer_that_was_only_moved_is_believed(store, context):
    first = build(store, context)
    blob = store.blob_path(first.image.layers[0].blob.digest)
    copy = blob.read_bytes()
    blob.unlink()
    blob.write_bytes(copy)
    assert cached(build(store, context)) == [True] * 3


def test_damaged_records_are_none(store, context):
    build(store, context)
    for number, path in enumerate(sorted((store.path / "cache").glob("*.json"))):
        path.write_text(["", "[]", '{"schema": "harness.build-cache/1"}', '{"schema": "x"}'][number % 4])
    assert cached(build(store, context)) == [False] * 3


def test_records_pin_what_they_name(store, context):
    result = build(store, context)
    records = [json.loads(path.read_text()) for path in (store.path / "cache").glob("*.json")]
    pinned = {pin for record in records for pin in record["pins"]}
    assert pinned >= {layer.blob.digest for layer in result.image.layers}


def test_files_keep_their_times(store, context):
    os.utime(context / "one", (86400.7, 86400.7))
    layer = build(store, context).image.layers[0]
    with tarfile.open(store.blob_path(layer.blob.digest)) as tar:
        assert [member.mtime for member in tar] == [86400]


def test_the_same_input_gives_the_same_digest_on_any_machine_at_any_time(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000")
    digests = set()
    for number in (1, 2):
        context = make_context(tmp_path / f"context{number}")
        for path in context.rglob("*"):
            os.utime(path, (2_000_000 + number, 2_000_000 + number))
        digests.add(build(Store(tmp_path / f"store{number}"), context).image.manifest.digest)
    assert len(digests) == 1


def test_another_epoch_is_another_image(store, context, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    first = build(store, context)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "8")
    assert cached(build(store, context)) == [False] * 3
    assert first.image.document["created"] == "1970-01-01T00:00:07Z"


def test_an_argument_decides_only_where_it_is_used(store, context):
    text = "FROM scratch\nARG A\nCOPY one /\nCOPY two /$A\n"
    build(store, context, text, A="1")
    assert cached(build(store, context, text, A="2")) == [True, False]
