"""The command line: what it prints where, and which exit code it ends with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import harness.backends
from harness import plugins
from harness.cli import main
from harness.cli._known import load_scenario
from harness.cli._output import annotation
from harness.cli._plan import trial_medians_ns
from harness.errors import CapabilityError, HarnessError, Interrupted, Problem, UsageError
from harness.interfaces import Capability
from harness.model.records import RunRecord, TrialRecord, TrialSpec
from harness.model.scenario import scenario_hash
from harness.results.store import RunDirectory

ROOT = Path(__file__).parents[2]
BACKEND = """\
from pydantic import BaseModel, ConfigDict
from harness.interfaces import Capability

class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    works: bool = True

class _Fake:
    name = "fake"
    doc = "a backend that a test wrote"
    options = Options

    def needs(self, options):
        return (Capability("thing", options.works, "found" if options.works else "not found", "install the thing"),)

    def mount_needs(self, options, mounts):
        return ()

PLUGIN = _Fake()
"""
SCENARIO = """\
schema: harness.scenario/1
name: small
image: {rootfs: root}
workload: {kind: command, argv: [/bin/true], timeout: 10s}
runtimes:
  one: {backend: fake}
  two: {backend: fake}
trials: {blocks: {min: 2, max: 3}, seed: 7}
metrics: [startup]
"""


@pytest.fixture(autouse=True)
def backends(tmp_path, monkeypatch):
    """Backends that need nothing: `fake`, and `lost`, whose library is missing."""
    folder = tmp_path / "backends"
    folder.mkdir()
    (folder / "fake.py").write_text(BACKEND)
    (folder / "lost.py").write_text("import no_such_library\n")
    monkeypatch.setattr(harness.backends, "__path__", [str(folder)])
    for variable in ("GITHUB_ACTIONS", "CI", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    plugins._index.cache_clear()
    yield
    plugins._index.cache_clear()
    for name in ("fake", "lost"):
        sys.modules.pop(f"harness.backends.{name}", None)


@pytest.fixture
def scenario(tmp_path):
    (tmp_path / "root").mkdir()
    path = tmp_path / "small.yaml"
    path.write_text(SCENARIO)
    return path


def edited(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return path


def raising(error):
    """Return a verb's name whose command raises `error`."""

    @click.command("boom")
    def boom():
        raise error

    return boom


@pytest.fixture
def boom(monkeypatch):
    """Run a command that raises; return the exit code."""

    def run(error):
        monkeypatch.setattr(main.LazyGroup, "get_command", lambda *_: raising(error))
        return main.run(["run"])

    return run


def test_version(capsys):
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("harness, version 0.")


def test_help_lists_every_verb(capsys):
    assert main.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in main.VERBS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "error: harness: no command 'rnu'; did you mean 'run'?"),
        (["plan"], "error: harness plan: Missing argument 'SCENARIO'."),
        (["validate", "--jsn", "x"], "error: harness validate: No such option '--jsn'"),
        (["list", "toys"], "error: harness list: Invalid value"),
        (["--verbos"], "error: harness: No such option '--verbos'"),
    ],
)
def test_wrong_usage_is_2(capsys, arguments, message):
    assert main.run(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(message)
    assert "\nhint: harness" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a: b: c", hint="do d"), 2),
        (CapabilityError("a: b: c", hint="do d"), 3),
        (Interrupted("a: b: c", hint="do d"), 130),
        (HarnessError("a: b: c", hint="do d"), 70),
    ],
)
def test_an_error_has_its_exit_code_and_its_hint(boom, capsys, error, code):
    assert boom(error) == code
    assert capsys.readouterr().err == "error: a: b: c\nhint: do d\n"


def test_ctrl_c_is_130(boom, capsys):
    assert boom(KeyboardInterrupt()) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_says_so_with_its_traceback(boom, capsys):
    assert boom(ZeroDivisionError("by zero")) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("hint: this is a bug in harness; please report it with the lines above\n")


