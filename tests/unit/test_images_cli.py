import json

import pytest
from click.testing import CliRunner

from harness.cli.image import image
from harness.errors import ImageError


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "f").write_text("f")
    (tmp_path / "web" / "Containerfile").write_text('FROM scratch\nARG N\nCOPY f /\nLABEL n=$N\nCMD ["/f"]\n')

    def run(*argv):
        result = CliRunner().invoke(image, argv, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    return run


def test_build_ls_inspect_export_import_rm(call, tmp_path):
    built = json.loads(call("build", str(tmp_path / "web"), "--build-arg", "N=5", "--json").stdout)
    assert built["schema"] == "harness.image/1"
    assert (built["image"]["name"], built["image"]["layers"]) == ("web:latest", 1)
    assert built["image"]["digest"] in call("inspect", "web").stdout
    assert json.loads(call("inspect", "web", "--json").stdout)["image"]["configuration"]["config"]["Labels"] == {
        "n": "5"
    }
    call("export", "web", str(tmp_path / "web.tar"))
    call("import", str(tmp_path / "web.tar"), "--name", "copy:2")
    listed = json.loads(call("ls", "--json").stdout)["images"]
    assert [(entry["name"], entry["digest"]) for entry in listed] == [
        (name, built["image"]["digest"]) for name in ("copy:2", "web:latest")
    ]
    call("rm", "web", "copy:2")
    assert json.loads(call("ls", "--json").stdout)["images"] == []


def test_results_go_to_stdout_and_progress_to_stderr(call, tmp_path):
    result = call("build", str(tmp_path / "web"), "-t", "a:1")
    assert result.stdout.startswith("a:1 sha256:")
    assert "COPY f /" in result.stderr
    empty = call("ls")
    assert "a:1" in empty.stdout


def test_an_empty_store_says_how_to_begin(call):
    result = call("ls")
    assert result.stdout == ""
    assert "harness image bootstrap busybox" in result.stderr


def test_a_missing_image_is_an_error(call):
    with pytest.raises(ImageError, match="image: web:latest: not in the store"):
        call("inspect", "web")


@pytest.mark.parametrize(
    "verb", ["build", "ls", "inspect", "import", "export", "bootstrap", "rm", "disk"],
)  # fmt: skip
def test_every_verb_has_help(call, verb):
    assert len(call(verb, "--help").stdout.splitlines()) > 5


def test_a_suggestion_does_not_come_from_the_tag_that_all_names_share(call, tmp_path):
    call("build", str(tmp_path / "web"), "-t", "foo")
    with pytest.raises(ImageError) as caught:
        call("inspect", "nope")
    assert "did you mean" not in str(caught.value.hint)
    for wanted in ("fooo", "foo:1"):
        with pytest.raises(ImageError) as caught:
            call("inspect", wanted)
        assert caught.value.hint == "did you mean 'foo:latest'?"


def test_rm_removes_what_there_is_and_says_so_before_the_error(call, tmp_path):
    call("build", str(tmp_path / "web"), "-t", "bar")
    result = CliRunner().invoke(image, ["rm", "nope", "bar", "bar"])
    assert "removed bar:latest\n" in result.stderr
    assert isinstance(result.exception, ImageError)
    assert result.exception.message.startswith("image: nope:latest: not in the store")
    assert json.loads(call("ls", "--json").stdout)["images"] == []


def test_du_tells_shared_from_unique_and_gc_what_it_gave_back(call, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "g").write_text("g" * 5000)
    (tmp_path / "app" / "Containerfile").write_text("FROM web\nCOPY g /\n")
    call("build", str(tmp_path / "web"))
    call("build", str(tmp_path / "app"))
    call("export", "web", str(tmp_path / "web.tar"))
    call("import", str(tmp_path / "web.tar"), "--name", "alias")
    usage = json.loads(call("du", "--json").stdout)["usage"]
    web, app = usage["images"]
    assert (app["names"], web["names"]) == (["app:latest"], ["alias:latest", "web:latest"])
    base_bytes = web["stored"]["shared_bytes"]
    assert base_bytes == app["stored"]["shared_bytes"] > 0
    assert web["stored"]["unique_bytes"] == 0
    assert app["stored"]["unique_bytes"] > 5000
    total = usage["stored"]
    assert total["without_sharing_bytes"] - total["with_sharing_bytes"] == base_bytes
    assert app["unpacked"] is None  # never unpacked layer by layer: unknown, not zero
    assert "without sharing" in call("du").stdout
    assert "COPY" in call("history", "app").stdout.splitlines()[1]
    call("rm", "app")
    assert json.loads(call("gc", "--all", "--json").stdout)["size_bytes"] > 5000
    assert json.loads(call("gc", "--all", "--json").stdout)["removed"] == []
