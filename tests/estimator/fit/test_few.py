"""Fits from one run on: deviations from the population, recovered from runs with a known deviation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from joulecast.estimator.base.errors import FitError, HardwareError
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.deviation import TRAITS, log_step, traits
from joulecast.estimator.cost.explain import explain
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.pieces import columns
from joulecast.estimator.cost.population import Deviation, PopulationTime
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.fit.few import Prior, posterior
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.fit.runs import read_runs
from joulecast.estimator.trace.workload import Op, Workload

GPU = "a100-sxm4-80gb"


def network(name: str, products: int, side: int, copies: int) -> Workload:
    item = 4 * side**2
    matmul = Op(
        "mm", "matmul", "forward", "", side**3, 2 * item, item, dims={"b": 1, "m": side, "k": side, "n": side},
        count=products,
    )  # fmt: skip
    copy = Op("copy", "copy", "forward", "", 0, 10**8, 10**8, dims={"elements_in": 1}, count=copies)
    return Workload(name, "pytorch", 32, False, None, "float32", side, side, 0, 0, (), (matmul, copy))


def convolutions(name: str, channels: int, count: int) -> Workload:
    dims = {"n": 32, "c_in": channels, "c_out": channels, "in": 784, "out": 784, "k": 9, "groups": 1, "transposed": 0}
    size = 4 * 32 * 784 * channels
    conv = Op(
        "conv", "conv", "forward", "", 32 * 784 * channels**2 * 9, 2 * size, size, dims=dims, count=count
    )  # fmt: skip
    return Workload(name, "pytorch", 32, False, None, "float32", channels, channels, 0, 0, (), (conv,))


def deviation(**logs: float) -> Deviation:
    return Deviation(logs)


NETWORKS = [network("dense", 20, 4096, 1), network("moving", 2, 1024, 60), network("both", 10, 2048, 10)]


def runs(deviation: Deviation, networks: list[Workload], watts: float | None = None) -> list[Observation]:
    time = datasheet_profile(find_hardware(GPU)).for_software("eager").time
    assert isinstance(time, PopulationTime)
    true = replace(time, deviation=deviation)
    rows = []
    for work in networks:
        seconds = float(true.seconds(work.ops).sum())
        energy = None if watts is None else watts * seconds
        rows.append(Observation(work, 1, seconds, energy, hardware=GPU, family=work.name))
    return rows


def off(profile: Profile, rows: list[Observation]) -> float:
    """The largest error of the profile's times."""
    ratios = [profile.predict(row.workload, steps=1).seconds.value / row.step_seconds for row in rows]
    return max(abs(ratio - 1) for ratio in ratios)


def test_one_run_brings_the_profile_near_and_three_nearer() -> None:
    rows = runs(deviation(compute=0.25, memory=0.2, launch=0.1), NETWORKS)
    none = datasheet_profile(find_hardware(GPU)).for_software("eager")
    one, three = fit(rows[:1], name="mine", hardware=GPU), fit(rows, name="mine", hardware=GPU)
    assert off(none, rows[:1]) > 0.15
    assert off(one, rows[:1]) < 0.7 * off(none, rows[:1])
    assert off(three, rows) < 0.6 * off(none, rows)
    widths = [p.predict(rows[0].workload).seconds for p in (none, one, three)]
    ratios = [one.high / one.low for one in widths]
    assert ratios[0] * (1 + 1e-9) >= ratios[1] > ratios[2]  # one run tells little about how networks scatter
    assert one.provenance.time == "measured"
    assert "1 run of 1 network," in one.provenance.fitted_on


def test_runs_as_the_population_predicts_them_change_nothing() -> None:
    fitted = fit(runs(Deviation(), NETWORKS), name="mine", hardware=GPU)
    assert isinstance(fitted.time, PopulationTime)
    assert max(abs(value) for value in fitted.time.deviation.logs.values()) < 1e-6


