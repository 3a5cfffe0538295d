"""Windows of a running meter: threads, laps, traces, and a known power law that must be recovered."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters.meter import DEFAULT_INTERVAL_S, Meter, SampledMeter, SampledWindow
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.reading import DomainReading, PowerTrace, Reading, TracePoint
from joulecast.measure.meters.replay import ReplaySource, read_trace
from joulecast.measure.meters.tally import Failure
from joulecast.measure.meters.testing import FakePowercap, FakeZone, ManualClock


@pytest.fixture
def tree(tmp_path: Path) -> FakePowercap:
    return FakePowercap(tmp_path, [FakeZone("package-0", (FakeZone("dram", range_uj=10**11),), range_uj=10**11)])


@pytest.fixture
def meter(tree: FakePowercap) -> SampledMeter:
    return SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)


WATTS = {"package-0": 40.0, "package-0/dram": 4.0}


def test_windows_nest_and_overlap(tree: FakePowercap, meter: SampledMeter):
    assert isinstance(meter, Meter)
    run = meter.open()
    epochs = []
    for _ in range(3):
        with meter.window() as epoch:
            tree.advance(1.0, WATTS)
        epochs.append(epoch.reading.energy_uj)
    assert epochs == [44_000_000] * 3
    assert run.so_far().energy_uj == 132_000_000
    tree.advance(1.0, WATTS)
    whole = run.close()
    assert (whole.energy_uj, whole.seconds, whole.power_w) == (176_000_000, 4.0, 44.0)


def test_laps_add_up_to_the_whole(tree: FakePowercap, meter: SampledMeter):
    whole, lap = meter.open(), meter.open()
    laps = []
    for seconds in (1.0, 0.25, 3.0):
        tree.advance(seconds, WATTS)
        laps.append(lap.lap())
    assert sum(reading.energy_uj for reading in laps) == whole.close().energy_uj
    assert [reading.seconds for reading in laps] == [1.0, 0.25, 3.0]


def test_a_window_closes_when_its_block_raises(tree: FakePowercap, meter: SampledMeter):
    windows = []

    def failing_step() -> None:
        with meter.window() as window:
            windows.append(window)
            tree.advance(1.0, WATTS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing_step()
    assert windows[0].reading.energy_uj == 44_000_000


def test_a_closed_window_stays_closed(meter: SampledMeter):
    window = meter.open()
    window.close()
    with pytest.raises(MeterError, match="closed already"):
        window.close()


def test_a_failed_look_in_between_leaves_the_window_whole(tree: FakePowercap, meter: SampledMeter):
    window = meter.open()
    tree.advance(1.0, WATTS)
    tree.fail("package-0")
    assert window.so_far().label == "missing"
    tree.restore("package-0")
    assert window.close().energy_uj == 44_000_000


def test_the_background_reader_sees_every_wrap_of_a_counter_in_real_time(tmp_path: Path):
    # 100 J wrap at 500 W every 0.2 s; only a reader in the background can count them.
    tree = FakePowercap(tmp_path, [FakeZone("package-0", start_uj=0, range_uj=100_000_000)])
    with SampledMeter(RaplSource(tree.root)) as meter:
        before = tree.drawn_uj("package-0")
        window = meter.open()
        with tree.drive(lambda: {"package-0": 500.0}):
            while tree.drawn_uj("package-0") - before < 500_000_000:
                time.sleep(0.02)
        reading = window.close()
    # A busy machine may delay the reader until a second wrap is possible, or the thread that moves the counter until it
    # jumps: the reason then states it.
    if reading.label != "measured":
        assert any(part in reading.reasons[0] for part in ("wrapped more than once", "1500 W cannot explain"))
    else:
        assert abs(reading.energy_uj - (tree.drawn_uj("package-0") - before)) <= 1


def test_many_threads_may_open_windows(tree: FakePowercap):
    errors: list[BaseException] = []

    def work(meter: SampledMeter) -> None:
        try:
            for _ in range(50):
                with meter.window():
                    pass
        except BaseException as error:
            errors.append(error)

    with SampledMeter(RaplSource(tree.root), interval_s=0.001) as meter:
        threads = [threading.Thread(target=work, args=(meter,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert meter._windows == []
    assert errors == []


def test_stopping_ends_the_thread(tree: FakePowercap):
    with SampledMeter(RaplSource(tree.root), interval_s=0.01) as meter:
        (reader,) = (thread for thread in threading.enumerate() if thread.name == "joulecast-meter")
        assert reader.daemon  # a training that forgets to stop its meter still ends
    meter.stop()
    assert not any(thread.name == "joulecast-meter" for thread in threading.enumerate())


def test_wall_clock_steps_do_not_matter(tree: FakePowercap, monkeypatch: pytest.MonkeyPatch):
    steps = iter([1e9, 0.0, 2e9, -1e9] * 1000)
    monkeypatch.setattr(time, "time", lambda: next(steps))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(steps)))
    with SampledMeter(RaplSource(tree.root), interval_s=0.01) as meter:
        start = time.monotonic()
        with meter.window() as window, tree.drive(lambda: WATTS):
            time.sleep(0.2)
        longest = time.monotonic() - start
        opened = meter.open()
        opened.close()
    assert 0.2 <= window.reading.seconds <= longest
    assert window.reading.label == "measured"
    for closed in (window, opened):
        with pytest.raises(MeterError, match="window keeps no trace; open it with trace=True"):
            closed.trace()


def test_a_meter_samples_ten_times_a_second():
    assert DEFAULT_INTERVAL_S == 0.1


def test_known_law_comes_back_within_five_percent(tree: FakePowercap, meter: SampledMeter):
    """P = sum_i w_i AR_i + P_s on package and dram; least squares over twenty windows finds w and P_s."""
    joules_per_gflop, joules_per_gbyte, static_w = 0.35, 0.9, 18.0
    random = np.random.default_rng(3)
    rows, energies = [], []
    for _ in range(20):
        gflops_per_s, gbytes_per_s = random.uniform(1, 60), random.uniform(1, 20)
        seconds = random.uniform(1.0, 4.0)
        with meter.window() as window:
            for _ in range(10):
                package_w = joules_per_gflop * gflops_per_s + static_w
                tree.advance(seconds / 10, {"package-0": package_w, "package-0/dram": joules_per_gbyte * gbytes_per_s})
                meter.poll()
        rows.append([gflops_per_s * seconds, gbytes_per_s * seconds, window.reading.seconds])
        energies.append(window.reading.energy_j)
    weights, *_ = np.linalg.lstsq(np.array(rows), np.array(energies), rcond=None)
    assert weights == pytest.approx([joules_per_gflop, joules_per_gbyte, static_w], rel=0.05)


def test_trace_goes_to_csv_and_plays_again(tree: FakePowercap, meter: SampledMeter, tmp_path: Path):
    window = meter.open(trace=True)
    for step in range(4):
        tree.advance(0.5, {"package-0": 10.0 * (step + 1), "package-0/dram": 2.0})
        meter.poll()
    recorded = window.close()
    trace = window.trace()
    assert trace.watts()[1:] == pytest.approx([12.0, 22.0, 32.0, 42.0])
    text = io.StringIO()
    trace.write_csv(text)
    assert text.getvalue().splitlines()[:2] == ["seconds,watts,package-0_uj,package-0/dram_uj", "0.000000,,0,0"]
    path = tmp_path / "trace.csv"
    path.write_text(text.getvalue())
    assert read_trace(path) == trace

    clock = ManualClock()
    player = SampledMeter(ReplaySource(path, clock=clock), interval_s=None)
    with player.window() as half:
        clock.advance(1.0)
    assert half.reading.energy_uj == 17_000_000  # 12 W and 22 W, half a second each
    rest = player.open()
    clock.advance(1.0)
    assert half.reading.energy_uj + rest.close().energy_uj == recorded.energy_uj
    with player.window() as beyond:
        clock.advance(1.0)
    assert beyond.reading.label == "missing"
    assert "ends after 2.0 s" in beyond.reading.reasons[0]


def test_a_gap_in_a_trace_is_a_gap_when_played(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("seconds,watts,package-0_uj\n0,,0\n1,,\n2,,30000000\n3,,40000000\n")
    clock = ManualClock()
    player = SampledMeter(ReplaySource(path, clock=clock), interval_s=None)
    with player.window() as window:
        clock.advance(1.5)
        player.poll()  # in the gap
        clock.advance(1.5)
    assert window.reading.energy_uj == 40_000_000
    clock.now_ns -= 1_500_000_000
    assert player.open().close().label == "missing"


def test_after_its_last_row_a_trace_has_ended_for_good(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("seconds,watts,package-0_uj\n0,,0\n10,,30000000\n")
    clock = ManualClock()
    clock.advance(7.0)
    source = ReplaySource(path, clock=clock)
    clock.advance(5.0)
    assert source.sample().values == (15_000_000,)
    clock.advance(5.0)
    assert source.sample().values == (30_000_000,)
    clock.advance(0.001)
    (after,) = source.sample().values
    assert isinstance(after, Failure)
    assert (after.fatal, str(after.reason)) == (True, "trace.csv ends after 10.0 s")


def _replayed(window: SampledWindow, path: Path, seconds: float) -> Reading:
    """The energy of the window's trace, written and replayed for that long."""
    with path.open("w", encoding="utf-8") as file:
        window.trace().write_csv(file)
    clock = ManualClock()
    with SampledMeter(ReplaySource(path, clock=clock), interval_s=None).window() as played:
        clock.advance(seconds)
    return played.reading


