"""Sums of readings and traces, and the progress lines of a training."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from joulecast.measure.meters.reading import DomainReading, PowerTrace, Reading, TracePoint
from joulecast.measure.training.progress import Snapshot, TrainingBar, describe
from joulecast.measure.training.stretches import joined_traces, summed


def reading(seconds: float, *energies: int | None) -> Reading:
    labels = ["missing" if energy is None else "measured" for energy in energies]
    domains = [
        DomainReading(f"package-{at}", "package", label, energy, True, reason="" if energy is not None else "EIO")  # type: ignore[arg-type]
        for at, (label, energy) in enumerate(zip(labels, energies, strict=True))
    ]
    return Reading("rapl", seconds, tuple(domains))


energies_uj = st.one_of(st.none(), st.integers(0, 10**12))


@given(st.lists(st.tuples(st.floats(0, 1e4), energies_uj, energies_uj), min_size=1, max_size=8))
def test_a_sum_has_an_energy_only_where_every_part_has(parts: list[tuple[float, int | None, int | None]]) -> None:
    total = summed([reading(*part) for part in parts])
    assert total.seconds == pytest.approx(sum(part[0] for part in parts))
    for at in (1, 2):
        column = [part[at] for part in parts]
        known = [energy for energy in column if energy is not None]
        assert total.domains[at - 1].energy_uj == (sum(known) if len(known) == len(column) else None)


def test_traces_go_on_where_they_ended() -> None:
    first = PowerTrace(("a", "b"), ("a",), (TracePoint(0, (0, 0)), TracePoint(2, (20, None))))
    second = PowerTrace(("a", "b"), ("a",), (TracePoint(0, (0, 0)), TracePoint(1, (5, 7))))
    both = joined_traces(first, second)
    assert both is not None
    assert both.points == (*first.points, TracePoint(3, (25, None))), "b was not read when the first ended"
    again = joined_traces(both, second)
    assert again is not None
    assert again.points[-1] == TracePoint(4, (30, None))
    nothing = PowerTrace(("a", "b"), ("a",), (TracePoint(0, (None, None)), TracePoint(1, (None, None))))
    assert joined_traces(None, nothing) is None
    assert joined_traces(first, nothing) is first


def test_a_mirror_found_after_the_break_is_counted_once_throughout() -> None:
    points = (TracePoint(0, (0, 0)), TracePoint(1, (5_000_000, 5_000_000)))
    first, second = PowerTrace(("a", "b"), ("a", "b"), points), PowerTrace(("a", "b"), ("a",), points)
    both = joined_traces(first, second)
    assert both is not None
    assert both.watts() == [None, 5.0, 5.0]


def test_time_and_energy_left_are_equation_3_5_1() -> None:
    """Thesis, eq. 3.5.1: epoch_avg * (epoch_total - epoch_current); 90 s and 1.8 kJ per epoch, 8 epochs left."""
    snapshot = Snapshot(20, 10, 10, 1.2345, 0.489, 180.0, 3600.0, "modelled")
    assert snapshot.seconds_left == pytest.approx(720.0)
    assert snapshot.energy_left_j == pytest.approx(14_400.0)
    assert describe(snapshot) == (
        "epoch 2.00/10  loss 1.234  accuracy 48.9 %  20.0 W modelled  left 12 min 00 s, 14.4 kJ modelled"
    )
    unknown = replace(snapshot, energy_j=None, label="missing")
    assert describe(unknown).endswith("left 12 min 00 s, energy missing")
    assert "left" not in describe(replace(snapshot, step=0))


def test_the_bar_shows_time_and_energy_left_on_a_terminal() -> None:
    screen = io.StringIO()
    with TrainingBar("alexnet", Console(file=screen, force_terminal=True, width=140), interval_s=0) as bar:
        assert bar.wants_update()
        bar.update(Snapshot(20, 10, 10, 1.2345, None, 180.0, 3600.0, "measured"))
    assert "left 12 min 00 s, 14.4 kJ measured" in screen.getvalue()
