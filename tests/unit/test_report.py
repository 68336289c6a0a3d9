import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from harness import plugins
from harness.analysis.claims_layers import STATEMENTS
from harness.analysis.summary import analyse
from harness.cli.main import cli
from harness.errors import StoreError, UsageError
from harness.model.report import Effect
from harness.model.units import format_ratio
from harness.report import _tables as tables
from harness.report.terminal import TerminalRenderer
from harness.results.store import RunDirectory
from harness.trials import ownership
from tests.example_run import example_run, example_trials

TRIALS = example_trials()
REPORT = analyse(example_run(), TRIALS)
ESCAPE = "\x1b"


def terminal(report=REPORT, width=100, *, colour=False, **options):
    return TerminalRenderer(width, colour=colour, **options).render(report)


def broken():
    """Return a report on arms that were not the same."""
    victim = next(r for r in TRIALS if r.spec.trial_id == "b03-vm")
    other = replace(victim, attestation=replace(victim.attestation, uid=0))
    return analyse(example_run(), [other if r is victim else r for r in TRIALS])


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.914, "1.91x"), (1.0, "1.00x"), (13.44, "13.4x"), (416.2, "416x"), (1231.4, "1231x"), (999.7, "1000x"),
     (0.5, "0.500x"), (0.0282, "0.028x")],
)  # fmt: skip
def test_format_ratio(ratio, text):
    assert format_ratio(ratio) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1_910_000_000, "ns", "1.91 s"),
        (8 << 20, "bytes", "8.00 MiB"),
        (8 << 20, "bytes/s", "8.00 MiB/s"),
        (1234, "1/s", "1234 /s"),
        (1, "bool", "yes"),
        (0, "bool", "no"),
        (41, "count", "41"),
        (0.01234, "ratio", "0.0123"),
        (2.5, "watts", "2.50 watts"),
    ],
)
def test_format_value(value, unit, text):
    assert tables.format_value(value, unit) == text


def test_interval_names_both_units_where_they_differ():
    assert tables.format_interval(1.87e9, 1.97e9, "ns") == "1.87 - 1.97 s"
    assert tables.format_interval(980_000, 1_020_000, "ns") == "980 µs - 1.02 ms"
    assert tables.format_interval(3, 4, "count") == "3 - 4"


def test_effect_text():
    assert tables.effect_text(Effect("ratio", 1.914, 1.853, 1.98, 10, "slower"), "ns") == "1.91x [1.85 - 1.98]"
    assert tables.effect_text(Effect("ratio", 1.914, None, None, 3, "too few blocks"), "ns") == "1.91x"
    more = Effect("difference", 8 << 20, 7 << 20, 9 << 20, 10, "more")
    assert tables.effect_text(more, "bytes") == "+8.00 MiB [7.00 - 9.00]"
    less = Effect("difference", -(8 << 10), -(9 << 20), 100, 10, "undecided")
    assert tables.effect_text(less, "bytes") == "-8.00 KiB [-9.00 MiB - 100 B]"


def test_headline_is_a_sentence_with_its_caveat():
    assert tables.headline(REPORT) == (
        "process is ready after 4.56 ms; container takes 1.92x [1.82 - 1.98] as long; "
        "vm (tcg) takes 416x [400 - 581] as long. vm ran in software emulation: no measure of VM speed in production."
    )


def test_headline_of_odd_runs():
    assert "nothing to compare with" in tables.headline(analyse(example_run(), []))
    only = analyse(example_run(runtimes=("process",)), [r for r in TRIALS if r.spec.runtime == "process"])
    assert tables.headline(only) == "process is ready after 4.56 ms."
    half = analyse(example_run(), [r for r in TRIALS if r.spec.runtime != "container"])
    assert "container was not measured beside it" in tables.headline(half)
    assert "as long: too few blocks" in tables.headline(analyse(example_run(), example_trials(blocks=3)))
    kvm = analyse(example_run(), [replace(r, accelerator="kvm") if r.accelerator else r for r in TRIALS])
    assert "vm (kvm) takes" in tables.headline(kvm)
    assert "emulation" not in tables.headline(kvm)


def test_rows_know_what_is_worse():
    found = {(row.metric, row.runtime): row.worse for row in tables.rows(REPORT)}
    assert found["startup.ready", "vm (tcg)"] is True
    assert found["startup.ready", "process"] is None
    assert found["memory.inside.available", "vm (tcg)"] is True  # higher is better
    assert found["memory.inside.total", "vm (tcg)"] is None  # neither is better
    assert found["memory.pss", "container"] is None  # the same within the margin


