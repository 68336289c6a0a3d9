"""What fio prints becomes measurements only where each job has moved what it was told to move."""

import json
from pathlib import Path

import pytest

from harness import plugins
from harness.model.metrics import Absent
from harness.model.spec import ImageConfig

FIO = plugins.load("workloads", "fio")
OUTPUT = (Path(__file__).parents[1] / "data" / "fio-3.33" / "write-randread.json").read_bytes()


def parse(output=OUTPUT):
    return {item.metric.name: item for item in FIO.parse(output, b"")}


def changed(change):
    document = json.loads(OUTPUT)
    change(document)
    return json.dumps(document).encode()


def test_a_real_output():
    found = parse()
    assert list(found) == [metric.name for metric in FIO.metrics]
    document = {job["jobname"]: job for job in json.loads(OUTPUT)["jobs"]}
    assert found["fio.write.bandwidth"].value == document["write"]["write"]["bw_bytes"]
    assert found["fio.randread.iops"].value == round(document["randread"]["read"]["iops"])
    assert found["fio.randread.latency.p99"].value == document["randread"]["read"]["clat_ns"]["percentile"]["99.000000"]
    assert found["fio.write.latency.p50"].labels == {"direct": "0", "fsync": "end"}
    assert isinstance(found["fio.read.bandwidth"], Absent)


def test_notes_before_the_document_are_passed_over():
    assert parse(b"randread: Laying out IO file (1 file / 4MiB)\n" + OUTPUT)["fio.write.bandwidth"].value > 0


def less(document):
    document["jobs"][0]["write"]["io_bytes"] -= 4096


def failed(document):
    document["jobs"][1]["error"] = 28


def idle(document):
    document["jobs"][1]["read"]["iops"] = 0


def no_jobs(document):
    document["jobs"] = []


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (b"", "Expecting value"),
        (b"fio: permission denied\n", "Expecting value"),
        (b"{}", "no JSON of fio"),
        (changed(less), "write: 4190208 bytes moved, 4194304 asked for"),
        (changed(failed), "randread: error 28"),
        (changed(idle), "iops: expected a number above 0, got 0"),
        (changed(no_jobs), "no jobs"),
    ],
)
def test_an_output_that_does_not_show_the_work_is_refused(output, why):
    with pytest.raises(ValueError, match=why):
        parse(output)


def test_the_arguments_say_the_policy():
    options = FIO.options.model_validate(
        {"directory": "/d", "jobs": ["read", "randwrite"], "fsync": "each", "direct": True}
    )
    argv = FIO.compile(options, ImageConfig(env={"PATH": "/x"})).argv
    assert {"--directory=/d", "--direct=1", "--fsync=1"} < set(argv)
    assert argv[argv.index("--name=read") :] == (
        "--name=read", "--rw=read", "--stonewall", "--bs=1048576",
        "--name=randwrite", "--rw=randwrite", "--stonewall", "--bs=4096", "--io_size=8388608", "--unlink=1",
    )  # fmt: skip


def test_a_job_that_is_not_there():
    with pytest.raises(ValueError, match="randrw"):
        FIO.options.model_validate({"directory": "/d", "jobs": ["randrw"]})