def test_launches_that_hide_behind_the_device_are_not_added() -> None:
    """Deep networks of small ops, where the host is the slower one, among networks that keep the device busy."""
    true = deviation(launch=0.3, compute=-0.1)
    deep = [network(f"deep {count}", count, 96, count) for count in (300, 500, 900)]
    busy = [network(f"busy {side}", 20, side, 10) for side in (1024, 1536, 2048, 3072, 4096, 5120)]
    rows = runs(true, [*deep, *busy], watts=200.0)
    fitted = fit(rows, name="mine", hardware=GPU)
    assert isinstance(fitted.time, PopulationTime)
    rows = runs(true, [network("both", 400, 1200, 100), network("deeper", 2000, 64, 10)])
    whole = sum(fitted.time.parts(rows[0].workload.ops)) / rows[0].step_seconds
    assert whole > 1.15  # what adding the launches would say
    assert off(fitted, rows[:1]) < 0.05
    none = datasheet_profile(find_hardware(GPU)).for_software("eager")
    assert off(fitted, rows[1:]) < 0.75 * off(none, rows[1:])


def test_a_repeated_run_counts_once() -> None:
    rows = runs(deviation(compute=0.3, memory=0.3), NETWORKS[:1])
    once, often = fit(rows, name="a", hardware=GPU), fit(rows * 5, name="a", hardware=GPU)
    assert isinstance(once.time, PopulationTime)
    assert isinstance(often.time, PopulationTime)
    assert often.time.deviation.logs == pytest.approx(once.time.deviation.logs, abs=1e-6)


def test_convolutions_teach_convolutions_more_than_matrix_products() -> None:
    true = deviation(conv=0.4)
    rows = runs(true, [convolutions("a", 64, 20), convolutions("b", 128, 20), convolutions("c", 256, 20)])
    other = runs(true, [convolutions("d", 192, 30), NETWORKS[0]])
    fitted = fit(rows, name="mine", hardware=GPU)
    none = datasheet_profile(find_hardware(GPU)).for_software("eager")
    assert off(none, other[:1]) > 0.3
    assert off(fitted, other[:1]) < 0.12
    moved = fitted.predict(NETWORKS[0]).seconds.value / none.predict(NETWORKS[0]).seconds.value
    assert 1.0 < moved < 1.3  # exp(0.4) is 1.49: a part of what convolutions show belongs to the whole device
    conv, product = (fitted.predict(row.workload).seconds for row in other)
    assert conv.high / conv.low < product.high / product.low


def test_networks_that_scatter_move_the_deviation_less_and_widen_the_interval() -> None:
    rows = runs(Deviation(), [convolutions(str(size), size, 20) for size in (64, 96, 128)])
    noisy = [replace(row, seconds=row.seconds * math.exp(0.2 + 0.4 * (at - 1))) for at, row in enumerate(rows)]
    steady = [replace(row, seconds=row.seconds * math.exp(0.2)) for row in rows]
    wide, narrow = (fit(some, name="mine", hardware=GPU) for some in (noisy, steady))
    one, other = (profile.predict(rows[0].workload).seconds for profile in (wide, narrow))
    assert one.high / one.low > 1.2 * (other.high / other.low)
    assert off(narrow, steady) < 0.06


def test_the_posterior_of_one_trait_is_that_of_the_textbook() -> None:
    # one value with spread 0.3, two rows of slope 1 with noise 0.1. A row at the middle counts 5 / (4 + v) times, where
    # v is the value's variance over 0.01: v = 1 / (0.01 / 0.09 + 2 x 5 / (4 + v)), v = 0.421
    prior = Prior(np.array([0.3]), ((0.1, 1.0),))
    mean, covariance, noise = posterior(np.ones((2, 1)), np.array([0.011, 0.009]), np.ones(2), prior)
    assert covariance[0, 0] == pytest.approx(0.00421, rel=0.01)
    assert mean[0] == pytest.approx(0.01 * (1 - 0.00421 / 0.09), rel=0.01)
    assert noise == pytest.approx(0.1 * math.sqrt(2))  # Student's t of 4 degrees has twice the variance


def test_rows_decide_between_noises() -> None:
    prior = Prior(np.array([0.1]), ((0.05, 0.5), (0.4, 0.5)))
    slopes, weights = np.ones((8, 1)), np.ones(8)
    scatter = np.array([0.4, -0.4] * 4)
    assert posterior(slopes, scatter, weights, prior)[2] == pytest.approx(0.4 * math.sqrt(2), abs=0.01)
    assert posterior(slopes, scatter / 10, weights, prior)[2] == pytest.approx(0.05 * math.sqrt(2), abs=0.01)


