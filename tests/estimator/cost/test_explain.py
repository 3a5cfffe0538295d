"""`explain` prints the prices of a known law; numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulecast.estimator.cost import explain as explain_module
from joulecast.estimator.cost.bounds import ErrorModel, Range
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.deviation import TRAITS
from joulecast.estimator.cost.explain import explain
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.population import Deviation, PopulationTime
from joulecast.estimator.cost.profile import PowerModel, Profile, Provenance

from ..synthetic import LAW, STATIC_W, WEIGHTS_W


@pytest.fixture
def profile() -> Profile:
    return Profile(
        name="m",
        hardware="a machine",
        device="cpu",
        framework="pytorch",
        time=LAW,
        power=PowerModel(WEIGHTS_W, STATIC_W),
        time_error=ErrorModel(0.9, 1.1),
        energy_error=ErrorModel(0.8, 1.25),
        provenance=Provenance("measured", "measured", ("by hand",), fitted_on="40 networks"),
        startup_s=2.0,
    )


def test_weights_prices_and_evidence(profile: Profile) -> None:
    facts = {(fact.section, fact.name, fact.unit): fact.value for fact in explain(profile)}
    assert facts["power", "w_compute", "W"] == 180.0
    assert facts["power", "P_s", "W"] == 50.0
    # 10^9 multiply-adds at 2e-13 s, at 180 + 50 W
    assert facts["price", "conv", "J/GFLOP"] == pytest.approx(1e9 * 2e-13 * 230)
    # 10^9 bytes at 4e-12 s, at 60 + 50 W
    assert facts["price", "norm", "J/GB"] == pytest.approx(1e9 * 4e-12 * 110)
    assert facts["speed", "norm", "GB/s"] == pytest.approx(250.0)
    assert facts["time", "start of a run", "s"] == 2.0
    assert facts["evidence", "fitted on", ""] == "40 networks"
    assert facts["errors", "90 % of energies, measured over predicted", ""] == "0.8 to 1.25"


def test_bounds_that_depend_on_the_number_of_ops_are_told_for_many_and_for_twenty(profile: Profile) -> None:
    measured = replace(profile, time_error=ErrorModel(0.8, 1.25, per_op=0.5))
    (bounds,) = [fact.value for fact in explain(measured) if fact.name == "90 % of times, measured over predicted"]
    # exp(sqrt(ln(1.25)^2 + 0.5^2 / 20)) = 1.2835, and one over it
    assert bounds == "0.8 to 1.25 in networks of very many ops; 0.779 to 1.28 in those of 20 different ones"


def test_components_add_up_to_those_of_the_time_model(profile: Profile) -> None:
    named = {fact.name for fact in explain(profile) if fact.section == "power"}
    assert named == {*(f"w_{name}" for name in Curves.components), "P_s"}


@pytest.mark.parametrize(
    ("kind", "feature", "of_a_giga"),
    [
        # Per 10^9 multiply-adds of products whose inner size is 128 channels x 9, or 1024, and whose n is 128 or 1024
        ("conv", "macs", 1e9),
        ("conv", "result", 1e9 / (128 * 9)),
        ("conv", "left", 1e9 / 128),
        ("conv", "bytes", 1e9 * 8 / (128 * 9)),
        ("matmul", "result", 1e9 / 1024),
        ("matmul", "left", 1e9 / 1024),
        ("matmul", "bytes", 1e9 * 8 / 1024),
        ("attention", "bytes", 1e9 * 8 / 128),
        ("norm", "bytes", 1e9),
    ],
)
def test_the_price_of_a_middling_op(profile: Profile, kind: str, feature: str, of_a_giga: float) -> None:
    law = Curves((Term(kind, "*", feature, 1e-12), Term("*", "*", "launch", 1.0)))
    facts = {(fact.section, fact.name): fact for fact in explain(replace(profile, time=law))}
    watts = (60 if law.terms[0].component == "memory" else 180) + 50
    price, speed = facts["price", kind], facts["speed", kind]
    assert price.value == pytest.approx(of_a_giga * 1e-12 * watts)
    assert speed.value == pytest.approx(1 / (of_a_giga * 1e-12))
    assert (price.unit, speed.unit) == (("J/GB", "GB/s") if kind == "norm" else ("J/GFLOP", "GFLOP/s"))


def test_a_kind_that_costs_nothing_has_no_speed(profile: Profile) -> None:
    law = Curves((Term("norm", "*", "bytes", 0.0), Term("*", "*", "launch", 1.0)))
    facts = {(fact.section, fact.name): fact.value for fact in explain(replace(profile, time=law))}
    assert facts["price", "norm"] == 0.0
    assert ("speed", "norm") not in facts


def test_kinds_that_have_prices_of_their_own(profile: Profile) -> None:
    terms = [Term(kind, "*", "bytes", 1e-12) for kind in ("pool", "conv1", "conv_grouped", "norm")]

    def priced(law: Curves, kinds: tuple[str, ...] = ()) -> list[str]:
        return [fact.name for fact in explain(replace(profile, time=law, kinds=kinds)) if fact.section == "price"]

    assert priced(Curves(tuple(terms))) == ["conv", "norm", "pool"]
    assert priced(Curves(tuple(terms)), ("norm", "sort")) == ["norm"]
    assert priced(Curves((*terms, Term("dense", "*", "macs", 1.0)))) == ["conv", "matmul", "norm"]
    assert priced(Curves((Term("*", "*", "bytes", 1e-12),))) == []


def test_what_is_not_said_is_left_out_or_named(profile: Profile) -> None:
    bare = replace(profile, startup_s=0.0, provenance=replace(profile.provenance, fitted_on="", notes=("a", "b")))
    facts = explain(bare)
    named = {fact.name: fact.value for fact in facts}
    assert "start of a run" not in named
    assert (named["fitted on"], named["boundary"]) == ("a datasheet", "not said")
    assert [fact.value for fact in facts if fact.name == "note"] == ["a", "b"]
    ranged = explain(replace(profile, ranges={"flops": Range(1e3, 2.5e6)}, scores={"energy_mape": 0.05}))
    assert {fact.name: fact.value for fact in ranged if fact.section == "range"} == {"flops": "1,000 to 2,500,000"}
    assert ("energy_mape", 0.05) in {(fact.name, fact.value) for fact in ranged if fact.section == "errors"}


def test_what_runs_changed_of_the_population(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third, fourth = TRAITS[:4]
    known = load_profile("t4")
    assert isinstance(known.time, PopulationTime)
    logs = {**dict.fromkeys(TRAITS, 0.0), first: math.log(1.1), fourth: math.log(0.5)}
    told = {first: 0.5, second: 0.05, third: 0.04, fourth: 0.9}
    monkeypatch.setattr(explain_module, "learnt_shares", lambda *_, amd: told)
    time = replace(known.time, deviation=Deviation(logs, ((1.0,),), 0.1))
    found = [fact for fact in explain(replace(known, time=time)) if fact.section in ("learnt from the runs", FROM)]
    assert [(fact.name, fact.value) for fact in found] == [
        (fourth, "-50.0 % time, 90 % known from the runs"),
        (first, "+10.0 % time, 50 % known from the runs"),
        (second, "+0.0 % time, 5 % known from the runs"),
        ("all others", third),
    ]
    told[third] = 0.06
    assert FROM not in {fact.section for fact in explain(replace(known, time=time))}
    assert not {"learnt from the runs", FROM} & {fact.section for fact in explain(known)}


FROM = "from the population"
