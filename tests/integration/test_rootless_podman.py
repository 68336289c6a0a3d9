"""Podman without privileges, as a user who is known in the test's own mount namespace alone: /etc stays as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host.paths import cache_dir, data_dir
from harness.images.bootstrap import bootstrap_busybox
from harness.images.store import Store

pytestmark = pytest.mark.needs("root", "overlayfs", "podman", "newuidmap")
USER, UID = "harness-rootless", 64321
# Root of its user namespace, nobody on the host, under a limit that the harness has set around podman.
WORK = (
    f'read inside outside count </proc/self/uid_map && [ "$inside $outside" = "0 {UID}" ] && [ "$(id -u)" = 0 ] && '
    "touch /written && rm /bin/ls && echo done"
)
SCENARIO = f"""
schema: harness.scenario/1
name: rootless
image: {{name: busybox}}
workload: {{kind: command, argv: [/bin/sh, -c, {json.dumps(WORK)}], ready: {{exit: true}}, timeout: 60s}}
limits: {{cpus: 1, memory: 64MiB, pids: 32}}
runtimes:
  rootless: {{backend: podman, user: {USER}}}
trials: {{blocks: {{min: 1, max: 1}}, warmup: 0}}
metrics: [startup, memory]
"""
INSIDE = """
set -eu
for name in passwd subuid subgid; do mount --bind "$1/$name" "/etc/$name"; done
shift
exec "$@"
"""


def test_podman_starts_the_same_image_as_a_user_without_privileges(tmp_path: Path) -> None:
    bootstrap_busybox(Store(data_dir() / "images"), cache_dir())
    (tmp_path / "passwd").write_text(f"{Path('/etc/passwd').read_text()}{USER}:x:{UID}:{UID}::/nonexistent:/bin/sh\n")
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text(f"{USER}:{1 << 18}:{1 << 16}\n")
    (tmp_path / "s.yaml").write_text(SCENARIO)
    command = [str(Path(sys.executable).with_name("harness")), "run", str(tmp_path / "s.yaml")]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", INSIDE, "sh", str(tmp_path), *command, "--results", str(tmp_path / "runs")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "runs").glob("*rootless*")
    (trial,) = [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]
    assert (trial["status"], trial["error"]) == ("ok", None)
    assert trial["attestation"]["uid"] == 0
    assert trial["metrics"]["memory.cgroup.peak"]["value"] > 1 << 20  # of the group that the harness made
    facts = json.loads((run / "run.json").read_text())["arms"]["rootless"]
    assert (facts["user"], facts["cgroup"]) == (USER, "made by the harness: rootless")
