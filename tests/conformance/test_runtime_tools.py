"""Where runc or crun passes a validation program of the OCI runtime suite on this machine, ours passes it too.

crun's own tests take as long again: HARNESS_CONFORMANCE=all holds us to them too, as scripts/conformance does.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.needs("root", "conformance"), pytest.mark.timeout(600)]


SUITES = ["runtime-tools", *(["crun"] if os.environ.get("HARNESS_CONFORMANCE") == "all" else [])]


@pytest.mark.parametrize("suite", SUITES)
def test_ours_passes_wherever_a_peer_does(suite):
    argv = [ROOT / "scripts" / "conformance", "--suite", suite, "--json", "--no-install", "--peers-where-behind"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    results = document["results"][suite]
    assert {"runc", "crun", "harness-oci"} <= set(document["runtimes"])
    assert sum(words["harness-oci"]["word"] == "pass" for words in results.values()) > 30
    failed = [words for words in results.values() if words["harness-oci"]["word"] != "pass"]
    assert all({"runc", "crun"} <= set(words) for words in failed)
    behind = {test: results[test].get("harness-oci", {}).get("reason", "absent") for _, test in document["behind"]}
    assert behind == {}
