"""How early the forecast of a run is right: forecasts of real runs compared with their final figures.

    python benchmarks/reforecast.py --model simplenet --steps 120 --hardware epyc-7763

Trains under `Budget.watch`, with validations in between, and compares the forecasts after shares of the steps
with the time and energy at the end. Energy comes from the given meter, or from
utilisation (`--meter modelled`), and is labelled accordingly. Exit status 1 when the forecast after a tenth of the
steps is more than 5 % off, or an interval later on is wider than one before.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from itertools import pairwise

import torch
from torch import nn

from joulecast.estimator.base.interval import Interval
from joulecast.measure.meters.selection import select_meter
from joulecast.trainers.budget import Budget
from joulecast.trainers.forecast import Forecast

_CLASSES = {"simplenet": "SimpleNet", "alexnet": "AlexNet"}
_SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
_LIMIT = 0.05


def run(options: argparse.Namespace) -> dict[int, Forecast]:
    """The forecast after each step, by the number of steps; the last is of the end."""
    torch.manual_seed(0)
    model = getattr(importlib.import_module(f"joulecast.models.{options.model}"), _CLASSES[options.model])()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(options.batch_size, 3, 32, 32), torch.randint(10, (options.batch_size,))
    every = max(1, options.steps // options.validations) if options.validations else options.steps + 1
    forecasts: dict[int, Forecast] = {}
    with select_meter(options.meter, hardware=options.hardware if options.meter == "modelled" else None) as meter:
        budget = Budget("1 GWh", hardware=options.hardware, meter=meter, log_every=1)
        watch = budget.watch(
            model,
            steps=options.steps,
            optimizer=optimizer,
            validations=options.validations,
            validation_batches=options.validation_batches,
        )
        with watch as watched:
            for step in range(1, options.steps + 1):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images), labels).backward()
                optimizer.step()
                watched.step()
                if watched.forecast is not None:
                    forecasts[step] = watched.forecast
                if step % every == 0:
                    with watched.validation(), torch.no_grad():
                        model.eval()
                        for _ in range(options.validation_batches):
                            model(images)
                        model.train()
        assert watched.forecast is not None
        forecasts[options.steps] = watched.forecast
    return forecasts


def figures(forecast: Forecast) -> dict[str, Interval]:
    """Figures of the whole run, by name and unit."""
    found = {"seconds": forecast.seconds, f"J ({forecast.energy_label})": forecast.energy_j}
    return {name: interval for name, interval in found.items() if interval is not None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(_CLASSES), default="simplenet")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--validations", type=int, default=4)
    parser.add_argument("--validation-batches", type=int, default=5)
    parser.add_argument("--hardware", default=None, help="Profile or hardware; default: this machine.")
    parser.add_argument("--meter", default="auto")
    options = parser.parse_args()
    forecasts = run(options)
    failures = []
    print(f"{options.model}, batch {options.batch_size}, {options.steps} steps, {options.validations} validations")
    for name, end in figures(forecasts[options.steps]).items():
        widths = []
        for share in _SHARES:
            interval = figures(forecasts[round(share * options.steps)])[name]
            widths.append(interval.high - interval.low)
            error = interval.value / end.value - 1
            bounds = f"{interval.low:.4g} to {interval.high:.4g}"
            print(f"after {share:4.0%}: {interval.value:8.4g} {name:12} ({bounds}), {error:+.1%} off the end")
            if share == 0.1 and abs(error) > _LIMIT:
                failures.append(f"{name}: {error:+.1%} off after a tenth of the steps")
        if any(after > before for before, after in pairwise(widths)):
            failures.append(f"{name}: the interval grew")
    print("\n".join(failures) or "within 5 % after a tenth of the steps, and narrowing")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