@pytest.mark.parametrize("width", [80, 100, 140])
def test_terminal_fits_its_width(width):
    for text in (terminal(width=width), TerminalRenderer(width, colour=False).render_claims([REPORT], REPORT.claims)):
        assert max(map(len, text.splitlines())) <= width
        assert ESCAPE not in text


def test_terminal_says_the_main_thing_first():
    lines = terminal().splitlines()
    assert lines[0].startswith("process is ready after 4.56 ms; container takes 1.92x")
    assert any(line.startswith("workload  identical on all arms: 32 of 32 trials attested") for line in lines[:12])


def test_terminal_has_one_row_a_metric_and_runtime():
    wide = [line.split() for line in terminal(width=100).splitlines()]
    ready = next(place for place, words in enumerate(wide) if words[:1] == ["startup.ready"])
    assert wide[ready][1:5] == ["↓", "process", "10", "4.56"]
    assert " ".join(wide[ready + 1]) == "container 9 8.78 ms 8.62 - 9.10 ms 1.92x [1.82 - 1.98] slower"
    assert " ".join(wide[ready + 2]) == "vm (tcg) 10 1.90 s 1.86 - 2.00 s 416x [400 - 581] slower"
    narrow = terminal(width=80)
    assert "\nstartup.ready ↓\n  process " in narrow
    assert "1.92x [1.82 - 1.98] slower" in narrow


def test_terminal_shows_properties_as_a_matrix():
    text = terminal()
    assert re.search(r"isolation\.capabilities\.effective +41 +0 +41\*\n", text)
    assert re.search(r"isolation\.namespaces\.own +0 +6: cgroup ipc mnt net pid uts +-\n", text)
    assert re.search(r"isolation\.namespaces\.own +0 +6 +-\n", terminal(width=70))
    assert "isolation.namespace.pid" not in text
    assert re.search(r"isolation\.namespace\.pid +no +yes +-\n", terminal(everything=True))
    assert tables.OWN_KERNEL_NOTE in text
    assert not re.search(r"isolation\.\S+ +process", text)


def test_terminal_names_what_went_wrong():
    text = " ".join(terminal(everything=True).split())
    for part in ("software emulation (TCG)", "b07-container (timeout)", "-> logs/b07-container/", "not measured",
                 "no VMM: it runs on the host's kernel"):  # fmt: skip
        assert part in text
    assert "uid: " in terminal(broken())
    assert "NOT THE SAME on all arms" in terminal(broken())


def test_the_short_report_has_every_metric_once():
    """Rows with intervals for the main metrics, medians for the others; only the markers' own cost is left out."""
    text, long = terminal(), terminal(everything=True)
    rows = re.findall(r"^((?:startup|stop|memory)\.\S+)", text, re.MULTILINE)
    assert rows == ["startup.ready", "memory.pss", "stop.deleted", "memory.cgroup.anon"]
    assert re.search(r"^time until +process +container +vm \(tcg\) +other memory +process", text, re.MULTILINE)
    steps = re.findall(r"^(runtime\.exec|vmm\.exec|kernel|init|exec|ready) +[\d-]", text, re.MULTILINE)
    assert steps == ["runtime.exec", "vmm.exec", "kernel", "init", "exec", "ready"]
    for name in ("uss", "guest_ram", "vmm", "cgroup.file", "inside.total", "inside.available"):
        assert len(re.findall(rf" {name} +[\d-]", text)) == 1, name
    assert f"harness report {example_run().run_id} --all\n" in text
    assert len(text.splitlines()) <= 66 < len(long.splitlines())
    assert "a mark costs" in long
    assert "--all" not in long


def test_the_short_report_gives_the_gates_metrics_a_row_and_others_a_median():
    gated = terminal(gated=("memory.uss",))
    assert re.search(r"^memory\.uss ↓ +process +10", gated, re.MULTILINE)
    assert not re.search(r"^ *uss|  uss ", gated, re.MULTILINE)
    metrics = {**example_run().metrics, "cpu.work": {"unit": "ns", "better": "lower", "assume": "nothing", "doc": ""}}
    trials = [replace(r, metrics={**r.metrics, "cpu.work": r.metrics["startup.ready"]}) if r.metrics else r
              for r in TRIALS]  # fmt: skip
    assert re.search(r"cpu\.work +4\.56 ms +8\.78 ms +1\.90 s", terminal(analyse(example_run(metrics=metrics), trials)))