def test_slopes_are_those_of_the_logarithm_of_a_step() -> None:
    time = datasheet_profile(find_hardware(GPU)).time
    assert isinstance(time, PopulationTime)
    parts = columns((*NETWORKS[2].ops, *convolutions("a", 64, 3).ops))
    x, shapes, values = time.seconds_of(parts, train=False), traits(parts), np.linspace(-0.2, 0.2, len(TRAITS))
    base, slopes = log_step(x, shapes, values, 2.0)
    for index in range(len(TRAITS)):
        moved, _ = log_step(x, shapes, values + 1e-6 * np.eye(len(TRAITS))[index], 2.0)
        assert (moved - base) / 1e-6 == pytest.approx(slopes[index], abs=1e-4)


def test_metered_watts_scale_the_power() -> None:
    rows = runs(Deviation(), NETWORKS, watts=200.0)
    before = datasheet_profile(find_hardware(GPU)).predict(NETWORKS[0]).power_w
    after = fit(rows, name="mine", hardware=GPU).predict(NETWORKS[0]).power_w
    assert abs(after - 200) < 0.35 * abs(before - 200)


def test_watts_above_the_boards_limit_are_named_unless_the_meter_covers_the_host() -> None:
    rows = runs(Deviation(), NETWORKS, watts=700.0)  # an A100 of 400 W
    notes = fit(rows, name="mine", hardware=GPU).provenance.notes
    assert any("draw up to 700 W, the board's limit is 400 W" in note for note in notes)
    for watts, meter in ((430.0, "nvml"), (700.0, "nvml+rapl")):
        rows = [replace(row, meter=meter) for row in runs(Deviation(), NETWORKS, watts=watts)]
        assert not any("the board's limit" in note for note in fit(rows, name="mine", hardware=GPU).provenance.notes)


@pytest.mark.parametrize(
    ("watts", "fault"),
    [
        (0.3, "draws 0.3 W, .* seems to be in kilowatts or kilojoules; give watts or joules"),
        (0.09, "seems to be in kilowatts or kilojoules|seems to be in watt-hours"),
        (300_000.0, "seems to be in milliwatts or millijoules"),
        (3_000.0, "at most 400 W: give those of one board"),
    ],
)
def test_watts_that_no_board_draws_are_refused(watts: float, fault: str) -> None:
    rows = runs(Deviation(), NETWORKS[:1], watts=watts)
    with pytest.raises(FitError, match=fault):
        fit(rows, name="mine", hardware=GPU)
    fit([replace(row, meter="nvml+rapl") for row in rows], name="mine", hardware=GPU)  # the host's CPUs too


def test_hardware_that_observations_contradict_and_hardware_that_is_no_known_gpu() -> None:
    (row,) = runs(Deviation(), NETWORKS[:1])
    with pytest.raises(FitError, match=r"`hardware` t4 and the observations' .* contradict: leave out"):
        fit([replace(row, hardware=GPU)], name="mine", hardware="t4")
    assert fit([replace(row, hardware=GPU)], name="mine", hardware=find_hardware(GPU).name).name == "mine"
    for hardware in ("no such card", "epyc-7763"):
        with pytest.raises(FitError, match=rf"or one on a GPU that joulecast knows .*; '{hardware}' is not one"):
            fit([replace(row, hardware=None)], name="mine", hardware=hardware)
    with pytest.raises(FitError, match=r"0 observations; .* without any, jc.load_profile answers from the datasheet"):
        fit([], name="mine", hardware=GPU)


def test_seconds_that_stand_where_a_rate_belongs_are_named() -> None:
    (row,) = runs(Deviation(), NETWORKS[:1])
    swapped = row.workload.batch_size / row.seconds
    with pytest.raises(FitError, match="seems to give the seconds of a step as samples per second"):
        fit([replace(row, seconds=swapped)], name="mine", hardware=GPU)


def test_a_wrong_unit_is_named() -> None:
    (row,) = runs(Deviation(), NETWORKS[:1])
    with pytest.raises(FitError, match=r"the part's peak is .*check the unit"):
        fit([replace(row, seconds=row.seconds / 1000)], name="mine", hardware=GPU)


