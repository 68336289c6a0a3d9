"""A scenario and every mistake that can be in it."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from harness.errors import ScenarioError, UsageError
from harness.model.checking import Known, check
from harness.model.complaints import problems
from harness.model.document import parse
from harness.model.fields import SizeBytes, Strict
from harness.model.json_schema import scenario_schema
from harness.model.mounts import mount_specs
from harness.model.reading import load
from harness.model.scenario import resolved, scenario_hash
from harness.model.spec import MountSpec
from harness.trials.resolve import mounts

TEXT = """\
schema: harness.scenario/1
name: http-start
image: {build: ../images/webserver}
workload: {kind: http, port: 8080}
limits: {cpus: 2, memory: 1GiB, pids: 64}
runtimes:
  process: {backend: process}
  vm: {backend: libvirt, vcpus: 2, disk: {size: 1GiB}}
control: process
trials: {blocks: {min: 10, max: 30}, warmup: 2, precision: 5%, cache: warm, seed: 7}
metrics: [startup, memory]
gate: {margin: 5%, metrics: [startup.ready]}
"""


class Nothing(Strict):
    pass


class Disk(Strict):
    size_bytes: SizeBytes = Field(default=0, alias="size")


class Machine(Strict):
    vcpus: int = 1
    disk: Disk | None = None


class Http(Strict):
    port: int


KNOWN = Known(
    {"process": Nothing, "libvirt": Machine, "exotic": None},
    {"http": Http, "command": Nothing},
    ("memory", "startup"),
    family_metrics={"startup": ("startup.ready", "stop.deleted")},
)


def scenario_of(text=TEXT):
    return check(parse(text, "a.yaml"), KNOWN)[0]


def test_a_gate_may_name_a_metric_that_does_not_begin_with_its_family():
    assert scenario_of(TEXT.replace("[startup.ready]", "[stop.deleted]")).gate.metrics == ("stop.deleted",)


def mistakes(old, new=""):
    """Return what is said about the scenario with `old` replaced."""
    assert old in TEXT
    with pytest.raises(ScenarioError) as caught:
        scenario_of(TEXT.replace(old, new))
    return [str(problem) for problem in caught.value.problems]


def written(tmp_path, text=TEXT):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return path


def test_values_are_converted_once():
    scenario = scenario_of()
    assert scenario.limits.limits.memory_bytes == 1 << 30
    assert scenario.limits.limits.cpus == 2.0
    assert scenario.trials.precision == 0.05
    assert (scenario.image.kind, scenario.image.value) == ("build", "../images/webserver")
    assert scenario.runtimes["vm"].options == Machine(vcpus=2, disk=Disk(size=1 << 30))
    assert scenario.workload.options == Http(port=8080)
    assert list(scenario.runtimes) == ["process", "vm"]


def test_what_is_left_out_has_a_default():
    scenario = scenario_of("""\
