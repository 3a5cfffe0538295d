"""Each rule of a fit from one run on, in numbers worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from joulecast.estimator.base.digits import short
from joulecast.estimator.base.errors import FitError
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.deviation import TRAITS, log_of_alike, log_spread, log_step, values_of
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.piece_time import Seconds
from joulecast.estimator.cost.population import Deviation, PopulationTime, load_population
from joulecast.estimator.fit.few import (
    Evidence,
    Prior,
    _check_peak,
    _check_unit,
    _evidence,
    _likely_unit,
    _limits,
    _prior,
    _software_of,
    _typical,
    _what_was_learnt,
    _with_noise,
    fit_few,
    known_gpu,
    learnt,
    left_out_seconds,
    mixed,
    posterior,
    predicted,
)
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.workload import Op, Workload

GPU = find_hardware("a100-sxm4-80gb")


def population_time(name: str = "a100-sxm4-80gb") -> PopulationTime:
    time = datasheet_profile(find_hardware(name)).for_software("eager").time
    assert isinstance(time, PopulationTime)
    return time


TIME = population_time()


def run(side: int = 2048, precision: str = "float32", seconds: float | None = None, **work: Any) -> Observation:
    size = 4 * side**2
    op = Op(
        "mm", "matmul", "forward", "", side**3, 2 * size, size, precision, {"b": 1, "m": side, "k": side, "n": side}, 5
    )
    some = Workload("net", "pytorch", 32, False, None, precision, side, side, 0, 0, (), (op,))
    some = replace(some, **work)
    step_s = float(TIME.seconds(some.ops).sum()) if seconds is None else seconds
    return Observation(some, 1, step_s, hardware="a100-sxm4-80gb")


def slower(row: Observation, factor: float) -> Observation:
    return replace(row, seconds=row.seconds * factor)


# -- the posterior -------------------------------------------------------------------------------


SLOPES = np.array([[1.0, 0.0], [1.0, 1.0], [0.5, 2.0]])
TARGET, SPREAD = np.array([0.3, -0.1, 0.2]), np.array([0.3, 0.2])


@pytest.mark.parametrize("noise", [0.1, 0.4])
def test_a_noise_is_as_probable_as_it_makes_the_rows(noise: float) -> None:
    """A normal density with what each row counts for, and what a row must pay to count for more or less than 1."""
    found = _with_noise(SLOPES, TARGET, np.ones(3), Prior(SPREAD, ()), noise)
    density = multivariate_normal(cov=noise**2 * np.diag(1 / found.weights) + SLOPES @ np.diag(SPREAD**2) @ SLOPES.T)
    paid = 0.5 * 4 * sum(math.log(weight) - weight + 1 for weight in found.weights)
    assert found.log == pytest.approx(density.logpdf(TARGET) + 1.5 * math.log(2 * math.pi) + paid)


def test_a_trait_tells_about_those_that_go_with_it() -> None:
    """Two traits of spreads 0.3 and 0.2 with correlation 0.5; one run of slope 1 along the first, 0.1 off, noise 0.1.

    A row counts w = 5 / (4 + (e^2 + v) / 0.01) times, with its error e and the variance v of the first value.
    """
    prior = Prior(SPREAD, (), correlations=np.array([[1.0, 0.5], [0.5, 1.0]]))
    assert prior.covariance == pytest.approx(np.array([[0.09, 0.03], [0.03, 0.04]]))
    found = _with_noise(np.array([[1.0, 0.0]]), np.array([0.1]), np.ones(1), prior, 0.1)
    share = 0.09 / (0.09 + 0.01 / found.weights[0])
    assert found.mean.tolist() == pytest.approx([0.1 * share, 0.1 * share * 0.03 / 0.09])
    assert found.covariance[1, 1] == pytest.approx(0.04 - 0.03**2 * share / 0.09)
    density = multivariate_normal(cov=0.09 + 0.01 / found.weights[0])
    paid = 0.5 * 4 * (math.log(found.weights[0]) - found.weights[0] + 1)
    assert found.log == pytest.approx(density.logpdf(0.1) + 0.5 * math.log(2 * math.pi) + paid)


def test_a_network_counts_less_the_further_off_it_is() -> None:
    """One value of spread 0.3, rows at 0.1, 0.1 and 0.9 with noise 0.1; rounds of Student's t with 4 degrees."""
    target, weights, used = [0.1, 0.1, 0.9], [1.0, 1.0, 0.5], [1.0, 1.0, 0.5]
    for _ in range(8):
        variance = 1 / (1 / 0.09 + sum(used) / 0.01)
        mean = variance * sum(w * one for w, one in zip(used, target, strict=True)) / 0.01
        used = [w * 5 / (4 + ((one - mean) ** 2 + variance) / 0.01) for w, one in zip(weights, target, strict=True)]
    variance = 1 / (1 / 0.09 + sum(used) / 0.01)
    mean = variance * sum(w * one for w, one in zip(used, target, strict=True)) / 0.01
    found = _with_noise(np.ones((3, 1)), np.array(target), np.array(weights), Prior(np.array([0.3]), ()), 0.1)
    assert found.mean.tolist() == pytest.approx([mean], rel=5e-3)
    assert found.covariance[0, 0] == pytest.approx(variance, rel=5e-3)
    assert found.weights.tolist() == pytest.approx(used, rel=5e-3)
    assert mean < 0.2  # 0.29 without


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_a_row_that_is_repeated_is_no_more_evidence(share: float) -> None:
    prior = Prior(SPREAD, (), share)
    once = _with_noise(SLOPES, TARGET, np.ones(3), prior, 0.2)
    rows, weights = [0, 0, 0, 1, 2], np.array([1 / 3, 1 / 3, 1 / 3, 1.0, 1.0])
    often = [_with_noise(SLOPES[rows], TARGET[rows], weights, prior, noise) for noise in (0.2, 0.1)]
    alone = _with_noise(SLOPES, TARGET, np.ones(3), prior, 0.1)
    assert often[0].mean == pytest.approx(once.mean)
    assert often[0].covariance == pytest.approx(once.covariance)
    assert often[0].log - often[1].log == pytest.approx(once.log - alone.log)


