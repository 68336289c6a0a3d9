"""The hooks that run on the host: prestart, createRuntime, poststart, poststop (those inside are steps of a plan)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence

from harness.container.errors import ContainerError
from harness.container.state import Record

TYPE_CHECKING = False  # without `typing`: see frozen.py
if TYPE_CHECKING:
    from harness.container.spec import Hook


def state_document(record: Record, status: str) -> dict[str, object]:
    """Return the state of the runtime specification (runtime.md, "State"); the pid only while there is one."""
    document: dict[str, object] = {
        "ociVersion": record.oci_version or "1.2.0",
        "id": record.id,
        "status": status,
        "bundle": record.bundle,
        "annotations": dict(record.annotations),
    }
    if record.pid and status != "stopped":
        document["pid"] = record.pid
    return document


def run_all(hooks: Sequence[Hook], state: Mapping[str, object], warn: Callable[[str], None]) -> None:
    """Run hooks of which a failure is only warned of: those of poststart and poststop (runtime.md, "Lifecycle")."""
    for hook in hooks:
        try:
            run((hook,), state)
        except ContainerError as error:
            warn(str(error))


def _directory(state: Mapping[str, object]) -> str | None:
    """Return the bundle, where engines expect hooks to run; it may be gone when poststop's do."""
    bundle = str(state["bundle"])
    return bundle if os.path.isdir(bundle) else None


def run(hooks: Sequence[Hook], state: Mapping[str, object]) -> None:
    """Run hooks one after another; each reads the state from its stdin. Raises ContainerError for the first to fail."""
    if not hooks:
        return
    import subprocess

    text = json.dumps(state).encode()
    for hook in hooks:
        argv = list(hook.args) or [hook.path]
        env = dict(entry.partition("=")[::2] for entry in hook.env)
        try:
            done = subprocess.run(
                argv, executable=hook.path, env=env, input=text, timeout=hook.timeout_s, check=False,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=_directory(state),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ContainerError("hook", 0, f"{hook.path}: still ran after {hook.timeout_s} s") from error
        except OSError as error:
            raise ContainerError("hook", error.errno or 0, hook.path) from error
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip()
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
            raise ContainerError("hook", 0, f"{hook.path}: {how}{': ' + words if words else ''}")