def test_the_short_report_tells_of_main_metrics_that_are_missing():
    lost = [replace(r, metrics={k: v for k, v in r.metrics.items() if k != "memory.pss"},
                    absent={**r.absent, "memory.pss": "not allowed"}) if r.spec.runtime == "vm" else r
            for r in TRIALS]  # fmt: skip
    assert "vm: memory.pss: not allowed" in terminal(analyse(example_run(), lost))
    assert "not measured" not in terminal()
    assert "why some are missing (-)" in terminal()


def test_colour_only_where_asked(monkeypatch):
    assert ESCAPE in terminal(colour=True)
    assert ESCAPE not in TerminalRenderer().render(REPORT)  # captured by pytest: not a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    colours = re.findall(r"\x1b\[([0-9;]*)m", terminal(colour=True))
    assert colours
    assert not any(re.search(r"(^|;)(3|4|9|10)[0-7](;|$)", code) for code in colours)


def test_text_from_outside_is_no_markup():
    hostile = replace(TRIALS[1], status="failed", error="[bold]x[/bold] | <b>y</b> [z](http://e) `c`", metrics={})
    report = analyse(example_run(), [TRIALS[0], hostile])
    assert "[bold]x[/bold] | <b>y</b> [z](http://e) `c`" in terminal(report, 140)
    markdown = plugins.load("report", "markdown").render(report)
    assert "&#124; &#60;b&#62;y" in markdown
    assert "](http" not in markdown


def test_every_format_renders_every_kind_of_run():
    kinds = [REPORT, broken(), analyse(example_run(), []), analyse(example_run(), example_trials(blocks=3))]
    kinds.append(analyse(example_run(metrics={}), TRIALS))
    for name in plugins.names("report"):
        renderer = plugins.load("report", name)
        assert (renderer.name, renderer.suffix[0], bool(renderer.doc)) == (name, ".", True)
        for report in kinds:
            assert renderer.render(report).endswith("\n")


def test_json_is_complete_and_unrounded():
    document = json.loads(plugins.load("report", "json").render(REPORT))
    assert document["schema"] == "harness.report/1"
    assert document["run"]["run_id"] == example_run().run_id
    assert len(document["cells"]) == len(REPORT.cells)
    assert document["cells"][1]["effect"]["value"] == REPORT.cells[1].effect.value
    assert {"identity", "failures", "findings", "missing", "claims", "accelerators"} <= document.keys()


def test_csv_is_tidy():
    lines = list(csv.DictReader(io.StringIO(plugins.load("report", "csv").render(REPORT))))
    assert len(lines) == len(REPORT.cells)
    ready = next(line for line in lines if (line["metric"], line["runtime"]) == ("startup.ready", "container"))
    assert (ready["n"], ready["unit"], ready["effect_kind"]) == ("9", "ns", "ratio")
    assert float(ready["effect"]) == REPORT.cell("startup.ready", "container").effect.value
    lonely = next(line for line in lines if (line["metric"], line["runtime"]) == ("memory.vmm", "process"))
    assert (lonely["median"], lonely["n"], lonely["absent"]) == ("", "0", "no VMM: it runs on the host's kernel")


def test_markdown_tables_are_tables():
    text = plugins.load("report", "markdown").render(REPORT)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert "| startup.ready ↓ | container | 9 | 8.78 ms | 8.62 - 9.10 ms | 1.92x [1.82 - 1.98] | slower |" in text
    assert "| Startup time | minutes |" in text


@pytest.fixture
def results(tmp_path):
    directory = RunDirectory.create(tmp_path, example_run(), "", {})
    for record in TRIALS:
        directory.append(record)
    directory.close()
    return tmp_path


def call(*argv):
    return CliRunner().invoke(cli, [str(word) for word in argv], catch_exceptions=False, standalone_mode=False)


def test_report_command(results):
    assert call("report", "latest", "--results", results).stdout == terminal()
    assert call("report", results / example_run().run_id, "--format", "md").stdout.startswith("# http-start\n")
    output = results / "out.csv"
    assert call("report", "7f3c0a1b", "--results", results, "--format", "csv", "--output", output).stdout == ""
    assert output.read_text() == plugins.load("report", "csv").render(REPORT)
    with pytest.raises(UsageError, match="report: htlm: unknown"):
        call("report", "latest", "--results", results, "--format", "htlm")
    with pytest.raises(StoreError, match="no such run"):
        call("report", "nothing", "--results", results)
    with pytest.raises(StoreError, match="cannot be written"):
        call("report", "latest", "--results", results, "--output", results / "none" / "x")


