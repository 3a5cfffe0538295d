"""How near are predictions of trainings on many GPUs? Beside 6ND at 40 % of the peak, and vTrain's published errors.

    python benchmarks/distributed.py --measured ../shared/measured [--cache DIR] [--fit]

Networks (or sizes, or settings) of each source are sorted by name and dealt to two halves in the order 0, 1, 1, 0. With
`--fit`, the factors of software and links are fitted on one half and judged on the other, in both directions; what is
shipped is fitted on all and written to datasets/stacks.json. Its bounds come from sources that were left out as a
whole: other clusters, software and people. The whole runs of a paper, whose overhead is that of other papers, are a
source too; every source counts as much.
They are as wide as it takes for 90 % of a source to be inside bounds that were drawn without it.
The bounds where the software is not stated are the wider of these and those from sources since 2023, all predicted as
what is then assumed, with all whole runs as one source.
NVIDIA GPUs before Ampere have a factor and bounds of their own (distributed_older.py).
Without `--fit`, the shipped values are judged. A network is traced once per size, sequence and batch, and cached.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from distributed_bounds import bounds_of, coverage, inside_of, quantiles, tails_of, wider
from distributed_experts import mixtures
from distributed_fit import factors_of, fit, links_of, predicted, prepare, values_of
from distributed_older import gpt3, left_out_ratios, older_sources, shipped_ratios, slowdown_of
from distributed_others import (
    kilowatts,
    left_out_runs,
    long_runs,
    paper_of,
    published_runs,
    runs_of_mlperf,
    scaling,
    software_of,
    whole_runs,
)
from distributed_runs import PADDED, SPLIT_UNSURE, Run, all_runs, anatomy_of

from joulecast.estimator.answer.on_cluster import LARGE
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.kept import kept_per_block
from joulecast.estimator.cost.parallel.memory import memory_of
from joulecast.estimator.cost.parallel.shard import slowest_stage
from joulecast.estimator.cost.population import load_population
from joulecast.estimator.cost.software import OVERLAPPED_TENSORS, WRITTEN_SCORES
from joulecast.estimator.cost.stacks import SCHEMA, load_stacks
from joulecast.estimator.trace.fp8 import FP8

Array = np.ndarray[Any, np.dtype[np.float64]]
ROOT = Path(__file__).resolve().parent.parent
VTRAIN_OWN = 0.0837
"""vTrain's own mean error on one node (Bang et al., MICRO 2024), from kernels profiled on the target."""
_UTILISATION = 0.4
_MOST_ROWS = 120  # of one source in a fit
# In 16 bits.
_SINCE_2023 = (
    *("llm-foundry", "internevo", "jax-toolbox", "nvidia-llm", "fms-fsdp", "maxtext"),
    *("Nemotron-4 340B", "Llama 3 405B"),
)
_WHOLE = "published runs"  # of all papers
_DERIVED = ("backward_overlap", "gradients_as_weights", "expert_share")  # that follow from the software and the GPU


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    ratios: Array  # predicted over measured
    simple: Array | None = None  # of 6ND
    target: str = ""
    bounds: tuple[float, float] | None = None

    def text(self) -> str:
        errors = np.abs(self.ratios - 1)
        inside = width = simple = "-"
        if self.bounds:
            low, high = self.bounds
            inside = f"{np.mean((1 / self.ratios >= low) & (1 / self.ratios <= high)):.0%}"
            width = f"{high / low:.2f}"
        if self.simple is not None:
            simple = f"{np.mean(np.abs(self.simple - 1)):.1%}"
        bias, spread = np.exp(np.median(np.log(self.ratios))), np.exp(np.std(np.log(self.ratios)))
        return (
            f"{self.what:42} {len(errors):5} {errors.mean():7.1%} {np.median(errors):7.1%} {bias:6.2f} {spread:6.2f} "
            f"{inside:>7} {width:>6} {simple:>7}  {self.target}"
        )


HEAD = (
    f"{'data':42} {'rows':>5} {'mean':>7} {'median':>7} {'bias':>6} {'spread':>6} {'inside':>7} {'width':>6} {'6ND':>7}"
)


def halves(runs: Sequence[Run]) -> Array:
    """0 or 1 for each run, by its group: sorted groups are dealt 0, 1, 1, 0."""
    half = {}
    for source in {run.source for run in runs}:
        for position, group in enumerate(sorted({run.group for run in runs if run.source == source})):
            half[source, group] = (0, 1, 1, 0)[position % 4]
    return np.array([half[run.source, run.group] for run in runs])


def simple_seconds(run: Run) -> float:
    """6ND at 40 % of the peak of 16 bit."""
    part = find_hardware(run.gpu)
    peak = max(part.bf16_tflops or 0.0, part.fp16_tflops or 0.0) * 1e12
    assert run.plan is not None
    return 6 * run.net.parameters * run.samples * run.sequence / (_UTILISATION * peak * run.plan.devices)