def test_noises_are_mixed_by_their_share_times_how_probable_they_make_the_rows() -> None:
    prior = Prior(SPREAD, ((0.1, 0.25), (0.4, 0.75), (0.2, 0.0)))
    each = [_with_noise(SLOPES, TARGET, np.ones(3), prior, noise) for noise, _ in prior.networks]
    odds = [share * math.exp(one.log) for share, one in zip((0.25, 0.75, 1e-9), each, strict=True)]
    expected = [one / sum(odds) for one in odds]
    shares, _ = mixed(SLOPES, TARGET, np.ones(3), prior)
    assert shares.tolist() == pytest.approx(expected)
    mean, covariance, noise = posterior(SLOPES, TARGET, np.ones(3), prior)
    middle = sum(share * one.mean for share, one in zip(expected, each, strict=True))
    assert mean == pytest.approx(middle)
    squares = expected[0] * 0.01 + expected[1] * 0.16 + expected[2] * 0.04
    assert noise == pytest.approx(math.sqrt(2 * squares))  # Student's t of 4 degrees has twice the variance
    spread = [
        one.covariance + np.outer(one.mean - middle, one.mean - middle) for one in each
    ]  # variance within and between
    assert covariance == pytest.approx(sum(share * one for share, one in zip(expected, spread, strict=True)))


def compute_only(log_s: float) -> Evidence:
    """One piece of 1 s of arithmetic, without a host."""
    zero = np.zeros(1)
    return Evidence(Seconds(np.ones(1), zero, zero, zero), np.zeros((1, len(TRAITS) - 3)), log_s)


