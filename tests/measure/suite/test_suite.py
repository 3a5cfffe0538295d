"""The suite: what it measures within its budget, how it resumes, and `measure` as a process."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from joulecast.cli import main as commands
from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.cost.profile import read_profile
from joulecast.measure.meters.contamination import SystemCounters
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.records.records import Record, describe_host
from joulecast.measure.records.store import Store
from joulecast.measure.suite import suite
from joulecast.measure.suite.calibrate import (
    chosen_records,
    given_power,
    modelled_power,
    observations,
    unknown_power,
)
from joulecast.measure.suite.cases import Case, gpu_cases, machine_cases, suite_cases
from joulecast.measure.suite.op_timing import TrainingStep
from joulecast.measure.suite.rounds import (
    FULL,
    QUICK,
    Bench,
    CasePlan,
    _timed_steps,
    build,
    kept_rounds,
    measure_case,
    metered,
)
from joulecast.measure.suite.suite import run_suite, usable

pytestmark = pytest.mark.usefixtures("only_new_objects")  # garbage is collected after each case


class Heard:
    """Progress, noted."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.left_s: list[float] = []

    def begin(self, name: str, done: int, total: int, left_s: float) -> None:
        self.begun.append(name)
        self.left_s.append(left_s)

    def end(self, record: Record) -> None: ...
    def say(self, line: str) -> None: ...


def _case(name: str, width: int = 8) -> Case:
    return Case(name, name, lambda: (nn.Linear(width, 2), ((torch.randn(4, width),), {})))


