"""Which terms of the population model are worth having? Chosen on half of the GPUs, judged on the other half.

    python benchmarks/population_blind.py --measured ../shared/measured --cache DIR

A candidate form leaves one term out: its parameters stay at the value that changes nothing. Each form is fitted on
half of the chips (every other one in alphabetical order), by Gauss-Newton steps with the whole model's slopes, and
predicts every chip of that half without its rows. Terms without which these errors are smaller are dropped, all at
once. The form that remains, fitted on that half, predicts the other half, whose figures take no part in the choice.
Then the halves change places. Needs JAX, like population_fit.py.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import population_kernels
from population_fit import FIRST, Fit, Problem, fit, hold, left_out, normal, predict, shipped, weights
from population_rows import Rows, chip, for_fit, rows_of, traces_of
from population_runs import all_steps

Array = np.ndarray[Any, np.dtype[np.float64]]
_ITERATIONS, _STEPS = 3, 3
_MOST = 60  # rows of one source
_NOTHING, _AT_ONCE = 1e-6, 1e6
_MOVED = ("norm", "layer", "reduce", "pool", "optimizer", "gather")
_ORDERED = ("depthwise_last", "depthwise_half", "depthwise_last_grad", "gain_grouped_last")

TERMS: dict[str, dict[str, float]] = {
    "the power limit": {"energy_mac": _NOTHING},
    "power that memory takes from arithmetic": {"energy_memory": _NOTHING},
    "clock above the stated one": {"boost": 1.0},
    "parts before Volta": {"pascal_compute": 1.0, "pascal_memory": 1.0},
    "error correction of GDDR memory": {"ecc_memory": 1.0},
    "whole waves": {"wave": _NOTHING},
    "edges of tiles": {"edge": _NOTHING},
    "start of a tile": {"start": _NOTHING},
    "the L2 cache": {"cache": _NOTHING},
    "Winograd": {"gain_winograd": 1.0},
    "weight gradients": {"gain_weight_grad": 1.0},
    "strided gradients": {"gain_strided": 1.0},
    "dilated convolutions": {"gain_dilated": 1.0},
    "reordering of channels": {"reorder": _NOTHING},
    "kinds of traffic": {f"traffic_{name}": 1.0 for name in (*_MOVED, "reduce_backward", "layer_backward")},
    "values one at a time": dict.fromkeys(("norm_rate", "pool_rate", "permute_rate", "row_rate"), _AT_ONCE),
    "order of channels": dict.fromkeys(_ORDERED, 1.0),
    "fused attention in 16 bit": {"gain_half_attention": 1.0},
    "trends over the years": {f"yearly_{name}": 1.0 for name in ("compute", "conv", "grouped", "memory", "host")},
    "gain of fast units": {"doubling_matmul": 1.0, "doubling_grouped": 1.0},
    "depthwise backward passes": {"gain_depthwise_backward": 1.0},
    "depthwise convolutions on AMD": {"amd_depthwise": 1.0},
    "the ceiling below the peak": {"ceiling": 1.0, "ceiling_half_conv": 1.0},
    "parts of Radeon cards": {"radeon_compute": 1.0, "radeon_memory": 1.0, "unsupported_half": 1.0, "integrated": 1.0},
    "compute and memory at the same time": {"overlap": 1.0},
    "host and device at the same time": {"sharpness": 1.0},
}
"""Term -> its parameters where it is left out."""


@dataclass(frozen=True, slots=True)
class Half:
    """Rows, the whole model fitted on them, and its slopes, which serve all candidate forms."""

    rows: Rows
    problem: Problem
    whole: Fit
    slopes: Array

    @classmethod
    def of(cls, rows: Rows) -> Half:
        problem = Problem(rows, weights(rows))
        whole = fit(rows, start=shipped(), iterations=_ITERATIONS)
        return cls(rows, problem, whole, problem.slopes(whole.logs, whole.own))

    def without(self, terms: Sequence[str]) -> tuple[Fit, list[int]]:
        """The fit of the model without `terms`, and the places of their parameters."""
        pins = {name: value for term in terms for name, value in TERMS[term].items()}
        fixed = [place for place, name in enumerate(FIRST) if name in pins]
        logs, own = self.whole.logs.copy(), self.whole.own.copy()
        for place, (name, (guess, spread)) in enumerate(FIRST.items()):
            if name in pins:
                logs[place] = math.log(pins[name] / guess) / spread
        for _ in range(_STEPS):
            matrix, vector = normal(self.problem, self.slopes, self.problem.error(logs, own), logs, own)
            hold(matrix, vector, fixed)
            move = -np.linalg.solve(matrix, vector)
            logs = logs + np.clip(move[: len(logs)], -1.0, 1.0)
            own = own + np.clip(move[len(logs) :].reshape(-1, 3), -0.3, 0.3)
        return Fit(logs, own, dict(zip(self.problem.gpus, own, strict=True))), fixed

    def score(self, terms: Sequence[str]) -> float:
        """Of the model without `terms`, each chip predicted without its rows."""
        made, fixed = self.without(terms)
        log_s, _ = left_out(self.rows, made, problem=self.problem, slopes=self.slopes, fixed=fixed)
        return score(log_s - self.rows.log_s, self.rows)


def thinned(rows: Rows) -> Rows:
    """At most `_MOST` rows of each source, spread over it."""
    many, seen, kept = Counter(rows.source.tolist()), Counter[str](), []
    for source in rows.source.tolist():
        share = min(_MOST / many[source], 1.0)
        kept.append(math.floor((seen[source] + 1) * share) > math.floor(seen[source] * share))
        seen[source] += 1
    return rows.only(np.array(kept))


def score(error: Array, rows: Rows) -> float:
    """Mean over sources of the median error of their steps; all single kernels are one source."""
    names = np.where(rows.software < 0, "kernels", rows.source)
    return float(np.mean([np.median(np.abs(error[names == name])) for name in sorted(set(names.tolist()))]))


def chosen(half: Half) -> list[str]:
    """The terms without which chips of the half that were left out are predicted better."""
    whole, dropped = half.score([]), []
    print(f"  whole model: {whole:.4f}", flush=True)
    for term in TERMS:
        found = half.score([term])
        print(f"  without {term}: {found:.4f}", flush=True)
        if found < whole:
            dropped.append(term)
    return dropped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    steps = all_steps(options.measured)
    traces = traces_of(steps, options.cache)
    rows = thinned(rows_of(for_fit(steps), traces, population_kernels.sample(options.measured)))
    chips = sorted({chip(gpu) for gpu in rows.gpu.tolist()})
    first = np.array([chip(gpu) in chips[::2] for gpu in rows.gpu.tolist()])
    for name, own in (("first", first), ("second", ~first)):
        mine, other = rows.only(own), rows.only(~own)
        print(f"chosen on the {name} half ({len(mine.steps)} rows), one chip left out:")
        half = Half.of(mine)
        dropped = chosen(half)
        whole, form = (predict(other, half.without(terms)[0].values) - other.log_s for terms in ([], dropped))
        print(f"dropped: {', '.join(dropped) or 'nothing'}")
        print(
            f"on the other half ({len(other.steps)} rows): whole model {score(whole, other):.4f}, "
            f"chosen form {score(form, other):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
