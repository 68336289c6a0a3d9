import dataclasses

import pytest

from harness.errors import BuildError
from harness.images import containerfile, oci
from harness.images.build_plan import Wishes, plan_build
from harness.images.build_steps import Copy, MakeDirectory, Origin, Run
from harness.images.oci import Descriptor, Image
from harness.model.spec import ImageConfig

BLOB = Descriptor(oci.MANIFEST, "sha256:" + "0" * 64, 1)


def base(**config):
    return Image(BLOB, BLOB, (), {"architecture": "amd64", "os": "linux", "config": config}, ImageConfig())


def plan(text, bases=None, target="", **arguments):
    known = bases or {"base": base(Env=["PATH=/bin"])}
    return plan_build(containerfile.parse(text, "F"), Wishes(arguments, target), lambda name: known[name])


def actions(text, **extra):
    return [step.action for step in plan(text, **extra).stages[-1].steps if step.makes_files]


STAGES = """FROM base AS one
RUN one
FROM base AS unused
RUN missing $X
FROM one AS two
RUN two
FROM scratch
COPY --from=two /a /
COPY --from=0 /b /
COPY --from=other/image:1 /c /
"""


def test_only_stages_that_the_target_needs_are_planned():
    made = plan(STAGES)
    assert [stage.title for stage in made.stages] == ["one", "two", "stage-3"]
    origins = [step.action.origin for step in made.stages[-1].steps]
    assert origins == [Origin("stage", "two", 2), Origin("stage", "one", 0), Origin("image", "other/image:1")]
    assert made.stages[1].base == Origin("stage", "one", 0)


@pytest.mark.parametrize(("target", "titles"), [("two", ["one", "two"]), ("TWO", ["one", "two"]), ("0", ["one"])])
def test_target(target, titles):
    assert [stage.title for stage in plan(STAGES, target=target).stages] == titles


def test_an_unknown_target_has_a_hint():
    with pytest.raises(BuildError, match="F: target: tow: no such stage") as caught:
        plan(STAGES, target="tow")
    assert caught.value.hint == "did you mean 'two'?"


def test_a_stage_goes_on_from_an_earlier_ones_configuration():
    made = plan('FROM base AS a\nENV A=1\nSHELL ["/bin/ash", "-c"]\nWORKDIR /w\nFROM a\nRUN x\n')
    (step,) = made.stages[-1].steps
    assert step.action == Run(("/bin/ash", "-c", "x"), {"PATH": "/bin", "A": "1"}, "", "/w", "host")


def test_run_sees_environment_arguments_and_proxies():
    text = 'ARG OUT=1\nFROM base\nARG OUT\nARG IN=2\nARG GIVEN\nENV E=$IN\nUSER 7\nRUN ["a", "$E"]\n'
    (run,) = actions(text, GIVEN="3", http_proxy="p")
    assert (run.argv, run.user, run.workdir) == (("a", "$E"), "7", "/")
    assert run.env == {"PATH": "/bin", "OUT": "1", "IN": "2", "GIVEN": "3", "E": "2"}
    assert run.untold == {"http_proxy": "p"}


def test_run_with_documents():
    script, piped, executed = actions(
        "FROM base\nRUN <<EOF\na $B\nEOF\nRUN cat <<A <<'B' >x\n1\nA\n2\nB\nRUN <<X\n#!/bin/awk\nX\n"
    )
    assert script.argv == ("/bin/sh", "-c", "a $B\n")
    assert piped.argv == ("/bin/sh", "-c", "cat <<A <<'B' >x\n1\nA\n2\nB\n")
    assert executed.argv == ("/dev/pipes/X",)
    assert executed.script.content == b"#!/bin/awk\n"


def test_run_mounts_and_network():
    (run,) = actions(
        "FROM base AS a\nWORKDIR /w\n"
        "RUN --network=none --mount=type=cache,target=/c,uid=3,sharing=locked --mount=target=in,source=src,rw "
        "--mount=type=tmpfs,dst=/t,size=2m x\n"
    )[1:]
    assert run.network == "none"
    cache, bind, tmpfs = run.mounts
    assert (cache.kind, cache.id, cache.owner, cache.writable) == ("cache", "/c", (3, 0), True)
    assert (bind.kind, bind.target, bind.source, bind.writable) == ("bind", "/w/in", "src", True)
    assert (tmpfs.kind, tmpfs.size_bytes) == ("tmpfs", 2 << 20)


def test_copy_with_documents_that_have_variables_or_not():
    (copy,) = actions('FROM base\nENV A=1\nCOPY f <<X <<"Y" --x /d/\n$A \\$A "q"\nX\n$A\nY\n')
    assert isinstance(copy, Copy)
    assert copy.sources == ("f", "--x")
    assert [document.content for document in copy.inline] == [b'1 $A "q"\n', b"$A\n"]


def test_onbuild_is_done_by_what_is_built_on_it():
    bases = {"base": base(OnBuild=["COPY a /a", "ENV B=$C"])}
    made = plan("FROM base\nWORKDIR /w\n", bases)
    assert [step.text for step in made.stages[0].steps] == ["COPY a /a", "ENV B=$C", "WORKDIR /w"]
    assert made.stages[0].document["config"] == {"Env": ["B="], "WorkingDir": "/w"}
    again = plan("FROM base\nONBUILD RUN x y\n", {"base": base()})
    assert again.stages[0].document["config"] == {"OnBuild": ["RUN x y"]}
    assert again.stages[0].steps[0].makes_files is False


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("NONE", {"Test": ["NONE"]}),
        ("CMD a b", {"Test": ["CMD-SHELL", "a b"]}),
        ('--interval=1m30s --timeout=500ms --retries=3 CMD ["a", "b"]',
         {"Test": ["CMD", "a", "b"], "Interval": 90 * 10**9, "Timeout": 5 * 10**8, "Retries": 3}),
    ],
)  # fmt: skip
def test_healthcheck_is_kept_in_dockers_field(text, check):
    assert plan(f"FROM base\nHEALTHCHECK {text}\n").stages[0].document["config"]["Healthcheck"] == check


def test_workdir_is_the_only_configuration_that_makes_files():
    (made,) = actions("FROM base\nENV A=/x\nWORKDIR $A\nCMD a\nEXPOSE 1\n")
    assert made == MakeDirectory("/x")


def test_a_plan_is_data():
    (copy,) = actions("FROM base\nCOPY a b\n")
    assert dataclasses.asdict(copy)["sources"] == ("a",)