schema: harness.scenario/1
name: a
image: {name: busybox}
workload: {kind: command}
runtimes: {p: {backend: process}}
metrics: [startup]
""")
    assert scenario.control == "p"
    assert (scenario.trials.blocks.min, scenario.trials.blocks.max, scenario.trials.warmup) == (10, 30, 1)
    assert scenario.trials.seed is None
    assert scenario.gate is None
    assert scenario.limits.limits.memory_bytes == 256 << 20


@pytest.mark.parametrize("version", ["1", "1.0", "1.7"])
def test_every_minor_version_is_read(version):
    assert scenario_of(TEXT.replace("scenario/1", f"scenario/{version}")).name == "http-start"


MISTAKES = [
    ("scenario/1", "scenario/2", "a.yaml:1:9: schema: expected harness.scenario/1, got 'harness.scenario/2'"),
    ("name: http-start", "name: Http_1", "a.yaml:2:7: name: expected a name of lower-case letters, digits and dashes"),
    ("name: http-start\n", "", "a.yaml:1:1: name: missing: this key is required"),
    ("{build: ../images/webserver}", "{}", "a.yaml:3:8: image: expected exactly one of build, oci, layout, rootfs"),
    ("{build: ", "{oci: x, build: ", "a.yaml:3:8: image: expected exactly one of build, oci"),
    ("kind: http", "kind: htpp", "a.yaml:4:18: workload.kind: htpp: unknown; did you mean 'http'?"),
    ("kind: http, ", "", "a.yaml:4:1: workload.kind: missing: this key is required"),
    (", port: 8080", "", "a.yaml:4:1: workload.port: missing: this key is required"),
    ("port: 8080", 'port: "8080"', "a.yaml:4:30: workload.port: expected an integer, got '8080'"),
    ("cpus: 2", "cpus: 0", "a.yaml:5:16: limits.cpus: expected more than 0.0, got 0"),
    ("1GiB, pids", "much, pids", "a.yaml:5:27: limits.memory: expected a size such as 256MiB, got 'much'"),
    ("memory: 1GiB", "memroy: 1GiB", "a.yaml:5:19: limits.memroy: unknown key; did you mean 'memory'?"),
    ("pids: 64", "pids: yes", "a.yaml:5:39: limits.pids: expected an integer, got 'yes'"),
    ("backend: process", "backend: procces", "a.yaml:7:22: runtimes.process.backend: procces: unknown; did you mean"),
    ("vcpus: 2", "vcpu: 2", "a.yaml:8:26: runtimes.vm.vcpu: unknown key; did you mean 'vcpus'?"),
    ("size: 1GiB", "sise: 1GiB", "a.yaml:8:43: runtimes.vm.disk.sise: unknown key; did you mean 'size'?"),
    ("  vm: {", "  Vm: {", "a.yaml:8:3: runtimes.Vm: expected a name of lower-case letters, digits and dashes"),
    ("{backend: process}", "process", "a.yaml:7:12: runtimes.process: expected a mapping (key: value), got 'process'"),
    ("control: process", "control: proces", "a.yaml:9:10: control: proces: not one of the runtimes; did you mean 'pro"),
    ("min: 10", "min: 31", "a.yaml:10:24: trials.blocks.min: 31 is more than max, which is 30"),
    ("min: 10, max: 30", "min: 40", "a.yaml:10:24: trials.blocks.min: 40 is more than max, which is 30 by default"),
    ("min: 10, max: 30", "max: 5", "a.yaml:10:24: trials.blocks.max: 5 is less than min, which is 10 by default"),
    ("max: 30", "max: three", "a.yaml:10:33: trials.blocks.max: expected an integer, got 'three'"),
    ("precision: 5%", "precision: 5", "a.yaml:10:60: trials.precision: expected less than 1, got 5; did you mean 5%?"),
    ("precision: 5%", "precision: 500%", "a.yaml:10:60: trials.precision: expected less than 1"),
    ("memory: 1GiB", "memory: 256", "a.yaml:5:27: limits.memory: expected at least 1MiB, got 256 (bytes where no unit "
     "is given); did you mean 256MiB?"),
    ("memory: 1GiB", "memory: 4KiB", "a.yaml:5:27: limits.memory: expected at least 1MiB, got '4KiB'"),
    ("cache: warm", "cache: cold", "a.yaml:10:71: trials.cache: cold: not supported yet"),
    ("cache: warm", "cache: tepid", "a.yaml:10:71: trials.cache: expected 'warm', got 'tepid'"),
    ("[startup, memory]", "[startup, memry]", "a.yaml:11:20: metrics.1: memry: unknown family of metrics; did"),
    ("[startup, memory]\ngate: {margin: 5%, metrics: [startup.ready]}", "[]",
     "a.yaml:11:10: metrics: expected at least 1 entry, got 0"),
    ("[startup, memory]", "[startup, 3]", 'a.yaml:11:20: metrics.1: expected a string, got 3; put it in quotes: "3"'),
    ("[startup.ready]", "[stop.begun]", "a.yaml:12:30: gate.metrics.0: stop.begun: not measured: its family is not in"),
    ("[startup.ready]", "[cpu.total]", "a.yaml:12:30: gate.metrics.0: cpu.total: not measured: its family is not in"),
    ("gate:", "density: {}\ngate:", "a.yaml:11:1: metrics: not beside density, which has its own metrics"),
    ("gate:", "volumes: {a: {sise: 4MiB}}\ngate:", "a.yaml:12:15: volumes.a.sise: unknown key; did you mean 'size'?"),
    ("gate:", "volumes: {data: {}}\nmounts: [{type: volume, source: dta, target: /d}]\ngate:",
     "a.yaml:13:33: mounts.0.source: dta: not one of the volumes; did you mean 'data'?"),
    ("gate:", "mounts: [{type: volume, source: a, target: /d}]\ngate:",
     "a.yaml:12:33: mounts.0.source: a: not one of the volumes; volumes: {NAME: {size: 64MiB}} makes one"),
    ("process: {backend: process}", "process: {backend: process, mounts: [{type: volume, source: a, target: /d}]}",
     "a.yaml:7:63: runtimes.process.mounts.0.source: a: not one of the volumes; volumes: {NAME: {size: 64MiB}} makes"),
    ("gate:", "mounts: [{type: tmpf, target: /d}]\ngate:",
     "a.yaml:12:17: mounts.0.type: expected 'volume', 'bind' or 'tmpfs', got 'tmpf'; did you mean 'tmpfs'?"),
    ("gate:", "mounts: [{type: bind, target: /d}]\ngate:", "a.yaml:12:10: mounts.0: a bind needs a source"),
    ("gate:", "mounts: [{type: tmpfs, target: /a/../b}]\ngate:", "a.yaml:12:32: mounts.0.target: expected an absolut"),
    ("gate:", "mounts: [{type: tmpfs, target: /proc/x}]\ngate:", "a.yaml:12:32: mounts.0.target: /proc/x: /proc, /s"),
    ("gate:", "mounts: [{type: tmpfs, target: /d}, {type: tmpfs, target: /d/}]\ngate:",
     "a.yaml:12:59: mounts.1.target: /d/: is mounted on twice"),
    ("gate:", "mounts: [{type: tmpfs, size: 16, target: /d}]\ngate:", "a.yaml:12:30: mounts.0.size: expected at leas"),
    ("gate:", "gates:", "a.yaml:12:1: gates: unknown key; did you mean 'gate'?"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"), MISTAKES, ids=[message.split(": ")[1] for _, _, message in MISTAKES]
)
def test_one_mistake_is_told_once_at_its_place(old, new, message):
    (said,) = mistakes(old, new)
    assert said.startswith(message)


def test_all_mistakes_come_at_once_in_the_order_of_the_file():
    text = TEXT.replace("name: http-start", "name: A").replace("cpus: 2", "cpu: 2").replace("seed: 7", "seed: x")
    with pytest.raises(ScenarioError) as caught:
        scenario_of(text.replace("backend: libvirt", "backend: xen").replace("control: process", "control: q"))
    lines = [problem.line for problem in caught.value.problems]
    assert lines == [2, 5, 8, 9, 10]


def test_a_misspelled_plugin_hides_no_mistake_in_its_options():
    text = TEXT.replace("kind: http, port: 8080", "kind: htpp, prot: 8080")
    with pytest.raises(ScenarioError) as caught:
        scenario_of(text.replace("backend: libvirt, vcpus: 2", "backend: libvrt, vcpus: two"))
    assert [problem.key for problem in caught.value.problems] == [
        "workload.port", "workload.kind", "workload.prot", "runtimes.vm.backend", "runtimes.vm.vcpus",
    ]  # fmt: skip


class Shared(Strict):
    cwd: str | None = None
    size_bytes: SizeBytes = Field(default=0, alias="size")


class One(Shared):
    ready: int = 0


class Other(Shared):
    ready: str = ""
    needed: int


@pytest.mark.parametrize(("options", "keys"), [
    ("cwd: 3, size: big", ["workload.kind", "workload.cwd", "workload.size"]),
    ("ready: {}, needed: x, other: y", ["workload.kind"]),
])  # fmt: skip
def test_an_unknown_plugin_is_checked_for_what_all_have_in_common(options, keys):
    known = Known(KNOWN.backends, {"one": One, "other": Other, "exotic": None}, KNOWN.families)
    with pytest.raises(ScenarioError) as caught:
        check(parse(TEXT.replace("kind: http, port: 8080", f"kind: zzz, {options}"), "a.yaml"), known)
    assert [problem.key for problem in caught.value.problems] == keys


def test_no_runtime():
    with pytest.raises(ScenarioError, match=r"runtimes: expected at least 1 entry, got 0"):
        scenario_of(TEXT.replace("  process: {backend: process}\n", "").replace(
            "runtimes:\n  vm: {backend: libvirt, vcpus: 2, disk: {size: 1GiB}}\ncontrol: process\n", "runtimes: {}\n"
        ))  # fmt: skip


@pytest.mark.parametrize("text", ["", "- a\n", "text\n", "7\n"])
def test_a_file_that_is_no_mapping(text):
    with pytest.raises(ScenarioError, match="expected a mapping"):
        scenario_of(text)


@pytest.mark.parametrize("key", ["image", "workload", "limits", "runtimes", "trials", "metrics", "gate", "control"])
@pytest.mark.parametrize("value", [7, "text", [], [1], {"a": 1}, True])
def test_a_section_of_the_wrong_kind_is_a_mistake_not_a_crash(key, value):
    document = parse(TEXT, "a.yaml")
    data = copy.deepcopy(document.data)
    data[key] = value
    with pytest.raises(ScenarioError):
        check(parse(json.dumps(data), "a.yaml"), KNOWN)


def test_a_plugin_that_cannot_be_loaded_is_noted_not_refused():
    text = TEXT.replace("{backend: process}", "{backend: exotic, anything: goes}")
    scenario, notes = check(parse(text, "a.yaml"), KNOWN)
    assert scenario.runtimes["process"].options == {"anything": "goes"}
    assert notes == ("runtimes.process: exotic cannot be loaded here: its options were not checked",)


def test_overrides_are_applied_and_recorded(tmp_path):
    loaded = load(written(tmp_path), KNOWN, overrides=["trials.blocks.max=12", "runtimes.vm.vcpus=4"])
    assert loaded.scenario.trials.blocks.max == 12
    assert loaded.scenario.runtimes["vm"].options.vcpus == 4
    assert loaded.resolved()["overrides"] == ["trials.blocks.max=12", "runtimes.vm.vcpus=4"]
    assert loaded.base_dir == tmp_path


def test_a_mistake_in_an_override_points_at_the_command_line(tmp_path):
    with pytest.raises(ScenarioError) as caught:
        load(written(tmp_path), KNOWN, overrides=["runtimes.vm.vcpus=four"])
    (problem,) = caught.value.problems
    assert str(problem) == "--set runtimes.vm.vcpus=four: runtimes.vm.vcpus: expected an integer, got 'four'"


def test_an_override_of_one_of_two_defaults_keeps_the_other(tmp_path):
    text = TEXT.replace("blocks: {min: 10, max: 30}, ", "")
    blocks = load(written(tmp_path, text), KNOWN, overrides=["trials.blocks.max=12"]).scenario.trials.blocks
    assert (blocks.min, blocks.max) == (10, 12)


OVERRIDES = [
    (["limits.cpu=3"], "--set limits.cpu=3: limits.cpu: unknown key; did you mean 'cpus'?"),
    (["trials.blocks.max=5"], "--set trials.blocks.max=5: trials.blocks.min: 10 is more than max, which is 5"),
    (["image.name=busybox"], "--set image.name=busybox: image: expected exactly one of"),
    (["limits.cpus=1", "metrics=[memory]", "trials.seed=3"],
     "--set metrics=[memory]: gate.metrics.0: startup.ready: not measured"),
    (["runtimes.process=x"], "--set runtimes.process=x: runtimes.process: expected a mapping"),
    (["limits.cpus=x", "limits.cpus=y"], "--set limits.cpus=y: limits.cpus: expected a number, got 'y'"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "message"), OVERRIDES, ids=[overrides[0] for overrides, _ in OVERRIDES])
def test_a_mistake_that_came_by_an_override_never_names_a_place_in_the_file(tmp_path, overrides, message):
    with pytest.raises(ScenarioError) as caught:
        load(written(tmp_path), KNOWN, overrides=overrides)
    (problem,) = caught.value.problems
    assert str(problem).startswith(message)
    assert problem.line == 0


def test_a_mistake_of_the_file_keeps_its_place_beside_overrides(tmp_path):
    with pytest.raises(ScenarioError) as caught:
        load(written(tmp_path, TEXT.replace("seed: 7", "seed: x")), KNOWN, overrides=["limits.cpus=x"])
    assert [problem.line for problem in caught.value.problems] == [0, 10]


def test_only_keeps_the_order_of_the_scenario(tmp_path):
    loaded = load(written(tmp_path), KNOWN, only=["vm", "process"])
    assert list(loaded.scenario.runtimes) == ["process", "vm"]
    assert loaded.notes == ()


def test_only_without_the_control_says_what_is_compared_with(tmp_path):
    loaded = load(written(tmp_path), KNOWN, only=["vm"])
    assert loaded.scenario.control == "vm"
    assert loaded.notes == ("--only leaves out the control process: vm is the control of this run",)


def test_only_of_an_unknown_runtime(tmp_path):
    with pytest.raises(UsageError, match="--only: proces: not one of the runtimes") as caught:
        load(written(tmp_path), KNOWN, only=["proces"])
    assert caught.value.hint == "did you mean 'process'?"


def test_resolved_is_json_with_every_default():
    document = resolved(scenario_of(TEXT.replace("limits: {cpus: 2, memory: 1GiB, pids: 64}\n", "")))
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == "harness.scenario/1"
    assert document["limits"] == {"cpus": 1.0, "memory_bytes": 256 << 20, "pids": 128}
    assert document["runtimes"]["vm"] == {
        "backend": "libvirt",
        "options": {"vcpus": 2, "disk": {"size_bytes": 1 << 30}},
    }


def test_hash_is_of_the_meaning_not_of_the_words():
    reordered = TEXT.replace("cpus: 2, memory: 1GiB", "memory: 1024MiB, cpus: 2.0").replace("5%", "0.05")
    commented = TEXT.replace("name:", "# a comment\nname:")
    expected = scenario_hash(resolved(scenario_of()))
    assert scenario_hash(resolved(scenario_of(reordered))) == expected
    assert scenario_hash(resolved(scenario_of(commented))) == expected
    assert len(expected) == 64


@pytest.mark.parametrize(
    ("old", "new"), [("memory: 1GiB", "memory: 2GiB"), ("vcpus: 2", "vcpus: 3"), ("max: 30", "max: 20")]
)
def test_hash_changes_with_what_is_measured(old, new):
    assert scenario_hash(resolved(scenario_of(TEXT.replace(old, new)))) != scenario_hash(resolved(scenario_of()))


def test_hash_ignores_the_seed_and_how_a_value_came_in(tmp_path):
    edited = load(written(tmp_path, TEXT.replace("max: 30", "max: 12").replace(", seed: 7", "")), KNOWN)
    given = load(written(tmp_path), KNOWN, overrides=["trials.blocks.max=12"])
    assert scenario_hash(edited.resolved()) == scenario_hash(given.resolved())


def test_a_scenario_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        scenario_of().name = "b"


def test_schema_is_draft_07_with_the_options_of_each_plugin():
    schema = scenario_schema(KNOWN)
    text = json.dumps(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "$defs" not in text
    assert "prefixItems" not in text
    by_backend = {one["title"]: one for one in schema["definitions"]["Runtime"]["oneOf"]}
    assert set(by_backend["libvirt"]["properties"]) == {"backend", "network", "start", "mounts", "vcpus", "disk"}
    assert by_backend["libvirt"]["properties"]["backend"] == {"const": "libvirt"}
    assert by_backend["exotic"]["additionalProperties"] is True
    assert by_backend["process"]["additionalProperties"] is False


def references(node):
    if isinstance(node, dict):
        if "$ref" in node:
            assert list(node) == ["$ref"], "draft-07 ignores what stands beside a $ref"
            yield node["$ref"].removeprefix("#/definitions/")
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def test_schema_refers_to_what_it_defines_and_defines_what_it_refers_to():
    schema = scenario_schema(KNOWN)
    assert set(references(schema)) == set(schema["definitions"])


class Nested(Strict):
    many: dict[str, Disk] = Field(default_factory=dict)
    row: list[Disk] = Field(default_factory=list)


@pytest.mark.parametrize("text", ["many: {a: {sise: 1}}", "row: [{sise: 1}]"])
def test_suggestions_reach_into_mappings_and_lists(text):
    document = parse(text, "a.yaml")
    with pytest.raises(ValueError, match="sise") as caught:
        Nested.model_validate(document.data)
    (problem,) = problems(document, caught.value, Nested)
    assert problem.message == "unknown key; did you mean 'size'?"


def test_an_error_that_no_one_has_put_into_words_keeps_its_own():
    class Address(BaseModel):
        uuid: __import__("uuid").UUID

    document = parse("uuid: x", "a.yaml")
    with pytest.raises(ValueError, match="uuid") as caught:
        Address.model_validate(document.data)
    (problem,) = problems(document, caught.value, Address)
    assert problem.message.startswith("input should be a valid UUID")
    assert problem.message.endswith("got 'x'")


def test_the_network_of_a_runtime_stands_beside_its_backends_own_options():
    text = TEXT.replace("{backend: process}", "{backend: process, network: none}") + "network: bridge\n"
    scenario = scenario_of(text)
    assert (scenario.network, scenario.runtimes["process"].network, scenario.runtimes["vm"].network) == (
        "bridge",
        "none",
        None,
    )
    assert scenario.runtimes["process"].options == Nothing()


def test_an_unknown_network_is_refused_where_it_stands():
    (line,) = mistakes("{backend: process}", "{backend: process, network: brigde}")
    assert line == (
        "a.yaml:7:40: runtimes.process.network: expected 'none', 'host' or 'bridge', got 'brigde'; "
        "did you mean 'bridge'?"
    )


def test_a_scenario_that_names_no_network_keeps_its_hash():
    assert "network" not in json.dumps(resolved(scenario_of()))


def test_the_schema_has_the_network_beside_the_options_of_each_backend():
    runtime = scenario_schema(KNOWN)["definitions"]["Runtime"]
    assert all("network" in option["properties"] for option in runtime["oneOf"])
    workload = scenario_schema(KNOWN)["definitions"]["Workload"]
    assert not any("network" in option["properties"] for option in workload["oneOf"])


def test_mounts_become_specs_outer_ones_first_and_host_paths_count_from_the_scenario():
    extra = """volumes: {data: {size: 4MiB}}
