"""Everything that needs a real GPU, in one command of at most 20 minutes.

    python benchmarks/on_a_gpu.py --out FOLDER [--suite-s 300] [--case-s 15] [--no-tests]

Runs the tests marked `gpu`, calibrates the GPU with the quick suite under NVML, times a dozen networks that are not in
the suite, and compares predictions before and after calibration with the measurements. FOLDER then contains the records
(`store/`), the profile (`profile.json`), the output of the tests (`tests.txt`) and the summary (`summary.md`,
`summary.json`). Exit status 1 when a test fails or a network cannot be measured, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from architectures import Architecture, image_networks, text_networks

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.profile import Profile
from joulecast.measure.meters.contamination import SystemCounters
from joulecast.measure.meters.meter import Meter
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.records.records import Record, describe_host, hardware_name
from joulecast.measure.records.store import Store
from joulecast.measure.suite import rounds
from joulecast.measure.suite.calibrate import fit_profile, modelled_power
from joulecast.measure.suite.cases import Case, machine_cases
from joulecast.measure.suite.op_timing import stopwatch_overhead_s
from joulecast.measure.suite.suite import run_suite

# Networks of other families than the suite's, with the batch size of a usual training on one GPU.
HELD = {
    "resnet50": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "mobilenetv3_small_100": 128,
    "regnety_002": 128,
    "convnext_atto": 64,
    "swin_tiny_patch4_window7_224": 32,
    "vit_tiny_patch16_224": 64,
    "inception_v3": 32,
    "BertForSequenceClassification": 64,
    "GPT2LMHeadModel": 32,
    "LlamaForCausalLM": 32,
}
TESTS = ("-m", "pytest", "-m", "gpu", "-rs", "-n", "0", "-q")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One network: seconds and joules of a step, measured, and predicted before and after calibration.

    `energy_j` is None where the meter did not measure it, `before` where nothing was predicted.
    """

    name: str
    batch_size: int
    seconds: float
    energy_j: float | None
    before: tuple[Interval, Interval] | None  # seconds, joules
    after: tuple[Interval, Interval]

    def row(self) -> dict[str, Any]:
        times = {when: getattr(self, when) for when in ("before", "after") if getattr(self, when) is not None}
        errors = {f"{when}_time_error": pair[0].value / self.seconds - 1 for when, pair in times.items()}
        inside = {f"{when}_time_inside": pair[0].low <= self.seconds <= pair[0].high for when, pair in times.items()}
        if self.energy_j is not None:
            errors |= {f"{when}_energy_error": pair[1].value / self.energy_j - 1 for when, pair in times.items()}
            inside |= {
                f"{when}_energy_inside": pair[1].low <= self.energy_j <= pair[1].high for when, pair in times.items()
            }
        return {"name": self.name, "batch_size": self.batch_size, "step_s": self.seconds, "step_j": self.energy_j} | (
            errors | inside
        )


@dataclass(frozen=True, slots=True)
class Results:
    """What a run of this benchmark found; `failed` holds the reason by network."""

    host: Mapping[str, Any]
    meter: str
    tests_passed: bool | None
    comparisons: tuple[Comparison, ...]
    failed: Mapping[str, str]
    suite_cases: int
    profile: Profile

    def to_json(self) -> dict[str, Any]:
        return {
            "host": dict(self.host),
            "meter": self.meter,
            "tests_passed": self.tests_passed,
            "suite_cases": self.suite_cases,
            "failed": dict(self.failed),
            "networks": [one.row() for one in self.comparisons],
            "profile_scores": dict(self.profile.scores),
        }


class _Quiet:
    """A suite's progress as one line per case."""

    def begin(self, name: str, done: int, total: int, left_s: float) -> None:
        print(f"  case {done + 1} of {total}: {name}, {left_s:.0f} s left", flush=True)

    def end(self, record: Record) -> None: ...

    def say(self, line: str) -> None:
        print(line, flush=True)


def held_networks() -> list[tuple[Architecture, int]]:
    return [(one, HELD[one.name]) for one in (*image_networks(), *text_networks()) if one.name in HELD]


def case_of(network: Architecture, batch: int, optimizer: str = "adamw") -> Case:
    def build() -> tuple[torch.nn.Module, Any]:
        example = network.inputs(batch)
        noise = torch.randn_like(example) if example.is_floating_point() else torch.randint_like(example, 2, 8000)
        return network.build(), ((noise,), {})

    return Case(network.name, network.family, build, optimizer)


