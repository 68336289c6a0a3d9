"""What is called noise, from captured numbers."""

import pytest

from harness.host.noise import (
    CPU_PRESSURE,
    LOAD,
    REMEDIES,
    STEAL,
    Sample,
    Sampler,
    noise_between,
    parse_psi_some_us,
    parse_stat,
    read_sample,
)

STAT = "cpu  4872 3 1793 345591 557 11 53 8 100 7\ncpu0 929 0 565 174912 16 0 15 2 0 0\n"
PSI = """\
some avg10=0.14 avg60=0.03 avg300=0.00 total=4612192
full avg10=0.00 avg60=0.00 avg300=0.00 total=17
"""


def sample(at_s=0.0, steal=0, total=0, psi_us=0, load1=0.0):
    return Sample(round(at_s * 1e9), steal, total, psi_us, load1)


def proc(tmp_path, stat=STAT, psi=PSI, load="0.50 0.40 0.30 1/100 4711\n"):
    (tmp_path / "pressure").mkdir()
    for name, text in (("stat", stat), ("pressure/cpu", psi), ("loadavg", load)):
        if text is not None:
            (tmp_path / name).write_text(text)
    return tmp_path


def test_guest_time_is_not_counted_twice():
    assert parse_stat(STAT) == (8, 4872 + 3 + 1793 + 345591 + 557 + 11 + 53 + 8)


@pytest.mark.parametrize("text", ["", "intr 1 2 3\n", "cpu 1 2 3\n"])
def test_a_stat_without_steal(text):
    assert parse_stat(text) is None


def test_pressure_is_the_total_of_some():
    assert parse_psi_some_us(PSI) == 4612192
    assert parse_psi_some_us("") is None


def test_a_quiet_trial():
    noise = noise_between(sample(), sample(1, 0, 200, 20_000), cpu_count=2)
    assert (noise.steal_ratio, noise.psi_cpu_some_ratio, noise.flags) == (0.0, 0.02, ())


def test_stolen_time():
    noise = noise_between(sample(), sample(1, 10, 200), cpu_count=2)
    assert noise.steal_ratio == 0.05
    assert noise.flags == (STEAL,)


def test_one_tick_in_a_short_trial_is_rounding():
    noise = noise_between(sample(), sample(0.1, 1, 20), cpu_count=2)
    assert noise.steal_ratio == 0.05
    assert noise.flags == ()


def test_pressure_on_the_cpus():
    noise = noise_between(sample(), sample(2, 0, 400, 500_000), cpu_count=2)
    assert noise.psi_cpu_some_ratio == 0.25
    assert noise.flags == (CPU_PRESSURE,)


def test_load_counts_before_the_trial_only():
    assert noise_between(sample(load1=3.1), sample(1, load1=0.1), cpu_count=2).flags == (LOAD,)
    assert noise_between(sample(load1=0.1), sample(1, load1=3.1), cpu_count=2).flags == ()
    assert noise_between(sample(load1=3.1), sample(1, load1=3.1), cpu_count=4).flags == ()


def test_every_flag_has_a_remedy():
    everything = noise_between(sample(load1=9), sample(1, 50, 200, 900_000), cpu_count=2)
    assert set(everything.flags) == {STEAL, CPU_PRESSURE, LOAD} == set(REMEDIES)


def test_what_a_trial_makes_on_purpose_is_told_and_not_flagged():
    before, after = sample(load1=9), sample(1, 50, 200, 900_000)
    noise = noise_between(before, after, cpu_count=2, own=frozenset({CPU_PRESSURE, LOAD}))
    assert (noise.psi_cpu_some_ratio, noise.steal_ratio, noise.flags) == (0.9, 0.25, (STEAL,))


def test_what_the_kernel_does_not_tell_is_none(tmp_path):
    files = proc(tmp_path, stat=None, psi=None, load=None)
    noise = Sampler(files).finish()
    assert (noise.steal_ratio, noise.psi_cpu_some_ratio, noise.flags) == (None, None, ())


def test_no_tick_passed_is_not_zero_steal(tmp_path):
    assert Sampler(proc(tmp_path)).finish().steal_ratio is None


def test_sample_of_files(tmp_path):
    seen = read_sample(proc(tmp_path))
    assert (seen.steal_ticks, seen.psi_cpu_some_us, seen.load1) == (8, 4612192, 0.5)


def test_this_host_can_be_sampled():
    noise = Sampler().finish()
    assert noise.psi_cpu_some_ratio is None or noise.psi_cpu_some_ratio >= 0
