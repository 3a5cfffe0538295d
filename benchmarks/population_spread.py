"""How GPUs differ from the population, and networks on one GPU: the prior of `joulecast fit`.

    python benchmarks/population_spread.py --measured ../shared/measured --cache DIR [--write datasets/population.json]

By expectation maximisation on published steps. A device is a GPU with one software and precision in one source. Without
--write, the spreads are learnt on half of the chips, and the errors after 0, 1, 3, 10 and 25 runs are printed for the
other half.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from population_rows import Rows, for_fit, half_of, rows_of, seconds_of, traces_of
from population_runs import all_steps

from joulecast.estimator.cost.deviation import ALIKE_SHARE, TRAITS, log_spread, log_step, traits
from joulecast.estimator.cost.piece_time import Seconds
from joulecast.estimator.cost.pieces import Columns
from joulecast.estimator.cost.population import load_population
from joulecast.estimator.cost.profile import NINETY_PERCENT
from joulecast.estimator.fit.few import Evidence, Prior, learnt, mixed, posterior, predicted

Array = np.ndarray[Any, np.dtype[np.float64]]
NOISES = (0.045, 0.08, 0.13, 0.2, 0.3, 0.5)
_GUESS, _GUESS_WORTH = 0.12, 2.0  # a spread before any device, and how many devices it counts as
_APART_WORTH = 10.0  # how many devices it counts as that traits are not correlated
_ROUNDS, _MOST = 15, 60
_AMD = 2.0
COPY_S = 2.5e-10
"""Seconds a byte of inputs copied from the host, as population_fit.py finds them."""


@dataclass(frozen=True, slots=True)
class Device:
    """Networks on one device: evidence and names, one of each row."""

    name: str
    gpu: str
    source: str
    evidence: tuple[Evidence, ...]
    networks: tuple[str, ...]


def devices(rows: Rows, parameters: Mapping[str, float]) -> list[Device]:
    """GPUs with their rows, predicted with `parameters`; MLPerf's, which are several GPUs at once, are left out."""
    t, x = Columns(rows.table), seconds_of(rows, parameters)
    shapes, ends = traits(t), np.searchsorted(rows.row, np.arange(len(rows.steps) + 1))
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, step in enumerate(rows.steps):
        if rows.software[index] >= 0 and step.source != "mlperf":
            precision = "float32" if step.key.mode == "fp32" else "half"
            groups[step.source, step.gpu, step.software, precision, str(step.key.train)].append(index)
    copied = rows.copied * parameters["copy"]
    result = []
    for key, members in groups.items():
        counts = Counter(rows.steps[index].key.network for index in members)
        evidence = []
        for index in members:
            own = slice(ends[index], ends[index + 1])
            seconds = Seconds(*(part[own] for part in (x.compute, x.memory, x.floor, x.host)))
            left = max(np.exp(rows.log_s[index]) - copied[index], 0.2 * np.exp(rows.log_s[index]))
            weight = 1.0 / counts[rows.steps[index].key.network]
            evidence.append(Evidence(seconds, shapes[own], float(np.log(left)), weight))
        names = tuple(rows.steps[index].key.network for index in members)
        result.append(Device("|".join(key), key[1], key[0], tuple(evidence), names))
    return result


def is_amd(gpu: str) -> bool:
    return gpu.startswith(("rx-", "radeon", "mi"))


def _one_each(device: Device) -> list[Evidence]:
    """One row of each network, of `_MOST` networks at most, drawn by chance: what a user's table holds."""
    random, names = np.random.default_rng(0), np.array(device.networks)
    used = random.permutation(sorted(set(device.networks)))[:_MOST].tolist()
    return [device.evidence[random.choice(np.flatnonzero(names == name))] for name in used]


def spreads(known: Sequence[Device], sharpness: float) -> Prior:
    """The likeliest spreads and correlations of the traits and shares of the noises, each device linear around no
    deviation."""
    lines = []
    for device in known:
        if len(set(device.networks)) < 2:
            continue
        evidence = _one_each(device)
        steps = [log_step(one.seconds, one.traits, np.zeros(len(TRAITS)), sharpness) for one in evidence]
        target = np.array([one.log_s - base for one, (base, _) in zip(evidence, steps, strict=True)])
        lines.append((np.array([slope for _, slope in steps]), target, np.ones(len(target))))
    found, shares = _GUESS**2 * np.eye(len(TRAITS)), np.full(len(NOISES), 1.0 / len(NOISES))
    for _ in range(_ROUNDS):
        squares, counts, prior = np.zeros_like(found), np.full(len(NOISES), 0.5), _prior(found, shares)
        for slopes, target, weights in lines:
            mean, covariance, _ = posterior(slopes, target, weights, prior)
            squares += np.outer(mean, mean) + covariance
            counts += mixed(slopes, target, weights, prior)[0]
        alone = np.diag((np.diag(squares) + _GUESS_WORTH * _GUESS**2) / (len(lines) + _GUESS_WORTH))
        found, shares = (squares + _APART_WORTH * alone) / (len(lines) + _APART_WORTH), counts / counts.sum()
    return _prior(found, shares)