def test_mirrored_dies_are_counted_once_when_played_too(tmp_path: Path):
    dies = [FakeZone("package-0-die-0", range_uj=10**11)]
    dies += [FakeZone(f"package-0-die-{die}", shows="package-0-die-0", range_uj=10**11) for die in (1, 2, 3)]
    tree = FakePowercap(tmp_path / "tree", dies)
    meter = SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)
    window = meter.open(trace=True)
    tree.advance(1.0, {"package-0-die-0": 68.0})
    recorded = window.close()
    played = _replayed(window, tmp_path / "trace.csv", 1.0)
    assert played.energy_uj == recorded.energy_uj == 68_000_000
    assert [one.counted for one in played.domains] == [True, False, False, False]
    assert (tmp_path / "trace.csv").read_text().splitlines()[0] == (
        "seconds,watts,package-0-die-0_uj,package-0-die-1_uncounted_uj,package-0-die-2_uncounted_uj,"
        "package-0-die-3_uncounted_uj"
    )


def test_a_trace_of_before_counted_columns_tells_by_the_names(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("seconds,watts,package-0_uj,package-0/core_uj,gpu-0_uj\n0,,0,0,0\n1,7.0,3000000,2000000,4000000\n")
    trace = read_trace(path)
    assert trace.domains == ("package-0", "package-0/core", "gpu-0")
    assert trace.counted == ("package-0", "gpu-0")


def test_a_trace_has_no_watts_where_the_reading_is_ambiguous(tmp_path: Path):
    tree = FakePowercap(tmp_path / "tree", [FakeZone(f"package-0-die-{die}", range_uj=10**11) for die in range(2)])
    meter = SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)
    window = meter.open(trace=True)
    tree.advance(0.1, {"package-0-die-0": 50.0, "package-0-die-1": 51.0})  # 0.1 J apart: one counter or two
    assert window.so_far().label == "ambiguous"
    assert window.trace().watts() == [None, None]
    assert _replayed(window, tmp_path / "trace.csv", 0.1).energy_uj is None
    tree.advance(10.0, {"package-0-die-0": 50.0, "package-0-die-1": 51.0})
    assert window.close().label == "measured"
    assert window.trace().watts()[1:] == pytest.approx([101.0, 101.0])


