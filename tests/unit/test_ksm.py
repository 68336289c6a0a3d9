"""The host's switch for merging equal pages goes back to what it was."""

import json

from harness.backends import _ksm


def switch(tmp_path):
    ksm = tmp_path / "ksm"
    ksm.mkdir()
    for name, value in {"run": "0", "pages_to_scan": "100", "sleep_millisecs": "50"}.items():
        (ksm / name).write_text(value + "\n")
    return ksm


def settings(ksm):
    return {path.name: path.read_text().strip() for path in ksm.iterdir()}


def test_it_runs_while_anybody_wants_it(tmp_path):
    ksm = switch(tmp_path)
    before = settings(ksm)
    with _ksm.running(tmp_path, ksm):
        with _ksm.running(tmp_path, ksm):
            assert settings(ksm)["run"] == "1"
        assert settings(ksm)["pages_to_scan"] == str(_ksm.PAGES_TO_SCAN)
    assert settings(ksm) == before
    assert not (tmp_path / "ksm.json").exists()


def test_what_a_dead_run_switched_on_is_put_back_once(tmp_path):
    ksm = switch(tmp_path)
    (tmp_path / "ksm.json").write_text(json.dumps({"run": "2"}))
    assert _ksm.put_back(tmp_path, ksm, dry_run=True) == ["ksm: switched on, run=2 before"]
    assert settings(ksm)["run"] == "0"
    assert _ksm.put_back(tmp_path, ksm) == ["ksm: switched on, run=2 before"]
    assert settings(ksm)["run"] == "2"
    assert _ksm.put_back(tmp_path, ksm) == []


def test_a_kernel_without_it_says_so(tmp_path):
    found = _ksm.need(tmp_path / "nothing")
    assert not found.available
    assert "CONFIG_KSM" in found.reason
