"""Columns and statistics by hand, those of Listing 3.4 where its figures allow it."""

from __future__ import annotations

import pytest

from joulecast.measure.meters.procstat import CpuTimes, ProcStat
from joulecast.measure.meters.reading import DomainReading, Reading
from joulecast.measure.watch import (
    CPU_COLUMNS,
    WatchRow,
    WatchTable,
    closing_lines,
    histogram_lines,
    row_of,
    short_name,
    statistics_of,
)

LISTING_WATTS = [46.67, 45.12, 47.11, 44.91, 47.94]  # the five rows of Listing 3.4


def _reading(seconds: float, package_uj: int | None) -> Reading:
    label = "measured" if package_uj is not None else "missing"
    reason = "" if package_uj is not None else "EIO"
    package = DomainReading("package-0", "package", label, package_uj, True, reason=reason)
    dram = DomainReading("package-0/dram", "dram", "measured", 3_000_000, True)
    return Reading("rapl", seconds, (package, dram))


def test_a_row_is_the_difference_of_two_reads():
    before = ProcStat(CpuTimes(100, 0, 50, 800, 40, 5, 5, 0), 2, 1_000, 5_000, 1)
    after = ProcStat(CpuTimes(143, 10, 60, 920, 45, 10, 10, 2), 2, 2_868, 111_444, 6)
    row = row_of(before, after, _reading(2.0, 93_340_000))
    assert row.cpu == pytest.approx((21.5, 5.0, 10.0, 60.0, 2.5, 1.0, 6.0, 934.0, 53_222.0))
    assert sum(row.cpu[:6]) == pytest.approx(100.0)
    assert row.watts == pytest.approx(48.17)
    assert row.domain_watts == pytest.approx((46.67, 1.5))


def test_statistics_of_the_listing():
    found = statistics_of(LISTING_WATTS)
    assert found["Average"] == pytest.approx(46.35)
    assert found["GeoMean"] == pytest.approx((46.67 * 45.12 * 47.11 * 44.91 * 47.94) ** 0.2)
    assert found["StdDev"] == pytest.approx((6.7946 / 5) ** 0.5)  # squares summed by hand
    assert (found["Minimum"], found["Maximum"]) == (44.91, 47.94)
    assert statistics_of([0.0, 4.0])["GeoMean"] == 0.0


def _row(watts: float | None, label: str = "measured") -> WatchRow:
    return WatchRow(1.0, (45.8, 0.0, 3.1, 51.1, 0.0, 0.0, 5.0, 541.7, 5053.1), watts, (watts, None), label)


def test_the_table_looks_like_powerstat():
    table = WatchTable(["package-0", "package-0/dram"])
    assert table.header().split() == ["Time", *CPU_COLUMNS, "Watts", "pkg-0", "dram", "Label"]
    cells = ["45.8", "0.0", "3.1", "51.1", "0.0", "0.0", "5", "541.7", "5053.1", "46.67", "46.67", "-"]
    assert table.row("02:01:02", _row(46.67)).split() == ["02:01:02", *cells, "measured"]
    lines = table.statistics([_row(watts) for watts in LISTING_WATTS])
    assert [line.split()[0] for line in lines] == ["Average", "GeoMean", "StdDev", "--------", "Minimum", "Maximum"]
    assert lines[0].split()[-3:] == ["46.35", "46.35", "-"]
    assert len({len(line) for line in (*lines, table.rule())}) == 1


def test_unknown_watts_are_a_dash_never_a_zero_and_stay_out_of_the_mean():
    rows = [_row(40.0), _row(None, "missing"), _row(50.0)]
    table = WatchTable(["package-0", "package-0/dram"])
    assert table.row("t", rows[1]).split()[-4:] == ["-", "-", "-", "missing"]
    assert table.statistics(rows)[0].split()[-3] == "45.00"
    lines = closing_lines(rows, _reading(3.0, None))
    assert lines[1:4] == [
        "45.00 Watts on average with standard deviation 5.00 (measured)",
        "Watts are unknown in 1 of 3 intervals",
        "Energy: unknown in 3.000 s, missing, read by rapl",
    ]
    assert "Note: package-0: EIO" in lines


def test_headings_keep_the_package_where_there_are_several():
    domains = ["package-0", "package-0/dram", "package-1", "package-1/dram", "psys"]
    assert [short_name(name, domains) for name in domains] == ["pkg-0", "dram-0", "pkg-1", "dram-1", "psys"]


def test_the_histogram_holds_every_value_once():
    lines = histogram_lines(LISTING_WATTS)
    counts = [int(line.split()[3]) for line in lines[1:]]
    assert (len(counts), sum(counts)) == (10, 5)
    assert counts[0] == 2  # 44.91 and 45.12, up to 45.21
    assert counts[-1] == 1
    assert sum(int(line.split()[3]) for line in histogram_lines([7.0, 7.0])[1:]) == 2
