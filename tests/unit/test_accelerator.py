"""KVM counts as usable only after a boot; the answer is cached with its reason."""

from pathlib import Path

import pytest

from harness.backends import _accelerator
from harness.backends._accelerator import Verdict, choose, device_missing
from harness.errors import CapabilityError

YES = Verdict(usable=True, reason="a guest reached its init in 200 ms")
NO = Verdict(usable=False, reason="a guest did not reach its init within 10.0 s (it reached: kernel)")


def test_auto_takes_kvm_when_a_guest_booted_and_tcg_with_the_reason_when_none_did() -> None:
    assert choose("auto", lambda: YES) == ("kvm", YES.reason)
    assert choose("auto", lambda: NO) == ("tcg", f"kvm is not usable: {NO.reason}")


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


def test_a_damaged_cache_is_asked_again_not_believed(tmp_path: Path) -> None:
    (tmp_path / "kvm.json").write_text("{")
    assert _accelerator.cached(tmp_path, "key") is None


def test_a_missing_device_is_said_with_its_reason(tmp_path: Path) -> None:
    reason = device_missing(tmp_path / "kvm")
    assert reason is not None
    assert "no such device" in reason
    (tmp_path / "kvm").touch()
    assert device_missing(tmp_path / "kvm") is None
