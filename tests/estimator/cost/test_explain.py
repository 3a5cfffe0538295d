"""`explain` says what a law charges, in numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.curves import Curves
from joulecast.estimator.cost.explain import explain
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
