"""Overhead of a Budget on the training that it watches: pairs of steps with and without it, in one Lightning run.

    python benchmarks/trainer_overhead.py --pairs 60 --steps 2

SimpleNet trains at batch 32 under Lightning's Trainer. In pairs of blocks of steps, in random order, the
callback gets its hooks and its meter runs (RAPL at 10 Hz over the counters of a two-socket server), or
neither. The figures are the median of the pairs' ratios, of CPU and of wall seconds, each with its 95 %
interval (order statistics), and the time of the hooks alone as a share of a step, which other load affects
less. The one-time cost, the trace and prediction before the first step, is printed too.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from meter_overhead import median_interval, server_tree
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.testing import FakePowercap
from joulecast.models.simplenet import SimpleNet
from joulecast.trainers.budget import Budget

_WARM_UP = 3


class Trained(L.LightningModule):
    """SimpleNet on noise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SimpleNet()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Switch(L.Callback):
    """Calls a budget's hooks in the blocks with the budget, and times every step."""

    def __init__(self, budget: Budget, meter: SampledMeter, plan: list[bool]) -> None:
        super().__init__()
        self._budget, self._meter, self._plan = budget.lightning(), meter, plan
        self._step = 0
        self._before = (0.0, 0.0)
        self.once_s = 0.0
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.hooks_s: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._step == 0:
            began = time.perf_counter()
            self._budget.on_train_start(trainer, pl_module)
            self._budget.on_train_batch_start(trainer, pl_module, batch, batch_idx)
            self.once_s = time.perf_counter() - began
        else:
            self.wall_s.append(time.perf_counter() - self._before[0])
            self.cpu_s.append(time.process_time() - self._before[1])
        if self._with():
            self._meter.start()
        else:
            self._meter.stop()
        self._before = (time.perf_counter(), time.process_time())
        if self._with():
            began = time.perf_counter()
            self._budget.on_train_batch_start(trainer, pl_module, batch, batch_idx)
            self.hooks_s.append(time.perf_counter() - began)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._with():
            began = time.perf_counter()
            self._budget.on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            self.hooks_s[-1] += time.perf_counter() - began
        self._step += 1

    def _with(self) -> bool:
        return self._plan[min(self._step, len(self._plan) - 1)]


@contextmanager
def counting(tree: FakePowercap) -> Iterator[FakePowercap]:
    """Runs the counters, with and without the budget."""
    with tree.drive(lambda: dict.fromkeys(tree.zones, 20.0), per_second=4):
        yield tree


def plan_of(pairs: int, steps: int) -> list[bool]:
    """For every step, whether the budget is active: a warm-up without, then pairs of blocks in random order."""
    plan = [False] * _WARM_UP
    for _ in range(pairs):
        for with_budget in random.sample((True, False), 2):
            plan += [with_budget] * steps
    return plan


def ratio(seconds: list[float], plan: list[bool], pair: range) -> float:
    """With over without."""
    taken = {mode: sum(seconds[step] for step in pair if plan[step] is mode) for mode in (True, False)}
    return taken[True] / taken[False]


def train(options: argparse.Namespace, plan: list[bool]) -> Switch:
    """The run: one step for each entry of the plan, and one more to end the last."""
    count = (len(plan) + 1) * options.batch_size
    data = TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(10, (count,)))
    with (
        tempfile.TemporaryDirectory() as folder,
        counting(server_tree(Path(folder))) as tree,
        SampledMeter(RaplSource(tree.root)) as meter,
    ):
        switch = Switch(Budget("1 GWh", hardware=options.hardware, meter=meter), meter, plan)
        trainer = L.Trainer(
            max_epochs=1,
            callbacks=[switch],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(Trained(), DataLoader(data, options.batch_size))
    return switch


def rows_of(switch: Switch, plan: list[bool], steps: int) -> list[dict[str, float]]:
    """One row a pair: ratios, and seconds of a step and of the hooks in one."""
    hooks_s = statistics.mean(switch.hooks_s)
    pairs = [range(begin, begin + 2 * steps) for begin in range(_WARM_UP, len(plan), 2 * steps)]
    return [
        {
            "cpu_ratio": ratio(switch.cpu_s, plan, pair),
            "wall_ratio": ratio(switch.wall_s, plan, pair),
            "step_s": statistics.mean(switch.wall_s[step] for step in pair),
            "hooks_s": hooks_s,
            "once_s": switch.once_s,
        }
        for pair in pairs
    ]


def summary(rows: list[dict[str, float]]) -> dict[str, object]:
    step_s = statistics.median(row["step_s"] for row in rows)
    hooks_s = statistics.mean(row["hooks_s"] for row in rows)
    found: dict[str, object] = {"pairs": len(rows), "median_step_s": round(step_s, 4)}
    for name in ("cpu_ratio", "wall_ratio"):
        ratios = [row[name] for row in rows]
        found[f"median_{name}"] = round(statistics.median(ratios), 5)
        found[f"interval_95_of_the_median_{name}"] = [round(bound, 5) for bound in median_interval(ratios)]
    found["hooks_us_a_step"] = round(1e6 * hooks_s, 1)
    found["hooks_percent_of_a_step"] = round(100 * hooks_s / step_s, 4)
    found["once_before_the_first_step_s"] = round(statistics.median(row["once_s"] for row in rows), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=2, help="Steps of one block.")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--hardware", default="epyc-7763", help="What the prediction is of.")
    parser.add_argument("--file", type=Path, help="Pairs of earlier runs, one in a line; these are added to it.")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "joulecast"):
        logging.getLogger(name).handlers = [logging.NullHandler()]
    plan = plan_of(options.pairs, options.steps)
    rows = rows_of(train(options, plan), plan, options.steps)
    if options.file is not None:
        with options.file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        rows = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
    print(json.dumps(summary(rows), indent=2))


if __name__ == "__main__":
    main()
