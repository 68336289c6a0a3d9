"""Whatever a Containerfile holds, a build of it says FILE:LINE, and nothing else ever leaves."""

import contextlib
import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import BuildError, ImageError
from harness.images import containerfile, oci, words
from harness.images.build_plan import Wishes, plan_build
from harness.images.oci import Descriptor, Image
from harness.model.spec import ImageConfig

BLOB = Descriptor(oci.MANIFEST, "sha256:" + "0" * 64, 1)
BASE = Image(BLOB, BLOB, (), {"config": {}}, ImageConfig())

PIECES = st.sampled_from([
    "a", "$A", "${A:-b}", "${A", "$", "'", '"', "\\", "`", "=", "<<EOF", "<<-'X'", "EOF", "[", '["a"]', "[[[[", "{",
    "--from=a", "--from=0", "--chown=", "--mount=type=cache", "--mount=target=/x,uid=9", "--mount=", "--interval=1m",
    "AS", "b", "#", " ", "\t", "*", "..", "é", "\x00", "\u2028", "0", "99999999999999999999", "NONE", "CMD", "/",
    "\ud800",
])  # fmt: skip
LINES = st.builds(
    lambda keyword, pieces, gap: f"{keyword}{gap}" + gap.join(pieces),
    st.sampled_from([*containerfile.KEYWORDS, "", "from", "# escape=`", "#", "FORM"]),
    st.lists(PIECES, max_size=6),
    st.sampled_from([" ", "", "  ", "\t"]),
)


def complaint(text):
    """Return what a build says of a text before it does anything, None where it is content."""
    try:
        plan_build(containerfile.parse(text, "F"), Wishes({"A": "1"}), lambda _: BASE)
    except (BuildError, ImageError) as error:
        return error.message
    return None


def check(text):
    said = complaint(text)
    assert said is None or re.match(r"F:\d+: |F: build argument: A: ", said), said
    assert "\n" not in (said or "")


@settings(max_examples=200)
@given(st.lists(LINES, max_size=8).map("\n".join))
@example("FROM a\nENV A=" + "${B:-" * 2000)
@example("FROM a\nRUN " + "[" * 100_000)
@example("FROM a\nCOPY <<EOF /\n" + "x\n" * 10)
def test_lines_of_pieces(text):
    check("FROM base\n" + text)
    check(text)


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_any_text(text):
    check(text)
    check("FROM base\nENV A=" + text)


@settings(max_examples=200)
@given(st.text(alphabet="aA${}:-+?'\"\\ \n=/", max_size=60))
def test_words(text):
    for read in (words.expand, words.split, words.assignments, words.expand_document):
        with contextlib.suppress(words.WordError):
            read(text, {"a": "1", "A": "x y"})
