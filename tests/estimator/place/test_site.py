"""From joules to kWh, CO2e and money; the thesis's Table 4.0.1; the region and comparison tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.tables import read_table
from joulecast.estimator.base.units import GRAMS_PER_LB, joules_to_kwh
from joulecast.estimator.place.comparisons import familiar, load_yardsticks
from joulecast.estimator.place.site import (
    DEFAULT_PUE,
    Site,
    co2e_kg,
    cost,
    facility_energy_kwh,
    find_region,
    load_regions,
    make_site,
)


def thesis_row(power_w: float, hours: float) -> tuple[float, float]:
    """kWh with PUE and pounds of CO2 by equations 3.5.2 and 3.5.3."""
    site = Site()
    energy = facility_energy_kwh(Interval.exact(joules_to_kwh(power_w * hours * 3600)), site)
    return energy.value, co2e_kg(energy, site).value * 1000 / GRAMS_PER_LB


def test_table_4_0_1_of_the_thesis() -> None:
    kwh, pounds = thesis_row(49.49, 0.5)
    assert (f"{kwh:.3f}", f"{pounds:.3f}") == ("0.039", "0.037")
    kwh, pounds = thesis_row(27.77, 6)
    assert (f"{kwh:.3f}", f"{pounds:.2f}") == ("0.263", "0.25")


def test_the_thesis_disagrees_with_itself_on_simplenet() -> None:
    """Its text gives 46.73 + 3.06 W, which makes .038 lb instead of the table's .037."""
    assert f"{46.73 + 3.06:.2f}" == "49.79"
    kwh, pounds = thesis_row(46.73 + 3.06, 0.5)
    assert (f"{kwh:.3f}", f"{pounds:.3f}") == ("0.039", "0.038")


def test_defaults_are_the_thesis_figures() -> None:
    site = make_site()
    assert site.pue == DEFAULT_PUE == 1.58
    assert site.carbon_g_per_kwh == pytest.approx(432.727121, abs=1e-6)  # 0.954 x 453.59237
    assert "thesis" in site.carbon_source
    assert cost(Interval.exact(10.0), site).value == pytest.approx(1.249)
    assert "EIA" in site.price_source


def test_kwh_is_exact() -> None:
    assert joules_to_kwh(3_600_000) == 1.0
    assert joules_to_kwh(900_000) == 0.25


def test_interval_goes_through_the_chain() -> None:
    site = make_site(carbon_g_per_kwh=500, pue=1.2, price_per_kwh=0.3, currency="EUR")
    facility = facility_energy_kwh(Interval(10, 8, 15), site)
    assert (facility.low, facility.value, facility.high) == pytest.approx((9.6, 12, 18))
    assert co2e_kg(facility, site).high == pytest.approx(9)
    assert cost(facility, site).high == pytest.approx(5.4)
    assert (site.currency, site.price_source) == ("EUR", "given")


