"""Overhead of metering on the metered training: pairs of runs with and without the reader.

    python benchmarks/meter_overhead.py --pairs 200 --seconds 0.5

A small network trains under a RAPL meter at 10 Hz over a tree of a two-socket server (twelve
counters), and without it, in short pairs of random order; the figure is the median of the pairs'
ratios of CPU seconds for the same steps, with its 95 % interval (order statistics). The reader's own CPU
time from its thread's clock is printed too; other load on the machine affects it less.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from joulecast.measure.meters.meter import SampledMeter
from joulecast.measure.meters.rapl import RaplSource
from joulecast.measure.meters.tally import Sample
from joulecast.measure.meters.testing import FakePowercap, FakeZone

INTERVAL_S = 0.1


class TimedSource(RaplSource):
    """A RAPL source that keeps its reader's CPU time: of the thread, up to its latest sample."""

    reader_cpu_s = 0.0

    def sample(self) -> Sample:
        sample = super().sample()
        if threading.current_thread().name == "joulecast-meter":
            self.reader_cpu_s = time.thread_time()
        return sample


def server_tree(folder: Path) -> FakePowercap:
    parts = tuple(FakeZone(name) for name in ("core", "uncore", "dram"))
    packages = [FakeZone(f"package-{socket}", parts) for socket in range(2)]
    twins = [FakeZone(f"package-{socket}", control="intel-rapl-mmio") for socket in range(2)]
    return FakePowercap(folder, [*packages, *twins, FakeZone("psys")])


def training_step() -> Callable[[], None]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 30 * 30, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


@contextmanager
def metered(source: TimedSource, shares: list[float]) -> Iterator[None]:
    source.reader_cpu_s, start_s = 0.0, time.monotonic()
    with SampledMeter(source, interval_s=INTERVAL_S) as meter, meter.window():
        yield
    shares.append(source.reader_cpu_s / (time.monotonic() - start_s))


def cpu_seconds(step: Callable[[], None], steps: int) -> float:
    start_s = time.process_time()
    for _ in range(steps):
        step()
    return time.process_time() - start_s


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95 % interval of the median: the order statistics 1.96 deviations of a fair coin from the middle."""
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    middle = len(values) / 2
    return ordered[max(0, int(middle - half))], ordered[min(len(values) - 1, int(middle + half))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.5, help="CPU time of one run of a pair, roughly")
    options = parser.parse_args()
    step = training_step()
    cpu_seconds(step, 20)
    steps = max(1, round(options.seconds / cpu_seconds(step, 50) * 50))
    ratios: list[float] = []
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        source = TimedSource(server_tree(Path(folder)).root)
        for _ in range(options.pairs):
            taken: dict[bool, float] = {}
            for with_meter in random.sample((True, False), 2):
                if with_meter:
                    with metered(source, shares):
                        taken[True] = cpu_seconds(step, steps)
                else:
                    taken[False] = cpu_seconds(step, steps)
            ratios.append(taken[True] / taken[False])
    result = {
        "pairs": options.pairs,
        "steps_per_run": steps,
        "counters": len(source.domains),
        "samples_per_s": 1 / INTERVAL_S,
        "median_cpu_ratio": round(statistics.median(ratios), 5),
        "interval_95_of_the_median": [round(bound, 5) for bound in median_interval(ratios)],
        "reader_cpu_share_percent": round(100 * statistics.median(shares), 4),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