@pytest.mark.parametrize(("measured", "found"), [(3.0, 3.0), (20.0, 6.0), (-20.0, -6.0)])
def test_a_round_moves_a_trait_by_half_at_most_and_there_are_twelve(measured: float, found: float) -> None:
    free = np.array([100.0] + [1e-6] * (len(TRAITS) - 1))
    deviation = learnt([compute_only(measured)], Prior(free, ((0.1, 1.0),)), 1.5)
    assert deviation.logs["compute"] == pytest.approx(found, abs=1e-4)
    assert deviation.noise == pytest.approx(0.1 * math.sqrt(2))
    assert deviation.covariance[0][0] == pytest.approx(0.01, rel=1e-2)  # one row of slope 1 and noise 0.1
    assert deviation.covariance[1][1] == pytest.approx(1e-12)
    assert max(abs(value) for name, value in deviation.logs.items() if name != "compute") < 1e-4


def test_an_amd_gpus_prior_is_wider() -> None:
    population = load_population()
    plain, amd = (Prior.of(population, one) for one in (False, True))
    assert amd.spread == pytest.approx(population.spread["amd"] * plain.spread)
    assert plain.spread[0] == population.spread["compute"]
    assert plain.networks == population.networks
    for prior in (plain, amd):
        assert prior.correlations is not None
        assert np.linalg.eigvalsh(prior.covariance).min() > 0
        assert prior.correlations[0].tolist() == [1.0, *(population.correlations[name][0] for name in TRAITS[1:])]
        assert prior.correlations == pytest.approx(prior.correlations.T)
    assert _prior(TIME).spread == pytest.approx(plain.spread)
    assert _prior(population_time("mi250x")).spread == pytest.approx(amd.spread)


# -- the fit -------------------------------------------------------------------------------------


def test_rows_of_one_network_share_the_weight_of_one() -> None:
    one, other = run(), run(1024)
    found = _evidence([one, slower(one, 2), other], TIME)
    assert [evidence.weight for evidence in found] == [0.5, 0.5, 1.0]
    assert [evidence.log_s for evidence in found] == pytest.approx(
        [math.log(row.seconds) for row in (one, slower(one, 2), other)]
    )


def test_a_family_left_out_is_predicted_with_what_the_others_teach() -> None:
    rows = [slower(run(side), factor) for side, factor in ((1024, 1.5), (2048, 1.5), (4096, 1.2))]
    fitted = fit_few(rows, GPU, name="m")
    found = left_out_seconds(rows, ["a", "b", "b"], fitted)
    time, evidence = replace(TIME, deviation=Deviation()), _evidence(rows, TIME)
    assert isinstance(fitted.time, PopulationTime)
    for index, others in ((0, (1, 2)), (1, (0,)), (2, (0,))):
        deviation = learnt([evidence[other] for other in others], _prior(time), time.parameters["sharpness"])
        alone = float(replace(time, deviation=deviation).seconds(rows[index].workload.ops).sum())
        assert found[index] == pytest.approx(alone, rel=1e-6), index


def test_a_profile_from_few_runs_says_what_it_is_made_of() -> None:
    rows = [replace(run(), host={"cpu": "x"}), run(1024), slower(run(), 1.1)]
    fitted = fit_few(rows, GPU, name="mine", created="today")
    start = datasheet_profile(GPU)
    assert (fitted.name, fitted.provenance.created) == ("mine", "today")
    assert (fitted.provenance.time, fitted.provenance.power) == ("measured", "datasheet")
    assert fitted.provenance.sources == (f"3 runs on {GPU.name}", *start.provenance.sources)
    assert fitted.provenance.fitted_on == "3 runs of 2 networks, deviation from the population of GPUs"
    assert fitted.scores == {"observations": 3.0, "families": 2.0}
    assert fitted.host == {"cpu": "x"}
    metered = fit_few([replace(row, energy_j=300 * row.seconds, meter="nvml") for row in rows], GPU, name="mine")
    assert metered.provenance.power == "measured"