def for_fit(runs: Sequence[Run]) -> list[Run]:
    """At most `_MOST_ROWS` rows of a source, evenly chosen.

    FP8 is in the fit for Megatron-Core alone, which has no other rows; runs of unsure splits are not.
    """
    chosen = []
    for source in sorted({run.source for run in runs}):
        own = [run for run in runs if run.source == source and _of_fit(run)]
        step = max(1, -(-len(own) // _MOST_ROWS))
        chosen += own[::step]
    return chosen


def _of_fit(run: Run) -> bool:
    return _of_bounds(run) and run.label not in (SPLIT_UNSURE, PADDED)


def _of_bounds(run: Run) -> bool:
    return run.half != FP8 or run.software == OVERLAPPED_TENSORS


def left_out(runs: Sequence[Run], cache: Path) -> Array:
    """Seconds predicted for each run by a fit on the other half."""
    half, seconds = halves(runs), np.zeros(len(runs))
    for judged in (0, 1):
        values = fit(prepare(for_fit([run for run, own in zip(runs, half, strict=True) if own != judged]), cache))
        where = np.flatnonzero(half == judged)
        seconds[where] = predicted(prepare([runs[index] for index in where], cache), values)
    return seconds


def sources_left_out(runs: Sequence[Run], cache: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Measured over predicted of each source, by a fit on the others; the same as if no software were stated.

    FP8 of software that is fitted in 16 bits is left out with the source's other rows, and not judged.
    """
    stated, assumed = {}, {}
    sources = np.array([run.source.removesuffix(" fp8") if run.source != "nemo fp8" else run.source for run in runs])
    for source in dict.fromkeys(sources):
        values = fit(prepare(for_fit([run for run, own in zip(runs, sources, strict=True) if own != source]), cache))
        own = [run for run, of in zip(runs, sources, strict=True) if of == source and _of_bounds(run)]
        measured = np.array([run.seconds for run in own])
        stated[str(source)] = measured / predicted(prepare(own, cache), values)
        if source in _SINCE_2023:
            as_assumed = [replace(run, software=assumed_software(run)) for run in own]
            assumed[str(source)] = measured / predicted(prepare(as_assumed, cache), values)
    return stated, assumed


def assumed_software(run: Run) -> str:
    """What is assumed where no software is stated, on GPUs since Ampere."""
    large = run.net.parameters > LARGE and find_hardware(run.gpu).fp8_tflops
    return OVERLAPPED_TENSORS if large else "fused"


def by_paper(hours: Sequence[tuple[Mapping[str, str], float]]) -> dict[str, Array]:
    """Published over predicted hours of each paper's runs."""
    found: dict[str, list[float]] = {}
    for row, ratio in hours:
        found.setdefault(paper_of(row), []).append(1 / ratio)
    return {paper: np.array(ratios) for paper, ratios in found.items()}


def coverage_line(what: str, sources: Mapping[str, Array], papers: Collection[str] = ()) -> str:
    tails = tails_of(sources, papers)
    low, high = quantiles(sources, tails)
    runs = f"; {inside_of(papers, sources, tails):.0%} of all published runs" if papers else ""
    return (
        f"interval, {what}: {low:.2f} to {high:.2f} of the prediction, {high / low:.2f} wide (without {tails[0]:.1%} "
        f"below, {tails[1]:.1%} above); {coverage(sources, tails):.0%} inside bounds without the own source "
        f"({len(sources)} sources){runs}"
    )


def write_fit(
    runs: Sequence[Run],
    cache: Path,
    bounds: tuple[float, float],
    assumed_bounds: tuple[float, float],
    practice: tuple[float, float] | None = None,
    older_bounds: tuple[float, float] | None = None,
) -> None:
    """Writes the fit on all runs and its bounds, and lets the package read them again."""
    fitted, shipped = for_fit(runs), load_stacks()
    of_long_runs, older = practice or (shipped.long_runs, shipped.older_slowdown)
    values = fit(prepare(fitted, cache))
    sources = ", ".join(sorted({run.source for run in fitted}))
    document = {
        "schema": SCHEMA,
        "fitted_on": f"{len(fitted)} steps of published trainings: {sources}",
        "factors": {name: _rounded(value) for name, value in factors_of(values).items()},
        "links": {name: _rounded(value) for name, value in asdict(links_of(values)).items() if name not in _DERIVED},
        "time_error": [_rounded(bound) for bound in bounds],
        "assumed_time_error": [_rounded(bound) for bound in assumed_bounds],
        "long_runs": _rounded(of_long_runs),
        "older_slowdown": _rounded(older),
        "older_time_error": [_rounded(bound) for bound in older_bounds or shipped.older_time_error],
    }
    (ROOT / "datasets" / "stacks.json").write_text(json.dumps(document, indent=1) + "\n")
    load_stacks.cache_clear()
    load_population.cache_clear()


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def memory_line(runs: Sequence[Run], cache: Path) -> str:
    """Peak memory is not published; but every run fitted."""
    shares = []
    for run in runs:
        work, anatomy = anatomy_of(run, cache)
        assert run.plan is not None
        kept = kept_per_block(anatomy, run.software, run.plan.checkpointing)
        memory = memory_of(work, anatomy, slowest_stage(anatomy, run.plan, run.software), run.plan, kept)
        shares.append(memory.total / 1e9 / find_hardware(run.gpu).memory_gb)
    over = [share for share in shares if share > 1]
    return (
        f"memory: {len(over)} of {len(shares)} runs that ran are modelled not to fit, "
        f"at most {max(shares):.2f} times the card's memory"
    )


_TARGETS = {"vtrain": f"10 % (vTrain {VTRAIN_OWN:.1%})", "llm-foundry": "10 %"}


def tables(runs: Sequence[Run], seconds: Array, bounds: tuple[float, float], what: str) -> list[Line]:
    measured = np.array([run.seconds for run in runs])
    simple = np.array([simple_seconds(run) for run in runs]) / measured
    lines = []
    for name in dict.fromkeys(run.source for run in runs):
        where = np.flatnonzero([run.source == name for run in runs])
        target = _TARGETS.get(name, "15 %")
        lines.append(Line(f"{name}, {what}", (seconds / measured)[where], simple[where], target, bounds))
        for half in (0, 1) if name in _TARGETS else ():
            part = where[halves(runs)[where] == half]
            lines.append(Line(f"  half {half}", (seconds / measured)[part], simple[part], "", bounds))
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--reference", type=Path, help="folder with llm_runs.csv; default: next to --measured")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "joulecast-benchmarks")
    parser.add_argument("--fit", action="store_true", help="fit again and write datasets/stacks.json")
    parser.add_argument("--only", choices=("steps", "others", "experts"), help="one part of the tables")
    options = parser.parse_args()
    runs = all_runs(options.measured)
    reference = options.reference or options.measured.parent / "reference"
    print(HEAD)
    if options.only in (None, "steps"):
        if options.fit:
            seconds = left_out(runs, options.cache)
            stated, assumed = sources_left_out(runs, options.cache)
            write_fit(runs, options.cache, bounds_of(stated), bounds_of(assumed))
            whole = published_runs(options.measured, reference, options.cache)
            hours = list(left_out_runs(whole))
            papers = by_paper(hours)
            stated |= papers
            assumed[_WHOLE] = np.array([1 / ratio for row, ratio in hours if software_of(row) != WRITTEN_SCORES])
            older = older_sources(options.measured, options.cache)  # predicted with the fit
            ratios = left_out_ratios(older)
            stated |= {f"before Ampere: {name}": own for name, own in ratios.items()}
            bounds, older_bounds, what = bounds_of(stated, papers), bounds_of(ratios), "left out"
            assumed_bounds = wider(bounds, bounds_of(assumed))
            practice = long_runs(whole), slowdown_of(older)
            write_fit(runs, options.cache, bounds, assumed_bounds, practice, older_bounds)
            print(coverage_line("software stated", stated, papers))
            print(coverage_line("software assumed", assumed))
            print(coverage_line("before Ampere", ratios))
        else:
            shipped = load_stacks()
            older_bounds = shipped.older_time_error
            ratios = shipped_ratios(older_sources(options.measured, options.cache))
            seconds = predicted(prepare(runs, options.cache), values_of(shipped))
            bounds, what = shipped.time_error, "as shipped"
        for line in tables(runs, seconds, bounds, what):
            print(line.text(), flush=True)
        for name, own in ratios.items():
            print(Line(f"before Ampere: {name}, {what}", 1 / own, None, "15 %", older_bounds).text(), flush=True)
        hours, energy = gpt3(options.cache)
        print(Line("before Ampere: GPT-3, hours", np.array([hours]), None, "", older_bounds).text(), flush=True)
        print(Line("before Ampere: GPT-3, MWh of nodes", np.array([energy])).text(), flush=True)
        print(memory_line(runs, options.cache), flush=True)
    if options.only in (None, "others"):
        for what, ratios, simple, target, bounds_ in (
            *scaling(options.measured, options.cache),
            *runs_of_mlperf(options.measured, options.cache),
            *kilowatts(options.measured, options.cache),
            *whole_runs(options.measured, reference, options.cache),
        ):
            print(Line(what, ratios, simple, target, bounds_).text(), flush=True)
    if options.only in (None, "experts"):
        for what, ratios, bounds_ in mixtures(options.cache):
            print(Line(what, ratios, None, "", bounds_).text(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