def test_the_unit_that_a_time_seems_to_have_is_named() -> None:
    (row,) = runs(Deviation(), NETWORKS[:1])  # a batch of 32
    with pytest.raises(FitError, match="seems to be the time of one sample, not of one step"):
        fit([replace(row, seconds=row.seconds / 32)], name="mine", hardware=GPU)
    for unit, factor in (("milliseconds", 1e3), ("microseconds", 1e6)):
        with pytest.raises(FitError, match=f"its time seems to be in {unit}; give seconds"):
            fit([replace(row, seconds=row.seconds * factor)], name="mine", hardware=GPU)


def test_explain_tells_what_the_runs_told_and_what_the_population() -> None:
    fitted = fit(runs(deviation(conv=0.3), [convolutions("a", 128, 20)]), name="mine", hardware=GPU)
    facts = {(fact.section, fact.name): str(fact.value) for fact in explain(fitted)}
    assert "known from the runs" in facts["learnt from the runs", "conv"]
    assert "rnn" in facts["from the population", "all others"]
    assert not any("learnt" in fact.section for fact in explain(datasheet_profile(find_hardware(GPU))))


def test_a_run_that_waits_for_the_host_says_what_it_cannot_teach() -> None:
    fitted = fit(runs(Deviation(), [network("tiny", 300, 16, 1)]), name="mine", hardware=GPU)
    assert any("learns the host's speed" in note for note in fitted.provenance.notes)


def test_a_gpu_in_figures_learns_from_one_run_and_wrong_figures_are_refused() -> None:
    rows = [replace(row, hardware=None) for row in runs(Deviation(), NETWORKS[:1])]
    card = "tflops=19.5,bandwidth=2039,watts=400"
    assert "1 run of 1 network," in fit(rows, name="mine", hardware=card).provenance.fitted_on
    with pytest.raises(HardwareError):
        fit(rows, name="mine", hardware="tflops=100,bandwidth=5,watts=400")


def test_hardware_that_is_not_in_the_table_still_needs_four_networks() -> None:
    with pytest.raises(FitError, match="at least 4"):
        fit(runs(Deviation(), NETWORKS), name="mine", hardware="a card of my own")


def test_a_fitted_profile_survives_its_document() -> None:
    rows = runs(deviation(compute=0.2, memory=0.1), NETWORKS)
    fitted = fit(rows, name="mine", hardware=GPU)
    assert Profile.from_json(fitted.to_json()).predict(rows[0].workload) == fitted.predict(rows[0].workload)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model,batch\nx.py,3\n", "lacks the column seconds_per_step or samples_per_second"),
        ("model,seconds_per_step\nx.py,3\n", "lacks the column batch"),
        ("model,batch,seconds\nx.py,3,4\n", "has column 'seconds'"),
        ("model,batch,seconds_per_step\n", "has no rows"),
        ("model,batch,seconds_per_step\nx.py,3,fast\n", ":2 has seconds_per_step 'fast'; give a number above 0"),
        ("model,batch,seconds_per_step\nx.py,3.5,1\n", ":2 has batch '3.5'; give a whole number"),
        ("model,batch,seconds_per_step,samples_per_second\nx.py,3,1,2\n", ":2 has both of"),
        ("model,batch,seconds_per_step,watts\nx.py,3,1,9\nx.py,4,1,\n", "has energy for 1 of 2 runs"),
        ("model,batch,seconds_per_step,hardware\nx.py,3,1,t4\nx.py,3,1,l4\n", "mixes hardware: l4, t4"),
    ],
)
def test_a_broken_table_is_one_line_that_says_where(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(FitError) as raised:
        read_runs(path)
    assert problem in str(raised.value)


def test_rates_and_watts_become_seconds_and_joules_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("model, batch,samples_per_second,watts,precision\nnet.py,64,128,300,fp16\n")
    (run,) = read_runs(path)
    assert (run.batch, run.seconds, run.joules) == (64, 0.5, 150.0)
    assert run.options == {"precision": "fp16"}


def test_runs_of_a_training_stack_still_count_when_its_name_is_stated_again() -> None:
    time = datasheet_profile(find_hardware(GPU)).for_software("fused").time
    rows = [
        Observation(work, 1, 1.6 * float(time.seconds(work.ops).sum()), hardware=GPU, family=work.name)
        for work in NETWORKS
    ]
    profile = fit(rows, name="mine", hardware=GPU, software="fused")
    assert off(profile, rows) < 0.15
    assert off(profile.for_software("fused"), rows) < 0.15