@given(
    energy=st.floats(0, 1e9),
    pue=st.floats(1, 5),
    carbon=st.floats(0, 2000),
    price=st.floats(0, 10),
)
def test_costs_scale_with_energy(energy: float, pue: float, carbon: float, price: float) -> None:
    site = Site(pue, carbon, "given", price)
    once = facility_energy_kwh(Interval.exact(energy), site)
    twice = facility_energy_kwh(Interval.exact(2 * energy), site)
    assert twice.value == pytest.approx(2 * once.value)
    assert cost(twice, site).value == pytest.approx(2 * cost(once, site).value)
    assert once.value >= energy
    assert co2e_kg(twice, site).value == pytest.approx(2 * co2e_kg(once, site).value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pue": 0.9}, "PUE 0.9"),
        ({"pue": math.nan}, "PUE nan"),
        ({"pue": math.inf}, "PUE inf"),
        ({"carbon_g_per_kwh": -1.0}, "carbon intensity -1.0"),
        ({"carbon_g_per_kwh": math.nan}, "carbon intensity nan"),
        ({"price_per_kwh": -0.1}, "price -0.1"),
        ({"price_per_kwh": math.nan}, "price nan"),
        ({"currency": "EUR"}, "`currency` EUR without a `price`"),
        ({"region": "FR", "carbon_g_per_kwh": 10.0}, "`region` 'FR' and `carbon_intensity` 10.0"),
    ],
)
def test_unusable_sites_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(JoulecastError, match=message) as caught:
        make_site(**options)  # type: ignore[arg-type]
    assert "give" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "code", "g_per_kwh"),
    [
        ("FR", "FR", 44.2),
        ("fr", "FR", 44.2),
        (" France ", "FR", 44.2),
        ("US-CA", "US-CA", 179.1),
        ("california", "US-CA", 179.1),
        ("gcp:europe-west9", "gcp:europe-west9", 16.3),
        ("europe-west9", "gcp:europe-west9", 16.3),
        ("gcp:me-central1", "gcp:me-central1", 366),
        ("United States", "US", 383.5),
    ],
)
def test_regions_are_found(name: str, code: str, g_per_kwh: float) -> None:
    region = find_region(name)
    assert (region.code, region.carbon_g_per_kwh) == (code, g_per_kwh)


def test_site_names_its_region() -> None:
    site = make_site(region="fr")
    assert site.carbon_g_per_kwh == 44.2
    assert site.carbon_source.startswith("FR (France), 2024, Our World in Data")


def test_unknown_and_ambiguous_regions_are_refused() -> None:
    with pytest.raises(JoulecastError, match=r"unknown region 'Frence': near names are FR \(France\)"):
        find_region("Frence")
    with pytest.raises(JoulecastError, match=r"'Georgia' names several regions: give GE or US-GA"):
        find_region("Georgia")
    for name in ("", "  ", "aws:us-east-99", "Atlantis\n"):
        with pytest.raises(JoulecastError, match="unknown region") as caught:
            find_region(name)
        assert "\n" not in str(caught.value)


def test_region_table_is_sound() -> None:
    regions = load_regions()
    assert len(regions) == 324
    assert len({region.code.casefold() for region in regions}) == 324
    for region in regions:
        assert find_region(region.code) == region
        assert 0 <= region.carbon_g_per_kwh < 1400, region.code
        assert 2005 < region.year < 2027, region.code
        if region.code.startswith("US-"):
            assert region.code.isupper()


@pytest.mark.parametrize("name", ["hardware.csv", "carbon_intensity.csv", "comparisons.csv"])
def test_every_row_has_its_source_and_year(name: str) -> None:
    rows = read_table(name)
    assert rows
    for row in rows:
        assert row["source"].strip(), row
        assert row["year"].isdigit(), row


def test_familiar_picks_readable_counts() -> None:
    energy, gas = familiar(0.263, 0.113)
    assert energy.yardstick.key == "smartphone-charge"
    assert energy.count == pytest.approx(0.263 / 0.012)
    assert str(energy) == "about 22 smartphone charges"
    assert gas.yardstick.key == "us-car-km"
    assert "EPA" in gas.yardstick.source
    big_energy, big_gas = familiar(433_196, 24_700)
    assert (big_energy.yardstick.key, big_gas.yardstick.key) == ("us-home-year", "us-car-year")


def test_familiar_is_silent_where_nothing_compares() -> None:
    assert familiar(0.0, 0.0) == ()
    assert familiar(1e-6, 1e-6) == ()


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_familiar_counts_are_of_the_figure(energy_kwh: float, kg: float) -> None:
    given = {"energy": energy_kwh, "co2e": kg}
    for comparison in familiar(energy_kwh, kg):
        assert comparison.yardstick in load_yardsticks()
        assert comparison.count * comparison.yardstick.amount == pytest.approx(given[comparison.yardstick.quantity])
        assert 0.1 <= comparison.count <= 10_000
