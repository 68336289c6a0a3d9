import pkgutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import harness
from harness.analysis.history import entry_of
from harness.analysis.summary import analyse
from harness.charts import style
from harness.errors import StoreError, UsageError
from harness.results.frame import COLUMNS, Run
from harness.results.history import append, history_path
from harness.results.store import RunDirectory
from tests.example_run import dense_trials, example_run, example_trials

TRIALS = example_trials()
(REFERENCE,) = (Path(__file__).parents[2] / "results" / "reference").glob("*-quickstart-*")


@pytest.fixture(scope="module")
def reference():
    return harness.load(REFERENCE)


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory.create(tmp_path, example_run(), "", {})
    for record in TRIALS:
        directory.append(record)
    return harness.load(directory.path)


def test_trials_are_tidy_and_complete(run):
    trials = run.trials
    assert list(trials.columns) == list(COLUMNS)
    assert len(trials) == len(TRIALS) * len(example_run().metrics)
    assert list(trials["runtime"].cat.categories) == ["process", "container", "vm"]
    assert str(trials["started"].dt.tz) == "UTC"
    assert trials[trials["block"] == 4]["noisy"].all()
    failed = trials[trials["trial_id"] == "b07-container"]
    assert failed["value"].isna().all()
    assert set(failed["status"]) == {"timeout"}


def test_what_was_not_measured_is_nan_with_its_reason(run):
    row = run.trials.query("trial_id == 'b01-process' and metric == 'memory.vmm'").iloc[0]
    assert row["value"] != row["value"]
    assert row["reason"] == "no VMM: it runs on the host's kernel"
    assert row["unit"] == "bytes"


def test_wide_is_block_by_runtime(run):
    wide = run.wide("startup.ready")
    assert wide.shape == (10, 3)
    assert list(wide.columns) == ["process", "container", "vm"]
    assert wide["container"].isna().sum() == 1
    by_hand = {r.spec.trial_id: r.metrics["startup.ready"].value for r in TRIALS if r.metrics}
    assert wide.loc[5, "vm"] == by_hand["b05-vm"]
    assert run.wide("startup.kernel")["process"].isna().all()
    with pytest.raises(UsageError, match="not in this run"):
        run.wide("startup.redy")


def test_what_a_failed_trial_measured_before_is_kept_but_not_counted(tmp_path):
    directory = RunDirectory.create(tmp_path, example_run(), "", {})
    for record in TRIALS:
        broken = record.spec.trial_id == "b02-vm"
        directory.append(replace(record, status="failed", error="did not stop") if broken else record)
    run = harness.load(directory.path)
    assert run.trials.query("trial_id == 'b02-vm' and metric == 'startup.ready'")["value"].notna().all()
    assert run.wide("startup.ready")["vm"].isna().tolist() == [block == 2 for block in range(1, 11)]
    assert run.summary().loc[("startup.ready", "vm"), "n"] == 9


def test_summary_is_that_of_the_report(run):
    ready = run.summary().loc[("startup.ready", "container")]
    assert ready["n"] == 9
    assert ready["unit"] == "ns"
    values = [
        r.metrics["startup.ready"].value
        for r in TRIALS
        if r.status == "ok" and not r.spec.warmup and r.spec.runtime == "container"
    ]
    assert ready["median"] == sorted(values)[4]
    assert (ready["minimum"], ready["maximum"]) == (min(values), max(values))


def test_a_run_without_trials_loads(tmp_path):
    run = harness.load(RunDirectory.create(tmp_path, example_run(), "", {}).path)
    assert len(run.trials) == 0
    assert run.meta == example_run()


def test_a_run_shows_itself_in_one_line(run):
    assert repr(run) == ("<Run 20260314T091522Z-http-start-7f3c0a1b: complete, 33 trials of process, container, vm>")