def _prior(covariance: Array, shares: Array) -> Prior:
    spread = np.sqrt(np.diag(covariance))
    noises = tuple(zip(NOISES, shares.tolist(), strict=True))
    return Prior(spread, noises, ALIKE_SHARE, covariance / np.outer(spread, spread))


def after_runs(
    known: Sequence[Device], prior: Mapping[bool, Prior], sharpness: float, counts: Sequence[int], repeats: int = 12
) -> dict[int, tuple[float, float, float]]:
    """Median error, share inside and width (high / low) of the interval, after runs of other networks: means over
    devices and draws. A draw's first run, its first three and so on are judged on the same networks."""
    random = np.random.default_rng(0)
    errors, inside, widths = defaultdict(list), defaultdict(list), defaultdict(list)
    for device in known:
        names, amd = np.array(device.networks), is_amd(device.gpu)
        distinct = sorted(set(device.networks))
        reached = [count for count in counts if count < len(distinct)]
        for _ in range(repeats):
            used = random.permutation(distinct)[: reached[-1]].tolist()
            chosen = [device.evidence[random.choice(np.flatnonzero(names == name))] for name in used]
            runs = [Evidence(run.seconds, run.traits, run.log_s) for run in chosen]
            judged = [one for one, name in zip(device.evidence, device.networks, strict=True) if name not in used]
            for count in reached:
                found = learnt(runs[:count], prior[amd], sharpness)
                for one in judged:
                    base, slopes = predicted(one, found, sharpness)
                    reach = NINETY_PERCENT * log_spread(found, slopes)
                    errors[count, device.name].append(abs(np.expm1(base - one.log_s)))
                    inside[count].append(abs(base - one.log_s) <= reach)
                    widths[count].append(2 * reach)
    return {
        count: (
            float(np.mean([np.median(values) for (own, _), values in errors.items() if own == count])),
            float(np.mean(inside[count])),
            float(np.exp(np.median(widths[count]))),
        )
        for count in counts
        if inside[count]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    steps = all_steps(options.measured)
    parameters = {"copy": COPY_S, **load_population().parameters}
    known = devices(rows_of(for_fit(steps), traces_of(steps, options.cache)), parameters)
    sharpness = parameters["sharpness"]
    if options.write:
        prior = spreads([device for device in known if not is_amd(device.gpu)], sharpness)
        write(options.write, prior)
        return
    for own in (0, 1):
        taught = [d for d in known if half_of(d.gpu) == own and not is_amd(d.gpu)]
        prior = spreads(taught, sharpness)
        both = {False: prior, True: replace(prior, spread=_AMD * prior.spread)}
        print(
            f"spreads from half {own}: {', '.join(f'{n} {s:.2f}' for n, s in zip(TRAITS, prior.spread, strict=True))}"
        )
        print(f"noises: {', '.join(f'{noise} {share:.0%}' for noise, share in prior.networks)}")
        for source in ("lambda", "ec-nas", "timm", "ryujaehun", "lamikr", "nvidia-dle"):
            judged = [d for d in known if d.source == source and half_of(d.gpu) != own]
            found = after_runs(judged, both, sharpness, (0, 1, 3, 10, 25)) if judged else {}
            text = [f"{n}: {e:.1%}, {i:.0%} inside, {w:.2f} wide" for n, (e, i, w) in found.items()]
            print(f"  {source} on the other half, after runs: {'; '.join(text)}", flush=True)


def write(path: Path, prior: Prior) -> None:
    document = json.loads(path.read_text())
    power = document["spread"]["power"]
    document["spread"] = {name: float(f"{value:.3g}") for name, value in zip(TRAITS, prior.spread, strict=True)}
    document["spread"] |= {"amd": _AMD, "power": power}
    assert prior.correlations is not None
    document["correlations"] = {
        name: [round(float(value), 3) for value in prior.correlations[row, :row]] for row, name in enumerate(TRAITS)
    }
    document["networks"] = [[noise, float(f"{share:.3g}")] for noise, share in prior.networks]
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
