"""How near is the population model on GPUs that it was not fitted on? Beside a roofline and what others reach.

    python benchmarks/hardware_transfer.py --shared ../shared --cache DIR

Every GPU is predicted with parameters fitted without any variant of its chip; the second table predicts half of the
chips (every other one in alphabetical order) from the other half alone. The roofline is the datasheet model of before:
fixed shares of the peaks, 75 us a launch. Traces and fits are kept in the cache folder. Exit status 1 when the shipped
intervals contain less than 85 % of the steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import population_kernels
from population_fit import Fit, fitted, fitted_on, predict, vendor_bounds, vendor_masks
from population_power import fit_power
from population_rows import Rows, chip, for_fit, rows_of, traces_of
from population_runs import all_steps
from population_spread import Device, devices
from population_spread import after_runs as after

from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.pieces import MOVING, Columns
from joulecast.estimator.cost.population import load_population
from joulecast.estimator.fit.few import Prior
from joulecast.estimator.trace.fp8 import as_fp8

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
UNSEEN = "NeuSight end to end, training, its unseen GPUs"
NEUSIGHT_OWN = ("p4", "p100-pcie", "v100-pcie-32gb", "t4", "a100-pcie-40gb")
_VECTOR_KERNELS = ("add", "addu", "mul", "mulu", "div", "divu", "pow", "powu", "relu", "gelu", "tanh", "ln", "softmax")


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    rows: int
    before: str
    reached: str
    wanted: str


def roofline(rows: Rows) -> Array:
    """Logarithm of seconds: the larger of arithmetic and traffic of each op, or 75 us."""
    t, s = Columns(rows.table), rows.specs
    dense = t.cls < MOVING
    half = np.where(s["tensor"] > 0, 0.4 * s["half"], 0.9 * s["fp32"])
    rate = np.where(
        t.half > 0, half, np.where((rows.tf32 > 0) & (s["tf32"] > s["fp32"]), 0.3 * s["tf32"], 0.9 * s["fp32"])
    )
    compute = np.where(dense, t.macs / rate, 0.0) * t.kernels
    busy = np.maximum(compute, t.moved / (0.6 * s["bandwidth"]))
    alone = (rows.software < 0)[rows.row]
    seconds = np.maximum(busy, np.where(alone, 0.0, 75e-6)) * t.count
    return np.asarray(np.log(np.bincount(rows.row, weights=seconds, minlength=len(rows.steps))))


def shares(error: Array) -> Array:
    return np.abs(np.expm1(error))


def _both(error: Array) -> str:
    return f"{np.median(shares(error)):.1%} median, {shares(error).mean():.1%} mean"


def groups(rows: Rows) -> list[tuple[str, Mask, str]]:
    """What the table has a line for: rows, and the figure to reach."""
    train = np.array([step.key.train for step in rows.steps])
    sources, gpus = rows.source, rows.gpu
    torchvision = np.isin(sources, ["ryujaehun", "lamikr"]) & train
    amd = np.array([gpu.startswith(("rx-", "radeon", "mi")) for gpu in gpus.tolist()])
    unseen = (sources == "neusight") & train & ~np.isin(gpus, NEUSIGHT_OWN)
    kernel = np.array([source.startswith("neusight kernel") for source in sources.tolist()])
    kinds = np.array([source.removeprefix("neusight kernel ") for source in sources.tolist()])
    return [
        ("ryujaehun + lamikr, training", torchvision, "15 % median"),
        ("  of these NVIDIA", torchvision & ~amd, ""),
        ("  of these AMD", torchvision & amd, ""),
        ("lambda, training", sources == "lambda", "12 % median"),
        (UNSEEN, unseen, "5 % median, 8 % mean"),
        ("NeuSight end to end, all", sources == "neusight", ""),
        (
            "NeuSight kernels (linear, bmm, vector)",
            kernel & np.isin(kinds, ["linear", "bmm", *_VECTOR_KERNELS]),
            "15 % mean",
        ),
        ("nvidia-dle, one GPU", sources == "nvidia-dle", "20 % median"),
        ("MLPerf, up to 8 GPUs, vendor-tuned", sources == "mlperf", "25 % median"),
        *((name, sources == name, "") for name in ("ec-nas", "zeus", "timm", "u39kun", "dlperf", "cnn-benchmarks")),
    ]


def table(rows: Rows, log_s: Array, plain: Array) -> list[Line]:
    error, before = log_s - rows.log_s, plain - rows.log_s
    lines = []
    for what, mask, wanted in groups(rows):
        lines.append(Line(what, int(mask.sum()), _both(before[mask]), _both(error[mask]), wanted))
        if what == UNSEEN:
            known = [index for index in np.flatnonzero(mask).tolist() if rows.steps[index].reference_s]
            theirs = np.array([np.log(rows.steps[index].reference_s or 1.0) - rows.log_s[index] for index in known])
            lines.append(Line("  NeuSight's own predictions of those", len(known), "", _both(theirs), ""))
    return lines


def print_halves(rows: Rows, log_s: Array, whole: Fit, cache: Path) -> None:
    """Every group on each half of the chips: with one chip left out, and from the other half alone."""
    chips = sorted({chip(gpu) for gpu in rows.gpu.tolist()})
    first = np.array([chip(gpu) in chips[::2] for gpu in rows.gpu.tolist()])
    from_other = np.zeros(len(rows.steps))
    for own in (first, ~first):
        from_other[own] = predict(rows, fitted_on(rows.only(~own), whole, cache).values)[own]
    print("| data | first half: rows, one chip left out, from the second half alone | second half, likewise |")
    print("|---|---|---|")
    for what, mask, _ in groups(rows):
        cells = []
        for own in (first & mask, ~first & mask):
            if own.any():
                one, other = (np.median(shares((found - rows.log_s)[own])) for found in (log_s, from_other))
                cells.append(f"{own.sum()}, {one:.1%}, {other:.1%}")
            else:
                cells.append("0")
        print(f"| {what} | {' | '.join(cells)} |", flush=True)


def power_lines(rows: Rows, log_s: Array, power_error: Array) -> list[Line]:
    error = log_s - rows.log_s
    board = rows.specs["power"][np.searchsorted(rows.row, np.arange(len(rows.steps)))]
    watts = np.array([step.watts or 0.0 for step in rows.steps])
    tdp = np.log(board / watts)
    lines = []
    for names, wanted in ((("ec-nas", "zeus"), "20 % median energy, 12 % power"), (("fischer",), "")):
        mask = np.isin(rows.source, names)
        what = " + ".join(names)
        lines.append(Line(f"{what}: energy", int(mask.sum()), "", _both((error + power_error)[mask]), wanted))
        power = f"{_both(power_error[mask])} (TDP: {np.median(shares(tdp[mask])):.1%})"
        lines.append(Line(f"{what}: power", int(mask.sum()), "", power, ""))
    return lines


def coverage(rows: Rows, log_s: Array) -> list[Line]:
    """Shares of steps inside bounds that their own GPUs had no part in, and how wide these are.

    NVIDIA: bounds from half of the chips, judged on the other half, and the other way round. AMD: from all chips of
    the vendor but one, judged on that one. The rule is that of the shipped bounds.
    """
    error = rows.log_s - log_s
    step = (rows.software >= 0) & (rows.source != "mlperf")
    chips = np.array([chip(gpu) for gpu in rows.gpu.tolist()])
    vendors = {name: mask & step for name, mask in vendor_masks(rows).items()}
    nvidia = vendors["nvidia"]
    first = np.isin(chips, sorted(set(chips[nvidia].tolist()))[::2])
    parts = {"NVIDIA": [(nvidia & half, nvidia & ~half) for half in (first, ~first)]}
    for title, name in (("AMD Radeon", "radeon"), ("AMD Instinct", "amd")):
        own = vendors[name]
        parts[title] = [(own & (chips != one), own & (chips == one)) for one in sorted(set(chips[own].tolist()))]
    lines = []
    for vendor, splits in parts.items():
        inside: list[bool] = []
        widths = []
        for own, other in splits:
            low, high = vendor_bounds(rows, error, own, nvidia)
            inside += ((np.exp(error[other]) >= low) & (np.exp(error[other]) <= high)).tolist()
            widths.append(high / low)
        text = f"{np.mean(inside):.0%} inside, high / low {np.mean(widths):.2f}"
        lines.append(
            Line(f"90 % interval, software known, {vendor}", len(inside), "8.9 wide", text, "85-95 %, 2.5 wide")
        )
    return lines


def after_runs(rows: Rows, fits: dict[str, Fit]) -> list[Line]:
    """Median error on a GPU after runs of other networks on it, from parameters fitted without its chip."""
    population = load_population()
    prior = {amd: Prior.of(population, amd) for amd in (False, True)}
    known: list[tuple[Device, float]] = []
    for name, made in fits.items():
        own = rows.only(np.array([chip(gpu) == name for gpu in rows.gpu.tolist()]))
        known += [(device, made.values["sharpness"]) for device in devices(own, made.values)]
    lines = []
    for source in ("lambda", "ec-nas", "timm", "ryujaehun", "lamikr"):
        found = [
            after([device], prior, sharpness, (0, 1, 3, 10, 25, 50))
            for device, sharpness in known
            if device.source == source
        ]
        text = []
        for count in (0, 1, 3, 10, 25, 50):
            own_lines = [one[count] for one in found if count in one]
            if own_lines:
                error, inside, width = np.mean(own_lines, axis=0)
                text.append(f"{count}: {error:.1%} ({inside:.0%} inside, {width:.2f} wide)")
        size = int((rows.source == source).sum())
        lines.append(Line(f"{source}: after runs of other networks", size, "", ", ".join(text), "12, 9, 6 %"))
    return lines


FROM_EC_NAS = ("rtx-3090", "rtx-3060", "quadro-rtx-6000", "titan-xp")


def shipped(steps: Sequence[Any], traces: Any, gpus: Sequence[str], what: str, known: bool) -> Line:
    """Shipped profiles asked about what others ran on the same cards; `known`: with their software stated."""
    inside, errors, general = [], [], []
    for step in steps:
        if step.source in ("ec-nas", "fischer") or step.gpu not in gpus:
            continue
        if (work := traces.work(step.key)) is None:
            continue
        if step.fp8:  # equal ops are merged: none has a layer
            work = as_fp8(replace(work, ops=tuple(replace(op, layer=str(i)) for i, op in enumerate(work.ops))))
        software = step.software if known else None
        measured = replace(load_profile(step.gpu), startup_s=0.0).predict(work, steps=1, software=software).seconds
        population = datasheet_profile(find_hardware(step.gpu)).predict(work, steps=1, software=software).seconds
        inside.append(measured.low <= step.seconds <= measured.high)
        errors.append(abs(measured.value / step.seconds - 1))
        general.append(abs(population.value / step.seconds - 1))
    text = f"{np.mean(inside):.0%} inside, {np.median(errors):.1%} median (population {np.median(general):.1%})"
    return Line(f"shipped profiles, {what}", len(inside), "36 % inside" if not known else "", text, "85-95 % inside")


def print_table(lines: Sequence[Line]) -> None:
    print("| data | rows | roofline or before | reached | to reach |\n|---|---|---|---|---|")
    for line in lines:
        print(f"| {line.what} | {line.rows} | {line.before} | {line.reached} | {line.wanted} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    measured = options.shared / "measured"
    steps = all_steps(measured)
    traces = traces_of(steps, options.cache)
    rows = rows_of(for_fit(steps), traces, population_kernels.sample(measured))
    made, log_s, fits = fitted(rows, options.cache)
    print_table(table(rows, log_s, roofline(rows)))
    print_halves(rows, log_s, made, options.cache)
    lines = coverage(rows, log_s)
    powered = rows_of([step for step in steps if step.watts], traces)
    powered_s = np.zeros(len(powered.steps))
    for name in {chip(gpu) for gpu in powered.gpu.tolist()}:
        mask = np.array([chip(gpu) == name for gpu in powered.gpu.tolist()])
        powered_s[mask] = predict(powered, fits[name].values)[mask]
    _, power_error = fit_power(powered, made)
    print_table([*lines, *power_lines(powered, powered_s, power_error)])
    elsewhere = [
        shipped(steps, traces, FROM_EC_NAS, "other precision, framework, size", known=False),
        shipped(steps, traces, ("h100-sxm",), "the H100's in NVIDIA's containers and MLPerf", known=True),
    ]
    print_table([*after_runs(rows, fits), *elsewhere])
    error = np.exp(rows.log_s - log_s)
    low, high = load_population().errors["time nvidia known"]
    nvidia = (rows.software >= 0) & (rows.specs["amd"][np.searchsorted(rows.row, np.arange(len(rows.steps)))] == 0)
    inside = float(np.mean((error[nvidia] >= low) & (error[nvidia] <= high)))
    print(f"{inside:.0%} of the steps on NVIDIA GPUs left out are inside of the shipped bounds")
    return 0 if inside >= 0.85 else 1


if __name__ == "__main__":
    sys.exit(main())
