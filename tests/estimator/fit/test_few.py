"""From one run on: deviations from the population, learnt from runs that a known deviation made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import FitError
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.population import Deviation, PopulationTime
from joulecast.estimator.cost.profile import Profile
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
    rows = runs(Deviation(0.25, 0.2, 0.1), NETWORKS)
    none = datasheet_profile(find_hardware(GPU)).for_software("eager")
    one, three = fit(rows[:1], name="mine", hardware=GPU), fit(rows, name="mine", hardware=GPU)
    assert off(none, rows[:1]) > 0.15
    assert off(one, rows[:1]) < 0.7 * off(none, rows[:1])
    assert off(three, rows) < 0.6 * off(none, rows)
    widths = [p.predict(rows[0].workload).seconds for p in (none, one, three)]
    assert widths[0].high / widths[0].low > widths[1].high / widths[1].low > widths[2].high / widths[2].low
    assert one.provenance.time == "measured"
    assert "1 runs of 1 networks" in one.provenance.fitted_on


def test_runs_as_the_population_predicts_them_change_nothing() -> None:
    fitted = fit(runs(Deviation(), NETWORKS), name="mine", hardware=GPU)
    assert isinstance(fitted.time, PopulationTime)
    assert fitted.time.deviation.compute == pytest.approx(0.0, abs=1e-6)


def test_a_repeated_run_counts_once() -> None:
    rows = runs(Deviation(0.3, 0.3, 0.0), NETWORKS[:1])
    once, often = fit(rows, name="a", hardware=GPU), fit(rows * 5, name="a", hardware=GPU)
    assert isinstance(once.time, PopulationTime)
    assert isinstance(often.time, PopulationTime)
    assert often.time.deviation.compute == pytest.approx(once.time.deviation.compute, abs=1e-6)


def test_metered_watts_scale_the_power() -> None:
    rows = runs(Deviation(), NETWORKS, watts=200.0)
    before = datasheet_profile(find_hardware(GPU)).predict(NETWORKS[0]).power_w
    after = fit(rows, name="mine", hardware=GPU).predict(NETWORKS[0]).power_w
    assert abs(after - 200) < 0.35 * abs(before - 200)


def test_a_wrong_unit_is_named() -> None:
    (row,) = runs(Deviation(), NETWORKS[:1])
    with pytest.raises(FitError, match=r"the part's peak is .*check the unit"):
        fit([replace(row, seconds=row.seconds / 1000)], name="mine", hardware=GPU)


def test_a_run_that_waits_for_the_host_says_what_it_cannot_teach() -> None:
    fitted = fit(runs(Deviation(), [network("tiny", 300, 16, 1)]), name="mine", hardware=GPU)
    assert any("teaches the host's speed" in note for note in fitted.provenance.notes)


def test_hardware_that_is_not_in_the_table_still_needs_four_networks() -> None:
    with pytest.raises(FitError, match="at least 4"):
        fit(runs(Deviation(), NETWORKS), name="mine", hardware="a card of my own")


def test_a_fitted_profile_survives_its_document() -> None:
    rows = runs(Deviation(0.2, 0.1, 0.0), NETWORKS)
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
