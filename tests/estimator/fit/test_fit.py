"""`fit` recovers a known law, reports its error, and rejects rows that cannot be fitted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.cost.profile import PowerModel, Profile, read_profile
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.observation import Observation

from ..synthetic import LAW, STATIC_W, changed, network, observe, random_network, suite, watts


def truth(work, steps=1):  # type: ignore[no-untyped-def]
    parts = LAW.seconds(work.ops)
    return parts.sum() * steps, parts.sum() * steps * watts(parts)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return fit(suite(), name="a machine")


def test_unseen_networks_cost_what_the_law_says(profile: Profile) -> None:
    rng = np.random.default_rng(99)
    for _ in range(20):
        work = random_network(rng)
        estimate = profile.predict(work, steps=7)
        seconds, joules = truth(work, 7)
        assert estimate.seconds.value == pytest.approx(seconds, rel=0.01)
        assert estimate.energy_kwh.value * 3.6e6 == pytest.approx(joules, rel=0.02)


def test_no_weight_and_no_price_is_negative(profile: Profile) -> None:
    assert all(watt >= 0 for watt in profile.power.weights_w.values())
    assert profile.power.static_w >= 0
    assert all(term.seconds >= 0 for term in profile.time.terms)  # type: ignore[attr-defined]


def test_a_profile_comes_back_from_its_file_unchanged(profile: Profile, tmp_path) -> None:  # type: ignore[no-untyped-def]
    again = read_profile(profile.save(tmp_path / "p.json"))
    work = network(5, 50)
    assert again.predict(work, steps=9) == profile.predict(work, steps=9)
    assert again.to_json() == profile.to_json()


def test_the_start_of_a_run_is_paid_once() -> None:
    rng = np.random.default_rng(3)
    rows = [observe(random_network(rng), steps=int(rng.integers(20, 2000)), startup_s=5.0) for _ in range(40)]
    profile = fit(rows, name="m", startup=True)
    assert profile.startup_s == pytest.approx(5.0, rel=0.1)
    work = network(9, 77)
    one, thousand = (profile.predict(work, steps=steps) for steps in (1, 1001))
    assert thousand.seconds.value - one.seconds.value == pytest.approx(truth(work, 1000)[0], rel=0.02)
    assert sum(part.energy_kwh for part in one.breakdown) == pytest.approx(one.energy_kwh.value)
    assert sum(part.energy_kwh for part in one.layers) == pytest.approx(one.energy_kwh.value)


def test_seconds_per_op_tell_apart_what_whole_runs_cannot() -> None:
    """All of these have the same mix of work; only their op times show what norms cost."""
    works = [network(depth, width, batch=8) for depth in (2, 3, 4) for width in (8, 16, 48)]
    profile = fit([observe(work, ops=True) for work in works], name="m")
    work = network(4, 16, norms=12, batch=8)
    assert profile.predict(work).seconds.value == pytest.approx(truth(work)[0], rel=0.05)


def test_intervals_hold_for_nine_of_ten_unseen_networks() -> None:
    inside = []
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def noisy(rng: np.random.Generator = rng) -> Observation:
            return observe(random_network(rng), noise=float(np.exp(rng.normal(0, 0.05))))

        profile = fit([noisy() for _ in range(150)], name="m")
        for row in (noisy() for _ in range(200)):
            estimate = profile.predict(row.workload, steps=row.steps)
            inside.append(estimate.seconds.low <= row.seconds <= estimate.seconds.high)
    assert 0.85 <= np.mean(inside) <= 0.95


def test_intervals_widen_away_from_the_fitted_range(profile: Profile) -> None:
    def reach(work):  # type: ignore[no-untyped-def]
        seconds = profile.predict(work).seconds
        return seconds.high / seconds.value

    noisy = replace(profile, time_error=replace(profile.time_error, high=1.1))
    profile = noisy
    assert reach(network(500, 512, side=64, batch=512)) > reach(network(10, 64)) > 1.0


def test_kinds_never_fitted_are_named_and_priced(profile: Profile) -> None:
    work = network(5, 50)
    extra = replace(work.ops[1], name="embedding", kind="embedding", count=1)
    longer = replace(work, ops=(*work.ops, extra))
    before, after = profile.predict(work), profile.predict(longer)
    assert after.seconds.value > before.seconds.value
    assert any("embedding" in warning for warning in after.warnings)


def test_four_networks_carry_a_fit_with_wide_intervals() -> None:
    works = [network(5, 20), network(20, 20, norms=3), network(8, 100), network(12, 60, side=8)]
    rng = np.random.default_rng(2)
    profile = fit([observe(work, noise=float(np.exp(rng.normal(0, 0.1)))) for work in works], name="m")
    assert profile.time_error.high > 1.15


def test_an_energy_without_a_word_on_its_meter_is_the_callers_own() -> None:
    rows = [
        Observation(workload=row.workload, steps=row.steps, seconds=row.seconds, energy_j=row.energy_j)
        for row in suite()
    ]
    profile = fit(rows, name="mine")
    assert profile.provenance.power == "measured"
    assert any("caller" in note for note in profile.provenance.notes)


def test_times_alone_need_a_power_model_and_say_so() -> None:
    rows = [replace(row, energy_j=None, meter=None) for row in suite()]
    with pytest.raises(FitError, match="none of 40 observations has energy"):
        fit(rows, name="m")
    flat = PowerModel(dict.fromkeys(("compute", "memory", "launch"), 0.0), STATIC_W)
    profile = fit(rows, name="m", power=flat)
    assert profile.provenance.power == "modelled"
    estimate = profile.predict(network(5, 50), steps=10)
    assert estimate.power_source == "modelled"
    assert estimate.power_w == pytest.approx(STATIC_W)


ROWS = suite()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "0 observation.*at least 4 different networks"),
        (ROWS[:3], "3 observation.*at least 4"),
        ([ROWS[0]] * 9, "one network only.*at least 4"),
        ([replace(ROWS[0], steps=steps) for steps in range(1, 9)], "one network only"),
        (changed(ROWS, energy_j=0.0), "0.0 J"),
        (changed(ROWS, energy_j=-3.0), "-3.0 J"),
        (changed(ROWS, energy_j=float("nan")), "nan J"),
        (changed(ROWS, energy_j=float("inf")), "inf J"),
        (changed(ROWS, seconds=0.0), "took 0.0 s"),
        (changed(ROWS, seconds=float("nan")), "took nan s"),
        (changed(ROWS, steps=0), "0 steps"),
        (changed(ROWS, hardware="another"), "mix hardware: a machine, another"),
        (changed(ROWS, framework="keras"), "mix framework: keras, pytorch"),
        (changed(ROWS, meter="nvml"), "mix meter"),
        (changed(ROWS, meter=None), "J but no meter; name"),
        (changed(ROWS, meter=""), "J but no meter; name"),
        (changed(ROWS, flags=("modelled-power",)), "modelled energy"),
        (changed(ROWS, meter="tdp"), "modelled energy"),
        (changed(ROWS, energy_j=None), "39 of 40 observations have energy"),
        (changed(ROWS, op_seconds=(1.0,)), "1 op times for 7 ops"),
        (changed(ROWS, op_seconds=(-1.0,) * 7), "an op of -1.0 s"),
        ([observe(network(depth, 32)) for depth in range(3, 12)], "collinear"),
        (["rows"] * 5, "expected joulecast.Observation objects, got str"),
    ],
)
def test_what_carries_no_fit_is_refused_in_one_line(rows: list[Observation], message: str) -> None:
    with pytest.raises(FitError, match=message) as error:
        fit(rows, name="m")
    assert "\n" not in str(error.value)


def test_an_observation_survives_json_and_needs_a_meter_there() -> None:
    row = observe(network(3, 8), ops=True)
    document = json.loads(json.dumps(row.to_json()))
    assert Observation.from_json(document) == row
    with pytest.raises(FitError, match=r"schema 'other/1', this version reads .*; measure again"):
        Observation.from_json({**document, "schema": "other/1"})
    with pytest.raises(FitError, match=r"observation is corrupt \(KeyError\('workload'\)\); measure again"):
        Observation.from_json({name: value for name, value in document.items() if name != "workload"})
    del document["meter"]
    with pytest.raises(FitError, match="names no meter"):
        Observation.from_json(document)


def test_predicting_imports_neither_scikit_learn_nor_pandas(profile: Profile, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = profile.save(tmp_path / "p.json")
    code = (
        "import sys; from joulecast.estimator.cost.profile import read_profile;"
        "from joulecast.estimator.trace.workload import Workload; import json;"
        f"work = Workload.from_json(json.load(open({str(tmp_path / 'w.json')!r})));"
        f"assert read_profile({str(path)!r}).predict(work).seconds.value > 0;"
        "heavy = {'sklearn', 'pandas', 'scipy', 'torch', 'joblib'} & set(sys.modules); assert not heavy, heavy"
    )
    (tmp_path / "w.json").write_text(json.dumps(network(3, 8).to_json()))
    subprocess.run([sys.executable, "-c", code], check=True)
