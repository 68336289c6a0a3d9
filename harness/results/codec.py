"""Trial and run records to the JSON of trials.jsonl and run.json, and back.

Readers accept every minor version of the major that they know (`harness.trial/1`, `harness.trial/1.3`), refuse other
majors, and ignore keys that they do not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from harness.errors import StoreError
from harness.model.records import (
    RUN_SCHEMA,
    TRIAL_SCHEMA,
    Attestation,
    Level,
    MetricValue,
    Noise,
    RunRecord,
    TrialRecord,
    TrialSpec,
)

_Record = TypeVar("_Record")
_STATUSES = {"ok", "failed", "timeout"}
_RUN_STATUSES = {"running", "complete", "interrupted", "failed"}


@dataclass(frozen=True, slots=True)
class Journal:
    """What a trials.jsonl holds. `size_bytes` is where its last whole line ends.

    `torn`: after that comes half a line, which a write left that was cut off (kill -9, power loss).
    """

    records: tuple[TrialRecord, ...]
    size_bytes: int
    torn: bool


def trial_line(record: TrialRecord) -> str:
    """Return a trial as one line of JSON, without the newline."""
    spec = record.spec
    document: dict[str, Any] = {
        "schema": TRIAL_SCHEMA,
        "trial_id": spec.trial_id,
        "block": spec.block,
        "order": spec.order,
        "runtime": spec.runtime,
        "backend": spec.backend,
        "warmup": spec.warmup,
        "status": record.status,
        "error": record.error,
        "accelerator": record.accelerator,
        "started": record.started,
        "marks": dict(record.marks),
        "metrics": _metrics_json(record.metrics),
        "absent": dict(record.absent),
        "attestation": None if record.attestation is None else asdict(record.attestation),
        "noise": asdict(record.noise),
    }
    if record.ending is not None:
        document["ending"] = record.ending
    if record.levels:
        document["levels"] = [{"n": level.n, "metrics": _metrics_json(level.metrics)} for level in record.levels]
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def _metrics_json(metrics: Mapping[str, MetricValue]) -> dict[str, Any]:
    return {name: _metric_json(value) for name, value in metrics.items()}


def _metric_json(value: MetricValue) -> dict[str, Any]:
    document: dict[str, Any] = {"value": value.value, "unit": value.unit}
    return {**document, "labels": dict(value.labels)} if value.labels else document


def parse_trial(text: str, where: str) -> TrialRecord:
    """Return the trial of one line; `where` names the line in errors. Raises: StoreError."""
    return _parse(text, where, TRIAL_SCHEMA, _trial)


def _trial(document: Mapping[str, Any]) -> TrialRecord:
    attestation = document.get("attestation")
    noise = document.get("noise") or {}
    return TrialRecord(
        spec=TrialSpec(
            trial_id=str(document["trial_id"]),
            block=int(document["block"]),
            order=int(document["order"]),
            runtime=str(document["runtime"]),
            backend=str(document["backend"]),
            warmup=bool(document["warmup"]),
        ),
        status=_one_of(document, "status", _STATUSES),
        started=str(document["started"]),
        error=document.get("error"),
        ending=document.get("ending"),
        accelerator=document.get("accelerator"),
        marks={name: int(at_ns) for name, at_ns in document.get("marks", {}).items()},
        metrics=_metrics(document.get("metrics", {})),
        absent=dict(document.get("absent", {})),
        attestation=None if attestation is None else _attestation(attestation),
        noise=Noise(noise.get("steal_ratio"), noise.get("psi_cpu_some_ratio"), tuple(noise.get("flags", ()))),
        levels=tuple(Level(int(level["n"]), _metrics(level["metrics"])) for level in document.get("levels", ())),
    )


def _metrics(document: Mapping[str, Any]) -> dict[str, MetricValue]:
    return {name: _metric(value) for name, value in document.items()}


def _metric(document: Mapping[str, Any]) -> MetricValue:
    value = document["value"]
    if not isinstance(value, int | float):
        raise TypeError(f"metric: expected a number, got {value!r}")
    return MetricValue(int(value) if isinstance(value, bool) else value, document["unit"], document.get("labels", {}))


def _attestation(document: Mapping[str, Any]) -> Attestation:
    return Attestation(
        root_digest=document["root_digest"],
        exe_sha256=document["exe_sha256"],
        argv=tuple(document["argv"]),
        env=dict(document["env"]),
        uid=document["uid"],
        gid=document["gid"],
        cwd=document["cwd"],
        cpus=document["cpus"],
        memory_bytes=document["memory_bytes"],
        kernel=document["kernel"],
        boot_id=document["boot_id"],
    )


def run_text(run: RunRecord) -> str:
    """Return run.json."""
    return json.dumps({"schema": RUN_SCHEMA, **asdict(run)}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_run(text: str, where: str) -> RunRecord:
    """Return the run of a run.json; `where` names the file in errors. Raises: StoreError."""
    return _parse(text, where, RUN_SCHEMA, _run)


def _run(document: Mapping[str, Any]) -> RunRecord:
    return RunRecord(
        run_id=document["run_id"],
        scenario=document["scenario"],
        scenario_hash=document["scenario_hash"],
        status=_one_of(document, "status", _RUN_STATUSES),
        started=document["started"],
        seed=int(document["seed"]),
        control=document["control"],
        runtimes=tuple(document["runtimes"]),
        image=dict(document["image"]),
        host=dict(document["host"]),
        arms=dict(document["arms"]),
        metrics=dict(document["metrics"]),
        tools=dict(document["tools"]),
        warnings=tuple(document.get("warnings", ())),
        stop_reason=document.get("stop_reason", ""),
        study=dict(document.get("study", {})),
        reported=document.get("reported", ""),
        base=dict(document.get("base", {})),
        matrix=dict(document.get("matrix", {})),
    )


def parse_journal(content: bytes, where: str) -> Journal:
    """Return all trials of a trials.jsonl; half a line at its very end is left out and told.

    Raises: StoreError for a damaged line anywhere else, or a trial that is there twice.
    """
    size_bytes = content.rfind(b"\n") + 1
    records = [
        parse_trial(line.decode("utf-8", "replace"), f"{where}:{number}")
        for number, line in enumerate(content[:size_bytes].split(b"\n"), 1)
        if line.strip()
    ]
    _refuse_twice(records, where)
    return Journal(tuple(records), size_bytes, torn=size_bytes < len(content))


def _refuse_twice(records: Sequence[TrialRecord], where: str) -> None:
    seen: set[str] = set()
    for record in records:
        if record.spec.trial_id in seen:
            raise StoreError(
                f"{where}: {record.spec.trial_id}: is there twice",
                hint="two runs wrote into one directory; remove one of the two lines",
            )
        seen.add(record.spec.trial_id)


def _one_of(document: Mapping[str, Any], key: str, known: set[str]) -> Any:
    if document[key] not in known:
        raise ValueError(f"{key}: unknown value {document[key]!r}")
    return document[key]


def _parse(text: str, where: str, schema: str, build: Callable[[Mapping[str, Any]], _Record]) -> _Record:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{where}: damaged: {error}") from error
    if not isinstance(document, dict):
        raise StoreError(f"{where}: damaged: expected a JSON object")
    _check_schema(document.get("schema"), schema, where)
    try:
        return build(document)
    except KeyError as error:
        raise StoreError(f"{where}: damaged: {error.args[0]} is missing") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{where}: damaged: {error}") from error


def _check_schema(found: object, known: str, where: str) -> None:
    name, _, major = known.partition("/")
    match = re.fullmatch(rf"{re.escape(name)}/(\d+)(\.\d+)*", found) if isinstance(found, str) else None
    if match is None:
        raise StoreError(f"{where}: schema: expected {known}, got {found!r}")
    if match.group(1) != major:
        raise StoreError(
            f"{where}: schema: {found}: this version reads {known}",
            hint="read it with the version of harness that wrote it, or with a newer one",
        )
