"""Profiles from single layers: default families, errors and intervals, on layers whose law is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.fit.design import Design, forms
from joulecast.estimator.fit.evidence import network_of
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.workload import Op, Workload

from ..synthetic import conv, network, observe

LAW = Curves(
    (
        Term("conv", "*", "macs", 2e-13),
        Term("matmul", "*", "macs", 1e-13),
        Term("pool", "*", "bytes", 9e-12),
        Term("dense", "*", "bytes", 4e-12),
        Term("*", "*", "launch", 2e-5),
    )
)


def layer(kind: str, index: int, batch: int = 16) -> Workload:
    rng = np.random.default_rng(index)
    width, side = int(rng.integers(16, 256)), int(rng.integers(8, 64))
    parameters = {"conv": 9 * width**2, "matmul": width * 4096, "pool": 0}[kind]
    if kind == "conv":
        op = conv("forward", batch, width, width, side)
    elif kind == "matmul":
        dims = {"b": 1, "m": batch * side, "k": width, "n": 4096}
        size = 4 * batch * side * (width + 4096)
        op = Op("mm", kind, "forward", "", batch * side * width * 4096, size, 0, dims=dims)
    else:
        size = 4 * batch * width * side**2
        op = Op("max_pool2d", kind, "forward", "", 0, size, size // 4, dims={"elements_in": size // 4})
    name, size = f"{kind} {index}", 4 * parameters
    return Workload(name, "pytorch", batch, False, None, "float32", parameters, parameters, size, 0, (), (op,))


def layers(count: int = 120) -> list[Observation]:
    return [observe(layer(("conv", "matmul", "pool")[index % 3], index), law=LAW) for index in range(count)]


@pytest.fixture(scope="module")
def profile() -> Profile:
    return fit(layers(), name="x")


def whole(depth: int = 37) -> Workload:
    """A network of `depth` layers of the three kinds."""
    parts = [layer(("conv", "matmul", "pool")[index % 3], 1000 + index) for index in range(depth)]
    ops = tuple(op for part in parts for op in part.ops)
    return replace(parts[0], name="whole", ops=ops, parameters=10**6)


def test_noise_free_layers_without_named_families_fit_as_well_as_with(profile: Profile) -> None:
    named = fit([replace(row, family=f"{index % 8}") for index, row in enumerate(layers())], name="x")
    assert profile.scores["time_median_error"] <= 1.5 * named.scores["time_median_error"] + 0.005
    assert profile.scores["time_median_error"] < 0.03
    assert profile.time_error.high / profile.time_error.low < 1.3


def test_a_network_of_measured_layers_is_no_extrapolation(profile: Profile) -> None:
    work = whole()
    measured = observe(work, law=LAW).step_seconds
    found = profile.predict(work).seconds
    assert found.value == pytest.approx(measured, rel=0.03)
    assert found.low <= measured <= found.high
    assert found.high / found.low < 2.5  # layers alone run from hot caches: wider than one layer's
    assert any("single layers" in note for note in profile.predict(work).warnings)
    one = profile.predict(layer("conv", 3))
    assert one.seconds.high / one.seconds.low < 1.3
    assert not any("single layers" in note for note in one.warnings)


def test_a_layer_larger_than_all_measured_still_widens(profile: Profile) -> None:
    large = observe(layer("conv", 0, batch=16 * 1000)).workload
    found = profile.predict(large)
    inside = profile.predict(layer("conv", 0)).seconds
    assert math.log(found.seconds.high / found.seconds.low) > 1.5 * math.log(inside.high / inside.low)
    assert any("has ops that move" in note or "has ops of" in note for note in found.warnings)


def test_each_kind_of_layer_is_in_every_family() -> None:
    rows = layers()
    families = Design(rows).families
    for kind in ("conv", "matmul", "pool"):
        own = {family for row, family in zip(rows, families, strict=True) if row.workload.name.startswith(kind)}
        assert len(own) == 8


def test_pools_of_different_sizes_are_different_layers_and_batches_are_not() -> None:
    pools = [observe(layer("pool", index)) for index in range(20)]
    assert len({network_of(row) for row in pools}) == 20
    assert network_of(observe(layer("pool", 5, batch=8))) == network_of(observe(layer("pool", 5, batch=32)))


def test_one_family_that_no_other_prices_is_named_and_the_others_still_fit() -> None:
    alone = Op("odd", "sort", "forward", "", 0, 10**9, 10**9, dims={"elements_in": 1})
    odd = replace(layer("conv", 0), name="odd", ops=(alone,), parameters=77)
    rows = [replace(row, family=f"{index % 8}") for index, row in enumerate(layers())]
    law = Curves((*LAW.terms[:-1], Term("sort", "*", "bytes", 1e-11)))
    fitted = fit([*rows, replace(observe(odd, law=law), family="odd")], name="x")
    assert fitted.scores["time_median_error"] < 0.05


def test_the_form_between_simple_and_kinds_has_macs_by_kind_and_two_prices_of_bytes() -> None:
    listed = {form.name: form.keys for form in forms(["conv", "matmul", "norm", "pool"])}
    assert list(listed)[:3] == ["simple", "classes", "kinds"]
    assert listed["classes"] == (
        ("conv", "*", "macs"),
        ("matmul", "*", "macs"),
        ("dense", "*", "bytes"),
        ("moving", "*", "bytes"),
        ("*", "*", "launch"),
    )


def test_a_step_has_no_start_up_and_a_short_run_says_what_it_is_made_of(profile: Profile) -> None:
    starting = replace(profile, startup_s=2.0)
    work = network(2, 16)
    one, many = starting.predict(work, steps=1), starting.predict(work, steps=100_000)
    plain = profile.predict(work, steps=1).seconds.value
    assert one.seconds.value == pytest.approx(2.0 + plain)
    assert one.step_seconds.value == pytest.approx(plain)
    assert many.step_seconds.value == pytest.approx(plain)
    assert starting.predict(work, steps=1, devices=2).step_seconds.value == pytest.approx(plain)
    assert any("start-up of a run" in note for note in one.warnings)
    assert not any("start-up of a run" in note for note in many.warnings)
    assert starting.predict(work, steps=0).step_seconds.value == 0.0
