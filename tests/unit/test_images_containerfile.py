import pytest

from harness.errors import BuildError
from harness.images.containerfile import parse


def instructions(text):
    return parse("FROM x\n" + text, "F").stages[0].instructions


def test_a_whole_file():
    file = parse(
        "# syntax=docker/dockerfile:1\n\nARG TAG=1\nFROM --platform=linux/amd64 base:$TAG AS Build\nenv A=1\n"
        "RUN make\nFROM scratch\nCOPY --from=build --chown=1:2 /a /b\n",
        "F",
    )
    assert [argument.text for argument in file.arguments] == ["TAG=1"]
    first, second = file.stages
    assert (first.base, first.name, first.platform, first.line) == ("base:$TAG", "build", "linux/amd64", 4)
    assert [(step.keyword, step.line) for step in first.instructions] == [("ENV", 5), ("RUN", 6)]
    assert second.instructions[0].flags == (("from", "build"), ("chown", "1:2"))
    assert second.instructions[0].text == "/a /b"


def test_continuations_comments_and_blank_lines():
    (step,) = instructions("ENV A=1 \\\n  # a comment\n\n  B=2 \\\n\tC=3\n")
    assert step.text.split() == ["A=1", "B=2", "C=3"]
    assert step.line == 2


def test_exec_and_shell_form():
    steps = instructions('CMD ["/bin/a", "b c"]\nENTRYPOINT /bin/a b\n')
    assert [step.exec_form for step in steps] == [("/bin/a", "b c"), None]


def test_heredocs_belong_to_their_instruction():
    run, copy, last = instructions("RUN <<EOF\n# no comment\nls\nEOF\nCOPY <<-'A' <<B /d/\n\ttab\n\tA\nb\nB\nENV X=1\n")
    assert run.heredocs[0].content == "# no comment\nls\n"
    assert [(doc.content, doc.quoted) for doc in copy.heredocs] == [("tab\n", True), ("b\n", False)]
    assert last.keyword == "ENV"


def test_a_here_string_and_a_shift_are_no_heredocs():
    steps = instructions("RUN cat <<<word\nRUN echo $((1<<x))\n")
    assert [step.heredocs for step in steps] == [(), ()]


def test_escape_directive():
    file = parse("# escape=`\nFROM x\nENV A=1 `\n B=\\\n", "F")
    assert file.escape == "`"
    assert file.stages[0].instructions[0].text.split() == ["A=1", "B=\\"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("FROM x\nCOPPY a b\n", "F:2: COPPY: unknown instruction", "did you mean 'COPY'?"),
        ("COPY a b\n", "F:1: COPY: before the first FROM", "begin with: FROM"),
        ("# nothing\n", "F:1: FROM: missing", "begin with: FROM"),
        ("FROM a b\n", "F:1: FROM: a b: expected IMAGE or IMAGE AS NAME", None),
        ("FROM --plat=x a\n", "F:1: FROM: --plat: unknown option", "FROM takes --platform"),
        ("FROM x\n\nCMD ['a']\n", "F:3: CMD: ['a']: no JSON list of strings", "double quotes"),
        ("FROM x\nCMD [1]\n", "F:2: CMD: [1]: no JSON list of strings", "double quotes"),
        ("FROM x\nENV\n", "F:2: ENV: nothing follows", None),
        ("FROM x\nRUN <<EOF\nls\n", "F:2: RUN: <<EOF: no line that says EOF", None),
        ("# escape=x\nFROM x\n", "F:1: escape: x: expected", None),
    ],
)
def test_errors_have_file_line_and_hint(text, message, hint):
    with pytest.raises(BuildError) as caught:
        parse(text, "F")
    assert caught.value.message.startswith(message)
    assert hint is None or hint in (caught.value.hint or "")
