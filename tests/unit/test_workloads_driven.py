"""Driven workloads: what tools print becomes measurements only where it shows the work that was asked for."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence

import pytest

from harness import plugins
from harness.errors import TrialError, UsageError
from harness.interfaces import Driven
from harness.loading import generator
from harness.model.metrics import Absent, Measurement
from harness.model.spec import ImageConfig, RootTree
from harness.model.work import Did, Load, Served
from harness.trials import resolve
from harness.trials.driven import Driver
from harness.trials.reported import probes_with
from harness.workloads import _driven, compile, cpu, network, postgres, redis, stress, web
from tests.fakes import FakeInstance

KINDS = ("compile", "cpu", "everything", "memory", "network", "postgres", "python", "redis", "sqlite", "stress", "web")
SERVED = Served(200, 200, 0, "", 0, 1_000_000_000, {"50": 1, "90": 2, "99": 3, "99.9": 4, "max": 5}, 0.1, 1000, "HIST")
GREETING = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"\n'
    '"SET","20000.50","0.1","0.1","0.2","0.3","0.359","1.0"\n"GET","25000.00","0.1","0.1","0.2","0.3","0.250","1.0"\n'
)
IPERF = {"end": {"sum_sent": {"bytes": 1000}, "sum_received": {"bytes": 900, "bits_per_second": 8000.0}}}


class FakeSite:
    """Answers commands by a function of argv; its CPU clock moves by 1 ms with every command and load."""

    def __init__(self, answer: Callable[[Sequence[str]], str] = lambda _argv: "", *, served: Served = SERVED) -> None:
        self.address: str | None = "10.213.0.3"
        self.asked: list[tuple[str, ...]] = []
        self.loads: list[Load] = []
        self.used_ns: int | None = 0
        self._answer, self._served = answer, served

    def _did(self, argv):
        self.asked.append(tuple(argv))
        self.used_ns = None if self.used_ns is None else self.used_ns + 1_000_000
        return Did(0, self._answer(argv).encode(), b"", 1_000_000)

    def inside(self, argv, timeout_ns):
        return self._did(argv)

    def client(self, argv, timeout_ns):
        return self._did(argv)

    def client_file(self, path):
        return b""

    def serve(self, load):
        self.loads.append(load)
        self.used_ns = None if self.used_ns is None else self.used_ns + 1_000_000
        return self._served

    def cpu_ns(self):
        return self.used_ns


def by_name(items):
    return {item.metric.name: item for item in items}


def options(plugin, **values):
    return plugin.options.model_validate(values)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_driven_and_names_its_metrics_once(kind):
    plugin = plugins.load("workloads", kind)
    assert isinstance(plugin, Driven)
    names = [metric.name for metric in plugin.metrics]
    assert names
    assert len(set(names)) == len(names)
    assert all(metric.doc for metric in plugin.metrics)


def test_plain_workloads_are_not_driven():
    for kind in ("command", "http", "fio", "storage", "noop"):
        assert not isinstance(plugins.load("workloads", kind), Driven)


# -- the load client -------------------------------------------------------------------------------------------------


def client_output(latencies_ns, lags_ns, **head):
    times = {"elapsed_ns": 10**9, "counted_ns": 10**9, "cpu_ns": 10**8}
    said = {"schema": "harness.load/1", "wrong": 0, "queued": 0, **times, "error": "", **head}
    records = b"".join(struct.pack("QQQ", *row, 0) for row in zip(latencies_ns, lags_ns, strict=True))
    return json.dumps(said).encode() + b"\n" + records


def test_percentiles_of_a_load_within_three_digits():
    served = generator.parse(client_output(range(1000, 1_001_000, 1000), [5000] * 1000))
    assert (served.asked, served.answered, served.rate_per_s) == (1000, 1000, 1000)
    assert served.latency_ns["50"] == pytest.approx(500_000, rel=1e-3)
    assert served.latency_ns["99"] == pytest.approx(990_000, rel=1e-3)
    assert served.latency_ns["max"] == pytest.approx(1_000_000, rel=1e-3)
    assert served.client_lag_ns == pytest.approx(5000, rel=1e-3)
    assert served.client_busy_ratio == pytest.approx(0.1)


def test_the_whole_histogram_can_be_had_again():
    from hdrh.histogram import HdrHistogram

    served = generator.parse(client_output([1000, 2000, 3_000_000], [0, 0, 0]))
    again = HdrHistogram.decode(served.histogram)
    assert again.get_total_count() == 3
    assert again.get_max_value() == pytest.approx(3_000_000, rel=1e-3)


def test_a_request_without_an_answer_has_no_latency_and_is_refused():
    served = generator.parse(client_output([1000, 0], [0, 0], wrong=1, error="receive: Connection reset by peer"))
    assert (served.asked, served.answered) == (2, 1)
    with pytest.raises(ValueError, match="1 of 2 requests were answered, 1 went wrong: receive: Connection reset"):
        _driven.all_answered(served)


@pytest.mark.parametrize("output", [b"", b"{}\n", client_output([1], [0])[:-3]])
def test_an_output_of_the_client_that_makes_no_sense(output):
    with pytest.raises(ValueError, match=r"Expecting value|no answer of the schema"):
        generator.parse(output)


@pytest.mark.parametrize(("busy", "lag_ns", "saturated"), [(0.1, 1000, 0), (0.9, 1000, 1), (0.1, 2_000_000, 1)])
def test_a_client_that_is_the_limit_itself_is_told(busy, lag_ns, saturated):
    served = Served(100, 100, 0, "", 0, 10**9, SERVED.latency_ns, busy, lag_ns)
    assert by_name(web.LATENCY.emit(served, 100))["web.client.saturated"].value == saturated


def test_a_server_that_does_not_keep_up_is_told():
    slow = Served(100, 100, 0, "", 60, 2 * 10**9, SERVED.latency_ns, 0.1, 0)
    found = by_name(web.LATENCY.emit(slow, 100))["web.answered"]
    assert found.value == pytest.approx(0.5)
    assert found.labels == {"server": "saturated", "queued": "60"}


# -- what tools print ------------------------------------------------------------------------------------------------


def test_redis_benchmark():
    found = by_name(redis.parse_benchmark(GREETING))
    assert found["redis.set.rate"].value == 20000.5
    assert found["redis.get.p99"].value == 250_000
    with pytest.raises(ValueError, match="no row for GET"):
        list(redis.parse_benchmark(GREETING.replace("GET", "LPOP")))


def test_redis_counts_what_the_server_has_done():
    def answer(argv):
        if argv[0] == "redis-benchmark":
            return GREETING
        return "cmdstat_set:calls=1000,usec=1\ncmdstat_get:calls=999,usec=1\n" if "commandstats" in argv else "OK"

    with pytest.raises(ValueError, match="the server counted"):
        list(redis.PLUGIN.drive(options(redis.PLUGIN, requests=1000), FakeSite(answer)))


def test_redis_measures_every_metric():
    def answer(argv):
        if argv[0] == "redis-benchmark":
            return GREETING
        return "cmdstat_set:calls=1000,usec=1\ncmdstat_get:calls=1000,usec=1\n" if "commandstats" in argv else "OK"

    site = FakeSite(answer)
    found = by_name(redis.PLUGIN.drive(options(redis.PLUGIN, requests=1000), site))
    assert set(found) == {metric.name for metric in redis.PLUGIN.metrics}
    assert found["redis.cpu"].value == 1_000_000 // 2000
    assert found["redis.latency.p50"].labels == {"histogram": "HIST"}
    assert site.loads[0].request == b"*2\r\n$3\r\nGET\r\n$7\r\nharness\r\n"


def test_pgbench():
    text = "number of transactions actually processed: 400/400\ntps = 812.5 (without initial connection time)\n"
    assert postgres.parse_summary(text, 400) == (400, 812.5)
    with pytest.raises(ValueError, match="401 transactions were asked for, 400 made"):
        postgres.parse_summary(text, 401)
    assert postgres.parse_log("0 1 2000 0 1 1 5\n1 1 1000 0 1 2 5\n", 2) == [1_000_000, 2_000_000]
    with pytest.raises(ValueError, match="the log has 1"):
        postgres.parse_log("0 1 2000 0 1 1 5\n", 2)


def test_pgbench_counts_the_rows():
    site = FakeSite(lambda argv: "19\n" if argv[0] == "psql" else "")
    with pytest.raises(ValueError, match="20 transactions were committed, pgbench_history has 19 rows"):
        postgres._check_rows(options(postgres.PLUGIN), site, 20)


def test_iperf():
    assert network.parse_iperf(json.dumps(IPERF).encode()) == network.Stream(900, 1000)
    with pytest.raises(ValueError, match="connection refused"):
        network.parse_iperf(b'{"error": "connection refused"}')
    IPERF["end"]["sum_received"] = {"bytes": 100, "bits_per_second": 1.0}
    with pytest.raises(ValueError, match="less than half arrived"):
        network.parse_iperf(json.dumps(IPERF).encode())


def test_iperf_that_lost_its_control_connection_is_asked_again_and_every_try_is_recorded():
    lost = json.dumps({"error": "control socket has closed unexpectedly"})
    arrived = json.dumps({"end": {"sum_sent": {"bytes": 1 << 20},
                                  "sum_received": {"bytes": 1 << 20, "bits_per_second": 8000.0}}})  # fmt: skip
    answers = iter([lost, lost, arrived, arrived])
    site = FakeSite(lambda argv: next(answers) if "--client" in argv else "")
    found = by_name(network.PLUGIN.drive(options(network.PLUGIN, rounds=200), site))
    labels = found["network.in"].labels
    assert labels["tries"] == "3"
    assert labels["failed"].count("control socket has closed unexpectedly") == 2
    assert found["network.out"].labels == {"tries": "1"}
    assert found["network.cpu"].value == 1_000_000  # of the try that arrived alone


def test_iperf_that_never_arrives_is_a_failure_that_names_every_try():
    site = FakeSite(lambda argv: '{"error": "control socket"}' if "--client" in argv else "")
    with pytest.raises(ValueError, match=r"(control socket.*; then iperf3: ){3}control"):
        list(network.PLUGIN.drive(options(network.PLUGIN, rounds=200), site))


def test_stress_ng():
    line = "stress-ng: metrc: [9] cpu                  50      0.14      0.13      0.00       346.01         380.0\n"
    assert stress.parse_metrics(line, "cpu") == (50, 346.01)
    with pytest.raises(ValueError, match="no metrics of vm"):
        stress.parse_metrics(line, "vm")
    with pytest.raises(ValueError, match="50 of 60 operations"):
        list(stress.PLUGIN.drive(options(stress.PLUGIN, stressor="cpu", operations=60), FakeSite(lambda _argv: line)))


# -- work inside -----------------------------------------------------------------------------------------------------


def slow_chain(steps):
    value = 1
    for _ in range(steps):
        value = (value * 6364136223846793005 + 1442695040888963407) % 2**64
    return value


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 1000, 1023])
def test_the_chain_by_squaring_is_the_chain_step_by_step(steps):
    assert cpu.chain(steps) == slow_chain(steps)


def test_a_wrong_result_is_no_measurement():
    def answer(argv):
        return json.dumps({"schema": "harness.workbench/1", "integer": {"count": 1, "ns": 1}, "integer_result": "7"})

    with pytest.raises(ValueError, match="7 came out"):
        list(cpu.PLUGIN.drive(options(cpu.PLUGIN), FakeSite(answer)))


def test_what_was_built_must_run():
    plugin = compile.PLUGIN
    good = by_name(plugin.drive(options(plugin), FakeSite(lambda argv: "result 333833500\n" if "-e" in argv else "")))
    assert good["compile.time"].value == 1_000_000
    with pytest.raises(ValueError, match="result 333833500 is right"):
        list(plugin.drive(options(plugin), FakeSite(lambda _argv: "result 1\n")))


def test_python_counts_primes_that_are_known():
    plugin = plugins.load("workloads", "python")
    with pytest.raises(UsageError, match=r"workload\.below: 5"):
        plugin.compile(options(plugin, below=5), ImageConfig())


def test_cpu_time_that_nobody_counts_is_absent():
    site = FakeSite()
    site.used_ns = None
    _, spent = _driven.spending(site, lambda: None)
    assert isinstance(spent.per(cpu.CPU, 1), Absent)


@pytest.mark.parametrize("kind", ["redis", "web", "postgres", "network"])
def test_without_a_bridge_everything_is_absent_with_the_reason(kind):
    plugin, site = plugins.load("workloads", kind), FakeSite()
    site.address = None
    found = list(plugin.drive(options(plugin, **({"port": 80} if kind == "web" else {})), site))
    assert [item.metric for item in found] == list(plugin.metrics)
    assert {item.reason for item in found if isinstance(item, Absent)} == {_driven.NO_ADDRESS}


def test_everything_leaves_out_what_is_not_asked_for_and_names_the_part_that_failed():
    plugin = plugins.load("workloads", "everything")
    answer = {"schema": "harness.workbench/1", "integer_result": str(cpu.chain(1000)),
              "integer": {"count": 1000, "ns": 1000}, "float": {"count": 1, "ns": 1}}  # fmt: skip
    chosen = options(plugin, parts={"cpu": {"steps": 1000}})
    found = by_name(plugin.drive(chosen, FakeSite(lambda _argv: json.dumps(answer))))
    assert set(found) == {metric.name for metric in plugin.metrics}
    assert [name for name, item in found.items() if isinstance(item, Measurement)] == [
        "compute.integer", "compute.float", "compute.cpu",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="cpu: no answer of the schema"):
        list(plugin.drive(chosen, FakeSite(lambda _argv: "{}")))


# -- as a probe ------------------------------------------------------------------------------------------------------


def test_the_probe_of_a_driven_workload_comes_first_and_turns_wrong_work_into_a_failed_trial(tmp_path, monkeypatch):
    plugin = plugins.load("workloads", "cpu")
    tree = RootTree(tmp_path, "sha256:0", 0)
    (driver,) = probes_with(plugin, (), options(plugin), tree)
    assert isinstance(driver, Driver)
    assert driver.metrics == plugin.metrics
    monkeypatch.setattr("harness.trials.driven.InstanceSite.inside", lambda *_: Did(1, b"", b"no such file", 1))
    with (
        pytest.raises(TrialError, match="workload: cpu: the work was not done: workbench: ended with code 1: no such"),
        driver.within("0123abcd").watch(FakeInstance(), lambda _item: None),
    ):
        pass


def test_a_workload_that_needs_a_bridge_has_one_unless_the_scenario_says_otherwise(tmp_path):
    from harness.cli._known import load_scenario

    path = tmp_path / "s.yaml"
    path.write_text(
        "schema: harness.scenario/1\nname: s\nimage: {name: x}\nworkload: {kind: redis, argv: [redis-server]}\n"
        "runtimes: {a: {backend: process}, b: {backend: process, network: none}}\nmetrics: [startup]\n"
    )
    scenario = load_scenario(path).scenario
    specs = resolve.arm_specs(scenario, redis.PLUGIN, RootTree(tmp_path, "sha256:0", 0), tmp_path)
    assert [spec.network for spec in specs.values()] == ["bridge", "none"]
