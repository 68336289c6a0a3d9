"""From what a scenario and an image say to the one workload that every side runs."""

import pytest

from harness import plugins
from harness.errors import UsageError
from harness.model.spec import ImageConfig, Ready
from harness.workloads._options import DEFAULT_PATH

IMAGE = ImageConfig(
    env={"PATH": "/image/bin", "LANG": "C"}, entrypoint=("/entry",), cmd=("one", "two"), workdir="/srv", user="33:44"
)


def compiled(kind, options, image=IMAGE):
    plugin = plugins.load("workloads", kind)
    return plugin.compile(plugin.options.model_validate(options), image)


def test_the_image_fills_what_the_scenario_leaves_out():
    spec = compiled("command", {})
    assert spec.argv == ("/entry", "one", "two")
    assert spec.env == {"PATH": "/image/bin", "LANG": "C"}
    assert (spec.cwd, spec.uid, spec.gid) == ("/srv", 33, 44)
    assert spec.ready == Ready("exit")
    assert spec.timeout_ns == 60 * 10**9


def test_the_scenario_wins():
    options = {"argv": ["/bin/x"], "env": {"LANG": "de", "A": "b"}, "cwd": "/tmp", "user": "5", "timeout": "3s"}
    spec = compiled("command", options)
    assert spec.argv == ("/bin/x",)
    assert spec.env == {"PATH": "/image/bin", "LANG": "de", "A": "b"}
    assert (spec.cwd, spec.uid, spec.gid, spec.timeout_ns) == ("/tmp", 5, 0, 3 * 10**9)


def test_an_image_without_a_path_gets_the_usual_one():
    assert compiled("command", {}, ImageConfig(cmd=("/x",))).env == {"PATH": DEFAULT_PATH}


def test_no_command_at_all():
    with pytest.raises(UsageError, match="the image has neither ENTRYPOINT nor CMD") as caught:
        compiled("command", {}, ImageConfig())
    assert "argv" in caught.value.hint


@pytest.mark.parametrize(
    ("user", "ids"), [("1000", (1000, 0)), (1000, (1000, 0)), ("1000:50", (1000, 50)), ("0:0", (0, 0))]
)
def test_user(user, ids):
    spec = compiled("command", {"user": user})
    assert (spec.uid, spec.gid) == ids


def test_a_named_user_of_the_image_needs_a_number():
    with pytest.raises(UsageError, match=r"workload\.user: nobody: the image names its user"):
        compiled("command", {}, ImageConfig(cmd=("/x",), user="nobody"))
    assert compiled("command", {"user": "65534"}, ImageConfig(cmd=("/x",), user="nobody")).uid == 65534


def test_an_id_beyond_linux():
    with pytest.raises(UsageError, match="larger than"):
        compiled("command", {"user": "4294967295"})


@pytest.mark.parametrize(
    ("ready", "expected"),
    [
        ({"exit": True}, Ready("exit")),
        ({"line": "listening"}, Ready("line", text="listening")),
        ({"tcp": 5432}, Ready("tcp", port=5432)),
    ],
)
def test_ready(ready, expected):
    assert compiled("command", {"ready": ready}).ready == expected
    assert compiled("http", {"port": 80, "ready": ready}).ready == expected


def test_http_asks_for_the_root_unless_told_otherwise():
    assert compiled("http", {"port": 8080}).ready == Ready("http", port=8080, path="/")
    assert compiled("http", {"port": 8080, "ready": {"http": "/up?x=1"}}).ready == Ready(
        "http", port=8080, path="/up?x=1"
    )


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("command", {"ready": {}}, "expected exactly one of exit, line, tcp, got none"),
        ("command", {"ready": {"exit": True, "tcp": 1}}, "got exit and tcp"),
        ("command", {"ready": {"exit": False}}, "exit: false says nothing"),
        ("command", {"ready": {"http": "/"}}, "Extra inputs"),
        ("command", {"ready": {"tcp": 0}}, "greater than or equal to 1"),
        ("command", {"argv": []}, "at least 1"),
        ("command", {"argv": ["sleep", 1]}, "valid string"),
        ("command", {"env": {"A": 1}}, "valid string"),
        ("command", {"env": {"A=B": "x"}}, "cannot be the name of a variable"),
        ("command", {"cwd": "tmp"}, "expected a path that begins with /"),
        ("command", {"user": "nobody"}, "expected uid or uid:gid as numbers"),
        ("command", {"timeout": "soon"}, "expected a duration"),
        ("command", {"timeout": 0}, "greater than 0"),
        ("http", {}, "Field required"),
        ("http", {"port": 65536}, "less than or equal to 65535"),
        ("http", {"port": 80, "ready": {"http": "up"}}, "begins with /"),
        ("http", {"port": 80, "ready": {"http": "/a b"}}, "without spaces"),
        ("http", {"port": 80, "ready": {"http": "/a\r\nHost: x"}}, "without spaces"),
    ],
)
def test_refused(kind, options, why):
    with pytest.raises(ValueError, match=why):
        plugins.load("workloads", kind).options.model_validate(options)


@pytest.mark.parametrize("name", plugins.names("workloads"))
def test_plugin_says_what_it_is(name):
    plugin = plugins.load("workloads", name)
    assert plugin.name == name
    assert plugin.doc