def test_report_command_all(results):
    assert call("report", "latest", "--results", results, "--all").stdout == terminal(everything=True)
    resolved = results / example_run().run_id / "scenario.resolved.json"
    resolved.write_text(json.dumps({"gate": {"metrics": ["memory.uss"]}}))
    assert call("report", "latest", "--results", results).stdout == terminal(gated=("memory.uss",))
    resolved.write_text("{")
    with pytest.raises(StoreError, match=r"scenario\.resolved\.json: damaged"):
        call("report", "latest", "--results", results)


def test_a_killed_run_is_called_so(results, monkeypatch):
    monkeypatch.setenv("HARNESS_RUNTIME", str(results / "runtime"))
    run = example_run(status="running", stop_reason="")
    path = results / run.run_id / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running", "stop_reason": ""}))
    text = call("report", "latest", "--results", results).stdout
    assert "\n          killed\n" in text
    assert f"-> harness run --resume {run.run_id}" in text
    assert "is running" not in text.partition("killed: it says that")[0]
    assert f"run: `{run.run_id}` (killed)" in call("report", "latest", "--results", results, "--format", "md").stdout
    listed = " ".join(call("list", "runs", "--results", results).stdout.split())
    assert f"killed http-start: process, container, vm; to go on: harness run --resume {run.run_id}" in listed
    ownership.claim("0badcafe", run.run_id)  # this process works on it
    assert "killed" not in call("report", "latest", "--results", results).stdout
    assert " running " in call("list", "runs", "--results", results).stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_output_with_few_letters_gets_the_report_too(results, encoding):
    found = subprocess.run(
        [sys.executable, "-m", "harness", "report", "latest", "--results", str(results)],
        check=True, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert b"startup.ready" in found.stdout
    assert b"?" not in found.stdout
    assert found.stderr == b""


def test_report_command_tells_of_half_a_line(results):
    journal = results / example_run().run_id / "trials.jsonl"
    journal.write_bytes(journal.read_bytes()[:-10])
    text = call("report", "latest", "--results", results).stdout
    assert "was cut off while it was written" in text
    assert "32 trials, 1 failed" in text


def test_claims_command(results):
    text = call("claims", "latest", "--results", results).stdout
    assert re.findall(r"^(\w[\w :]*): (holds here|does not hold here|undecided)$", text, re.MULTILINE) == [
        ("Operating system", "holds here"),
        ("Startup time", "does not hold here"),
        ("Resource consumption", "holds here"),
        ("Portability", "undecided"),
        ("Isolation", "holds here"),
        *((row, "undecided") for row in STATEMENTS),
    ]
    assert re.search(r"^  effect    \d+x \[\d+ - \d+\] startup.ready, VM / container$", text, re.MULTILINE)
    assert "harness run scenarios/build-cache.yaml does" in text
    document = json.loads(call("claims", "latest", "--results", results, "--json").stdout)
    assert document["schema"] == "harness.claims/1"
    assert document["claims"][1]["verdict"] == "fails"
    assert document["claims"][1]["contrast"]["n"] == 9


@pytest.mark.parametrize(
    ("suffix", "begin", "rows"),
    [(".md", "# What is", 13), (".html", "<!DOCTYPE html>", 13), (".svg", "<svg ", 13), (".json", "{", 13)],
)
def test_claims_as_a_file(results, tmp_path, suffix, begin, rows):
    path = tmp_path / f"claims{suffix}"
    assert call("claims", "latest", "--results", results, "--output", path).exit_code == 0
    text = path.read_text()
    assert text.startswith(begin)
    assert len(set(re.findall("|".join(("Operating system", "Startup time", "Resource consumption", "Portability",
                                        "Isolation", *STATEMENTS)), text))) == rows  # fmt: skip


def test_claims_as_a_picture_for_a_slide(results, tmp_path):
    path = tmp_path / "slide.png"
    assert call("claims", "latest", "--results", results, "--part", "comparison", "--output", path).exit_code == 0
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert abs(width / height - 16 / 9) < 0.01
    with pytest.raises(UsageError, match="a picture goes to a file"):
        call("claims", "latest", "--results", results, "--format", "png")


def test_the_report_needs_no_numpy(results):
    code = (
        "import sys; from harness.cli.main import run; run(['report', 'latest', '--results', sys.argv[1]]);"
        "print([name for name in ('numpy', 'pandas', 'scipy', 'pydantic') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code, str(results)], check=True, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_workload_that_reports_metrics_has_the_first_of_them_in_the_headline():
    said = tables.headline(analyse(replace(example_run(), reported="memory.pss"), TRIALS))
    assert said.startswith("memory.pss: process ")
    assert said.endswith("ran in software emulation: no measure of VM speed in production.")
