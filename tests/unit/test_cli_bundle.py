import json
import re
import tarfile
from pathlib import Path

from harness.cli.main import run

(REFERENCE,) = (Path(__file__).parents[2] / "results" / "reference").glob("*-quickstart-*")


def test_a_bundle_can_be_read_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["bundle", str(REFERENCE)]) == 0
    (tmp_path / "again").mkdir()
    again = tmp_path / "again" / f"{REFERENCE.name}.tar.gz"
    assert run(["bundle", str(REFERENCE), "-o", str(again)]) == 0
    assert (tmp_path / again.name).read_bytes() == again.read_bytes()
    with tarfile.open(tmp_path / f"{REFERENCE.name}.tar.gz") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    made = tmp_path / "out" / REFERENCE.name
    assert (made / "trials.jsonl").read_bytes() == (REFERENCE / "trials.jsonl").read_bytes()
    page = (made / "report.html").read_text()
    assert "<svg" in page
    linked = re.findall(r'<a href="([^#"]*)"', page)
    assert linked
    assert all((made / name).is_file() for name in linked)
    assert f"trials.seed={json.loads((made / 'run.json').read_text())['seed']}" in (made / "README").read_text()
    capsys.readouterr()
    assert run(["report", str(made)]) == 0
    assert "startup.ready" in capsys.readouterr().out


def test_a_bundle_that_cannot_be_written_leaves_nothing(tmp_path, capsys):
    assert run(["bundle", str(REFERENCE), "-o", str(tmp_path / "no" / "b.tar.gz")]) == 2
    assert "cannot be written" in capsys.readouterr().err
