"""Many simulated machines write to one store; one profile for each kind is fitted and tried on machines left out.

python benchmarks/fleet.py [--machines 64] [--kinds 4] [--writers 8] [--address file:///...]

Each machine takes a factor times as long as its kind's law (4 % standard deviation between machines) and every case has
2 % of noise. One machine in sixteen is held out: its times are predicted with its kind's profile.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
from torch import nn

from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.shared import SharedStore
from joulecast.measure.suite.fleet import fit_kind, kinds_of, machine_of

SPREAD, NOISE, CASES = 0.04, 0.02, 40
HELD_OUT = 16  # every so many machines


@cache
def networks() -> dict[str, Workload]:
    """Forty small convolutional networks of five families."""
    found = {}
    for index in range(CASES):
        width = 8 * (1 + index // 5)
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for _ in range(index % 5):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
        found[f"net{index}"] = trace(model, torch.zeros(8, 3, 32, 32), name=f"net{index}", layers=False)
    return found


def law(kind: int) -> Curves:
    """The seconds of a kind of machine: each kind is 1.5 times as fast as the one before."""
    slow = 1.5**-kind
    return Curves(
        (
            Term("dense", "*", "macs", 3e-11 * slow),
            Term("*", "*", "bytes", 1.6e-10 * slow),
            Term("*", "*", "launch", 2e-5 * slow),
        )
    )


def factor(machine: int) -> float:
    return math.exp(random.Random(machine).gauss(0, SPREAD))


def records(machine: int, kind: int) -> list[Record]:
    chance = random.Random(1000 + machine)
    name = f"node{machine:03d}"
    host = {
        "node": name,
        "device": "cpu",
        "cpu_name": f"Simulated CPU {kind}",
        "cpu_cores": 2,
        "threads": 2,
        "gpus": [],
        "os": "Linux",
        "machine": "x86_64",
        "libraries": {"torch": "2"},
    }
    found = []
    for case, work in networks().items():
        ops = law(kind).seconds(work.ops).sum(axis=1) * factor(machine) * math.exp(chance.gauss(0, NOISE))
        found.append(
            Record(
                f"{name}-{case}",
                "case",
                case,
                "2026-01-01",
                "complete",
                host,
                (MeasuredWindow("test", 10, float(ops.sum()) * 10),),
                run=name,
                family=f"family{int(case[3:]) % 5}",
                meter={"name": "none"},
                workload=work,
                op_seconds=tuple(ops.tolist()),
            )
        )
    return found


def write(address: str, machines: list[int], kinds: int, folder: Path) -> None:
    """What one process does: its machines, one after the other, each with a mirror of its own."""
    problems: list[str] = []
    for machine in machines:
        store = SharedStore(address, folder / str(machine), problems.append)
        for record in records(machine, machine % kinds):
            store.write(record)
    if problems:
        sys.exit("; ".join(problems))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=64)
    parser.add_argument("--kinds", type=int, default=4)
    parser.add_argument("--writers", type=int, default=8, help="processes that write at once")
    parser.add_argument("--address", help="default: a folder")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        machines, folder = json.loads(options.write)
        write(options.address, machines, options.kinds, Path(folder))
        return
    with tempfile.TemporaryDirectory() as name:
        address = options.address or f"file://{name}/shared"
        start = time.perf_counter()
        written = [number for number in range(options.machines) if number % HELD_OUT]
        shares = [written[part :: options.writers] for part in range(options.writers)]
        command = [sys.executable, __file__, "--kinds", str(options.kinds), "--address", address, "--write"]
        processes = [subprocess.Popen([*command, json.dumps([share, f"{name}/mirrors"])]) for share in shares]
        if any(process.wait() for process in processes):
            sys.exit("a writer failed")
        print(f"{len(written)} machines wrote in {time.perf_counter() - start:.0f} s")
        start = time.perf_counter()
        found = list(SharedStore(address, Path(name) / "reader").records())
        print(f"{len(written) * CASES - len(found)} of {len(written) * CASES} records lost")
        print(f"read in {time.perf_counter() - start:.0f} s")
        start = time.perf_counter()
        kinds = [fit_kind(kind) for kind in kinds_of(found)]
        print(f"fitted {len(kinds)} kinds in {time.perf_counter() - start:.0f} s")
        errors, inside = [], []
        profiles = {kind.hardware: kind for kind in kinds}
        for machine in range(0, options.machines, HELD_OUT):
            for record in records(machine, machine % options.kinds):
                assert record.workload is not None
                kind = profiles[f"{record.host['cpu_name']}, 2 threads"]
                predicted = kind.profile.predict(record.workload, steps=record.steps).seconds
                errors.append(abs(predicted.value / record.seconds - 1))
                inside.append(predicted.low <= record.seconds <= predicted.high)
            print(
                f"{machine_of(record)} takes {factor(machine):.3f} times the law; its kind is {kind.spread:.1%} apart"
            )
        print(f"machines held out: {statistics.median(errors):.1%} median error, {statistics.fmean(inside):.0%} inside")


if __name__ == "__main__":
    main()
