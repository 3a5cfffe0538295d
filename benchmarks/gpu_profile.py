"""A shipped profile of a GPU from steps that `gpu_steps.py` measured, with its errors on networks left out.

    python benchmarks/gpu_profile.py [--part h100-sxm] [--write]

Traces the networks, prints how far the datasheet profile was off before any measurement, fits the profile on the steps
of eager PyTorch, and compares predictions of each network, made without its family, with the measurements. Then peak
memory is compared. Layers of large language models are judged by the profile and not fitted.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from tempfile import gettempdir
from typing import Any

import torch
from gpu_networks import BY_NAME, LANGUAGE

from joulecast.estimator.base.interval import Interval
from joulecast.estimator.base.units import JOULES_PER_KWH
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.memory import memory_needed
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.fit.fit import fit
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

HERE = Path(__file__).parent
MEASURED, PROFILES = HERE / "measured", HERE.parent / "datasets" / "profiles"
FOLDS = 6
BOARDS = {"h100-sxm": "H100 80GB HBM3", "h200": "H200"}  # each of 700 W
SOURCE = (
    "{steps} training steps of {networks} networks that the joulecast developers measured with "
    "benchmarks/gpu_steps.py on one NVIDIA {board} of 700 W in a virtual machine of 16 CPUs, "
    "2026-11-26 (PyTorch 2.11.0 for CUDA 13.0, cuDNN 9.19, driver 580.159.04; eager, float32 and bfloat16; "
    "meter: nvml)"
)
Row = dict[str, str]


def observations(part: str, rows: Sequence[Row], cache: Path) -> list[Observation]:
    """The measured steps with their networks traced; traces are kept in `cache`, a JSON file."""
    known: dict[str, Any] = json.loads(cache.read_text()) if cache.exists() else {}
    result = []
    for row in rows:
        key = " ".join(row[name] for name in ("model", "batch", "precision", "optimizer"))
        if key not in known:
            known[key] = traced(row).to_json()
            cache.write_text(json.dumps(known))
        steps, step_s = int(row["steps"]), float(row["seconds_per_step"])
        result.append(
            Observation(
                workload=Workload.from_json(known[key]),
                steps=steps,
                seconds=steps * step_s,
                energy_j=steps * step_s * float(row["watts"]),
                meter="nvml",
                hardware=part,
                framework="pytorch",
                family=row["model"],
            )
        )
    return result


def traced(row: Row) -> Workload:
    network = BY_NAME[row["model"]]
    with torch.device("meta"):
        model = network.build()
    if row["precision"] == "pure-bfloat16":
        model = model.bfloat16()
    return trace(
        model,
        network.inputs(int(row["batch"])),
        optimizer=row["optimizer"],
        precision="bfloat16" if row["precision"] == "bfloat16" else None,
        batch_size=int(row["batch"]),
        name=row["model"],
        layers=False,
    )


def predictions(profile: Profile, rows: Sequence[Observation]) -> list[tuple[Observation, Interval, Interval]]:
    """With seconds and joules of a step."""
    result = []
    for row in rows:
        found = profile.predict(row.workload)
        result.append((row, found.seconds, found.energy_kwh * JOULES_PER_KWH))
    return result


def left_out(part: str, rows: Sequence[Observation]) -> list[tuple[Observation, Interval, Interval]]:
    """Each network predicted by a profile without it."""
    names, result = sorted({row.family for row in rows}), []
    for fold in range(FOLDS):
        out = set(names[fold::FOLDS])
        profile = fit([row for row in rows if row.family not in out], name=part, hardware=part)
        result += predictions(profile, [row for row in rows if row.family in out])
    return result


def scores(found: Sequence[tuple[Observation, Interval, Interval]]) -> dict[str, float]:
    times = [(seconds, row.step_seconds) for row, seconds, _ in found]
    energies = [(joules, (row.energy_j or 0.0) / row.steps) for row, _, joules in found]
    result = {}
    for what, pairs in (("time", times), ("energy", energies)):
        errors = [abs(predicted.value / true - 1) for predicted, true in pairs]
        result[f"{what}_mean_error"], result[f"{what}_median_error"] = mean(errors), median(errors)
        result[f"{what}_coverage"] = mean(predicted.low <= true <= predicted.high for predicted, true in pairs)
        result[f"{what}_width"] = median(predicted.high / predicted.low for predicted, _ in pairs)
    return result


def report(name: str, found: Sequence[tuple[Observation, Interval, Interval]]) -> None:
    print(f"{name}, {len(found)} steps:")
    for what in ("time", "energy"):
        found_scores = scores(found)
        print(
            f"  {what}: {found_scores[f'{what}_mean_error']:.1%} mean, {found_scores[f'{what}_median_error']:.1%} "
            f"median error; {found_scores[f'{what}_coverage']:.0%} inside an interval of width "
            f"{found_scores[f'{what}_width']:.2f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(BOARDS), default="h100-sxm")
    parser.add_argument("--write", action="store_true", help="write the profile to datasets/profiles")
    parser.add_argument("--cache", type=Path, help="file with traces; default: in the temporary folder")
    options = parser.parse_args()
    part, cache = options.part, options.cache or Path(gettempdir()) / f"joulecast-{options.part}-traces.json"
    with (MEASURED / f"{part}.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    eager = [row for row in table if row["software"] == "eager"]
    language = [row for row in eager if row["model"] in {network.name for network in LANGUAGE}]
    eager = [row for row in eager if row not in language]
    rows = observations(part, eager, cache)
    memory = [
        memory_needed(one.workload) / int(row["peak_memory_bytes"]) - 1 for one, row in zip(rows, eager, strict=True)
    ]
    print(f"peak memory: {mean(map(abs, memory)):.1%} mean, {median(map(abs, memory)):.1%} median error")
    report("datasheet, before any measurement", predictions(datasheet_profile(find_hardware(part)), rows))
    without = left_out(part, rows)
    report("each network left out", without)
    for precision in sorted({row.workload.precision for row in rows}):
        report(f"  {precision}", [one for one in without if one[0].workload.precision == precision])
    profile = fit(rows, name=part, hardware=part)
    if language:
        report("layers of large language models", predictions(profile, observations(part, language, cache)))
    networks = len({row.family for row in rows})
    source = SOURCE.format(board=BOARDS[part], steps=len(rows), networks=networks)
    basis = profile.provenance
    profile = replace(  # without the note on what was learnt, which `joulecast explain` shows in detail
        profile,
        scores={**profile.scores, **scores(without)},
        provenance=replace(basis, sources=(source, *basis.sources[1:]), notes=(), created="2026-11-26"),
    )
    if options.write:
        profile.save(PROFILES / f"{part}.json")
        print(f"wrote {PROFILES / part}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
