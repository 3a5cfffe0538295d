"""A failed read at the end of a window would lose the window, so it is repeated up to twice."""

from __future__ import annotations

from collections.abc import Mapping

from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.tally import Domain, Failure, Mirror, Sample


class Flaky:
    """A counter that advances by 1 J with every read that works; `plan` decides which reads fail, and how."""

    name = "flaky"
    domains = (Domain("package-0", "package", True, 10**9),)
    notes: tuple[str, ...] = ()

    def __init__(self, *plan: Failure | None) -> None:
        self.plan = list(plan)
        self.reads = 0

    def sample(self) -> Sample:
        failure = self.plan.pop(0) if self.plan else None
        self.reads += 1
        now_ns = self.reads * 10**9
        return Sample(now_ns, now_ns, 0, (self.reads * 10**6 if failure is None else failure,))

    def mirrors(self) -> Mapping[int, Mirror]:
        return {}

    def close(self) -> None: ...


FAILED, GONE = Failure("busy"), Failure("gone", fatal=True)


def test_two_failures_at_the_end_are_repeated() -> None:
    source = Flaky(None, FAILED, FAILED, None)
    reading = SampledMeter(source, interval_s=None).open().close()
    assert (reading.label, reading.energy_uj, source.reads) == ("measured", 3 * 10**6, 4)


def test_the_third_failure_stands() -> None:
    source = Flaky(None, FAILED, FAILED, FAILED)
    reading = SampledMeter(source, interval_s=None).open().close()
    assert (reading.label, reading.energy_uj, source.reads) == ("missing", None, 4)
    assert reading.reasons == ("package-0: not read at the end of the window: busy",)


def test_failures_at_the_start_are_repeated_too() -> None:
    source = Flaky(FAILED, FAILED, None, None)
    reading = SampledMeter(source, interval_s=None).open().close()
    assert (reading.label, reading.energy_uj) == ("measured", 10**6)


def test_a_counter_that_is_gone_is_not_read_again() -> None:
    source = Flaky(None, GONE, None)
    reading = SampledMeter(source, interval_s=None).open().close()
    assert (reading.label, source.reads) == ("missing", 2)
    assert reading.reasons == ("package-0: gone",)


def test_a_failure_in_the_middle_is_a_gap_of_the_trace_only() -> None:
    meter = SampledMeter(Flaky(None, FAILED, None), interval_s=None)
    window = meter.open(trace=True)
    meter.poll()
    reading = window.close()
    assert reading.energy_uj == 2 * 10**6
    assert [point.energy_uj for point in window.trace().points] == [(0,), (None,), (2 * 10**6,)]
