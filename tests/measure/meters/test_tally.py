"""The arithmetic of counters: every figure was worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulecast.measure.meters.tally import (
    PAUSED_NS,
    STUCK_NS,
    Domain,
    Failure,
    Ledger,
    Mirror,
    PowerTally,
    Sample,
    Tally,
    kernel_unit_uj,
)

SECOND = 1_000_000_000
PACKAGE = Domain("package-0", "package", True, ceiling_w=100, range_uj=1_000_000_000)  # wraps in 10 s at most


def _sample(seconds: float, *values: int | Failure, slept_s: float = 0.0) -> Sample:
    at_ns = round(seconds * SECOND)
    return Sample(at_ns, at_ns, round(slept_s * SECOND), values)


def _reading(domain: Domain, *samples: Sample):
    ledger = Ledger((domain,))
    for sample in samples:
        ledger.add(sample)
    return ledger.readings({})[0]


def test_energy_is_the_difference():
    reading = _reading(PACKAGE, _sample(0, 5_000_000), _sample(1, 55_000_000))
    assert (reading.label, reading.energy_uj) == ("measured", 50_000_000)


def test_one_wrap_adds_one_range():
    reading = _reading(PACKAGE, _sample(0, 990_000_000), _sample(1, 40_000_000))
    assert (reading.label, reading.energy_uj) == ("measured", 50_000_000)


def test_many_wraps_add_up():
    values = [0, 900_000_000, 800_000_000, 700_000_000, 600_000_000]  # 900 J each 9.5 s, 94.7 W
    samples = [_sample(9.5 * step, value) for step, value in enumerate(values)]
    assert _reading(PACKAGE, *samples).energy_uj == 3_600_000_000


@pytest.mark.parametrize(
    ("range_uj", "unit"),
    [
        (262_143_328_850, Fraction(61_035, 1000)),  # most client packages
        (65_712_999_613, Fraction(15_300, 1000)),  # dram of Haswell and Broadwell servers
        (65_532_610_987, Fraction(15_258, 1000)),  # AMD
        (262_143_999_938, Fraction(1_000_000, 1 << 14)),  # kernels before 3.14
        (int((2**32 - 1) * Fraction(1_000_000, 1 << 19)), Fraction(1_000_000, 1 << 19)),  # the finest of those
        (2**32 - 1, Fraction(1)),
        ((2**32 - 1) // 2, None),  # half a microjoule: several counts would show one value
        (1_000_000_000, None),
        (262_143_328_851, None),
    ],
)
def test_the_range_gives_the_kernel_unit_away(range_uj: int, unit: Fraction | None):
    assert kernel_unit_uj(range_uj) == unit


def test_a_kernel_counter_comes_round_one_unit_after_its_range():
    domain = Domain("package-0", "package", True, ceiling_w=1500, range_uj=262_143_328_850)
    last_count, tenth_count = 262_143_328_850, 10 * 61_035 // 1000
    reading = _reading(domain, _sample(0, last_count), _sample(1, tenth_count))
    assert reading.energy_uj == 11 * 61_035 // 1000  # from count 2^32 - 1 to count 10: eleven counts


def test_a_failed_read_is_a_gap_not_a_zero():
    samples = [_sample(0, 0), _sample(1, Failure("EIO")), _sample(2, Failure("EIO")), _sample(3, 60_000_000)]
    reading = _reading(PACKAGE, *samples)
    assert (reading.label, reading.energy_uj) == ("measured", 60_000_000)


def test_a_gap_that_may_hide_a_second_wrap_is_ambiguous():
    samples = [_sample(0, 0), _sample(11, 60_000_000)]  # 60 J, or 1060 J: 100 W for 11 s allow both
    reading = _reading(PACKAGE, *samples)
    assert (reading.label, reading.energy_uj) == ("ambiguous", None)
    assert "more than once" in reading.reason


def test_a_gap_that_excludes_a_second_wrap_is_measured():
    reading = _reading(PACKAGE, _sample(0, 0), _sample(10.5, 60_000_000))  # 1060 J need 10.6 s
    assert (reading.label, reading.energy_uj) == ("measured", 60_000_000)


@pytest.mark.parametrize("end", [0, 1])
def test_a_failed_read_at_either_end_is_missing(end: int):
    values: list[int | Failure] = [1_000_000, 50_000_000, 99_000_000]
    values[0 if end == 0 else -1] = Failure("energy_uj: Input/output error")
    reading = _reading(PACKAGE, *(_sample(step, value) for step, value in enumerate(values)))
    assert (reading.label, reading.energy_uj) == ("missing", None)
    assert "Input/output error" in reading.reason


def test_a_failed_end_of_a_look_in_between_is_forgiven():
    ledger = Ledger((PACKAGE,))
    ledger.add(_sample(0, 0))
    ledger.add(_sample(1, Failure("EIO")))
    assert ledger.readings({})[0].label == "missing"
    ledger.add(_sample(2, 20_000_000))
    assert ledger.readings({})[0].energy_uj == 20_000_000


def test_a_vanished_counter_is_missing_even_when_it_comes_back():
    samples = [_sample(0, 0), _sample(1, Failure("gone", fatal=True)), _sample(2, 50_000_000)]
    assert _reading(PACKAGE, *samples).label == "missing"


def test_a_counter_that_restarts_is_missing():
    reading = _reading(PACKAGE, _sample(0, 500_000_000), _sample(1, 3_000_000))  # a wrap would be 503 W
    assert (reading.label, reading.energy_uj) == ("missing", None)
    assert "reset" in reading.reason


def test_a_suspend_within_the_window_is_missing():
    reading = _reading(PACKAGE, _sample(0, 0), _sample(1, 50_000_000, slept_s=3600.0))
    assert reading.label == "missing"
    assert "suspended for 3600.0 s" in reading.reason


def test_a_counter_that_stands_still_is_missing():
    reading = _reading(PACKAGE, _sample(0, 0), _sample(1, 0))
    assert (reading.label, reading.energy_uj) == ("missing", None)
    assert reading.reason == "the counter stood still for 1.0 s"


def test_a_counter_that_freezes_is_missing_however_well_it_began():
    moving = [_sample(step / 10, 5_000_000 * step) for step in range(11)]
    frozen = [_sample(1.0 + step, 50_000_000) for step in range(1, 60)]
    assert _reading(PACKAGE, *moving).energy_uj == 50_000_000
    reading = _reading(PACKAGE, *moving, *frozen)
    assert (reading.label, reading.energy_uj) == ("missing", None)
    assert reading.reason == "the counter stood still for 59.0 s"
    resumed = _reading(PACKAGE, *moving, *frozen, _sample(61, 90_000_000))
    assert resumed.label == "missing", "what was drawn while it stood may be lost"
    core = Domain("package-0/core", "core", False, ceiling_w=100, range_uj=1_000_000_000)
    assert _reading(core, *moving, *frozen).energy_uj == 50_000_000, "a part may rest"


def test_a_counter_that_moved_may_pause_as_long_as_a_reader_is_held_up():
    moving = [_sample(step / 10, step * 1_000_000) for step in range(10)]
    paused = [_sample(0.9 + step / 10, 9_000_000) for step in range(1, 20)]
    assert _reading(PACKAGE, *moving, *paused).energy_uj == 9_000_000
    assert _reading(PACKAGE, *moving, *paused, _sample(2.9, 9_000_000)).label == "missing"


def test_a_frozen_counter_has_no_trace_either():
    ledger = Ledger((PACKAGE,))
    points = []
    for seconds, value in ((0, 0), (0.1, 5), (1.5, 5), (2.2, 5), (2.3, 9)):
        ledger.add(_sample(seconds, value))
        points.append(ledger.point().energy_uj[0])
    assert points == [0, 5, 5, None, None]


def test_failed_reads_are_no_sign_of_life():
    samples = [_sample(0, 0), _sample(0.1, 9), *(_sample(step, Failure("EIO")) for step in (1, 2)), _sample(3, 9)]
    assert _reading(PACKAGE, *samples).reason == "the counter stood still for 2.9 s"


@pytest.mark.parametrize("refresh_s", [0.1, 0.4])
def test_a_slow_counter_is_not_stuck_however_often_it_is_read(refresh_s: float):
    samples = [_sample(at / 50, int(at / 50 / refresh_s) * 1_000_000) for at in range(51)]
    assert _reading(PACKAGE, *samples).energy_uj == int(1.0 / refresh_s) * 1_000_000


def test_samples_a_second_apart_may_show_one_value_twice_and_no_more():
    assert _reading(PACKAGE, *(_sample(at, 10 * at) for at in range(5))).energy_uj == 40
    assert _reading(PACKAGE, *(_sample(at, 10 * min(at, 3)) for at in range(5))).energy_uj == 30
    assert _reading(PACKAGE, *(_sample(at, 10 * min(at, 3)) for at in range(6))).label == "missing"


def test_a_window_shorter_than_the_counter_s_refresh_is_ambiguous_and_no_zero():
    reading = _reading(PACKAGE, _sample(0, 7), _sample(0.05, 7))
    assert (reading.label, reading.energy_uj) == ("ambiguous", None)
    assert reading.reason == "window too short for this counter: it did not move"
    core = Domain("package-0/core", "core", False, ceiling_w=100)
    assert _reading(core, _sample(0, 7), _sample(0.05, 7)).energy_uj == 0
    machine = Domain("machine", "machine", True, 100, None, "modelled", "utilisation model")
    assert _reading(machine, _sample(0, 7), _sample(0.05, 7)).energy_uj == 0, "a model has no refresh"


def test_a_refresh_between_two_close_samples_is_no_reset():
    samples = [_sample(0, 0), _sample(0.001, 35_000_000)]  # 100 ms at 350 W, shown at once
    slow = Domain("gpu-0", "gpu", True, ceiling_w=3000, refresh_ns=200_000_000)
    assert _reading(slow, *samples).energy_uj == 35_000_000
    fast = Domain("package-0", "package", True, ceiling_w=3000)
    assert "cannot explain" in _reading(fast, *samples).reason


def test_a_wrapless_counter_that_goes_back_is_missing():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=100)
    assert _reading(domain, _sample(0, 50), _sample(1, 40)).label == "missing"


def test_missing_outranks_ambiguous():
    samples = [_sample(0, 0), _sample(11, 60_000_000), _sample(12, Failure("gone", fatal=True))]
    assert _reading(PACKAGE, *samples).label == "missing"


def test_integrated_power_is_the_trapezoid():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    samples = [_sample(0, 100_000_000), _sample(1, 200_000_000), _sample(1.5, 200_000_000)]
    reading = _reading(domain, *samples)
    assert (reading.energy_uj, reading.method) == (250_000_000, "integrated power")


def test_power_not_sampled_for_long_is_ambiguous():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    assert _reading(domain, _sample(0, 10**8), _sample(5, 10**8)).label == "ambiguous"


def test_a_mirror_is_reported_and_not_counted():
    domains = (PACKAGE, Domain("package-0-die-1", "package", True, 100, 1_000_000_000))
    ledger = Ledger(domains)
    ledger.add(_sample(0, 0, 0))
    ledger.add(_sample(1, 70_000_000, 70_000_000))
    first, second = ledger.readings({1: Mirror(0, certain=True)})
    assert (first.counted, second.counted) == (True, False)
    assert "same counter as package-0" in second.reason
    assert ledger.readings({1: Mirror(0, certain=False)})[1].label == "ambiguous"


_STEPS = st.lists(st.tuples(st.floats(0.001, 30.0), st.floats(0.0, 100.0), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=1500, deadline=None)
@given(start=st.integers(0, 10**9 - 1), steps=_STEPS)
def test_measured_energy_is_the_truth(start: int, steps: list[tuple[float, float, bool]]):
    """For any start, power up to the ceiling, gaps and failed reads: the true energy or no figure."""
    tally, truth, now_ns = Tally(PACKAGE), 0, 0
    tally.add(Sample(0, 0, 0, (start,)), start, True)
    widest_ns = since_good_ns = longest_still_ns = 0
    last, moved_ns = start, 0
    for position, (seconds, watts, fails) in enumerate(steps):
        step_ns = round(seconds * SECOND)
        now_ns += step_ns
        truth += int(watts * step_ns / 1000)
        shown = (start + truth) % 1_000_000_000
        value: int | Failure = Failure("EIO") if fails and position < len(steps) - 1 else shown
        tally.add(Sample(now_ns, now_ns, 0, (value,)), value, False)
        since_good_ns += step_ns
        widest_ns = max(widest_ns, since_good_ns)
        if value is shown:
            since_good_ns = 0
            last, moved_ns = (last, moved_ns) if shown == last else (shown, now_ns)
            longest_still_ns = max(longest_still_ns, now_ns - moved_ns)
    reading = tally.reading()
    if reading.label == "measured":
        assert reading.energy_uj == truth
    # A counter that stands is no counter, and else it is a number wherever no gap allows a second wrap.
    if longest_still_ns >= (PAUSED_NS if truth > 0 else STUCK_NS):
        assert reading.label == "missing"
    elif widest_ns < 9.9 * SECOND:
        assert reading.label == ("measured" if truth > 0 else "ambiguous")


def test_power_tally_takes_no_failure_for_a_zero():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    tally = PowerTally(domain)
    for seconds, value in ((0, 10**8), (1, Failure("lost")), (2, 10**8)):
        tally.add(_sample(seconds, value), value, seconds == 0)
    assert tally.reading().energy_uj == 200_000_000


@pytest.mark.parametrize(("drawn_uj", "label"), [(101_000_000, "measured"), (101_000_001, "missing")])
def test_the_ceiling_holds_for_the_time_of_the_window_and_one_refresh(drawn_uj: int, label: str):
    """100 W for 1 s, and up to 10 ms before it that the counter had not shown yet: 101 J."""
    assert _reading(PACKAGE, _sample(0, 0), _sample(1, drawn_uj)).label == label


@pytest.mark.parametrize(("gap_s", "label"), [(9.99, "measured"), (9.990_000_01, "ambiguous")])
def test_a_second_wrap_is_excluded_up_to_the_shortest_wrap_time(gap_s: float, label: str):
    """At 100 W the range of 1,000 J takes 10 s, of which one refresh of 10 ms may be left over from before."""
    assert _reading(PACKAGE, _sample(0, 500_000_000), _sample(gap_s, 500_000_000 + 1)).label == label


def test_a_failed_power_read_leaves_a_hole_in_the_trace():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    ledger, shown = Ledger((domain,)), []
    for sample in (_sample(0, 100_000_000), _sample(1, Failure("busy")), _sample(2, 100_000_000)):
        ledger.add(sample)
        shown.append(ledger.point().energy_uj)
    assert shown == [(0,), (None,), (200_000_000,)]


def test_power_that_was_doubtful_once_has_no_trace_after_it():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    ledger, shown = Ledger((domain,)), []
    for sample in (_sample(0, 100_000_000), _sample(2.0, 100_000_000), _sample(4.1, 100_000_000)):
        ledger.add(sample)
        shown.append(ledger.point().energy_uj)
    assert shown == [(0,), (200_000_000,), (None,)]
    assert ledger.readings({})[0].label == "ambiguous"


def test_a_power_meter_that_vanishes_after_a_gap_is_missing_and_keeps_the_first_reason():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    samples = [_sample(0, 100), _sample(3, 100), _sample(4, Failure("gone", fatal=True)), _sample(5, 100)]
    assert _reading(domain, *samples[:2]).label == "ambiguous"
    assert (_reading(domain, *samples).label, _reading(domain, *samples).reason) == ("missing", "gone")
    twice = [*samples, _sample(6, Failure("gone again", fatal=True)), _sample(7, 100)]
    assert _reading(domain, *twice).reason == "gone"


def test_nothing_read_is_no_energy():
    tally = Tally(PACKAGE)
    assert tally.energy_uj() == 0
    tally.add(_sample(0), Failure("EIO"), first=True)
    assert tally.energy_uj() == 0
    tally.add(_sample(1), 5_000_000, first=False)
    assert tally.energy_uj() == 0  # one read is no difference


@pytest.mark.parametrize(
    ("values", "energy_uj"),
    [
        ((999_999_990, 1_000_000_000, 9), 20),  # it has shown its range, so 0 comes one microjoule later
        ((1_000_000_000, 9), 10),
        ((999_999_990, 9), 19),  # it has not: the range itself is 0
        ((999_999_990, 999_999_999, 9), 19),
        ((1_000_000_000, 9, 900_000_000, 9), 1_000_000_011),
        ((500_000_000, 7, 600_000_000, 9), 1_500_000_009),
    ],
)
def test_a_plain_counter_that_shows_its_range_wraps_one_microjoule_later(values: tuple[int, ...], energy_uj: int):
    domain = Domain("package-0", "package", True, ceiling_w=1000, range_uj=1_000_000_000)
    tally = Tally(domain)
    for seconds, value in enumerate(values):
        tally.add(_sample(seconds * 0.95, value), value, seconds == 0)
    assert tally.energy_uj() == energy_uj


def test_time_begins_at_the_end_of_the_first_sample():
    ledger = Ledger((PACKAGE,))
    assert ledger.elapsed_ns == 0
    ledger.add(Sample(100, 130, 0, (5,)))
    assert ledger.elapsed_ns == 0
    ledger.add(Sample(1100, 1190, 0, (6,)))
    ledger.add(Sample(2100, 2200, 0, (7,)))
    assert ledger.elapsed_ns == 2070


def test_a_step_is_as_long_as_the_two_reads_may_be_apart():
    """From the begin of one sample to the end of the next: 1.1 s and a refresh of 10 ms at 100 W are 111 J."""
    first = Sample(0, SECOND // 20, 0, (0,))
    for drawn_uj, label in ((111_000_000, "measured"), (111_000_001, "missing")):
        reading = _reading(PACKAGE, first, Sample(SECOND, SECOND + SECOND // 10, 0, (drawn_uj,)))
        assert reading.label == label


def test_stillness_is_as_short_as_the_two_reads_may_be_apart():
    """From the end of the sample that first showed the value to the begin of the last: 0.5 s is stuck."""
    for began_ns, label in ((STUCK_NS + 99, "ambiguous"), (STUCK_NS + 100, "missing")):
        reading = _reading(PACKAGE, Sample(0, 100, 0, (7,)), Sample(began_ns, began_ns + 500, 0, (7,)))
        assert reading.label == label


@pytest.mark.parametrize(("slept_s", "label"), [(0.5, "measured"), (0.500_000_001, "missing")])
def test_a_sleep_of_more_than_half_a_second_counts_from_the_sample_before(slept_s: float, label: str):
    samples = [_sample(0, 0, slept_s=7.0), _sample(1, 9, slept_s=7.0), _sample(2, 50, slept_s=7.0 + slept_s)]
    assert _reading(PACKAGE, *samples).label == label


def test_short_sleeps_do_not_add_up():
    samples = [_sample(step, 9 * step, slept_s=0.4 * step) for step in range(5)]
    assert _reading(PACKAGE, *samples).label == "measured"


@pytest.mark.parametrize(("gap_s", "label"), [(2.0, "measured"), (2.000_000_001, "ambiguous")])
def test_power_is_integrated_over_two_seconds_at_most(gap_s: float, label: str):
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    assert _reading(domain, _sample(0, 10**8), _sample(gap_s, 10**8)).label == label


def test_power_counts_from_the_end_of_one_sample_to_the_end_of_the_next():
    domain = Domain("gpu-0", "gpu", True, ceiling_w=3000, method="integrated power")
    samples = [Sample(0, SECOND // 2, 0, (100_000_000,)), Sample(SECOND, 2 * SECOND, 0, (300_000_000,))]
    assert _reading(domain, *samples).energy_uj == 300_000_000  # 200 W for 1.5 s


def test_the_first_of_two_reasons_of_one_label_is_reported():
    late = [_sample(0, 0), _sample(11, 60_000_000), _sample(31, 70_000_000)]
    assert "no good read for 11.000 s" in _reading(PACKAGE, *late).reason
    gone = [_sample(0, 0), _sample(1, Failure("gone", fatal=True)), _sample(2, Failure("again", fatal=True))]
    assert _reading(PACKAGE, *gone).reason == "gone"


def test_a_mirror_keeps_its_first_reason_and_a_missing_one_stays_missing():
    domains = (PACKAGE, Domain("die-1", "package", True, 100, 1_000_000_000, note="a note"))
    ledger = Ledger(domains)
    ledger.add(_sample(0, 0, 0))
    ledger.add(_sample(1, 70_000_000, 70_000_000))
    reason = ledger.readings({1: Mirror(0, certain=True)})[1].reason
    assert reason == "a note; shows the same counter as package-0, counted once"
    ledger.add(_sample(2, 80_000_000, Failure("EIO")))
    missing = ledger.readings({1: Mirror(0, certain=False)})[1]
    assert (missing.label, missing.counted) == ("missing", True)
    assert missing.reason == "not read at the end of the window: EIO"


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (
            (_sample(0, 500_000_000), _sample(1.25, 3_000_000)),
            "the counter went from 500000000 to 3000000 uJ in 1.250 s, which 100 W cannot explain: it was reset",
        ),
        (
            (_sample(0, 0), _sample(11.5, 60_000_000)),
            "no good read for 11.500 s, in which the counter (range 1000000000 uJ) can have wrapped more than once",
        ),
        (
            (_sample(0, 7, slept_s=2.0), _sample(1, 9, slept_s=5.5)),
            "the machine was suspended for 3.5 s within the window",
        ),
        ((_sample(0, Failure("EIO")), _sample(1, 9)), "not read at the start of the window: EIO"),
    ],
)
def test_a_reason_states_the_values_and_the_seconds(samples: tuple[Sample, ...], reason: str):
    assert _reading(PACKAGE, *samples).reason == reason


def test_the_reasons_of_counters_without_a_range_and_of_power_state_their_values():
    gpu = Domain("gpu-0", "gpu", True, ceiling_w=100)
    assert (
        _reading(gpu, _sample(0, 50), _sample(1, 40)).reason == "the counter went back from 50 to 40 uJ: it was reset"
    )
    power = Domain("gpu-0", "gpu", True, ceiling_w=100, method="integrated power")
    assert _reading(power, _sample(0, 50), _sample(2.5, 40)).reason == "no power reading for 2.500 s"
