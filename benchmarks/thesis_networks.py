"""Error of the predictions for SimpleNet and AlexNet right after `measure --quick` (target: 10 %).

    python benchmarks/thesis_networks.py [--measure quick|full|no] [--store DIR] [--batch 32 --batch 128]

Each network trains plain steps (forward, loss, backward, SGD) in interleaved rounds, so that a slow minute of the
machine affects all of them; the median of the rounds counts. Exit status 1 when one misses the target.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from this_machine import newest_profile

from joulecast.measure.records.store import Store
from joulecast.measure.suite.cases import Case, suite_cases
from joulecast.measure.suite.rounds import BuiltCase, prepare

LIMIT = 0.10
NETWORKS = ("simplenet", "alexnet")


def cases(batches: list[int]) -> list[Case]:
    wanted = [f"{network} width 1 batch {batch} sgd" for network in NETWORKS for batch in batches]
    named = {case.name: case for case in suite_cases()}
    return [named[name] if name in named else _case(name) for name in wanted]


def _case(name: str) -> Case:
    """A batch size that is not in the suite."""
    network, _, _, _, batch, optimizer = name.split()

    def build() -> tuple[torch.nn.Module, tuple[tuple[torch.Tensor], dict[str, object]]]:
        model, _ = next(case for case in suite_cases(network) if " width 1 " in case.name).build()
        return model, ((torch.randn(int(batch), 3, 32, 32),), {})

    return Case(name, network, build, optimizer)


def round_s(ready: BuiltCase, least_s: float) -> float:
    """Seconds of a step over one round of at least two."""
    count, began = 0, time.perf_counter()
    while count < 2 or time.perf_counter() - began < least_s:
        ready.step.run()
        count += 1
    return (time.perf_counter() - began) / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=["quick", "full", "no"], default="quick")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round, at least")
    options = parser.parse_args()
    store = Store(options.store)
    if options.measure != "no":
        mode = ["--quick"] if options.measure == "quick" else []
        program = "from joulecast.cli.main import measure; measure()"
        subprocess.run([sys.executable, "-c", program, *mode, "--store", str(store.folder)], check=True)
    profile = newest_profile(store)
    print(f"profile {profile.name}: {profile.provenance.fitted_on}")
    ready = [prepare(case) for case in cases(options.batch or [32, 128])]
    rounds = [[round_s(one, options.seconds) for one in ready] for _ in range(options.rounds)]
    worst = 0.0
    for one, taken in zip(ready, zip(*rounds, strict=True), strict=True):
        measured, predicted = statistics.median(taken), profile.predict(one.work).seconds
        error, spread = predicted.value / measured - 1, max(taken) / min(taken) - 1
        worst = max(worst, abs(error))
        print(
            f"{one.case.name:32} measured {measured * 1e3:8.1f} ms (spread {spread:.0%})  predicted "
            f"{predicted.value * 1e3:8.1f} ms ({predicted.low * 1e3:.0f} to {predicted.high * 1e3:.0f})  {error:+.1%}"
        )
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