def test_typical_bounds_are_of_the_mean_network() -> None:
    evidence = _evidence([run(512), run(4096)], TIME)
    deviation = learnt(evidence, _prior(TIME), TIME.parameters["sharpness"])
    slopes = [
        log_step(one.seconds, one.traits, values_of(deviation), TIME.parameters["sharpness"])[1] for one in evidence
    ]
    reach = 1.645 * log_spread(deviation, (slopes[0] + slopes[1]) / 2)
    bounds = _typical(evidence, deviation, TIME.parameters["sharpness"])
    assert (bounds.low, bounds.high) == pytest.approx((math.exp(-reach), math.exp(reach)))


def test_keras_runs_on_tensorflow_and_all_else_is_eager() -> None:
    assert _software_of(run(framework="keras")) == "tensorflow"
    assert _software_of(run(framework="pytorch")) == "eager"


def test_the_gpu_is_that_of_the_caller_or_of_the_first_row_that_names_one() -> None:
    row = run()
    unnamed = replace(row, hardware=None)
    assert known_gpu("t4", [unnamed]) == find_hardware("t4")
    assert known_gpu("t4", [replace(row, hardware="Tesla T4")]) == find_hardware("t4")
    with pytest.raises(FitError, match="contradict: leave out"):
        known_gpu("t4", [row])
    assert known_gpu(None, [replace(row, hardware=None), row]) == GPU
    assert known_gpu(None, [replace(row, hardware=None)]) is None
    strangers: Any = ["text", row]
    assert known_gpu(None, strangers) == GPU
    assert known_gpu("no such card", [row]) is None
    assert known_gpu("i7-8700k", [unnamed]) is None  # a CPU


# -- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "precision", "peak"),
    [
        ("a100-sxm4-80gb", "float32", 78e12),  # multiply-adds a second, with TF32
        ("a100-sxm4-80gb", "float16", 156e12),
        ("a100-sxm4-80gb", "bfloat16", 156e12),
        ("t4", "float32", 4.05e12),  # no TF32
    ],
)
def test_a_run_may_compute_at_two_and_a_quarter_times_the_peak(card: str, precision: str, peak: float) -> None:
    time = population_time(card)
    work = run(1000, precision).workload
    dense = 5 * 1000**3
    _check_peak(run(1000, precision, dense / (2.2 * peak)), time)
    with pytest.raises(FitError, match=rf"computes {2 * 2.3 * peak / 1e12:.3g} TFLOPS, the part's peak is") as raised:
        _check_peak(run(1000, precision, dense / (2.3 * peak)), time)
    assert f"peak is {2 * peak / 1e12:.3g}: check the unit of its time" in str(raised.value)
    moving = replace(work.ops[0], kind="copy")
    _check_peak(replace(run(seconds=1e-12), workload=replace(work, ops=(moving,))), time)


@pytest.mark.parametrize("kind", ["conv", "matmul", "attention", "rnn"])
def test_all_dense_kinds_count_towards_the_peak(kind: str) -> None:
    op = replace(run().workload.ops[0], kind=kind)
    row = replace(run(seconds=1e-9), workload=replace(run().workload, ops=(op,)))
    with pytest.raises(FitError, match="the part's peak is"):
        _check_peak(row, TIME)


@pytest.mark.parametrize(
    ("short", "tokens", "batch", "unit"),
    [
        (32.0, 0, 32, "one sample, not of one step"),
        (32 * 3.9, 0, 32, "one sample, not of one step"),
        (32 / 3.9, 0, 32, "one sample, not of one step"),
        (32 * 4.1, 0, 32, ""),
        (32 / 4.1, 0, 32, ""),
        (1.0, 0, 1, ""),
        (4096.0, 4096, 32, "one token, not of one step (a rate in tokens per second)"),
        (1000.0, 0, 32, "a step in kiloseconds"),
        (3999.0, 0, 32, "a step in kiloseconds"),
        (4001.0, 0, 32, ""),
        (1000 / 3.9, 0, 2, "a step in kiloseconds"),
    ],
)
def test_a_time_too_short_by_a_factor_with_a_name(short: float, tokens: int, batch: int, unit: str) -> None:
    row = slower(run(batch_size=batch, input_bytes=8 * tokens), 1 / short)
    assert _likely_unit(row, TIME) == (f"; it seems to be the time of {unit}" if unit else "")


