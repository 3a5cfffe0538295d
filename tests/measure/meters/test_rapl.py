"""RAPL on real files: a fake tree with the kernel's layout that counts its own true energy."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import MeterError
from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.rapl import RaplSource, find_zones, plan, read_text, system_clock
from joulecast.measure.meters.reading import Reading
from joulecast.measure.meters.tally import Failure, Mirror
from joulecast.measure.meters.testing import FakePowercap, FakeZone


def _meter(tree: FakePowercap) -> SampledMeter:
    return SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)


def _second(tree: FakePowercap, watts: dict[str, float]) -> Reading:
    with _meter(tree).window() as window:
        tree.advance(1.0, watts)
    assert window.reading is not None
    return window.reading


def _energies(reading: Reading) -> dict[str, int | None]:
    return {domain.domain: domain.energy_uj for domain in reading.domains}


def test_total_is_packages_and_dram_and_the_rest_is_only_reported(tmp_path: Path):
    parts = tuple(FakeZone(name, range_uj=10**11) for name in ("core", "uncore", "dram"))
    tree = FakePowercap(
        tmp_path,
        [
            FakeZone("psys", range_uj=10**11),
            FakeZone("package-1", parts, range_uj=10**11),
            FakeZone("package-0", parts, range_uj=10**11),
        ],
    )
    watts = {"package-0": 40.0, "package-0/dram": 3.0, "package-0/core": 30.0, "package-0/uncore": 2.0}
    watts |= {"package-1": 50.0, "package-1/dram": 4.0, "package-1/core": 35.0, "psys": 150.0}
    reading = _second(tree, watts)
    assert reading.energy_uj == 97_000_000
    assert reading.boundary == "package + dram"
    assert reading.label == "measured"
    assert _energies(reading) == {
        **{zone: round(power * 1_000_000) for zone, power in watts.items()},
        "package-1/uncore": 0,  # a domain that may stand still, as an idle integrated GPU
    }


def test_folder_numbers_mean_nothing(tmp_path: Path):
    zones = [FakeZone("dram", range_uj=10**11), FakeZone("core", range_uj=10**11)]
    for name, children in (("a", tuple(zones)), ("b", tuple(reversed(zones)))):
        tree = FakePowercap(tmp_path / name, [FakeZone("package-0", children, range_uj=10**11)])
        reading = _second(tree, {"package-0": 20.0, "package-0/dram": 2.0, "package-0/core": 15.0})
        assert reading.energy_uj == 22_000_000


def test_twelve_sockets_each_counted_once(tmp_path: Path):
    zones = [FakeZone(f"package-{number}", range_uj=10**11) for number in range(12)]
    tree = FakePowercap(tmp_path, zones)
    assert [zone.numbers[0] for zone in find_zones(tmp_path)] == list(range(12))
    reading = _second(tree, {f"package-{number}": 1.0 + number for number in range(12)})
    assert reading.energy_uj == 78_000_000


def test_each_domain_wraps_at_its_own_range(tmp_path: Path):
    dram = FakeZone("dram", start_uj=65_712_999_000, unit_nj=15_300)
    tree = FakePowercap(tmp_path, [FakeZone("package-0", (dram,), start_uj=262_143_328_000)])
    reading = _second(tree, {"package-0": 46.7, "package-0/dram": 3.1})
    for domain in reading.domains:
        assert domain.energy_uj is not None
        assert abs(domain.energy_uj - tree.drawn_uj(domain.domain)) <= 1
    assert [int((zone.path / "energy_uj").read_text()) < 10**8 for zone in find_zones(tmp_path)] == [True, True]


def test_msr_and_mmio_twins_are_counted_once(tmp_path: Path):
    mmio = FakeZone("package-0", control="intel-rapl-mmio", range_uj=10**11, start_uj=77)
    tree = FakePowercap(tmp_path, [FakeZone("package-0", range_uj=10**11), mmio])
    reading = _second(tree, {"package-0": 10.0, "intel-rapl-mmio/package-0": 10.0})
    assert reading.energy_uj == 10_000_000
    assert "intel-rapl-mmio:0" in RaplSource(tmp_path).notes[0]


def test_mmio_serves_where_the_msr_does_not_read(tmp_path: Path):
    mmio = FakeZone("package-0", control="intel-rapl-mmio", range_uj=10**11)
    tree = FakePowercap(tmp_path, [FakeZone("package-0"), mmio])
    tree.fail("package-0")
    assert _second(tree, {"intel-rapl-mmio/package-0": 10.0}).energy_uj == 10_000_000


def test_dies_that_show_one_counter_are_counted_once(tmp_path: Path):
    dies = [FakeZone("package-0-die-0", range_uj=10**11)]
    dies += [FakeZone(f"package-0-die-{die}", shows="package-0-die-0", range_uj=10**11) for die in (1, 2, 3)]
    tree = FakePowercap(tmp_path, [*dies, FakeZone("package-1-die-0", range_uj=10**11)])
    reading = _second(tree, {"package-0-die-0": 68.0, "package-1-die-0": 70.0})
    assert reading.energy_uj == 138_000_000
    assert [domain.counted for domain in reading.domains] == [True, False, False, False, True]
    assert "same counter as package-0-die-0" in reading.domains[1].reason


def test_dies_with_counters_of_their_own_are_added(tmp_path: Path):
    dies = [FakeZone(f"package-0-die-{die}", range_uj=10**11, start_uj=die * 10**9) for die in range(2)]
    tree = FakePowercap(tmp_path, dies)
    assert _second(tree, {"package-0-die-0": 60.0, "package-0-die-1": 60.0}).energy_uj == 120_000_000


def test_dies_that_start_alike_and_part_are_never_counted_once(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone(f"package-0-die-{die}", range_uj=10**11) for die in range(2)])
    meter = _meter(tree)
    with meter.window() as near:
        tree.advance(0.1, {"package-0-die-0": 50.0, "package-0-die-1": 51.0})
    assert near.reading is not None
    assert near.reading.label == "ambiguous"  # 0.1 J apart: two counters, or one seen at two times
    with meter.window() as far:
        tree.advance(10.0, {"package-0-die-0": 50.0, "package-0-die-1": 51.0})
    assert far.reading is not None
    assert far.reading.energy_uj == 1_010_000_000


def test_amd_core_counter_says_that_it_is_one_core(tmp_path: Path):
    FakePowercap(tmp_path, [FakeZone("package-0", (FakeZone("core"),), unit_nj=15_258)])
    domains = plan(find_zones(tmp_path), vendor="AuthenticAMD").domains
    assert [(domain.name, domain.counted) for domain in domains] == [("package-0", True), ("package-0/core", False)]
    assert "one core" in domains[1].note


def test_flat_links_alone_are_enough(tmp_path: Path):
    tree = FakePowercap(tmp_path / "real", [FakeZone("package-0", (FakeZone("dram"),))])
    flat = tmp_path / "flat"
    flat.mkdir()
    for zone in find_zones(tree.root):
        (flat / zone.key).symlink_to(zone.path)
    assert [domain.name for domain in RaplSource(flat).domains] == ["package-0", "package-0/dram"]


def test_an_unreadable_dram_makes_the_total_missing_not_smaller(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0", (FakeZone("dram"),), range_uj=10**11)])
    tree.fail("package-0/dram")
    reading = _second(tree, {"package-0": 10.0})
    assert (reading.energy_uj, reading.label) == (None, "missing")
    assert _energies(reading)["package-0"] == 10_000_000


def test_a_zone_whose_name_cannot_be_read_makes_the_total_missing(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0"), FakeZone("package-1")])
    (tree.path("package-1").parent / "name").unlink()
    assert _second(tree, {"package-0": 10.0}).label == "missing"


@pytest.mark.parametrize("broken", ["name", "max_energy_range_uj", "energy_uj"])
def test_the_failure_names_the_file_that_cannot_be_read(tmp_path: Path, broken: str):
    tree = FakePowercap(tmp_path, [FakeZone("package-0")])

    def read(path: Path) -> str:
        if path.name == broken:
            raise PermissionError(13, "Permission denied")
        return path.read_text().strip()

    (failure,) = RaplSource(tree.root, read=read).failures
    assert f"intel-rapl:0/{broken}: permission denied" in failure
    assert f"sudo chmod a+r /sys/class/powercap/intel-rapl*:*/{broken};" in failure


@pytest.mark.parametrize(
    ("text", "reason"), [("0", "the range is 0 uJ"), ("-5", "the range is -5 uJ"), ("much", "invalid literal")]
)
def test_a_range_that_is_none_names_its_file(tmp_path: Path, text: str, reason: str):
    tree = FakePowercap(tmp_path, [FakeZone("package-0")])
    tree.path("package-0").with_name("max_energy_range_uj").write_text(text)
    (failure,) = RaplSource(tree.root).failures
    assert f"max_energy_range_uj: {reason}" in failure


def test_a_failed_read_in_the_middle_is_a_gap(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0", range_uj=10**11)])
    meter = _meter(tree)
    with meter.window() as window:
        tree.advance(1.0, {"package-0": 10.0})
        tree.fail("package-0")
        meter.poll()
        tree.advance(1.0, {"package-0": 10.0})
        tree.restore("package-0")
    assert window.reading is not None
    assert window.reading.energy_uj == 20_000_000


def test_breaking_and_restoring_a_counter_never_looks_like_its_removal(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0")])
    ended, vanished, reads = threading.Event(), 0, 0

    def read() -> None:
        nonlocal vanished, reads
        while not ended.is_set():
            reads += 1
            try:
                tree.path("package-0").read_text()
            except FileNotFoundError:
                vanished += 1
            except OSError:  # EIO, as asked for
                pass

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(300):
        tree.fail("package-0")
        tree.restore("package-0")
    ended.set()
    reader.join()
    assert reads > 0
    assert vanished == 0


def test_a_removed_counter_is_missing_and_measures_again_once_back(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0", range_uj=10**11)])
    meter = _meter(tree)
    with meter.window() as window:
        tree.advance(1.0, {"package-0": 10.0})
        tree.remove("package-0")
        meter.poll()
        tree.restore("package-0")
    assert window.reading is not None
    assert window.reading.label == "missing"
    assert "vanished" in window.reading.domains[0].reason
    with meter.window() as later:
        tree.advance(1.0, {"package-0": 10.0})
    assert later.reading is not None
    assert later.reading.energy_uj == 10_000_000


def test_suspend_that_restarts_the_counter_is_missing(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0", start_uj=200_000_000_000)])
    with _meter(tree).window() as window:
        tree.advance(1.0, {"package-0": 10.0})
        tree.clock.suspend(600.0)
        tree.set_counter("package-0", 1_000)
    assert window.reading is not None
    assert window.reading.label == "missing"


def test_garbage_in_the_counter_is_a_failed_read(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0")])
    meter = _meter(tree)
    with meter.window() as window:
        tree.advance(1.0, {"package-0": 10.0})
        tree.path("package-0").write_text("")
    assert window.reading is not None
    assert window.reading.label == "missing"


def test_the_reader_is_well_inside_half_the_shortest_wrap_time(tmp_path: Path):
    dram = FakeZone("dram", range_uj=60_000_000)  # 600 W wrap it in 0.1 s
    tree = FakePowercap(tmp_path, [FakeZone("package-0", (dram,))])
    meter = SampledMeter(RaplSource(tree.root))
    assert meter.interval_s == pytest.approx(0.1 / 8)
    assert SampledMeter(RaplSource(tree.root), interval_s=0.001).interval_s == 0.001


def test_a_stated_power_above_ours_raises_the_ceiling(tmp_path: Path):
    FakePowercap(tmp_path, [FakeZone("package-0", max_power_uw=2_000_000_000)])
    assert RaplSource(tmp_path).domains[0].ceiling_w == 4000


def test_no_zone_says_what_to_load(tmp_path: Path):
    with pytest.raises(MeterError, match="no intel-rapl zone; load it with: sudo modprobe intel_rapl_msr"):
        RaplSource(tmp_path / "nowhere")


def test_links_that_lead_nowhere_say_how_to_see_the_host_s(tmp_path: Path):
    for name in ("intel-rapl", "intel-rapl:0", "intel-rapl:0:0"):
        (tmp_path / name).symlink_to(f"../../devices/virtual/powercap/{name}")
    with pytest.raises(MeterError) as caught:
        RaplSource(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/intel-rapl:0: is a dangling link, as in a container that masks it; mount the host's sysfs"
        " (docker run -v /sys:/host/sys:ro) and give `sysfs` /host/sys"
    )


@pytest.mark.parametrize(
    ("apart_uj", "mirrored"),
    [(0, True), (3_000_000, True), (3_000_001, False), (-3_000_000, True), (-3_000_001, False)],
)
def test_dies_are_told_apart_beyond_what_a_package_draws_in_2_ms(tmp_path: Path, apart_uj: int, mirrored: bool):
    """1,500 W for 2 ms are 3 J: a die whose counter differs by more is separate."""
    dies = [
        FakeZone(f"package-0-die-{die}", start_uj=10**9 + die * apart_uj, range_uj=10**11, max_power_uw=200_000_000)
        for die in (0, 1)
    ]
    source = RaplSource(FakePowercap(tmp_path, dies).root)
    source.sample()
    assert source.mirrors() == ({1: Mirror(0, certain=apart_uj == 0)} if mirrored else {})


def test_the_smallest_range_is_one_microjoule(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0", range_uj=1, start_uj=0)])
    source = RaplSource(tree.root)
    assert source.failures == ()
    assert source.sample().values == (0,)


def test_the_highest_of_the_four_constraints_counts(tmp_path: Path):
    FakePowercap(tmp_path, [FakeZone("package-0")])
    folder = tmp_path / "intel-rapl:0"
    for number, power_uw in ((0, "900000000"), (1, "none"), (3, "1999999500"), (4, "5000000000")):
        (folder / f"constraint_{number}_max_power_uw").write_text(power_uw)
    (zone,) = find_zones(tmp_path)
    assert zone.max_power_uw == 1_999_999_500
    assert RaplSource(tmp_path).domains[0].ceiling_w == 3999  # twice that, in whole watts


def _clocks(monkeypatch: pytest.MonkeyPatch, boot_ns: list[int], monotonic_ns: list[int]) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: boot_ns.pop(0) if clock == 7 else -1, raising=False)
    monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic_ns.pop(0))


SECOND = 1_000_000_000


def test_time_suspended_is_the_boot_clock_less_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch):
    _clocks(monkeypatch, [100 * SECOND, 100 * SECOND + 999_999], [90 * SECOND + 7])
    assert system_clock() == (90 * SECOND + 7, 10 * SECOND - 7)
    _clocks(monkeypatch, [100 * SECOND, 100 * SECOND + 999_999], [100 * SECOND + 400])
    assert system_clock() == (100 * SECOND + 400, 0)  # never suspended, and read a moment later


def test_clocks_read_a_millisecond_apart_are_read_again(monkeypatch: pytest.MonkeyPatch):
    late = [100 * SECOND, 100 * SECOND + 1_000_000]
    _clocks(monkeypatch, [*late, 101 * SECOND, 101 * SECOND], [92 * SECOND, 91 * SECOND])
    assert system_clock() == (91 * SECOND, 10 * SECOND)


def test_clocks_are_read_five_times_at_most(monkeypatch: pytest.MonkeyPatch):
    boot_ns = [100 * SECOND + step * 2_000_000 for step in range(12)]
    monotonic_ns = [step * SECOND for step in range(6)]
    _clocks(monkeypatch, boot_ns, monotonic_ns)
    assert system_clock() == (4 * SECOND, 96 * SECOND + 16_000_000)
    assert (len(boot_ns), len(monotonic_ns)) == (2, 1)


def test_a_system_without_a_boot_clock_is_never_suspended(monkeypatch: pytest.MonkeyPatch):
    _clocks(monkeypatch, [], [5])
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert system_clock() == (5, 0)


def test_a_file_of_sysfs_is_one_page_at_most(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"\xff" + b"1" * 5000)
    assert read_text(tmp_path / "file") == "\ufffd" + "1" * 4095


def test_a_counter_without_a_range_is_never_read(tmp_path: Path):
    tree = FakePowercap(tmp_path, [FakeZone("package-0")])
    tree.path("package-0").with_name("max_energy_range_uj").write_text("0")
    source = RaplSource(tree.root)
    assert source.sample().values == (Failure(source.failures[0]),)


def test_the_package_of_a_zone_is_the_next_one_above_it(tmp_path: Path):
    package = FakeZone("package-1", (FakeZone("group", (FakeZone("dram"),)),))
    FakePowercap(tmp_path, [FakeZone("psys", (package, FakeZone("core")))])
    names = [domain.name for domain in RaplSource(tmp_path).domains]
    assert names == ["psys", "package-1", "package-1/group", "package-1/dram", "core"]


def test_twins_are_found_for_parts_too_and_the_msr_s_are_kept_in_any_order(tmp_path: Path):
    parts = tuple(FakeZone(name) for name in ("core", "dram", "uncore", "cache"))
    FakePowercap(
        tmp_path, [FakeZone("package-0", parts, control=control) for control in ("intel-rapl", "intel-rapl-mmio")]
    )
    zones = find_zones(tmp_path)
    for one in (plan(zones), plan(zones[::-1])):
        assert {zone.key for zone in one.zones} == {
            *(f"intel-rapl:0{part}" for part in ("", ":0", ":1", ":2", ":3")),
            "intel-rapl-mmio:0:3",  # no rule says that two zones of an unknown kind are one counter
        }
    assert [domain.name for domain in plan(zones).domains if "cache" in domain.name] == [
        "package-0/cache@intel-rapl:0:3",
        "package-0/cache@intel-rapl-mmio:0:3",
    ]
    assert plan(zones).dropped[0] == ("intel-rapl-mmio:0 (package-0): the same counter as in intel-rapl, counted once")


@pytest.mark.parametrize(
    ("vendor", "noted"), [("AuthenticAMD", ["core"]), ("HygonGenuine", ["core"]), ("GenuineIntel", []), ("", [])]
)
def test_only_amd_s_core_zone_is_one_core(tmp_path: Path, vendor: str, noted: list[str]):
    parts = tuple(FakeZone(name) for name in ("cache", "core", "dram", "uncore"))
    FakePowercap(tmp_path, [FakeZone("package-0", parts), FakeZone("psys")])
    domains = RaplSource(tmp_path, vendor=vendor).domains
    assert [domain.kind for domain in domains if domain.note] == noted
    assert [domain.ceiling_w for domain in domains] == [1500, 6000, 1500, 600, 1500, 6000]