def _broken() -> tuple[nn.Module, Any]:
    raise RuntimeError("this network cannot be\nbuilt")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A quiet machine without counters: their tree is empty."""
    with select_meter("none") as meter:
        host = describe_host(torch.get_num_threads())
        yield Bench(meter, SystemCounters(tmp_path / "root"), host, CasePlan(0.0, 0.0, 1), 0.0, "run")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_every_case_is_written_and_a_second_run_goes_on(bench: Bench, store: Store):
    cases = [_case("a"), _case("b"), _case("c")]
    first = run_suite(cases[:2], store, bench, budget_s=60, progress=Heard())
    assert [record.name for record in first.measured] == ["a", "b"]
    earlier = [record for record in store.records() if usable(record, bench)]
    heard = Heard()
    second = run_suite(cases, store, bench, budget_s=60, earlier=earlier, progress=heard)
    assert heard.begun == ["c"]
    assert second.kept == ["a", "b"]
    assert [record.name for record in store.records()] == ["a", "b", "c"]


def test_disturbed_cases_are_measured_again_but_last(bench: Bench, store: Store):
    measured = run_suite([_case("a"), _case("b")], store, bench, budget_s=60, progress=Heard()).measured
    dirty = replace(measured[0], windows=(replace(measured[0].windows[0], flags=("noise",)),))
    heard = Heard()
    run_suite(
        [_case("a"), _case("b"), _case("c")], store, bench, budget_s=60, earlier=[dirty, measured[1]], progress=heard
    )
    assert heard.begun == ["c", "a"]


def test_the_budget_is_kept_and_what_it_left_out_is_named(bench: Bench, store: Store):
    now = iter(float(second) for second in range(0, 1000, 10))
    heard = Heard()
    cases = [_case(name) for name in "abcdef"]
    summary = run_suite(cases, store, bench, budget_s=45, progress=heard, clock=lambda: next(now))
    assert [*(record.name for record in summary.measured), *summary.skipped] == list("abcdef")
    assert summary.measured
    assert summary.skipped
    assert all(0 <= left_s <= 45 for left_s in heard.left_s)


def test_a_case_that_fails_is_named_in_one_line_and_the_others_go_on(bench: Bench, store: Store):
    summary = run_suite(
        [_case("a"), Case("bad", "bad", _broken), _case("b")], store, bench, budget_s=60, progress=Heard()
    )
    assert [record.name for record in summary.measured] == ["a", "b"]
    assert summary.failed == {"bad": "RuntimeError: this network cannot be built"}


def test_the_users_own_network_must_work(bench: Bench, store: Store):
    with pytest.raises(JoulecastError, match=r"test_suite.py:.*RuntimeError: this network cannot be"):
        run_suite([_case("a")], store, bench, budget_s=60, progress=Heard(), must=[Case("bad", "bad", _broken)])


def test_records_of_another_machine_or_library_are_not_used(bench: Bench, store: Store):
    (record,) = run_suite([_case("a")], store, bench, budget_s=60, progress=Heard()).measured
    assert usable(record, bench)
    for change in ({"threads": 99}, {"cpu_name": "Other"}, {"libraries": {"torch": "0.1"}}):
        assert not usable(replace(record, host={**record.host, **change}), bench)


def test_records_of_another_meter_are_measured_again(bench: Bench, store: Store):
    run_suite([_case("a")], store, bench, budget_s=60, progress=Heard())
    (record,) = store.records()
    assert usable(record, bench)
    assert not usable(replace(record, meter={"name": "rapl"}), bench)


def test_idle_power_goes_into_the_fit(bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suite, "IDLE_S", 0.05)
    with select_meter("modelled", hardware="i7-4770") as meter:
        summary = run_suite([_case("a")], store, replace(bench, meter=meter), budget_s=60, progress=Heard())
    assert [record.kind for record in summary.records] == ["idle", "case"]


def test_op_times_of_a_case_add_up_to_its_step(bench: Bench, store: Store):
    (record,) = run_suite([_case("a", 512)], store, bench, budget_s=60, progress=Heard()).measured
    assert record.op_seconds is not None
    assert sum(second or 0.0 for second in record.op_seconds) == pytest.approx(record.seconds / record.steps)


def test_without_a_meter_no_energy_is_made_up(bench: Bench, store: Store):
    (record,) = run_suite([_case("a")], store, bench, budget_s=60, progress=Heard()).measured
    assert record.label == "missing"
    assert record.energy_j is None


def test_what_is_wrong_with_the_whole_run_stands_in_every_record(bench: Bench, store: Store):
    crowded = replace(bench, flags=("8 threads on 2 cores",))
    (record,) = run_suite([_case("a")], store, crowded, budget_s=60, progress=Heard()).measured
    assert record.flags == ("8 threads on 2 cores",)


def test_windows_are_long_enough_for_the_counters():
    assert metered(QUICK, "none") == QUICK
    assert metered(QUICK, "rapl+nvml").window_s == 2.0
    assert metered(FULL, "rapl").window_s == 0.6


# -- which cases -------------------------------------------------------------------------------------


def test_names_tell_cases_apart_and_the_thesiss_networks_come_first():
    cases = suite_cases()
    assert len({case.name for case in cases}) == len(cases) >= 200
    assert cases[0].family == "alexnet"
    assert "simplenet width 1 batch 128 sgd" in {case.name for case in cases[:10]}
    assert len({case.family for case in cases[:20]}) >= 10


def test_the_thesiss_networks_come_back_while_the_suite_runs():
    names = [case.name for case in suite_cases()]
    for wanted in ("alexnet width 1 batch 32 sgd", "simplenet width 1 batch 32 sgd"):
        at = [index for index, name in enumerate(names) if name.startswith(wanted)]
        assert len(at) == 7
        assert sum(index < 70 for index in at) >= 5  # as far as a quick run gets on two cores
        visits = [case for case in suite_cases(wanted) if case.name.startswith(wanted)]
        assert len({case.family for case in visits}) == 1
        assert len({str(case.build()[0]) for case in visits}) == 1
        assert {case.rounds_factor for case in visits} == {3}


def test_only_takes_parts_and_patterns():
    assert {case.family for case in suite_cases("alexnet")} == {"alexnet"}
    assert all("recurrent" in case.name for case in suite_cases("random recurrent*"))
    with pytest.raises(JoulecastError, match="`only` 'nothing' matches no case; families are alexnet"):
        suite_cases("nothing")


# -- what stands and what is left out ----------------------------------------------------------------


def _round(step_s: float, *flags: str) -> Any:
    from joulecast.measure.records.records import MeasuredWindow
    from joulecast.measure.suite.rounds import _Round

    return _Round(MeasuredWindow("training steps", 10, 10 * step_s, None, flags), [], ())


def test_clean_rounds_stand_and_slow_ones_among_them_do_not():
    rounds = [_round(1.0), _round(1.1), _round(1.4), _round(0.9, "noise")]
    assert [one.step_s for one in kept_rounds(rounds)] == [1.0, 1.1]


def test_one_lucky_round_does_not_turn_the_usual_ones_into_outliers():
    rounds = [_round(0.7), *(_round(1.0) for _ in range(6)), _round(1.3)]
    assert [one.step_s for one in kept_rounds(rounds)] == [0.7, *[1.0] * 6]


def test_a_case_with_a_factor_is_measured_so_much_longer(bench: Bench, store: Store):
    longer = replace(_case("long"), rounds_factor=3)
    patient = replace(bench, plan=CasePlan(0.0, 60.0, 2))
    usual, long = run_suite([_case("usual"), longer], store, patient, budget_s=60, progress=Heard()).measured
    assert (usual.figures["rounds"], long.figures["rounds"]) == (2, 6)


def test_op_times_come_from_rounds_left_out_where_the_kept_ones_were_not_timed(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
):
    from joulecast.measure.suite import rounds

    monkeypatch.setattr(rounds, "kept_rounds", lambda all_rounds: all_rounds[1:])
    two = replace(bench, plan=CasePlan(0.0, 60.0, 2))  # one step a round: the second is not timed op by op
    (record,) = run_suite([_case("a", 512)], store, two, budget_s=60, progress=Heard()).measured
    assert record.op_seconds is not None
    assert sum(second or 0.0 for second in record.op_seconds) == pytest.approx(record.seconds / record.steps)


def test_half_as_many_steps_are_timed_op_by_op_as_run_plain_and_one_at_least():
    assert [_timed_steps(9, number) for number in range(2)] == [4, 4]
    assert [_timed_steps(1, number) for number in range(4)] == [1, 0, 1, 0]


def test_the_memory_of_a_gpus_case_is_given_back_before_the_next(
    bench: Bench, store: Store, monkeypatch: pytest.MonkeyPatch
):
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    on_gpu = replace(bench, host={**bench.host, "device": "gpu"})
    summary = run_suite(
        [Case("a", "a", _broken), Case("b", "b", _broken)], store, on_gpu, budget_s=60, progress=Heard()
    )
    assert list(summary.failed) == ["a", "b"]
    assert len(emptied) == 2
    run_suite([_case("c")], store, bench, budget_s=60, progress=Heard())
    assert len(emptied) == 2


def test_a_gpu_trains_wide_networks_first_and_every_other_one_in_half_precision():
    found = gpu_cases(67.0, "bfloat16")
    assert len({case.name for case in found}) == len(found)
    assert [case.precision for case in found[:4]] == [None, "bfloat16", None, "bfloat16"]
    assert found[0].name.startswith("residual-cnn width 4 batch 256")
    assert {case.family for case in suite_cases()} - {case.family for case in found} == {
        "random-perceptrons 0",  # the first cases of a CPU
        "random-transformers 0",
    }
    assert gpu_cases(8.1, "float16")[0].name.startswith("residual-cnn width 4 batch 32")
    assert gpu_cases(0.1, "float16")[0].name.startswith("residual-cnn width 4 batch 32")


def test_batches_of_random_networks_grow_with_the_gpu():
    name = "random signals 0"
    (small,) = [case for case in suite_cases(name) if case.name.startswith(name)]
    (large,) = [case for case in gpu_cases(16.0, "float16") if case.name.startswith(name)]
    (before,), (after,) = small.build()[1][0], large.build()[1][0]
    assert after.shape == (16 * len(before), *before.shape[1:])
    assert large.name.startswith(f"{small.name} batch x16")


def test_a_machine_without_a_gpu_has_the_cases_of_a_cpu():
    host = {"device": "cpu", "gpus": []}
    assert [case.name for case in machine_cases(host, "alexnet")] == [case.name for case in suite_cases("alexnet")]


@pytest.mark.parametrize(
    ("gpu", "batch"), [("NVIDIA H100 80GB HBM3", 256), ("Tesla T4", 32), ("NVIDIA No Such Card", 64)]
)
def test_cases_of_a_gpu_follow_its_peak(monkeypatch: pytest.MonkeyPatch, gpu: str, batch: int):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    first, second, *_ = machine_cases({"device": "gpu", "gpus": [gpu]})
    assert f"batch {batch} " in first.name
    assert second.precision == "bfloat16"


def test_steps_run_without_a_wait_between_them_as_in_a_training(bench: Bench, store: Store):
    asked: list[int] = []

    class Counting(TrainingStep):
        def run(self, steps: int = 1) -> float:
            asked.append(steps)
            return 0.01 * steps

    built = build(_case("a"))
    step = Counting(built.step.model, built.step.args, built.step.kwargs)
    plan = replace(bench.plan, window_s=0.3)
    record, _ = measure_case(replace(built, step=step), replace(bench, plan=plan), "id")
    assert asked[:3] == [1, 10, 10]  # 0.1 s at a time
    assert record.steps == sum(asked)
    assert 30 <= sum(asked) <= 31  # until the window is over


def test_where_none_is_clean_the_fastest_stands_with_its_flags():
    rounds = [_round(3.0, "noise"), _round(1.5, "steal")]
    assert [one.window.flags for one in kept_rounds(rounds)] == [("steal",)]


def test_disturbed_cases_count_only_where_clean_ones_are_few(bench: Bench, store: Store):
    (one,) = run_suite([_case("a")], store, bench, budget_s=60, progress=Heard()).measured
    clean = [replace(one, name=f"{i}") for i in range(12)]
    dirty = replace(clean[0], name="dirty", windows=(replace(clean[0].windows[0], flags=("noise",)),))
    assert {record.name for record in chosen_records([*clean, dirty])} == {record.name for record in clean}
    assert "dirty" in {record.name for record in chosen_records([*clean[:5], dirty])}
    assert {one.energy_j for one in observations(clean)} == {None}


# -- power that nothing measured ---------------------------------------------------------------------

UNKNOWN = {"cpu_name": "AMD EPYC", "threads": 2}


def test_a_cpu_that_is_not_known_gets_a_range_that_says_so():
    power = modelled_power(UNKNOWN)
    watts = power.model.watts(("compute",))[0] + power.model.static_w
    assert watts * power.error.low == pytest.approx(2 * 1.64)
    assert watts * power.error.high == pytest.approx(2 * 12.0)
    assert "AMD EPYC is not in the hardware table" in power.source
    assert "`power_w`" in power.source
    assert power == unknown_power("AMD EPYC", 2)


def test_a_cpu_of_the_table_gets_its_share_of_the_tdp():
    power = modelled_power({"cpu_name": "AMD EPYC 7763 64-Core Processor", "threads": 16})
    # 280 W for 64 cores.
    assert power.model.watts(("compute",))[0] + power.model.static_w == pytest.approx(280 / 4)
    assert "EPYC 7763" in power.source


def _full_w(host: dict[str, Any]) -> float:
    model = modelled_power(host).model
    return model.weights_w["compute"] + model.static_w


def test_more_threads_than_cores_draw_no_more_than_the_part():
    host = {"cpu_name": "Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz", "threads": 8, "cpu_cores": 4}
    assert _full_w(host) == pytest.approx(84.0)


def test_a_gpus_power_is_the_gpus_and_no_cpus():
    host = {"device": "gpu", "cpu_name": "AMD EPYC", "threads": 2, "gpus": ["NVIDIA GeForce RTX 3090"]}
    assert _full_w(host) == pytest.approx(350.0)
    with pytest.raises(JoulecastError, match="unknown hardware"):
        modelled_power({**host, "gpus": ["NVIDIA No Such Card"]})
    with pytest.raises(JoulecastError, match="is a GPU and this trains on the CPU"):
        modelled_power(UNKNOWN, hardware="rtx-3090")


def test_the_users_word_goes_before_the_table():
    assert modelled_power(UNKNOWN, power_w=120.0) == given_power(120.0)
    assert "EPYC 7763" in modelled_power(UNKNOWN, hardware="epyc-7763").source
    with pytest.raises(JoulecastError, match="unknown hardware"):
        modelled_power(UNKNOWN, hardware="no such part")
    with pytest.raises(JoulecastError, match="`power_w` is -1"):
        modelled_power(UNKNOWN, power_w=-1.0)


# -- as a process ------------------------------------------------------------------------------------

BRIEF = CasePlan(window_s=0.02, case_s=0.0, rounds=1)
"""One round a case, instead of up to five seconds of them where other tests disturb the rounds."""
PROCESS = f"""
from joulecast.measure.suite import rounds
rounds.QUICK = rounds.{BRIEF}
from joulecast.cli.main import measure
measure()
"""


def _measure(store: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, "--store", str(store), "--meter", "none", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _wait_for_records(store: Store, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(list(store.records())) < count:
        assert time.monotonic() < deadline, "no record was written"
        time.sleep(0.05)


def _tiny(folder: Path) -> list[str]:
    """Four networks that train in a moment, given by `--model`."""
    lines = [
        "import torch",
        "from torch import nn",
        "def example_inputs(batch_size=4):",
        "    return torch.zeros(batch_size, 6)",
    ]
    for index, body in enumerate(
        ("nn.ReLU()", "nn.Tanh()", "nn.LayerNorm(9)", "nn.Sequential(nn.Linear(9, 9), nn.GELU())")
    ):
        lines += [f"def net{index}():", f"    return nn.Sequential(nn.Linear(6, 9), {body}, nn.Linear(9, 3))"]
    (folder / "nets.py").write_text("\n".join(lines) + "\n")
    return [part for index in range(4) for part in ("--model", f"{folder / 'nets.py'}:net{index}")]


def test_measure_profiles_the_machine_and_labels_every_figure(tmp_path: Path):
    process = _measure(tmp_path / "store", "--quick", *_tiny(tmp_path))
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    (path,) = (tmp_path / "store/profiles").glob("*.json")
    assert f"profile {path}" in output
    assert f"`estimate --hardware {shlex.quote(str(path))}` now predicts for SimpleNet" in output
    assert "measured), " in output
    assert "power modelled)" in output
    profile = read_profile(path)
    assert (profile.provenance.time, profile.provenance.power) == ("measured", "modelled")
    assert len(list(Store(tmp_path / "store").records())) == 4


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_suite_keeps_what_it_has_and_says_how_to_go_on(tmp_path: Path, number: int, status: int):
    store = Store(tmp_path)
    process = _measure(tmp_path, "--quick", "--only", "random perceptrons")
    _wait_for_records(store, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == status
    assert "run it again to continue" in errors
    problems: list[str] = []
    assert list(store.records(problems.append))
    assert problems == []


Measure = Callable[..., str]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Measure:
    """The output of `measure` in this process, which is faster."""
    monkeypatch.setattr("joulecast.measure.suite.rounds.QUICK", BRIEF)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["measure", *arguments, "--store", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            commands.measure()
        output, errors = capfd.readouterr()
        assert end.value.code == 0, errors
        return output

    return run


def test_kill_9_loses_the_window_in_progress_and_the_next_measure_goes_on(tmp_path: Path, measured: Measure):
    store = Store(tmp_path)
    process = _measure(tmp_path, "--quick", "--only", "random perceptrons")
    _wait_for_records(store, 2)
    process.kill()
    process.communicate()
    before = {record.name for record in store.records() if not record.disturbed}
    measured("--only", "random perceptrons", "--budget-s", "2", "--no-fit", "--meter", "none")
    fresh = [record.name for record in store.records()][2:]
    assert fresh
    assert not before & set(fresh)


def test_list_show_and_export_speak_of_the_same_record(tmp_path: Path, measured: Measure):
    measured("--no-fit", "--budget-s", "1", "--meter", "none", *_tiny(tmp_path)[:2])
    (record,) = Store(tmp_path).records()
    assert record.run in measured("list")
    assert record.id in measured("list", "--all")
    shown = measured("show", record.id)
    assert "energy missing" in shown
    assert "multiply-adds" in shown
    assert json.loads(measured("export", "--format", "json"))[0]["id"] == record.id
    assert measured("export", record.id).count("\n") == 1 + len(record.windows)