def run(
    folder: Path,
    meter: Meter,
    host: Mapping[str, Any],
    held: Sequence[Case],
    cases: Sequence[Case],
    *,
    suite_s: float,
    case_s: float,
    tests: Callable[[Path], bool] | None = None,
) -> Results:
    """Measures, calibrates, compares, and writes FOLDER. Raises FitError when too few cases could be measured."""
    folder.mkdir(parents=True, exist_ok=True)
    passed = tests(folder / "tests.txt") if tests else None
    store = Store(folder / "store")
    pace = rounds.metered(rounds.QUICK, meter.name)
    bench = rounds.Bench(
        meter, SystemCounters(), host, pace, stopwatch_overhead_s(str(host["device"])), Store.new_id("suite")
    )
    print(f"calibrating {hardware_name(host)} for {suite_s:.0f} s, meter {meter.name}", flush=True)
    summary = run_suite(cases, store, bench, budget_s=suite_s, progress=_Quiet())
    profile = fit_profile(summary.records, power=lambda: modelled_power(host))
    profile.save(folder / "profile.json")
    datasheet = _datasheet(host)
    longer = type(pace)(window_s=pace.window_s, case_s=case_s, rounds=pace.rounds)
    bench = rounds.Bench(meter, bench.counters, host, longer, bench.overhead_s, Store.new_id("held"))
    found, failed = [], dict(summary.failed)
    for case in held:
        try:
            record, trace = rounds.measure_case(
                rounds.prepare(case, str(host["device"])), bench, store.new_id(case.name)
            )
        except Exception as error:  # a network that fails must not end the others
            failed[case.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"  failed: {case.name}: {failed[case.name]}", flush=True)
            continue
        finally:
            gc.collect()
        store.write(record, trace)
        found.append(_compared(record, datasheet, profile))
        print(f"  {case.name}: {found[-1].seconds * 1e3:.1f} ms a step", flush=True)
    results = Results(dict(host), meter.name, passed, tuple(found), failed, len(summary.measured), profile)
    (folder / "summary.json").write_text(json.dumps(results.to_json(), indent=1) + "\n", encoding="utf-8")
    (folder / "summary.md").write_text(report(results), encoding="utf-8")
    return results


def _datasheet(host: Mapping[str, Any]) -> Profile | None:
    try:
        return load_profile(hardware_name(host))
    except JoulecastError as error:
        print(f"no prediction before calibration: {error}", flush=True)
        return None


def _compared(record: Record, datasheet: Profile | None, profile: Profile) -> Comparison:
    work = record.workload
    assert work is not None
    predict: Callable[[Profile], tuple[Interval, Interval]] = lambda one: _step(one.predict(work))  # noqa: E731
    energy_j = record.energy_j if record.label == "measured" else None
    return Comparison(
        name=record.name,
        batch_size=work.batch_size,
        seconds=record.seconds / record.steps,
        energy_j=None if energy_j is None else energy_j / record.steps,
        before=None if datasheet is None else predict(datasheet),
        after=predict(profile),
    )


def _step(estimate: Any) -> tuple[Interval, Interval]:
    energy = estimate.energy_kwh
    joules = Interval(*(JOULES_PER_KWH * figure for figure in (energy.value, energy.low, energy.high)))
    return estimate.seconds, joules


def report(results: Results) -> str:
    """The summary as Markdown."""
    lines = [
        f"# {hardware_name(results.host)}",
        "",
        f"Meter: {results.meter}. Calibration: {results.suite_cases} cases. GPU tests: "
        f"{ {None: 'not run', True: 'passed', False: 'failed'}[results.tests_passed] }.",
        "",
        "| network | batch | ms a step | J a step | time before | time after | energy before | energy after |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows = [one.row() for one in results.comparisons]
    for row in rows:
        joules = "-" if row["step_j"] is None else f"{row['step_j']:.2f}"
        errors = (_error(row, f"{when}_{what}") for what in ("time", "energy") for when in ("before", "after"))
        lines.append(
            f"| {row['name']} | {row['batch_size']} | {row['step_s'] * 1e3:.1f} | {joules} | {' | '.join(errors)} |"
        )
    lines += ["", "Errors are predicted over measured - 1; an x marks measurements outside the 90 % interval.", ""]
    for what in ("time", "energy"):
        for when in ("before", "after"):
            errors = [abs(row[f"{when}_{what}_error"]) for row in rows if f"{when}_{what}_error" in row]
            inside = [row[f"{when}_{what}_inside"] for row in rows if f"{when}_{what}_inside" in row]
            if errors:
                lines.append(
                    f"- {what} {when} calibration: {mean(errors):.1%} mean, {median(errors):.1%} median error; "
                    f"{mean(inside):.0%} of {len(inside)} inside the 90 % interval"
                )
    lines += [f"- failed: {name}: {reason}" for name, reason in results.failed.items()]
    return "\n".join(lines) + "\n"


def _error(row: Mapping[str, Any], name: str) -> str:
    if f"{name}_error" not in row:
        return "-"
    return f"{row[f'{name}_error']:+.1%}" + ("" if row[f"{name}_inside"] else " x")


def _gpu_tests(output: Path) -> bool:
    done = subprocess.run([sys.executable, *TESTS], capture_output=True, text=True, timeout=300, check=False)
    output.write_text(done.stdout + done.stderr, encoding="utf-8")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for records, profile and summary")
    parser.add_argument("--suite-s", type=float, default=300.0, help="seconds for the calibration suite")
    parser.add_argument("--case-s", type=float, default=15.0, help="seconds for each network of the comparison")
    parser.add_argument("--no-tests", action="store_true", help="do not run the GPU tests")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 2
    held = [case_of(network, batch) for network, batch in held_networks()]
    host = describe_host(torch.get_num_threads(), "gpu")
    with select_meter("nvml") as meter:
        results = run(
            options.out,
            meter,
            host,
            held,
            machine_cases(host),
            suite_s=options.suite_s,
            case_s=options.case_s,
            tests=None if options.no_tests else _gpu_tests,
        )
    print(report(results))
    print(json.dumps(asdict(results.profile.provenance), indent=1))
    return 1 if results.failed or results.tests_passed is False or not results.comparisons else 0


if __name__ == "__main__":
    sys.exit(main())