def test_what_was_modelled_stays_modelled_when_played(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("seconds,watts,machine_uj\n0,,0\n10,40.0,400000000\n")
    clock = ManualClock()
    with SampledMeter(ReplaySource(path, clock=clock), interval_s=None).window() as window:
        clock.advance(10.0)
    assert (window.reading.label, window.reading.energy_uj) == ("modelled", 400_000_000)
    assert window.reading.domains[0].method == "utilisation model"


@pytest.mark.parametrize(
    "text",
    [
        *("", "seconds,watts\n0,\n1,\n", "a,b,c_uj\n0,,1\n1,,2\n", "\x00"),
        *("time,watts,p_uj\n0,,1\n1,,2\n", "second,watts,p_uj\n0,,1\n1,,2\n", "seconds,zwatts,p_uj\n0,,1\n1,,2\n"),
        *("seconds,watts,p_uj\n1,,1\n0,,2\n", "seconds,watts,p_uj\n0,,1\n0,,2\n", "seconds,watts,p_uj\n0,,1\n"),
        *("seconds,watts,p_uj\n0,,1\n1,,2,3\n", "seconds,watts,p_uj\n0,,1\n1,\n", "seconds,watts,p_uj\n0,,1\n1,,x\n"),
    ],
)
def test_what_is_not_a_trace_is_said(tmp_path: Path, text: str):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(MeterError, match="not a power trace"):
        read_trace(path)


def test_readings_go_through_json_and_refuse_nonsense(tree: FakePowercap, meter: SampledMeter):
    with meter.window() as window:
        tree.advance(1.0, WATTS)
    assert Reading.from_json(window.reading.to_json()) == window.reading
    with pytest.raises(MeterError, match="corrupt"):
        Reading.from_json({"meter": "rapl", "seconds": 1.0, "domains": [{"domain": "package-0"}]})
    with pytest.raises(ValueError, match="label 'missing' with energy 0"):
        DomainReading("package-0", "package", "missing", 0, True, reason="a failed read is no zero")


def test_an_unknown_part_makes_the_total_unknown():
    good = DomainReading("package-0", "package", "measured", 5, True)
    bad = DomainReading("gpu-0", "gpu", "ambiguous", None, True, reason="MIG")
    core = DomainReading("package-0/core", "core", "missing", None, False, reason="EIO")
    reading = Reading("rapl+nvml", 1.0, (good, bad, core))
    assert (reading.energy_uj, reading.cpu_energy_uj, reading.gpu_energy_uj) == (None, 5, None)
    assert reading.label == "ambiguous"
    assert Reading("rapl", 1.0, (good, core)).label == "measured"
    assert Reading("rapl", 1.0, (core,)).label == "missing"


def test_a_replay_starts_when_its_source_is_made_however_long_ago_the_machine_started(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("seconds,watts,package-0_uj\n0,,0\n10,1,10000000\n20,3,40000000\n")
    clock = ManualClock(now_ns=4 * 10**9)
    source = ReplaySource(path, clock=clock)
    shown = []
    for seconds in (0.0, 5.0, 10.0):
        clock.advance(seconds)
        shown.append(source.sample().values[0])
    assert shown == [0, 5_000_000, 25_000_000]


def test_a_trace_whose_rows_do_not_fit_its_domains_is_an_error():
    trace = PowerTrace(("package-0", "dram"), ("package-0",), (TracePoint(0.0, (0,)), TracePoint(1.0, (5,))))
    with pytest.raises(ValueError, match="shorter"):
        trace.watts()


ROWS = """seconds,watts,package-0_uj,package-0/core_uncounted_uj
1.0,,0,0
2.0,,10000000,1000000
4.0,,10000000,
5.0,,40000000,3000000
9.0,,60000000,7000000
17.0,,140000000,7000000
"""


@pytest.mark.parametrize(
    ("at_s", "values"),
    [
        (0.0, (0, 0)),
        (0.25, (2_500_000, 250_000)),
        (1.0, (10_000_000, 1_000_000)),
        (2.0, (10_000_000, None)),
        (3.0, (10_000_000, None)),
        (3.5, (25_000_000, None)),
        (4.0, (40_000_000, 3_000_000)),  # the row itself was read, whatever comes before it
        (5.0, (45_000_000, 4_000_000)),
        (8.0, (60_000_000, 7_000_000)),
        (15.0, (130_000_000, 7_000_000)),
        (16.0, (140_000_000, 7_000_000)),
    ],
)
def test_a_trace_is_linear_between_the_two_rows_around_a_moment(
    tmp_path: Path, at_s: float, values: tuple[int | None, ...]
):
    path = tmp_path / "trace.csv"
    path.write_text(ROWS)
    clock = ManualClock()
    source = ReplaySource(path, clock=clock)
    clock.advance(at_s)
    unread = Failure(f"trace.csv: not read at {at_s:.1f} s")
    assert source.sample().values == tuple(unread if value is None else value for value in values)
    assert [domain.label for domain in source.domains] == ["measured", "measured"]
    assert [domain.counted for domain in source.domains] == [True, False]


@pytest.mark.parametrize(
    ("label", "energy_uj", "reason", "error"),
    [
        ("measured", None, "why", "package-0: label 'measured' with energy None"),
        ("modelled", None, "why", "package-0: label 'modelled' with energy None"),
        ("missing", 5, "why", "package-0: label 'missing' with energy 5"),
        ("ambiguous", 0, "why", "package-0: label 'ambiguous' with energy 0"),
        ("missing", None, "", "package-0: label 'missing' without a reason"),
        ("exact", 5, "", "label is 'exact', expected one of measured, modelled, ambiguous, missing"),
    ],
)
def test_a_domain_has_either_an_energy_or_a_reason(label, energy_uj: int | None, reason: str, error: str):
    with pytest.raises(ValueError, match=f"^{error}$"):
        DomainReading("package-0", "package", label, energy_uj, True, reason=reason)


def _joules(**energies: int | None) -> tuple[DomainReading, ...]:
    return tuple(
        DomainReading(kind, kind, "missing", None, True, reason="EIO")
        if joules is None
        else DomainReading(kind, kind, "measured", joules * 10**6, True)
        for kind, joules in energies.items()
    )


def test_the_cpu_is_all_that_is_no_gpu():
    reading = Reading("rapl+nvml", 2.0, _joules(package=1, dram=20, gpu=300, machine=4000))
    assert (reading.cpu_energy_uj, reading.gpu_energy_uj) == (4021 * 10**6, 300 * 10**6)
    assert (reading.energy_j, reading.power_w) == (4321.0, 2160.5)
    assert Reading("rapl", 2.0, _joules(package=1, dram=20)).gpu_energy_uj is None
    assert Reading("nvml", 2.0, _joules(gpu=300)).cpu_energy_uj is None
    assert Reading("rapl", 2.0, _joules(package=1, dram=None)).energy_j is None


@pytest.mark.parametrize(
    ("joules", "seconds", "power_w"),
    [(3, 0.5, 6.0), (3, 1.0, 3.0), (0, 0.5, 0.0), (3, 0.0, None), (3, -0.5, None), (3, -2.0, None), (None, 1.0, None)],
)
def test_power_needs_an_energy_and_a_time(joules: int | None, seconds: float, power_w: float | None):
    assert Reading("rapl", seconds, _joules(package=joules)).power_w == power_w


def test_a_trace_has_watts_between_two_known_points_in_order_of_time():
    rows = [(0.0, 0), (0.5, 10), (1.5, None), (2.5, 40), (2.5, 50), (2.0, 60), (6.0, 80)]
    points = tuple(TracePoint(at_s, (None if joules is None else joules * 10**6, 1)) for at_s, joules in rows)
    trace = PowerTrace(("package-0", "core"), ("package-0",), points)
    assert trace.watts() == [None, 20.0, None, None, None, None, 5.0]
    assert PowerTrace(("package-0",), ("package-0",), ()).watts() == []
