"""Whether all arms of a run started the same thing: what the agent attested, compared over all succeeded trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from harness.model.records import Attestation, RunRecord, TrialRecord, is_base
from harness.model.report import Identity, Seen

_DIGEST_DIGITS = 12

_FIELDS: dict[str, Callable[[Attestation], object]] = {
    "root_digest": lambda attestation: attestation.root_digest,
    "exe_sha256": lambda attestation: attestation.exe_sha256,
    "argv": lambda attestation: list(attestation.argv),
    "uid": lambda attestation: attestation.uid,
    "gid": lambda attestation: attestation.gid,
    "cwd": lambda attestation: attestation.cwd,
}
"""What must be equal on every arm. `env` is compared variable by variable; kernel, boot id, cpus, memory may differ."""


def differences(records: Sequence[TrialRecord]) -> list[str]:
    """Return one line for each field and trial that differs from the others; empty where all arms are the same.

    A succeeded trial without attestation differs too. The value of most trials is taken as the right one, and the
    first trial that has another is named for each runtime. Trials of a study start nothing that could attest. Arms of
    a base revision need only be the same among themselves: what it changed is what is measured.
    """
    ok = [record for record in records if record.status == "ok" and record.spec.starts_instance]
    sides = ([record for record in ok if is_base(record.spec.runtime) == base] for base in (False, True))
    return [line for side in sides for line in _among(side)]


def _among(ok: Sequence[TrialRecord]) -> list[str]:
    attested = [(record, record.attestation) for record in ok if record.attestation is not None]
    lines = [
        f"attestation: {record.spec.runtime}: missing (trial {record.spec.trial_id})"
        for record in ok
        if record.attestation is None
    ]
    for name, read in _FIELDS.items():
        lines += _compare(name, [(record, read(attestation)) for record, attestation in attested])
    variables = sorted({variable for _, attestation in attested for variable in attestation.env})
    for variable in variables:
        values = [(record, attestation.env.get(variable, "(unset)")) for record, attestation in attested]
        lines += _compare(f"env {variable}", values)
    return lines


def _compare(name: str, values: Sequence[tuple[TrialRecord, object]]) -> list[str]:
    shown = [(record, _short(name, value), str(value)) for record, value in values]
    counted = Counter(full for _, _, full in shown)
    if len(counted) < 2:
        return []
    usual = counted.most_common(1)[0][0]
    reference, reference_text, _ = next(item for item in shown if item[2] == usual)
    lines: dict[tuple[str, str], str] = {}
    for record, text, full in shown:
        if full != usual:
            line = (
                f"{name}: {reference.spec.runtime} {reference_text} differs from "
                f"{record.spec.runtime} {text} (trial {record.spec.trial_id})"
            )
            lines.setdefault((record.spec.runtime, full), line)
    return list(lines.values())


def _short(name: str, value: object) -> str:
    """Return a digest by its first digits, so that a line stays a line; all else whole."""
    if name not in {"root_digest", "exe_sha256"}:
        return repr(value)
    algorithm, colon, digits = str(value).rpartition(":")
    return f"{algorithm}{colon}{digits[:_DIGEST_DIGITS]}.." if len(digits) > _DIGEST_DIGITS else str(value)


def identity(run: RunRecord, records: Sequence[TrialRecord]) -> Identity:
    """Return the verdict on a whole run. A run in which nothing was attested is not identical: nobody knows.

    Of a study there is nothing to say: its arms differ, that is what it compares.
    """
    if run.study:
        return Identity(identical=True, attested=0, trials=0, root_digest="", exe_sha256="")
    ok = [record for record in records if record.status == "ok"]
    attestations = [record.attestation for record in ok if record.attestation is not None]
    own = [record.attestation for record in ok if record.attestation is not None and not is_base(record.spec.runtime)]
    found = differences(records) or ([] if attestations else ["attestation: no trial of this run succeeded"])
    return Identity(
        identical=not found,
        attested=len(attestations),
        trials=len(ok),
        root_digest=_common([attestation.root_digest for attestation in own]),
        exe_sha256=_common([attestation.exe_sha256 for attestation in own]),
        differences=tuple(found),
        seen=tuple(seen for runtime in run.runtimes if (seen := _seen(run, runtime, ok)) is not None),
    )


def _common(values: Sequence[str]) -> str:
    return Counter(values).most_common(1)[0][0] if values else ""


def _seen(run: RunRecord, runtime: str, ok: Sequence[TrialRecord]) -> Seen | None:
    found = [r.attestation for r in ok if r.spec.runtime == runtime and r.attestation is not None]
    if not found:
        return None
    host_boot_id = run.host.get("boot_id")
    own = [attestation.boot_id != host_boot_id for attestation in found]
    return Seen(
        runtime=runtime,
        kernel=" and ".join(dict.fromkeys(attestation.kernel for attestation in found)),
        own_kernel=own[0] if host_boot_id and len(set(own)) == 1 else None,
        cpus=tuple(sorted({attestation.cpus for attestation in found})),
        memory_bytes=tuple(sorted({attestation.memory_bytes for attestation in found})),
    )