@pytest.mark.parametrize(
    ("factor", "unit"),
    [
        (200.1, "milliseconds"),
        (3.0e4, "milliseconds"),  # up to the root of 1e3 and 1e6
        (3.3e4, "microseconds"),
        (3.0e7, "microseconds"),
        (3.3e7, "nanoseconds"),
        (1e11, "nanoseconds"),
    ],
)
def test_a_time_200_times_too_long_is_in_a_smaller_unit(factor: float, unit: str) -> None:
    _check_unit(slower(run(), 199.9), TIME)
    row = slower(run(), factor)
    with pytest.raises(FitError, match=f"its time seems to be in {unit}; give seconds") as raised:
        _check_unit(row, TIME)
    assert f"takes {short(row.seconds)} s per step, {factor:.0f} times what the part needs" in str(raised.value)


# -- notes ---------------------------------------------------------------------------------------


def pieces(*rows: tuple[str, float, float, float], host: float = 0.0) -> Evidence:
    """Kind and seconds of compute, memory and floor of each piece."""
    compute, memory, floor = (np.array([row[at] for row in rows]) for at in (1, 2, 3))
    marks = np.zeros((len(rows), len(TRAITS) - 3))
    for index, row in enumerate(rows):
        if row[0]:
            marks[index, TRAITS.index(row[0]) - 3] = 1.0
    return Evidence(Seconds(compute, memory, floor, np.full(len(rows), host / len(rows))), marks, 0.0)


def test_what_was_learnt_is_told_by_groups_of_ops() -> None:
    """Convolutions: (1 x 2 + 1 x 1.5) x 2 = 7 after 2; other ops: 3 x 1.5 + 1 x 0.9 = 5.4 after 4."""
    log = math.log
    deviation = Deviation({"compute": log(2), "memory": log(1.5), "conv": log(2), "launch": log(0.81)})
    first = pieces(("conv", 1.0, 1.0, 0.0), ("norm", 0.0, 1.0, 1.0))
    second = pieces(("gather", 0.0, 2.0, 0.0), ("", 50.0, 50.0, 50.0))
    text = "seconds compared with the population of GPUs: convolutions +250%, other ops +35%, host -19%"
    assert _what_was_learnt([first, second], deviation) == text


@pytest.mark.parametrize(
    ("kind", "group"),
    [
        *((kind, "convolutions") for kind in ("conv", "conv1", "grouped", "depthwise")),
        *((kind, "matrix products") for kind in ("matmul", "batched", "attention", "rnn")),
        *((kind, "other ops") for kind in ("norm", "pointwise", "reduce", "pool", "optimizer", "gather")),
    ],
)
def test_each_kind_is_in_one_group(kind: str, group: str) -> None:
    text = _what_was_learnt([pieces((kind, 1.0, 0.0, 0.0))], Deviation({"compute": math.log(1.5)}))
    assert text == f"seconds compared with the population of GPUs: {group} +50%, host +0%"


def test_runs_that_all_wait_for_the_host_twice_as_long_as_they_work_teach_little() -> None:
    """1 + 2 + 3 s of the device."""
    waiting, working = (pieces(("conv", 1.0, 2.0, 3.0), host=host) for host in (12.1, 12.0))
    (note,) = _limits([waiting, waiting])
    assert note.startswith("every run waits for the host most of the time")
    assert _limits([waiting, working]) == ()


# -- networks alike --------------------------------------------------------------------------------------------


def certain(noise: float, share: float) -> Prior:
    """No trait can move, so that all that is left of a run is noise."""
    return Prior(np.full(len(TRAITS), 1e-6), ((noise, 1.0),), share)


def traffic_only(log_s: float) -> Evidence:
    """One piece of 1 s of traffic, without a host."""
    zero = np.zeros(1)
    return Evidence(Seconds(zero, np.ones(1), zero, zero), np.zeros((1, len(TRAITS) - 3)), log_s)


