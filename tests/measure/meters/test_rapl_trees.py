"""Generated powercap trees with generated power, gaps and faults: the true energy to 1 uJ, or no figure.

The expected values come from the generator: which counters are real, what each has counted, and which
belong in the total. It shares no code with the reader.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.reading import Reading
from joulecast.measure.meters.testing import FakePowercap, FakeZone

# Up to the very ceilings that the reader states, in watts.
MOST_W = {"package": 1500.0, "core": 1500.0, "uncore": 1500.0, "dram": 600.0, "psys": 6000.0}
RANGES = (
    {"unit_nj": 61_035},  # wraps at 262 kJ
    {"unit_nj": 15_300},  # 65.7 kJ
    {"range_uj": 30_000_000_000},
    {"range_uj": 65_532_610_000},
)
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
SAFE_S = 15.0  # 1500 W, the reader's ceiling, take 20 s to wrap the smallest range
LEAST_SHARE = 1e-3  # 0.3 W and more: of less, a counter stands so long that it is taken for none


@dataclass(frozen=True)
class Layout:
    zones: tuple[FakeZone, ...]
    real_counted: tuple[str, ...]  # the counters whose sum is the machine's energy
    mirrored: bool


# Strategies that are made once: making one takes as long as a draw.
SCALES = st.sampled_from(RANGES)
PARTS = st.lists(st.sampled_from(("core", "uncore", "dram")), unique=True)
HEADROOMS_J = st.one_of(st.integers(1, 3_000), st.integers(1, 29_999))
SOCKETS, DIES = st.sampled_from((1, 1, 1, 2, 2, 4, 11)), st.sampled_from((1, 1, 2, 4))
YES_NO = st.booleans()


class Headrooms:
    """Drawn amounts after which counters wrap, in uJ.

    They differ by a joule, since two real counters could otherwise show the same all along.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw, self._used = draw, set[int]()

    def next_uj(self) -> int:
        joules = self._draw(HEADROOMS_J)
        while joules in self._used:
            joules += 1
        self._used.add(joules)
        return joules * 1_000_000


def zone_of(draw: st.DrawFn, name: str, headrooms: Headrooms) -> FakeZone:
    """A zone with some of its parts in some order; each counter wraps after a drawn amount."""

    def counter() -> dict[str, int]:
        scale = draw(SCALES)
        return {**scale, "start_uj": FakeZone("", **scale).max_energy_range_uj - headrooms.next_uj()}

    return FakeZone(name, tuple(FakeZone(child, **counter()) for child in draw(PARTS)), **counter())


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    headrooms = Headrooms(draw)
    zones: list[FakeZone] = []
    counted: list[str] = []
    mirrored = draw(YES_NO)
    for socket in range(draw(SOCKETS)):
        dies = draw(DIES) if socket < 2 else 1
        names = [f"package-{socket}-die-{die}" if dies > 1 else f"package-{socket}" for die in range(dies)]
        first = zone_of(draw, names[0], headrooms)
        for position, name in enumerate(names):
            if position and mirrored:
                zones.append(replace(first, name=name, children=(), shows=names[0]))
                continue
            zone = first if position == 0 else zone_of(draw, name, headrooms)
            zones.append(zone)
            counted += [name, *(f"{name}/dram" for child in zone.children if child.name == "dram")]
    if draw(YES_NO):
        zones.append(FakeZone("psys", start_uj=262_143_000_000 - headrooms.next_uj()))
    if draw(YES_NO) and not any("die" in zone.name for zone in zones):
        zones.append(FakeZone("package-0", control="intel-rapl-mmio", start_uj=headrooms.next_uj()))
    return Layout(tuple(draw(st.permutations(zones))), tuple(counted), mirrored)


ACTIONS = st.one_of(
    st.tuples(st.just("draw"), st.floats(0.0, SAFE_S), st.floats(0.0, 1.0)),
    st.tuples(st.just("draw"), st.floats(0.0, 400.0), st.floats(0.0, 1.0)),
    st.tuples(st.sampled_from(("fail", "restore", "remove", "suspend", "skip")), st.floats(0, 1), st.floats(0, 1)),
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layout=layouts(), actions=st.lists(ACTIONS, min_size=1, max_size=10))
def test_no_wrong_total_on_any_tree(layout: Layout, actions: list[tuple[str, float, float]]):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        tree = FakePowercap(Path(folder), layout.zones)
        meter = SampledMeter(RaplSource(tree.root, clock=tree.clock), interval_s=None)
        window = meter.open()
        for kind, size, share in actions:
            _act(tree, meter, kind, size, share)
        reading = window.close()
        _check_truth(tree, layout, reading)
        if all(kind == "draw" and size <= SAFE_S and share > LEAST_SHARE for kind, size, share in actions):
            _check_nothing_is_withheld(tree, layout, reading)


def _act(tree: FakePowercap, meter: SampledMeter, kind: str, size: float, share: float) -> None:
    zone = tree.zones[int(share * (len(tree.zones) - 1))]
    if kind == "draw":
        # Unequal powers: zones take from half to all of the share, by their place in the tree.
        weights = {name: share * (1 - position / 2 / len(tree.zones)) for position, name in enumerate(tree.zones)}
        tree.advance(size, {name: MOST_W[_kind(name)] * weight for name, weight in weights.items()})
        meter.poll()
    elif kind == "suspend":
        tree.clock.suspend(3600 * size)
    elif kind == "skip":
        tree.advance(30 * size, dict.fromkeys(tree.zones, 50.0))
    else:
        {"fail": tree.fail, "restore": tree.restore, "remove": tree.remove}[kind](zone)
        meter.poll()


def _kind(name: str) -> str:
    return name.rpartition("/")[2].partition("-")[0]


def _check_truth(tree: FakePowercap, layout: Layout, reading: Reading) -> None:
    for domain in reading.domains:
        if domain.energy_uj is not None:
            assert domain.label == "measured"
            assert abs(domain.energy_uj - tree.drawn_uj(domain.domain)) <= 1, domain
    if reading.energy_uj is not None:
        truth = sum((tree.drawn_uj(name) for name in layout.real_counted), Fraction(0))
        assert abs(reading.energy_uj - truth) <= len(layout.real_counted)


def _check_nothing_is_withheld(tree: FakePowercap, layout: Layout, reading: Reading) -> None:
    """Without faults and long gaps, exactly the counters that moved have a figure."""
    for domain in reading.domains:
        if tree.drawn_uj(domain.domain) > 0 and not (layout.mirrored is False and domain.label == "ambiguous"):
            assert domain.label == "measured", domain
