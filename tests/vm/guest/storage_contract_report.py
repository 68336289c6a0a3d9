"""Runs inside a guest: hold storage drivers to their contract; stdout is one JSON object: driver, check, what failed.

storage_contract_report.py DRIVER=CHECK,CHECK... DRIVER=all...
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from harness.images.storage import devicemapper
from harness.studies._storage_server import PLACE
from tests import storage_contract


def failures(name: str, checks: list[str]) -> dict[str, str]:
    """Return for each check of one driver the end of what went wrong, empty where nothing did."""
    told = {}
    with storage_contract.lab(name, PLACE, "0c0117ac") as lab:
        for check in checks:
            try:
                storage_contract.CHECKS[check](lab)
                told[check] = ""
            except Exception:  # noqa: BLE001 - told to the host
                told[check] = traceback.format_exc()[-600:]
    return told


def main(*wanted: str) -> None:
    report: dict[str, dict[str, str]] = {}
    for text in wanted:
        name, _, checks = text.partition("=")
        chosen = [*storage_contract.CHECKS] if checks == "all" else checks.split(",")
        try:
            report[name] = failures(name, chosen)
        except Exception:  # noqa: BLE001 - told to the host
            report[name] = {"open": traceback.format_exc()[-600:]}
    left = [str(path) for path in Path(PLACE, "storage").rglob("*") if not path.is_dir()]
    print(json.dumps({"report": report, "left": left, "devices": devicemapper.device_names()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
