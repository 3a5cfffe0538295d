"""Budgets: parsing, verdicts at either end of the interval, and what would fit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.interval import Interval
from joulecast.estimator.place.budget import epochs_that_fit, parse_limit, regions_that_fit, verdict_of, verdicts_of_run
from joulecast.estimator.place.site import Site, load_regions


@pytest.mark.parametrize(
    ("text", "quantity", "limit", "unit"),
    [
        ("2kWh", "energy", 2, "kWh"),
        ("2 kWh", "energy", 2, "kWh"),
        ("2 kwh", "energy", 2, "kWh"),
        ("500 Wh", "energy", 0.5, "kWh"),
        ("1.5 MWh", "energy", 1500, "kWh"),
        ("3.6 MJ", "energy", 1, "kWh"),
        ("5kgCO2e", "co2e", 5, "kgCO2e"),
        ("5 kgco2", "co2e", 5, "kgCO2e"),
        ("200 gCO2e", "co2e", 0.2, "kgCO2e"),
        ("1 tCO2e", "co2e", 1000, "kgCO2e"),
        ("11 lbCO2e", "co2e", 4.98951607, "kgCO2e"),
        ("10h", "time", 36_000, "s"),
        ("30 min", "time", 1800, "s"),
        ("2 days", "time", 172_800, "s"),
        ("1e3 s", "time", 1000, "s"),
        ("3USD", "cost", 3, "USD"),
        ("3 eur", "cost", 3, "EUR"),
        ("$3", "cost", 3, "USD"),
        ("2.50 €", "cost", 2.5, "EUR"),
    ],
)
def test_budgets_are_read(text: str, quantity: str, limit: float, unit: str) -> None:
    read = parse_limit(text)
    assert (read.quantity, read.unit, read.text) == (quantity, unit, text)
    assert read.amount == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5 parsecs", r"budget '5 parsecs' has the unknown unit 'parsecs': give kWh .* kgCO2e .* h .* USD"),
        ("5", r"budget '5' has no unit: give kWh"),
        ("5 kg", r"unknown unit 'kg'"),
        ("5 mWh", r"unknown unit 'mWh'"),  # a thousandth is not a million
        ("5 mj", r"unknown unit 'mj'"),
        ("5 m", r"unknown unit 'm'"),
        ("0 kWh", r"budget '0 kWh' cannot be used: give a number above 0"),
        ("-2kWh", r"give a number above 0"),
        ("nan kWh", r"give a number above 0"),
        ("inf h", r"give a number above 0"),
        ("1e999 h", r"give a number above 0"),
        ("$3 EUR", r"has two units"),
        ("kWh", r"cannot be read"),
        ("", r"cannot be read"),
        ("1,5 kWh", r"unknown unit ',5'|cannot be read"),
        ("2 kWh\nor so", r"cannot be read"),
    ],
)
def test_texts_that_are_no_budget(text: str, message: str) -> None:
    with pytest.raises(JoulecastError, match=message) as caught:
        parse_limit(text)
    assert "\n" not in str(caught.value)


def test_upper_end_decides_unless_expected_is_asked_for() -> None:
    limit, figure = parse_limit("2kWh"), Interval(1.8, 1.5, 2.5)
    strict, lenient = verdict_of(limit, figure), verdict_of(limit, figure, at="expected")
    assert (strict.exceeded, lenient.exceeded) == (True, False)
    assert strict.excess == pytest.approx(0.5)
    assert strict.excess_percent == pytest.approx(25)
    assert str(strict) == "over budget: 2.5 of 2 kWh with PUE at the interval's upper end, 25 % too much"
    assert str(lenient) == "within budget: 1.8 of 2 kWh with PUE at the expected value"


def test_verdict_speaks_the_users_unit() -> None:
    verdict = verdict_of(parse_limit("10h"), Interval.exact(39_600))
    assert str(verdict) == "over budget: 11 of 10 h at the interval's upper end, 10 % too much"
    document = json.loads(json.dumps(verdict.to_json()))
    assert (document["limit"], document["figure"], document["unit"]) == (36_000, 39_600, "s")
    assert document["exceeded"] is True


def test_exactly_the_limit_is_kept() -> None:
    assert not verdict_of(parse_limit("2kWh"), Interval.exact(2.0)).exceeded


# A run of 100 s and 8 kWh: 10 kWh of the building, 4 kg of CO2e and 3 EUR.
SITE = Site(pue=1.25, carbon_g_per_kwh=400, price_per_kwh=0.3, currency="EUR")
RUN = {"seconds": Interval(100, 90, 120), "energy_kwh": Interval(8, 6, 12)}


@pytest.mark.parametrize(
    ("text", "expected", "high"), [("1kWh", 10, 15), ("1kgCO2e", 4, 6), ("1h", 100, 120), ("1EUR", 3, 4.5)]
)
def test_each_budget_limits_its_own_figure(text: str, expected: float, high: float) -> None:
    limits = [parse_limit(text)]
    (strict,) = verdicts_of_run(limits, SITE, **RUN)
    (lenient,) = verdicts_of_run(limits, SITE, **RUN, at="expected")
    assert (strict.figure, lenient.figure) == (pytest.approx(high), pytest.approx(expected))


def test_a_budget_whose_figure_is_unknown_has_no_verdict() -> None:
    limits = [parse_limit(text) for text in ("1kWh", "1kgCO2e", "1h", "1EUR")]
    (time,) = verdicts_of_run(limits, SITE, seconds=Interval.exact(10), energy_kwh=None)
    assert time.limit.quantity == "time"
    others = verdicts_of_run(limits, SITE, seconds=None, energy_kwh=Interval.exact(1))
    assert [verdict.limit.quantity for verdict in others] == ["energy", "co2e", "cost"]


def test_money_is_compared_in_one_currency() -> None:
    with pytest.raises(JoulecastError, match=r"'\$3' is in USD, the price in EUR"):
        verdicts_of_run([parse_limit("$3")], SITE, **RUN)


def test_epochs_that_fit_by_hand() -> None:
    verdict = verdict_of(parse_limit("2kWh"), Interval.exact(5.0))
    assert epochs_that_fit(verdict, 100) == 40
    assert epochs_that_fit(verdict_of(parse_limit("1kWh"), Interval.exact(200.0)), 100) == 0
    assert epochs_that_fit(verdict_of(parse_limit("0.3kWh"), Interval.exact(0.1)), 1) == 3  # 3 x 0.1 > 0.3 in binary


@given(figure=st.floats(1e-6, 1e6), limit=st.integers(1, 10_000), epochs=st.integers(1, 1000))
def test_one_epoch_more_would_not_fit(figure: float, limit: int, epochs: int) -> None:
    verdict = verdict_of(parse_limit(f"{limit} kWh"), Interval.exact(figure))
    fit = epochs_that_fit(verdict, epochs)
    per_epoch = figure / epochs
    assert fit * per_epoch <= limit * (1 + 1e-9)
    assert (fit + 1) * per_epoch > limit * (1 - 1e-9)


def test_regions_that_fit() -> None:
    energy = Interval(10, 8, 15)
    limit = parse_limit("1kgCO2e")
    high = regions_that_fit(verdict_of(limit, Interval(4, 3, 6)), energy, load_regions())
    expected = regions_that_fit(verdict_of(limit, Interval(4, 3, 6), "expected"), energy, load_regions())
    assert all(region.carbon_g_per_kwh <= 1000 / 15 for region in high)
    assert {"FR", "SE", "NO"} <= {region.code for region in high}
    assert "DE" not in {region.code for region in expected}
    assert {region.code for region in high} < {region.code for region in expected}
    intensities = [region.carbon_g_per_kwh for region in high]
    assert intensities == sorted(intensities)
    assert {region.basis for region in high} == {"life cycle"}
    same = [region for region in load_regions() if region.basis == "life cycle"]
    left_out = sorted(region.carbon_g_per_kwh for region in same if region not in high)
    assert left_out[0] == 0  # a gap in the statistics is no clean grid
    assert left_out[1] > 1000 / 15


def test_a_run_on_direct_figures_is_offered_regions_of_direct_figures() -> None:
    verdict = verdict_of(parse_limit("1kgCO2e"), Interval.exact(6))
    direct = regions_that_fit(verdict, Interval.exact(10), load_regions(), "direct")
    assert direct
    assert {region.basis for region in direct} == {"direct"}


def test_only_co2e_depends_on_the_region() -> None:
    verdict = verdict_of(parse_limit("1kWh"), Interval.exact(4))
    assert regions_that_fit(verdict, Interval.exact(4), load_regions()) == ()


def test_a_budget_in_money_names_what_it_is_compared_with() -> None:
    """10 kWh with PUE 1.5 at 0.2 a kWh are 3 of electricity; the rent is 40."""
    site = Site(pue=1.5, price_per_kwh=0.2)
    run = {"seconds": Interval.exact(1.0), "energy_kwh": Interval.exact(10.0)}
    (plain,) = verdicts_of_run([parse_limit("30 USD")], site, **run)
    assert str(plain) == "within budget: 3 of 30 USD of electricity at the interval's upper end"
    assert plain.to_json()["judged"] == "cost of the facility energy"
    money, energy = verdicts_of_run(
        [parse_limit("30 USD"), parse_limit("20 kWh")], site, **run, rent=Interval.exact(40)
    )
    assert str(money) == "over budget: 40 of 30 USD of rent at the interval's upper end, 33.3 % too much"
    assert money.to_json()["judged"] == "rent of the devices"
    assert energy.to_json()["judged"] == "facility energy (the machine's times PUE)"
