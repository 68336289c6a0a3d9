"""KVM counts as usable only after a boot; the answer is cached with its reason."""

import os
import re
from pathlib import Path

import pytest

from harness.backends import _accelerator, _kvm_help, _vm_needs
from harness.backends._accelerator import Verdict, choose, device_missing
from harness.backends._vm_options import Options
from harness.errors import AgentError, CapabilityError, TrialTimeout
from harness.model.milestones import Mark

YES = Verdict(usable=True, reason="a guest reached its init in 200 ms")
NO = Verdict(usable=False, reason="a guest did not reach its init within 10.0 s (it reached: kernel)")


def test_auto_takes_kvm_when_a_guest_booted_and_tcg_with_the_reason_when_none_did() -> None:
    accelerator, why = choose("auto", lambda: YES)
    assert (accelerator, why.partition(";")[0]) == ("kvm", YES.reason)
    assert choose("auto", lambda: NO) == ("tcg", f"kvm is not usable: {NO.reason}")


@pytest.mark.parametrize("guest", [True, False])
def test_kvm_on_a_host_that_is_a_guest_is_called_nested(guest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kvm_help, "is_guest", lambda: guest)
    assert ("; nested: this host is a virtual machine itself" in choose("kvm", lambda: YES)[1]) == guest


def test_where_kvm_works_the_doctor_says_so_with_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_accelerator, "device_missing", lambda: None)
    monkeypatch.setattr(_vm_needs, "_known_verdict", lambda _options: YES)
    need = _vm_needs._need_accel(Options(accel="kvm"))
    assert (need.available, need.reason.partition(";")[0]) == (True, f"kvm: {YES.reason}")
    monkeypatch.setattr(_vm_needs, "_known_verdict", lambda _options: NO)
    need = _vm_needs._need_accel(Options(accel="kvm"))
    assert (need.available, need.reason) == (False, f"kvm is not usable: {NO.reason}")
    assert need.hint


def test_kvm_never_falls_back() -> None:
    with pytest.raises(CapabilityError, match="kvm: not usable: a guest did not reach") as caught:
        choose("kvm", lambda: NO)
    assert caught.value.exit_code == 3


def test_tcg_is_not_probed() -> None:
    def must_not_be_asked() -> Verdict:
        raise AssertionError("probed")

    assert choose("tcg", must_not_be_asked)[0] == "tcg"


def test_a_verdict_is_remembered_for_its_key_and_for_this_boot_alone(tmp_path: Path) -> None:
    _accelerator._remember(tmp_path, "boot1 kernel=a", YES)
    _accelerator._remember(tmp_path, "boot1 kernel=b", NO)
    assert _accelerator.cached(tmp_path, "boot1 kernel=a") == YES
    assert _accelerator.cached(tmp_path, "boot1 kernel=b") == NO
    _accelerator._remember(tmp_path, "boot2 kernel=a", NO)
    assert _accelerator.cached(tmp_path, "boot1 kernel=a") is None
    assert _accelerator.cached(tmp_path, "boot2 kernel=a") == NO


def test_another_kernel_or_machine_is_another_question(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("vmlinux", "qemu")]
    for file in files:
        file.write_bytes(b"")
    first = _vm_needs.verdict_key(*files, "q35")
    assert _vm_needs.verdict_key(*files, "q35") == first != _vm_needs.verdict_key(*files, "pc")
    os.utime(files[0], ns=(1, 1))
    assert _vm_needs.verdict_key(*files, "q35") != first


def test_a_damaged_cache_is_asked_again_not_believed(tmp_path: Path) -> None:
    (tmp_path / "kvm.json").write_text("{")
    assert _accelerator.cached(tmp_path, "key") is None


def test_a_missing_device_is_said_with_its_reason(tmp_path: Path) -> None:
    reason = device_missing(tmp_path / "kvm")
    assert reason is not None
    assert "no such device" in reason
    (tmp_path / "kvm").touch()
    assert device_missing(tmp_path / "kvm") is None


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("fails internal error of KVM, suberror 1, at an instruction that kernels use", "internal error of KVM"),
        ("fails /dev/kvm: Permission denied", "Permission denied"),
        ("runs 116000000", "took 116 ms: the host emulates each instruction"),
        ("", "nothing was said"),
    ],
)
def test_a_few_instructions_tell_a_kvm_that_boots_nothing(said: str, words: str) -> None:
    verdict = _accelerator.micro_verdict(said + "\n")
    assert verdict is not None
    assert not verdict.usable
    assert words in verdict.reason


def test_a_kvm_that_runs_at_the_speed_of_a_cpu_is_tried_with_a_guest() -> None:
    assert _accelerator.micro_verdict("runs 95000\n") is None


class SilentGuest:
    """A guest that starts and then does what KVM on a bad host does."""

    def __init__(self, paused: str | None, *marks: str, ends: bool = False) -> None:
        self._paused, self._ends = paused, ends
        self.marks = [Mark(name, 0) for name in marks]

    def start(self) -> None:
        pass

    def pids(self) -> tuple[int, ...]:
        return (1,)

    def paused(self) -> str | None:
        return self._paused

    def wait(self, milestone: str, deadline_ns: int) -> Mark:
        if self._ends:
            raise AgentError("VMM: QEMU crashed (SIGSEGV)")
        raise TrialTimeout("not in time")

    def stop(self, deadline_ns: int) -> None:
        pass


@pytest.mark.parametrize(
    ("guest", "words"),
    [
        (SilentGuest("KVM internal error. Suberror: 1"), "QEMU has stopped the guest after .*: KVM internal error"),
        (SilentGuest(None, "firmware"), r"kernel said nothing within .* \(it reached: firmware\)"),
        (SilentGuest(None, "kernel"), r"did not reach its init within .* \(it reached: kernel\)"),
        (SilentGuest(None, ends=True), "QEMU crashed"),
    ],
    ids=["paused", "silent", "slow", "crashed"],
)
def test_a_guest_that_does_not_get_there_is_told_by_what_was_seen(
    guest: SilentGuest, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_accelerator, "SILENCE_NS", 0)
    verdict = _accelerator.boot_verdict(guest, timeout_ns=0)  # type: ignore[arg-type]
    assert not verdict.usable
    assert re.search(words, verdict.reason)


@pytest.mark.parametrize(
    ("flags", "device", "words"),
    [
        ("fpu vmx", False, "modprobe kvm_intel; in a container: --device /dev/kvm"),
        ("fpu svm hypervisor", False, "modprobe kvm_amd"),
        ("fpu hypervisor", True, "this host is a virtual machine whose CPU shows no VMX or SVM"),
        ("fpu", False, "switch on VT-x or AMD-V"),
    ],
)
def test_how_to_get_kvm_depends_on_what_the_host_is(flags: str, device: bool, words: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    if device:
        (tmp_path / "kvm").touch()
    assert words in _kvm_help.remedy(tmp_path / "kvm", tmp_path)
    assert _kvm_help.is_guest(tmp_path) == ("hypervisor" in flags)