def share_believed(runs: int) -> float:
    """Of what `runs` of one network were off by, 0.01, with noise 0.1: 0.8 of its variance is common, 0.2 their own."""
    own = 0.2
    for _ in range(8):
        error, unknown = 0.01 * own / (own + 0.8 * runs), 0.8 * own / (own + 0.8 * runs)
        own = 0.2 / (5 / (4 + (error**2 / 0.01 + unknown) / 0.2))
    return 0.8 * runs / (0.8 * runs + own)


@pytest.mark.parametrize(("runs", "about"), [(1, 0.807), (2, 0.901)])
def test_a_network_takes_its_share_of_what_networks_like_it_were_off(runs: int, about: float) -> None:
    deviation, share = learnt([compute_only(0.01)] * runs, certain(0.1, 0.8), 1.5), share_believed(runs)
    assert share == pytest.approx(about, abs=5e-4)
    assert predicted(compute_only(0.0), deviation, 1.5)[0] == pytest.approx(share * 0.01, rel=1e-3)
    # a network that waits for memory instead is 2^0.5 away along the slopes, of which 0.4 counts as near
    near = math.exp(-2 / 2 / 0.4**2)
    assert predicted(traffic_only(0.0), deviation, 1.5)[0] == pytest.approx(near * share * 0.01, rel=1e-3)


def test_runs_narrow_the_interval_of_networks_alike_alone() -> None:
    """0.8 of the variance is common; the other 0.2 has twice that variance, as Student's t of 4 degrees."""
    deviation = learnt([compute_only(0.0)], certain(0.1, 0.8), 1.5)
    same, other = (predicted(one, deviation, 1.5)[1] for one in (compute_only(0.0), traffic_only(0.0)))
    assert log_spread(deviation, same) == pytest.approx(0.1 * math.sqrt(1.2 - 0.8**2), rel=1e-3)
    assert log_spread(deviation, other) == pytest.approx(0.1 * math.sqrt(1.2), rel=1e-3)


def test_a_run_far_off_pulls_less_than_one_that_is_near() -> None:
    near, far = (
        predicted(compute_only(0.0), learnt([compute_only(off)], certain(0.1, 0.8), 1.5), 1.5)[0] for off in (0.2, 2.0)
    )
    assert 0 < far < near < 0.81 * 0.2


def test_more_than_200_runs_are_not_compared() -> None:
    assert len(learnt([compute_only(0.0)] * 200, certain(0.1, 0.8), 1.5).runs) == 200
    assert learnt([compute_only(0.0)] * 201, certain(0.1, 0.8), 1.5).runs == ()


def test_without_a_common_share_nothing_is_kept_of_the_runs() -> None:
    deviation = learnt([compute_only(0.1)], certain(0.1, 0.0), 1.5)
    assert (deviation.runs, deviation.pull) == ((), ())
    assert learnt([], certain(0.1, 0.8), 1.5).runs == ()


def test_a_profile_of_runs_predicts_them_alike_after_saving() -> None:
    rows = [slower(run(side), factor) for side, factor in ((1024, 1.3), (2048, 1.1), (4096, 1.2))]
    time = fit_few(rows, known_gpu(None, rows), name="mine").time
    assert isinstance(time, PopulationTime)
    again = PopulationTime.from_json(json.loads(json.dumps(time.to_json())))
    assert again.seconds(rows[0].workload.ops) == pytest.approx(time.seconds(rows[0].workload.ops))
    without = replace(time, deviation=replace(time.deviation, runs=(), pull=()))
    plain, full = (float(one.seconds(rows[0].workload.ops).sum()) for one in (without, time))
    evidence = _evidence(rows[:1], TIME)[0]
    log_s, slopes = predicted(evidence, time.deviation, time.parameters["sharpness"])
    assert full == pytest.approx(math.exp(log_s))
    assert full / plain == pytest.approx(math.exp(log_of_alike(time.deviation, slopes)))