mounts:
  - {type: tmpfs, target: /data/t, size: 16MiB}
  - {type: volume, source: data, target: /data}
  - {type: bind, source: ../some/dir, target: /in/, ro: true}
gate:"""
    scenario = scenario_of(TEXT.replace("gate:", extra))
    assert mount_specs(scenario.volumes or {}, scenario.mounts or (), Path("/a/scenarios")) == (
        MountSpec("volume", "/data", "data", size_bytes=4 << 20),
        MountSpec("bind", "/in", "/a/some/dir", read_only=True),
        MountSpec("tmpfs", "/data/t", size_bytes=16 << 20),
    )


def test_a_volume_that_nobody_mounts_is_noted():
    _, notes = check(parse(TEXT.replace("gate:", "volumes: {data: {}}\ngate:"), "a.yaml"), KNOWN)
    assert "volumes.data: is mounted nowhere" in notes


def test_without_mounts_the_hash_of_a_scenario_is_what_it_was():
    assert {"volumes", "mounts"}.isdisjoint(resolved(check(parse(TEXT, "a.yaml"), KNOWN)[0]))


def test_what_a_runtime_mounts_stands_in_place_of_what_all_do():
    text = TEXT.replace("{backend: process}", "{backend: process, mounts: [{type: volume, source: data, target: /d}]}")
    text = text.replace("gate:", "volumes: {data: {}}\nmounts: [{type: tmpfs, target: /t}]\ngate:")
    scenario, notes = check(parse(text, "a.yaml"), KNOWN)
    places = {
        name: [mount.target for mount in mounts(scenario, own, Path())] for name, own in scenario.runtimes.items()
    }
    assert places == {"process": ["/d"], "vm": ["/t"]}
    assert not any("mounted nowhere" in note for note in notes)


def test_the_gate_takes_what_the_workload_reports():
    text = TEXT.replace("startup.ready", "http.requests")
    with pytest.raises(ScenarioError, match=r"http\.requests: not measured"):
        check(parse(text, "a.yaml"), KNOWN)
    known = replace(KNOWN, workload_metrics={"http": ("http.requests",)})
    assert check(parse(text, "a.yaml"), known)[0].gate.metrics == ("http.requests",)
