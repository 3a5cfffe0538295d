"""Dies that may show one counter: when the second is a repetition of the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.measure.meters.rapl import RaplSource, read_text
from joulecast.measure.meters.tally import Failure, Mirror
from joulecast.measure.meters.testing import FakePowercap, FakeZone


class _Script:
    """Reads of dies' counters in the order given, the last again and again; an OSError is raised."""

    def __init__(self, **reads: list[int | OSError]) -> None:
        self.reads = {f"intel-rapl:{name[1:]}": list(values) for name, values in reads.items()}
        self.on = False

    def __call__(self, path: Path) -> str:
        if not self.on or path.name != "energy_uj":
            return read_text(path)
        values = self.reads[path.parent.name]
        value = values.pop(0) if len(values) > 1 else values[0]
        if isinstance(value, OSError):
            raise value
        return str(value)


def _dies(tmp_path: Path, range_uj: int, script: _Script) -> RaplSource:
    zones = [FakeZone(f"package-0-die-{die}", range_uj=range_uj) for die in range(len(script.reads))]
    source = RaplSource(FakePowercap(tmp_path, zones).root, read=script)
    script.on = True
    return source


@pytest.mark.parametrize(
    ("before", "repeated", "after", "certain"),
    [
        (500, 500, 500, True),
        (500, 500, 507, True),
        (500, 507, 507, True),
        (500, 508, 507, False),
        (500, 499, 507, False),
        (500, 507, 500, False),
        (990, 5, 10, True),  # all after a wrap at 1,000
        (990, 11, 10, False),
        (990, 989, 10, False),
        (10, 5, 20, False),
        (13, 22, 21, False),
        (999, 0, 0, True),
        (999, 1, 0, False),
    ],
)
def test_a_repeated_counter_is_between_two_reads_of_its_original(
    tmp_path: Path, before: int, repeated: int, after: int, certain: bool
):
    source = _dies(tmp_path, 1000, _Script(z0=[before, after], z1=[repeated]))
    assert source.sample().values == (before, repeated)
    assert source.mirrors() == {1: Mirror(0, certain)}


@pytest.mark.parametrize(("apart_uj", "mirrored"), [(3_000_000, True), (3_000_001, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_distance_of_two_dies_goes_across_a_wrap(tmp_path: Path, apart_uj: int, mirrored: bool, sign: int):
    low, high = 10**9 - 1_000_000, apart_uj - 1_000_000
    first, second = (low, high) if sign > 0 else (high, low)
    source = _dies(tmp_path, 10**9, _Script(z0=[first], z1=[second]))
    source.sample()
    assert source.mirrors() == ({1: Mirror(0, certain=False)} if mirrored else {})


def test_one_sample_outside_is_enough_and_later_ones_do_not_change_that(tmp_path: Path):
    source = _dies(tmp_path, 1000, _Script(z0=[500, 500, 600, 600, 700, 700], z1=[500, 601, 700]))
    certain = []
    for _ in range(3):
        source.sample()
        certain.append(source.mirrors()[1].certain)
    assert certain == [True, False, False]


@pytest.mark.parametrize(
    ("script", "mirrors"),
    [
        # The first read of die 0 fails: dies 1 and 2 are still compared.
        (_Script(z0=[OSError(5, "EIO"), 500], z1=[500], z2=[500]), {2: Mirror(1, True)}),
        # Its second read fails.
        (_Script(z0=[500, OSError(5, "EIO")], z1=[500], z2=[500]), {2: Mirror(1, True)}),
        (_Script(z0=[500], z1=[OSError(5, "EIO")], z2=[500]), {2: Mirror(0, True)}),
        (_Script(z0=[500], z1=[500], z2=[OSError(5, "EIO")]), {1: Mirror(0, True)}),
        (_Script(z0=[500], z1=[500], z2=[500]), {1: Mirror(0, True), 2: Mirror(0, True)}),
        (_Script(z0=[10**9], z1=[5], z2=[5]), {2: Mirror(1, True)}),
        (_Script(z0=[5], z1=[10**9], z2=[5]), {2: Mirror(0, True)}),
    ],
)
def test_a_read_that_fails_leaves_out_its_own_pairs_only(tmp_path: Path, script: _Script, mirrors: dict[int, Mirror]):
    source = _dies(tmp_path, 10**11, script)
    source.sample()
    assert source.mirrors() == mirrors


@pytest.mark.parametrize(
    ("error", "reason", "fatal"),
    [
        (OSError(2, "No such file"), "vanished", True),
        (OSError(19, "No such device"), "vanished", True),
        (OSError(6, "No such device or address"), "vanished", True),
        (OSError(20, "Not a directory"), "vanished", True),
        (OSError(5, "Input/output error"), ": Input/output error", False),
        (OSError(61, "No data available"), ": No data available", False),
    ],
)
def test_only_a_counter_that_is_gone_ends_the_window(tmp_path: Path, error: OSError, reason: str, fatal: bool):
    (value,) = _dies(tmp_path, 1000, _Script(z0=[error])).sample().values
    assert isinstance(value, Failure)
    assert value.reason.endswith(reason)
    assert value.fatal is fatal


def test_the_ceiling_of_the_first_die_decides_how_far_apart_two_dies_are(tmp_path: Path):
    """1,500 W for 2 ms are 3 J; the second die may draw 4,000 W."""
    dies = [
        FakeZone("package-0-die-0", start_uj=10**9, range_uj=10**11),
        FakeZone("package-0-die-1", start_uj=10**9 + 4_000_000, range_uj=10**11, max_power_uw=2_000_000_000),
    ]
    source = RaplSource(FakePowercap(tmp_path, dies).root)
    assert [domain.ceiling_w for domain in source.domains] == [1500, 4000]
    source.sample()
    assert source.mirrors() == {}