def test_a_run_is_found_as_on_the_command_line(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    assert harness.load("latest", results=".").path.name == run.path.name
    (run.path.parent / "results").symlink_to(".")
    for text in ("latest", "7f3c0a1b", run.meta.run_id, f"results/{run.meta.run_id}"):
        assert harness.load(text).records == run.records
    with pytest.raises(StoreError, match="no such run"):
        harness.load("nothing")


def test_importing_harness_does_not_import_pandas():
    code = "import sys, harness; print('pandas' in sys.modules); harness.load; print('pandas' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        harness.laod  # noqa: B018


def test_compare_is_the_report_s_own_effect(reference):
    found = reference.compare()
    report = {(c.metric, c.runtime): c.effect for c in analyse(reference.meta, reference.records).cells if c.effect}
    ratios = found[found["kind"] == "ratio"]
    for (metric, runtime), row in ratios.iterrows():
        assert row["effect"] == pytest.approx(report[metric, runtime].value)
        assert row["lo"] == pytest.approx(report[metric, runtime].lo)
    assert (found["p_holm"] >= found["p"]).all()
    assert reference.compare("container").loc[("startup.ready", "vm"), "effect"] > 1
    with pytest.raises(UsageError, match="baseline"):
        reference.compare("nobody")


def test_noise_has_one_row_a_trial(reference):
    assert list(reference.noise["trial_id"]) == [record.spec.trial_id for record in reference.records]
    with pytest.raises(UsageError, match="samples"):
        reference.samples("b01-vm")


def test_failures_have_one_row_each_with_what_became_of_the_instance(run):
    ended = replace(run, records=(replace(run.records[0], status="failed", ending="guest-oom", error="guest: x"),))
    assert ended.failures[["status", "ending", "error"]].values.tolist() == [["failed", "guest-oom", "guest: x"]]
    assert [*run.failures["trial_id"]] == ["b07-container"]


@pytest.mark.parametrize("name", ["values", "paired", "ecdf", "order", "phases", "isolation", "memory"])
def test_every_chart_draws_on_given_axes(reference, name):
    axes = style.new_figure(5, 3).add_subplot()
    assert getattr(reference.plot, name)(ax=axes) is axes
    assert axes.get_title() or axes.get_xlabel()
    assert len(axes.get_figure().axes) == 1


def test_density_is_tidy_and_its_chart_names_what_each_further_instance_takes():
    run = Run(example_run(), tuple(dense_trials()), Path())
    frame = run.density
    assert set(frame["n"]) == {1, 2, 4}
    assert len(frame) == 3 * len(dense_trials())
    axes = run.plot.density("density.pss")
    (legend,) = axes.figure.legends
    assert "vm (tcg): +96.0 MiB [96.0 MiB - 96.0 MiB] for each" in [text.get_text() for text in legend.get_texts()]
    given = style.new_figure(5, 3).add_subplot()
    assert run.plot.density("density.pss", ax=given) is given
    with pytest.raises(UsageError, match="no readings by number of instances"):
        run.plot.density("density.cpu")


def test_accounts_of_memory_add_up_and_count_no_page_twice(run):
    from harness.charts.memory import accounts

    own = accounts(run.records, "vm")
    found = run.counted().query("runtime == 'vm'").groupby("metric", observed=True)["value"].median()
    assert sum(own.values()) == pytest.approx(found["memory.pss"])
    assert own["memory.guest_ram"] == found["memory.guest_ram"]
    assert list(accounts(run.records, "container")) == ["memory.pss"]


def test_a_family_of_metrics_is_one_chart(reference):
    axes = style.new_figure(5, 3).add_subplot()
    members = {"startup.init": "init", "startup.ready": "ready", "no.such": "nothing"}
    assert reference.plot.family(members, "Starts", ax=axes) is axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["init", "ready"]
    with pytest.raises(UsageError, match="no runtime of this run has any"):
        reference.plot.family({"no.such": "nothing"}, "Nothing")


def test_history_of_a_run_s_own_scenario(run, tmp_path):
    entry = entry_of(analyse(run.meta, run.records))
    path = history_path(tmp_path, run.meta.scenario, run.meta.host["class"])
    for place in range(3):
        append(path, replace(entry, run_id=f"r{place}", started=f"2026-01-0{3 - place}T00:00:00+00:00"))
    axes = style.new_figure(5, 3).add_subplot()
    assert run.plot.history(root=tmp_path, ax=axes) is axes
    assert axes.get_title(loc="left") == "startup.ready: container / process"
    with pytest.raises(StoreError, match="history: http-start: none"):
        run.plot.history(root=tmp_path / "nothing")
    with pytest.raises(UsageError, match="its newest run has no"):
        run.plot.history("no.such", root=tmp_path)


def test_charts_of_what_is_not_there_say_so(reference):
    for draw in (reference.plot.values, reference.plot.paired, reference.plot.ecdf, reference.plot.order):
        with pytest.raises(UsageError, match=r"no\.such"):
            draw("no.such")
    with pytest.raises(UsageError, match="phases: nobody"):
        reference.plot.phases("nobody")


def test_many_runs_are_one_frame():
    many = harness.load_many("*-quickstart-*", REFERENCE.parent)
    assert many["run_id"].nunique() == 1
    with pytest.raises(StoreError, match="no such run"):
        harness.load_many("*-nothing-*", REFERENCE.parent)


def test_history_is_a_frame(tmp_path):
    entry = entry_of(analyse(example_run(), example_trials()))
    path = history_path(tmp_path, "boot", "x86-2c")
    for place in range(3):
        append(path, replace(entry, run_id=f"r{place}", started=f"2026-01-0{3 - place}T00:00:00+00:00"))
    frame = harness.history("boot", tmp_path)
    assert list(frame["run_id"].unique()) == ["r2", "r1", "r0"]
    row = frame[(frame["run_id"] == "r0") & (frame["runtime"] == "vm") & (frame["metric"] == "startup.ready")].iloc[0]
    assert row["median"] == entry.cells["vm"]["startup.ready"][0]
    assert row["unit"] == "ns"
    control = frame[frame["runtime"] == "process"]
    assert control["effect"].isna().all()
    with pytest.raises(StoreError, match="none in"):
        harness.history("nothing", tmp_path)


def test_no_package_hides_a_function_that_notebooks_call() -> None:
    assert not set(harness.__all__) & {module.name for module in pkgutil.iter_modules(harness.__path__)}