def test_a_reader_that_has_gone_is_no_error():
    """`harness list backends | true`: no traceback, and not exit code 1, which means that a gate failed."""
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments in (["--help"], ["schema"]):
        done = subprocess.run(
            [sys.executable, "-m", "harness", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
        assert (done.returncode, done.stderr) == (141, b"")
    os.close(write)


def test_validate_says_what_is_good(scenario, capsys):
    assert main.run(["validate", str(scenario)]) == 0
    assert capsys.readouterr().out == f"{scenario}: ok: small: one, two; 2 to 3 blocks\n"


def test_validate_shows_every_mistake_with_its_line(scenario, capsys):
    edited(scenario, "argv:", "agrv:")
    edited(scenario, "two: {backend: fake}", "two: {backend: fake, works: maybe}")
    assert main.run(["validate", str(scenario)]) == 2
    err = capsys.readouterr().err
    assert f"error: {scenario}:4:27: workload.agrv: unknown key; did you mean 'argv'?" in err
    assert (
        "    4 | workload: {kind: command, agrv: [/bin/true], timeout: 10s}\n      |                           ^" in err
    )
    assert f"error: {scenario}:7:31: runtimes.two.works:" in err
    assert err.endswith("2 errors\n")


def test_validate_goes_on_after_a_bad_file(scenario, tmp_path, capsys):
    assert main.run(["validate", str(tmp_path / "none.yaml"), str(scenario)]) == 2
    said = capsys.readouterr()
    assert "none.yaml: cannot be read" in said.err
    assert ": ok: small" in said.out


def test_validate_as_json(scenario, capsys):
    edited(scenario, "metrics: [startup]", "metrics: [statrup]")
    assert main.run(["validate", "--json", str(scenario)]) == 2
    document = json.loads(capsys.readouterr().out)
    (file,) = document["files"]
    (problem,) = file["problems"]
    assert document["schema"] == "harness.validate/1"
    assert file["valid"] is False
    assert (problem["line"], problem["column"], problem["key"]) == (9, 11, "metrics.0")


def test_validate_notes_a_backend_that_cannot_be_loaded(scenario, capsys):
    edited(scenario, "two: {backend: fake}", "two: {backend: lost, x: 1}")
    assert main.run(["validate", str(scenario)]) == 0
    assert "runtimes.two: lost cannot be loaded here: its options were not checked" in capsys.readouterr().err


def test_mistakes_are_annotated_in_github_actions(scenario, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    edited(scenario, "argv:", "agrv:")
    main.run(["validate", str(scenario)])
    assert f"::error file={scenario},line=4,col=27::workload.agrv: unknown key" in capsys.readouterr().err


def test_annotations_escape_what_would_end_them():
    problem = Problem("a,b:c.yaml", 1, 2, "", "100%\nof it")
    assert annotation(problem) == "::error file=a%2Cb%3Ac.yaml,line=1,col=2::100%25%0Aof it"
    assert annotation(Problem("--set a=1", 0, 0, "a", "wrong")) == "::error::a: wrong"


def test_schema_is_json_with_all_backends(capsys):
    assert main.run(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {one["title"] for one in schema["definitions"]["Runtime"]["oneOf"]} == {"fake", "lost"}


def test_plan_shows_order_needs_and_time(scenario, tmp_path, capsys):
    assert main.run(["plan", str(scenario), "--results", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    assert "small: 2 runtimes x 2 to 3 blocks, 1 before to warm up" in out
    assert "order, seed 7\n" in out
    assert "ok       one: thing: found" in out
    assert "at most 1 min 20 s: 8 trials that may each take 10.0 s to be ready" in out


def test_plan_ends_with_3_when_something_is_missing(scenario, tmp_path, capsys):
    edited(scenario, "two: {backend: fake}", "two: {backend: fake, works: false}")
    assert main.run(["plan", str(scenario), "--results", str(tmp_path / "none")]) == 3
    said = capsys.readouterr()
    assert "MISSING  two: thing: not found\n           install the thing" in said.out
    assert "1 prerequisite is missing" in said.err


def test_plan_finds_a_missing_image(scenario, tmp_path, capsys):
    edited(scenario, "rootfs: root", "rootfs: rot")
    assert main.run(["plan", str(scenario), "--results", str(tmp_path / "none")]) == 3
    assert "rot: no such file or directory" in capsys.readouterr().out


@pytest.fixture
def built(scenario, tmp_path, monkeypatch):
    """Return a function that plans the scenario for a Containerfile of these lines."""
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    edited(scenario, "rootfs: root", "build: web")
    (tmp_path / "web").mkdir()

    def plan(lines):
        (tmp_path / "web" / "Containerfile").write_text(lines)
        return main.run(["plan", str(scenario), "--results", str(tmp_path / "none")])

    return plan


def test_plan_shows_every_line_that_a_build_will_refuse(built, tmp_path, capsys):
    lines = "FROM scratch\nMAINTAINER me\nCOPY none /\nENV A=1\nADD https://example.org/x /\nEXPOSE nothing\n"
    assert built(lines) == 3
    said = capsys.readouterr()
    file = tmp_path / "web" / "Containerfile"
    assert f"{file}:2: MAINTAINER: " in said.out
    assert f"{file}:3: COPY: none: no such file in the context" in said.out
    assert f"{file}:5: ADD: https://example.org/x: not supported: a URL" in said.out
    assert f"{file}:6: EXPOSE: nothing: expected PORT" in said.out
    assert "4 prerequisites are missing" in said.err


def test_plan_shows_a_named_user_of_the_image_with_its_line(built, scenario, tmp_path, capsys):
    assert built("FROM scratch\nUSER nobody\n") == 3
    said = capsys.readouterr().out
    assert f"workload.user: nobody: the image names its user, and names differ between images ({tmp_path}" in said
    assert "web/Containerfile:2)" in said
    edited(scenario, "argv:", "user: 1000, argv:")
    assert built("FROM scratch\nUSER nobody\n") == 0


def test_plan_shows_that_there_is_nothing_to_run(built, scenario, capsys):
    edited(scenario, "argv: [/bin/true], ", "")
    assert built("FROM scratch\nENV A=1\n") == 3
    assert "workload.argv: missing" in capsys.readouterr().out
    assert built('FROM scratch\nCMD ["/bin/true"]\n') == 0


@pytest.mark.parametrize(("port", "noted"), [(8080, False), (8081, True)])
def test_plan_notes_a_port_that_the_image_does_not_expose(built, scenario, capsys, port, noted):
    edited(scenario, "kind: command", f"kind: http, port: {port}")
    assert built("FROM scratch\nEXPOSE 8080\n") == 0
    note = f"note: workload: ready is asked on port {port}, but the image exposes 8080/tcp"
    assert (note in capsys.readouterr().err) is noted


def test_plan_of_a_backend_that_cannot_be_loaded(scenario, tmp_path, capsys):
    edited(scenario, "two: {backend: fake}", "two: {backend: lost}")
    assert main.run(["plan", str(scenario), "--results", str(tmp_path / "none")]) == 3
    assert "two: backend: cannot be loaded: No module named 'no_such_library'" in capsys.readouterr().out


def test_plan_as_json(scenario, tmp_path, capsys):
    arguments = ["--json", "--only", "two", "--set", "trials.warmup=0", "--results", str(tmp_path / "none")]
    assert main.run(["plan", str(scenario), *arguments]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [trial["trial_id"] for trial in document["trials"]] == ["b00-two", "b01-two", "b02-two"]
    assert document["scenario"]["overrides"] == ["trials.warmup=0"]
    assert document["control"] == "two"
    assert document["notes"] == ["--only leaves out the control one: two is the control of this run"]
    assert document["estimate"]["total_ns"] == 30 * 10**9
    assert document["estimate"]["is_upper_bound"] is True
    assert document["missing"] == []


def test_plan_without_a_seed_says_that_its_order_is_an_example(scenario, tmp_path, capsys):
    edited(scenario, ", seed: 7", "")
    main.run(["plan", str(scenario), "--results", str(tmp_path / "none")])
    assert "an example: without a seed in the scenario every run draws its own" in capsys.readouterr().out


def test_a_former_trial_costs_until_the_next_one_starts():
    def trial(runtime, second):
        return TrialRecord(TrialSpec("t", 0, 0, runtime, "b"), "ok", f"2026-01-31T12:00:{second:06.3f}Z")

    trials = [trial("vm", 0), trial("process", 5), trial("vm", 5.5), trial("process", 9.5), trial("vm", 10)]
    assert trial_medians_ns(trials) == {"vm": 4.5e9, "process": 0.5e9}
    assert trial_medians_ns(trials[:1]) == {}


def former_run(scenario, results, run_id="20260131T120000Z-small-0badcafe"):
    """Store a run of the scenario in which `one` took 2 s a trial and `two` 4 s."""
    loaded = load_scenario(scenario)
    run = RunRecord(
        run_id, "small", scenario_hash(loaded.resolved()), "complete", "2026-01-31T12:00:00Z", 7, "one", ("one", "two"),
        {}, {}, {}, {}, {},
    )  # fmt: skip
    directory = RunDirectory.create(results, run, loaded.text, loaded.resolved())
    for number, (runtime, second) in enumerate([("one", 0), ("two", 2), ("one", 6), ("two", 8), ("one", 12)]):
        spec = TrialSpec(f"b{number:02d}-{runtime}", number, 0, runtime, "fake")
        directory.append(TrialRecord(spec, "ok", f"2026-01-31T12:00:{second:02d}Z"))
    return run_id


def test_plan_takes_its_time_from_a_former_run(scenario, tmp_path, capsys):
    run_id = former_run(scenario, tmp_path / "results")
    assert main.run(["plan", str(scenario), "--results", str(tmp_path / "results")]) == 0
    assert f"time      about 24.0 s: medians of the former run {run_id}\n" in capsys.readouterr().out


def test_plan_does_not_take_it_from_a_run_of_another_scenario(scenario, tmp_path, capsys):
    former_run(scenario, tmp_path / "results")
    arguments = ["plan", str(scenario), "--set", "limits.cpus=2", "--results", str(tmp_path / "results")]
    assert main.run(arguments) == 0
    assert "at most 1 min 20 s" in capsys.readouterr().out


def test_list_runs_with_one_that_cannot_be_read(scenario, tmp_path, capsys):
    run_id = former_run(scenario, tmp_path / "results")
    newer = tmp_path / "results" / "20260201T120000Z-small-0badcafe"
    newer.mkdir()
    (newer / "run.json").write_text("{")
    assert main.run(["list", "runs", "--json", "--results", str(tmp_path / "results")]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [(entry["name"], entry["status"]) for entry in entries] == [(newer.name, "unreadable"), (run_id, "complete")]


def test_list_backends_with_the_reason_of_the_lost_one(capsys):
    assert main.run(["list", "backends", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert entries == [
        {"name": "fake", "available": True, "doc": "a backend that a test wrote"},
        {"name": "lost", "available": False, "doc": "cannot be loaded here: No module named 'no_such_library'"},
    ]


@pytest.mark.parametrize("what", ["backends", "workloads", "probes", "metrics"])
def test_list_for_people_has_no_blanks_at_the_ends(capsys, what):
    assert main.run(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert [line for line in lines if line != line.rstrip()] == []
    assert max(map(len, lines)) <= 100


def test_list_metrics_has_unit_and_direction(capsys):
    main.run(["list", "metrics", "--json"])
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["entries"]}
    assert entries["startup.ready"]["unit"] == "ns"
    assert entries["startup.ready"]["better"] == "lower"


def test_list_runs_of_an_empty_place(tmp_path, capsys):
    assert main.run(["list", "runs", "--results", str(tmp_path / "none")]) == 0
    assert "no runs in" in capsys.readouterr().err


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr("harness.cli.doctor.SAMPLE_S", 0.0)
    monkeypatch.setattr(
        "harness.cli.doctor.storage_drivers", lambda: [Capability("btrfs", available=False, reason="no mkfs.btrfs")]
    )


@pytest.mark.usefixtures("_at_once")
def test_doctor_names_what_works_and_what_does_not(capsys):
    assert main.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "  fake: works\n" in out
    assert "  MISSING  btrfs: no mkfs.btrfs\n" in out
    assert (
        "  lost: does not work here\n    MISSING  backend: cannot be loaded: No module named 'no_such_library'" in out
    )


@pytest.mark.usefixtures("_at_once")
def test_doctor_names_backends_that_find_the_same_together(tmp_path, monkeypatch, capsys):
    (tmp_path / "backends" / "twin.py").write_text(BACKEND.replace('"fake"', '"twin"'))
    plugins._index.cache_clear()
    monkeypatch.setattr("harness.host.facts.tool_versions", lambda: {"mke2fs": "1.47", "docker": "version unknown"})
    assert main.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "  fake, twin: work\n    ok       thing: found\n" in out
    assert out.count("thing: found") == 1
    assert "mke2fs 1.47" in out
    assert "docker" not in out  # no backend of that name


@pytest.mark.usefixtures("_at_once")
def test_doctor_marks_emulation_and_says_what_helps(tmp_path, capsys):
    text = BACKEND.replace('"thing", options.works, "found"', '"accel", options.works, "tcg: kvm is not usable: why"')
    (tmp_path / "backends" / "fake.py").write_text(text.replace(', "install the thing"', ""))
    assert main.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "    !        accel: tcg: kvm is not usable: why\n             times of a VM" in out
    assert "VMX/SVM" in out


@pytest.mark.usefixtures("_at_once")
def test_doctor_as_json(capsys):
    assert main.run(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "harness.doctor/1"
    assert document["backends"]["fake"]["works"] is True
    assert document["backends"]["lost"]["works"] is False
    assert {item["name"] for item in document["noise"]} == {"steal", "cpu-pressure", "load", "governor", "other-vms"}
    assert document["host"]["class"]


@pytest.mark.usefixtures("_at_once")
def test_doctor_ends_with_3_where_nothing_works(tmp_path):
    (tmp_path / "backends" / "fake.py").write_text(BACKEND.replace("works: bool = True", "works: bool = False"))
    assert main.run(["doctor"]) == 3


@pytest.mark.usefixtures("_at_once")
def test_doctor_where_a_backend_depends_on_the_scenario(tmp_path, capsys):
    (tmp_path / "backends" / "fake.py").write_text(BACKEND.replace("works: bool = True", "works: bool"))
    main.run(["doctor"])
    assert "options: depends on the scenario: it must say works" in capsys.readouterr().out


def test_verbose_logs_the_programs_that_are_run_to_stderr():
    code = "import harness.cli.main as m, harness.host.process as p; m.run(['-v', 'schema']); p.run(['true', 'x'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "DEBUG harness.host.process: + true x" in done.stderr
    assert json.loads(done.stdout)
