"""What is made of the output of validation programs."""

import pytest

from tests.conformance.__main__ import behind
from tests.conformance.libmount import Table
from tests.conformance.verdicts import Verdict, judge, judge_each

HOOK_ERROR = 'TAP version 13\n  ---\n  {"error":"Hooks MUST be called"}\n  ...\n1..0\n'


@pytest.mark.parametrize(
    ("output", "code", "word", "counts"),
    [
        ("ok 1 - a\nok 2 - b\n1..2\n", 0, "pass", (2, 0, 0)),
        ("ok 1 - a\nnot ok 2 - b\n1..2\n", 0, "fail", (1, 1, 0)),
        ("ok 1 # SKIP not set\n1..1\n", 0, "skip", (0, 0, 1)),
        ("ok 1 - a\nnot ok 2 # TODO b\n1..2\n", 0, "pass", (1, 0, 1)),
        ('ok 1 - a\n  ---\n  {"error":"as it should"}\n  ...\n1..1\n', 0, "pass", (1, 0, 0)),
        (HOOK_ERROR, 0, "fail", (0, 0, 0)),
        ("TAP version 13\n1..0\n", 0, "pass", (0, 0, 0)),
        ("ok 1 - a\n", 1, "fail", (1, 0, 0)),
        ("ok 1 - a\n", None, "fail", (1, 0, 0)),
    ],
)
def test_a_program_passes_when_none_of_its_assertions_fails(output, code, word, counts):
    verdict = judge(output, code, "")
    assert (verdict.word, (verdict.passed, verdict.failed, verdict.skipped)) == (word, counts)


def test_a_failure_says_why():
    assert judge("not ok 1 - x is set\n", 0, "noise").reason == "x is set"
    assert judge(HOOK_ERROR, 0, "").reason == "Hooks MUST be called"
    assert judge("", 1, "failed to create\nmore\n").reason == "failed to create"
    assert judge("", None, "").reason == "time limit"


def test_each_named_test_has_a_verdict_and_a_program_that_broke_off_one_more():
    whole = "1..2\nok 1 - mount-ro\nok 2 - cwd #SKIP\n"
    assert {name: verdict.word for name, verdict in judge_each(whole, 0, "").items()} == {
        "mount-ro": "pass",
        "cwd": "skip",
    }
    assert judge_each("1..2\nok 1 - mount-ro\n", 1, "Traceback\nOSError")["(ended)"].reason == "OSError"


def test_ours_is_behind_where_any_peer_passes_and_ours_does_not():
    passed, failed, skipped = Verdict("pass"), Verdict("fail"), Verdict("skip")
    tests = {
        "both": {"runc": passed, "crun": failed, "harness-oci": passed},
        "none": {"runc": failed, "crun": skipped, "harness-oci": failed},
        "one": {"runc": failed, "crun": passed, "harness-oci": failed},
        "skip": {"runc": passed, "harness-oci": skipped},
        "absent": {"crun": passed},
    }
    assert behind({"s": tests}) == [("s", "absent"), ("s", "one"), ("s", "skip")]


def test_mounts_are_found_in_mountinfo(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(
        "25 1 0:21 / /var/dir rw,relatime - tmpfs t rw\n26 25 0:22 / /var/dir ro,nosuid shared:1 - tmpfs t rw,sync\n"
    )
    mount = Table(str(file)).find_target("/var/dir")
    assert (mount.vfs_options, mount.fs_options) == ("ro,nosuid", "rw,sync")
