import logging
import time

import pytest

from harness.errors import CapabilityError, CommandError
from harness.host.process import run


def test_run_returns_both_streams_and_feeds_input():
    done = run(["sh", "-c", "cat; echo oops >&2"], input=b"hello")
    assert (done.stdout, done.stderr) == (b"hello", b"oops\n")


def test_stdin_is_empty_without_input():
    assert run(["cat"]).stdout == b""


def test_failure_carries_return_code_and_last_line_of_stderr():
    with pytest.raises(CommandError) as caught:
        run(["sh", "-c", "echo first >&2; echo last >&2; exit 7"])
    assert caught.value.returncode == 7
    assert caught.value.message.endswith(": exit code 7: last")
    assert "first" in caught.value.stderr_tail


def test_signal_is_told_apart_from_exit_code():
    with pytest.raises(CommandError, match="killed by signal 15"):
        run(["sh", "-c", "kill -TERM $$"])


def test_missing_program_names_its_package():
    with pytest.raises(CapabilityError, match=r"program: mkfs\.nosuch: not found"):
        run(["mkfs.nosuch"])


def test_package_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("harness.host.process.PACKAGES", {"qemu-none": "qemu-system-none"})
    with pytest.raises(CapabilityError) as caught:
        run(["qemu-none"])
    assert caught.value.hint == "on Debian: apt-get install qemu-system-none"


def test_timeout_ends_the_children_too(tmp_path):
    proof = tmp_path / "proof"
    with pytest.raises(CommandError, match="no end after 100 ms"):
        run(["sh", "-c", f"(sleep 0.4; touch {proof}) & wait"], timeout_ns=100_000_000)
    time.sleep(0.5)
    assert not proof.exists()


def test_environment_is_whole_when_given():
    assert run(["env"], env={"A": "b"}).stdout == b"A=b\n"


def test_command_is_logged_as_one_could_type_it(caplog):
    with caplog.at_level(logging.DEBUG):
        run(["echo", "a b"])
    assert "+ echo 'a b'" in caplog.messages
