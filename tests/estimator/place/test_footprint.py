from __future__ import annotations

import pytest

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.tables import read_table
from joulecast.estimator.place.footprint import LIFE_HOURS, Rent, embodied_kg, list_price
from joulecast.estimator.place.site import fleet_pue

HOUR = Interval(3600.0, 1800.0, 7200.0)


def test_a_bill_is_hours_times_devices_times_the_rate():
    bill = Rent(2.5, "USD", "given", given=True).bill(HOUR, 8)
    assert (bill.value, bill.low, bill.high) == (20.0, 10.0, 40.0)


def test_list_prices_have_sources_and_known_hardware():
    from joulecast.estimator.cost.names import find_hardware

    for row in read_table("rent.csv"):
        price = list_price(row["hardware"])
        assert price is not None
        assert price.source
        assert not price.given
        assert find_hardware(row["hardware"]).key == row["hardware"]
    assert list_price("no-such-part") is None


def test_the_footprint_of_hardware_is_spread_over_its_life():
    found = embodied_kg("h100-sxm", HOUR, 8, 1)
    assert found.kg.value == pytest.approx((8 * 164 + 2500) / LIFE_HOURS)
    assert len(found.sources) == 2
    assert embodied_kg("a100-sxm4-80gb", HOUR, 1, 0).kg.value == pytest.approx(127.6 / LIFE_HOURS)
    assert embodied_kg("b200", HOUR, 8, 0).kg.value == pytest.approx(8 * 284 / LIFE_HOURS)
    assert embodied_kg("rtx-4090", HOUR, 1, 0).kg.value == pytest.approx(150 / LIFE_HOURS)


def test_cloud_regions_have_their_providers_pue():
    for row in read_table("pue.csv"):
        assert 1.0 < float(row["pue"]) < 1.58
        assert row["source"]
    found = fleet_pue("gcp:europe-west9")
    assert found is not None
    assert found[0] == 1.09
    assert "2025" in found[1]
    assert fleet_pue("FR") is None
