"""Fits the shared parameters of the population model on published steps and kernels; writes datasets/population.json.

    python benchmarks/population_fit.py --measured ../shared/measured --cache DIR [--out datasets/population.json]
    python benchmarks/population_spread.py --measured ../shared/measured --cache DIR --write datasets/population.json

Needs JAX (`pip install jax`) for derivatives. Robust least squares on the logarithm of measured over predicted, by
Gauss-Newton. Every parameter has a first guess and a spread (`START`), and every GPU three deviations with spreads of
their own (`PRIOR`), so that what one GPU does does not become what all do. `left_out` predicts every GPU with
parameters fitted without any variant of its chip: one more Gauss-Newton step without its rows, from the whole fit, and
as many as it takes for a chip with more than a tenth of the rows.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import population_kernels
from population_rows import Rows, all_specs, chip, for_fit, rows_of, seconds_of, software_of, traces_of
from population_runs import all_steps

from joulecast.estimator.cost import piece_time, pieces, population
from joulecast.estimator.cost.pieces import Columns
from joulecast.estimator.cost.population import SCHEMA, SPECS
from joulecast.estimator.cost.software import SOFTWARE

jax.config.update("jax_enable_x64", True)
Array = np.ndarray[Any, np.dtype[np.float64]]
NOISE, ROBUST = 0.15, 0.2
PRIOR = np.array([0.12, 0.12, 0.25])
"""Spreads of a GPU's deviations in compute, memory and launch."""

# Parameter -> first guess and spread of its logarithm.
START: dict[str, tuple[float, float]] = {
    "eff_fp32": (1.3, 0.15),
    "eff_tf32": (0.9, 0.1),
    "eff_half": (0.9, 0.1),
    "eff_half_vector": (1.0, 0.3),
    "eff_packed": (1.4, 0.3),
    "boost": (1.1, 0.03),
    "pascal_compute": (0.9, 0.1),
    "pascal_memory": (0.85, 0.1),
    "ecc_memory": (0.88, 0.1),
    "radeon_compute": (0.9, 0.3),
    "radeon_memory": (0.9, 0.3),
    "unsupported_half": (0.5, 1.0),
    "integrated": (0.8, 0.4),
    "eff_depthwise": (0.15, 0.7),
    "eff_memory": (0.8, 0.15),
    "energy_mac": (27.0, 0.15),
    "energy_nm": (0.8, 0.3),
    "energy_memory": (0.05, 0.4),  # watts for each GB per second of bandwidth
    "mobile_power": (1.7, 0.3),
    "energy_half": (0.2, 0.5),
    "energy_tf32": (0.4, 0.5),
    "edge": (1.0, 0.5),
    "edge_power": (1.0, 0.2),
    "start": (40.0, 0.7),
    "wave": (0.7, 0.5),
    "overlap": (3.0, 0.4),
    "cache": (0.4, 0.5),
    "floor": (4e-06, 0.4),
    "floor_update": (2e-06, 0.7),
    "floor_rnn": (1.5e-05, 0.7),
    "floor_amd": (1.5, 0.4),
    "host_forward": (6e-05, 0.4),
    "host_backward": (3e-05, 0.4),
    "host_update": (6e-06, 0.6),
    "host_infer": (0.8, 0.4),
    "sharpness": (4.0, 0.5),
    "norm_rate": (0.9, 0.3),  # values per clock and multiprocessor
    "norm_backward": (0.6, 0.3),
    "norm_half": (0.8, 0.3),
    "pool_rate": (2.2, 0.3),
    "permute_rate": (0.7, 0.3),
    "row_rate": (0.003, 0.3),
    "row_backward": (0.33, 0.3),
    "depthwise_last": (1.3, 0.4),
    "depthwise_half": (0.8, 0.4),
    "depthwise_last_grad": (2.0, 0.4),
    "traffic_dense": (1.0, 0.3),
    "traffic_norm": (1.4, 0.3),
    "traffic_reduce": (1.2, 0.4),
    "traffic_reduce_backward": (1.4, 0.3),
    "traffic_layer": (1.6, 0.3),
    "traffic_layer_backward": (1.5, 0.3),
    "traffic_pool": (1.2, 0.4),
    "traffic_optimizer": (1.1, 0.15),
    "traffic_optimizer_half": (1.1, 0.1),
    "traffic_gather": (2.0, 0.3),
    "reorder": (1.0, 0.6),
    "gain_conv": (1.1, 0.3),
    "gain_conv1": (0.9, 0.3),
    "gain_grouped": (0.6, 0.5),
    "gain_batched": (0.9, 0.3),
    "gain_attention": (0.7, 0.4),
    "gain_rnn": (0.7, 0.4),
    "gain_half_attention": (1.5, 0.4),
    "gain_half_conv": (0.8, 0.4),
    "gain_half_last": (2.0, 0.5),
    "gain_grouped_last": (0.3, 0.5),
    "gain_weight_grad": (0.8, 0.3),
    "gain_winograd": (1.3, 0.3),
    "gain_strided": (0.7, 0.3),
    "gain_dilated": (0.8, 0.4),
    "doubling_matmul": (1.2, 0.08),  # gain for each doubling of the units' rate
    "doubling_grouped": (1.2, 0.2),
    "gain_depthwise_backward": (0.3, 0.5),
    "ceiling": (0.95, 0.03),
    "ceiling_attention": (0.6, 0.1),  # of an A100's peak
    "doubling_attention": (0.73, 0.1),
    "attention_backward": (0.85, 0.1),
    "energy_product": (2.0, 0.15),  # picojoules of a 16-bit multiply-add in 5 nm, with what the board draws besides
    "energy_product_nm": (1.0, 0.3),
    "slowdown": (0.5, 0.3),
    "odd_product": (5.0, 0.2),
    "ceiling_half_conv": (0.7, 0.1),  # H100: 0.67 at most
    "amd_conv": (0.7, 0.4),
    "amd_matmul": (0.9, 0.3),
    "amd_memory": (0.9, 0.3),
    "amd_depthwise": (0.5, 0.5),
    "yearly_compute": (1.02, 0.03),
    "yearly_conv": (1.02, 0.03),
    "yearly_grouped": (1.1, 0.1),
    "yearly_memory": (1.01, 0.03),
    "yearly_host": (1.03, 0.02),
    "compiled:traffic": (0.6, 0.3),
    "compiled:host": (0.2, 0.3),
    "compiled:kernels": (0.5, 0.3),
    "ngc:conv": (0.9, 0.3),
    "ngc:compute": (1.0, 0.3),
    "ngc:traffic": (1.0, 0.3),
    "ngc:optimizer": (1.1, 0.2),
    "ngc:host": (1.0, 0.3),
    "ngc:reorder": (0.6, 0.3),
    "vendor-tuned:compute": (0.8, 0.3),
    "vendor-tuned:traffic": (0.6, 0.3),
    "vendor-tuned:optimizer": (0.8, 0.3),
    "vendor-tuned:host": (0.1, 0.3),
    "vendor-tuned:kernels": (0.5, 0.3),
    "tensorflow:conv": (0.9, 0.3),
    "tensorflow:compute": (1.0, 0.3),
    "tensorflow:traffic": (1.0, 0.3),
    "tensorflow:optimizer": (1.3, 0.3),
    "tensorflow:host": (1.0, 0.3),
    "tensorflow:reorder": (0.6, 0.3),
}
NUISANCE = {
    "copy": (2.5e-10, 0.4),  # seconds a byte of inputs copied from the host in the step
    "floor_k": (2.0, 0.8),  # kernels measured alone: what starting one adds
    "burst": (1.3, 0.1),  # times the board's power in which a kernel of milliseconds stays
    "copy_k": (1.5e-5, 0.4),
    "issue_k": (3e-5, 0.3),  # kernels timed by events one at a time: at least what the host takes to issue one
    "issue_linear": (2.0, 0.3),
    "issue_batched": (1.3, 0.3),
    "issue_norm": (1.5, 0.3),
    "issue_amd": (0.6, 0.3),
    "fp8": (0.6, 0.2),  # seconds of BERT in FP8 over 16 bit
    "multi": (1.1, 0.1),  # several devices: communication
}
FIRST = {**START, **NUISANCE}


def values_of(logs: Any, exp: Callable[[Any], Any] = math.exp) -> dict[str, Any]:
    """Parameters from their distances to the first guesses, in spreads."""
    return {name: guess * exp(spread * log) for (name, (guess, spread)), log in zip(FIRST.items(), logs, strict=True)}


def log_seconds(rows: Rows, values: Mapping[str, Any], own: Any, xp: Any = np) -> Any:
    """Logarithm of the seconds of every row; `own`, shape (rows, 3), holds the deviations of its GPU."""
    x = seconds_of(rows, values, xp)
    size = len(rows.steps)

    def total(part: Any) -> Any:
        if xp is np:
            return np.bincount(rows.row, weights=part, minlength=size)
        return jax.ops.segment_sum(part, rows.row, num_segments=size, indices_are_sorted=True)

    by = xp.exp(own)
    fp8 = np.array([step.fp8 for step in rows.steps])
    compute = total(x.compute) * by[:, 0] * xp.where(fp8, values["fp8"], 1.0)
    alone = rows.software < 0
    least = piece_time.least_seconds(Columns(rows.table), rows.specs, values, software_of(rows, values, xp), xp)
    starting = xp.where(alone, (values["floor_k"] - 1.0) * total(least), 0.0)  # of one kernel
    floor = (total(x.floor) + starting) * by[:, 2] ** 0.5
    device = compute + total(x.memory) * by[:, 1] + floor
    host = xp.where(alone, 1e-9, total(x.host) * by[:, 2])
    step = piece_time.step_seconds(host, device, values["sharpness"], xp) + rows.copied * values["copy"]
    several = np.array([step.devices > 1 for step in rows.steps])
    step = xp.where(several, values["multi"], 1.0) * step
    kinds = np.array([source.removeprefix("neusight kernel ") for source in rows.source.tolist()])
    timed = kinds != rows.source
    amd = np.array([all_specs()[gpu][SPECS.index("amd")] > 0 for gpu in rows.gpu.tolist()])
    issue = values["issue_k"] * by[:, 2] * xp.where(amd, values["issue_amd"], 1.0)
    for kind, name in (("linear", "issue_linear"), ("bmm", "issue_batched"), ("ln", "issue_norm")):
        issue = issue * xp.where(kinds == kind, values[name], 1.0)
    return xp.log(xp.where(timed, piece_time.step_seconds(issue, step + values["copy_k"], _AT_LEAST, xp), step))


_AT_LEAST = 8.0
"""Sharpness of a kernel alone: it starts when it is issued, so that the longer of the two counts."""


def predict(rows: Rows, values: Mapping[str, float]) -> Array:
    """Logarithm of the seconds of every row, on GPUs without deviations."""
    return np.asarray(log_seconds(rows, values, np.zeros((len(rows.steps), 3))))


# -- The fit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """Rows, and functions of (logs, own) compiled for them."""

    rows: Rows
    weight: Array

    @cached_property
    def gpus(self) -> list[str]:
        return self.rows.gpus

    @cached_property
    def owner(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.array([self.gpus.index(gpu) for gpu in self.rows.gpu.tolist()])

    @cached_property
    def _log_seconds(self) -> Callable[[Array, Array], Any]:
        return jax.jit(lambda logs, own: log_seconds(self.rows, values_of(logs, jnp.exp), own, jnp))

    @cached_property
    def _slopes(self) -> Callable[[Array, Array], Any]:
        """Along every parameter, and along every GPU's own deviations at once: a row knows one GPU."""
        count = len(FIRST)

        def all_slopes(logs: Any, own: Any) -> Any:
            def along(step: Any) -> Any:
                both = (step[:count], jnp.broadcast_to(step[count:], own.shape))
                return jax.jvp(lambda *at: self._log_seconds(*at), (logs, own), both)[1]

            return jax.lax.map(along, jnp.eye(count + 3), batch_size=2).T

        return jax.jit(all_slopes)

    def error(self, logs: Array, own: Array) -> Array:
        return np.asarray(self._log_seconds(logs, own[self.owner])) - self.rows.log_s

    def slopes(self, logs: Array, own: Array) -> Array:
        return np.asarray(self._slopes(logs, own[self.owner]))

    def cost(self, error: Array, logs: Array, own: Array) -> float:
        robust = 2 * ROBUST**2 * (np.sqrt(1 + (error / ROBUST) ** 2) - 1)
        return float((self.weight**2 * robust).sum() / NOISE**2 + (logs**2).sum() + ((own / PRIOR) ** 2).sum())


@dataclass(frozen=True, slots=True)
class Fit:
    logs: Array  # each parameter in spreads from its first guess
    own: Array  # shape (GPUs, 3), in the order of their names
    deviations: dict[str, Array]

    @property
    def values(self) -> dict[str, float]:
        return values_of(self.logs.tolist())


_CONVERGED = 1e-4  # of the cost, in one step: the valley is flat, and errors on chips left out differ along it
_EXACT = 3.0  # times the weight of others


def weights(rows: Rows) -> Array:
    """Rows of one source count less the more of them there are."""
    many = Counter(rows.source.tolist())

    def weight(step: Any) -> float:
        share = 0.2 if "kernel conv" in step.source else 0.35 if "kernel" in step.source else 1.0
        base = 4.0 * many[step.source] ** -0.25 * share
        if step.source == "mamf kernel":  # the best of thousands of shapes
            return base * _EXACT
        return base

    return np.array([weight(step) for step in rows.steps])


def fit(rows: Rows, *, start: Fit | None = None, iterations: int = 40) -> Fit:
    problem = Problem(rows, weights(rows))
    logs = np.zeros(len(FIRST)) if start is None else start.logs.copy()
    own = np.zeros((len(problem.gpus), 3))
    if start is not None:
        own = np.stack([start.deviations.get(gpu, np.zeros(3)) for gpu in problem.gpus])
    error = problem.error(logs, own)
    best, damping = problem.cost(error, logs, own), 1e-2
    for _ in range(iterations):
        matrix, vector = normal(problem, problem.slopes(logs, own), error, logs, own)
        for _ in range(6):
            move = -np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), vector)
            tried = logs + np.clip(move[: len(logs)], -1.5, 1.5)
            tried_own = own + np.clip(move[len(logs) :].reshape(-1, 3), -0.5, 0.5)
            tried_error = problem.error(tried, tried_own)
            reached = problem.cost(tried_error, tried, tried_own)
            if reached < best:
                break
            damping *= 5
        else:
            break
        done = best - reached < _CONVERGED * best
        logs, own, error, best, damping = tried, tried_own, tried_error, reached, max(damping / 5, 1e-5)
        print(f"cost {best:.1f}", flush=True)
        if done:
            break
    return Fit(logs, own, dict(zip(problem.gpus, own, strict=True)))


def normal(problem: Problem, slopes: Array, error: Array, logs: Array, own: Array) -> tuple[Array, Array]:
    """Matrix and right-hand side of a Gauss-Newton step: the parameters, then three deviations of every GPU."""
    root = problem.weight * (1 + (error / ROBUST) ** 2) ** -0.25 / NOISE
    slopes, target, count = slopes * root[:, None], error * root, len(logs)
    size = count + own.size
    matrix, vector = np.zeros((size, size)), np.zeros(size)
    shared = slopes[:, :count]
    matrix[:count, :count] = shared.T @ shared + np.eye(count)
    vector[:count] = shared.T @ target + logs
    for place, values in enumerate(own):
        mine, block = problem.owner == place, _block(count, place)
        particular = slopes[mine, count:]
        matrix[block, block] = particular.T @ particular + np.diag(PRIOR**-2)
        vector[block] = particular.T @ target[mine] + values / PRIOR**2
        matrix[:count, block] = shared[mine].T @ particular
        matrix[block, :count] = matrix[:count, block].T
    return matrix, vector


def _block(count: int, place: int) -> slice:
    return slice(count + 3 * place, count + 3 * place + 3)


def hold(matrix: Array, vector: Array, fixed: Sequence[int]) -> None:
    """Changes the normal equations so that the parameters at the places `fixed` do not move."""
    places = list(fixed)
    matrix[places], matrix[:, places], vector[places] = 0.0, 0.0, 0.0
    matrix[places, places] = 1.0


def left_out(
    rows: Rows, whole: Fit, *, problem: Problem | None = None, slopes: Array | None = None, fixed: Sequence[int] = ()
) -> tuple[Array, dict[str, Fit]]:
    """Logarithm of the seconds of every row by parameters without its chip, and those parameters by chip.

    `slopes` are the problem's where they are known; the parameters at the places `fixed` stay as they are.
    """
    problem = problem or Problem(rows, weights(rows))
    error = problem.error(whole.logs, whole.own)
    slopes = problem.slopes(whole.logs, whole.own) if slopes is None else slopes
    matrix, vector = normal(problem, slopes, error, whole.logs, whole.own)
    hold(matrix, vector, fixed)
    root, count = problem.weight * (1 + (error / ROBUST) ** 2) ** -0.25 / NOISE, len(whole.logs)
    chips = np.array([chip(gpu) for gpu in rows.gpu.tolist()])
    result, fits = np.zeros(len(rows.steps)), {}
    for name in sorted(set(chips.tolist())):
        mine = chips == name
        shared, target = slopes[mine, :count] * root[mine, None], error[mine] * root[mine]
        own_matrix, own_vector = matrix.copy(), vector.copy()
        own_matrix[:count, :count] -= shared.T @ shared
        own_vector[:count] -= shared.T @ target
        hold(own_matrix, own_vector, fixed)
        for place in sorted(set(problem.owner[mine].tolist())):
            block = _block(count, place)
            own_matrix[block], own_matrix[:, block], own_vector[block] = 0.0, 0.0, 0.0
            own_matrix[block, block] = np.eye(3)
        move = -np.linalg.solve(own_matrix, own_vector)
        logs, own = whole.logs + np.clip(move[:count], -1.5, 1.5), whole.own + move[count:].reshape(-1, 3)
        result[mine] = (problem.error(logs, np.zeros_like(own)) + rows.log_s)[mine]
        fits[name] = Fit(logs, own, dict(zip(problem.gpus, own, strict=True)))
    return result, fits


def fitted(rows: Rows, cache: Path) -> tuple[Fit, Array, dict[str, Fit]]:
    """The fit and what it says of every chip left out, kept in `cache` for as long as model and rows are the same."""

    def make() -> Any:
        made = fit(rows, start=shipped())
        log_s, fits = left_out(rows, made)
        chips = np.array([chip(gpu) for gpu in rows.gpu.tolist()])
        for name in fits:
            mine = chips == name
            if mine.mean() > _LARGE:  # too much for one step
                fits[name] = fit(rows.only(~mine), start=fits[name])
                log_s[mine] = predict(rows.only(mine), fits[name].values)
        return made.logs, made.own, log_s, {name: (one.logs, one.deviations) for name, one in fits.items()}

    logs, own, log_s, parts = _kept(rows, cache, "fit", make)
    return _fit_of(rows, logs, own), log_s, {name: Fit(by, np.zeros((0, 3)), own) for name, (by, own) in parts.items()}


_LARGE = 0.1  # of the rows


def shipped() -> Fit:
    """The values in datasets/population.json, where a fit begins; parameters that it lacks are at their first guess."""
    known = population.load_population().parameters
    logs = [math.log(known.get(name, guess) / guess) / spread for name, (guess, spread) in FIRST.items()]
    return Fit(np.array(logs), np.zeros((0, 3)), {})


def fitted_on(rows: Rows, whole: Fit, cache: Path) -> Fit:
    """A fit on some of the rows, from the whole fit on; kept like `fitted`."""

    def make() -> Any:
        made = fit(rows, start=whole)
        return made.logs, made.own

    return _fit_of(rows, *_kept(rows, cache, "part", make))


def _fit_of(rows: Rows, logs: Array, own: Array) -> Fit:
    return Fit(logs, own, dict(zip(rows.gpus, own, strict=True)))


def _kept(rows: Rows, cache: Path, what: str, make: Callable[[], Any]) -> Any:
    of = (
        "".join(map(inspect.getsource, (pieces, piece_time, population)))
        + repr((FIRST, _LARGE, _CONVERGED))
        + repr(rows.log_s.tolist())
    )
    kept = cache / f"{what}-{hashlib.md5(of.encode()).hexdigest()}.pkl"
    if not kept.exists():
        kept.write_bytes(pickle.dumps(make()))
    return pickle.loads(kept.read_bytes())


def document(made: Fit, rows: Rows, error: Array, power: Mapping[str, float], power_error: Array) -> dict[str, Any]:
    """What `datasets/population.json` holds. `error` is predicted over measured on GPUs left out, as logarithms."""
    step = rows.software >= 0
    tuned = rows.software == SOFTWARE.index("vendor-tuned")
    log_error, vendors = -error, vendor_masks(rows)
    judged = {vendor: mask & step & ~tuned for vendor, mask in vendors.items()}
    times: dict[str, Sequence[float]] = {
        vendor: vendor_bounds(rows, log_error, mask, judged["nvidia"]) for vendor, mask in judged.items()
    }
    times["other"] = [bound**3.0 for bound in times["nvidia"]]  # of TPUs, Gaudi and Apple there are no steps
    errors: dict[str, list[float]] = {}
    for vendor, (low, high) in times.items():
        errors |= {f"time {vendor} known": [low, high], f"time {vendor} unknown": [0.94 * low, 1.06 * high]}
    spread = float(np.quantile(np.abs(power_error), 0.9))
    for name in list(errors):
        wider = [math.exp(math.copysign(math.hypot(math.log(x), spread), math.log(x))) for x in errors[name]]
        errors[name.replace("time", "energy")] = wider
    shipped = population.load_population()  # how devices deviate is fitted afterwards, by population_spread.py
    return {
        "schema": SCHEMA,
        "fitted_on": f"{int(step.sum())} steps and {int((~step).sum())} kernels on {len(rows.gpus)} devices",
        "sources": [SOURCES],
        "parameters": {name: float(f"{value:.5g}") for name, value in made.values.items() if name in START},
        "spread": {**shipped.spread, "power": float(f"{power_error.std():.3g}")},
        "correlations": {name: list(row) for name, row in shipped.correlations.items()},
        "networks": [list(pair) for pair in shipped.networks],
        "power": {name: float(f"{value:.4g}") for name, value in power.items()},
        "errors": {name: [float(f"{value:.4g}") for value in pair] for name, pair in errors.items()},
    }


def vendor_masks(rows: Rows) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Rows by the vendors that have bounds of their own: NVIDIA, AMD's Radeon and AMD's Instinct ("amd").

    The RX 5700 in 16 bit is in none: it is the only one of its kind, whose factor is fitted on itself.
    """
    amd, radeon, unsupported = (
        np.array([all_specs()[gpu][SPECS.index(name)] > 0 for gpu in rows.gpu])
        for name in ("amd", "radeon", "unsupported")
    )
    alone = unsupported & np.array([row.key.mode != "fp32" for row in rows.steps])
    return {"nvidia": ~amd, "radeon": radeon & ~alone, "amd": amd & ~radeon}


def vendor_bounds(rows: Rows, logs: Array, own: Array, nvidia: Array) -> tuple[float, float]:
    """Bounds that contain 90 % of `logs` on the rows `own`: measured over predicted on chips left out.

    A source on a GPU counts by the root of its rows. A few chips do not tell which way a chip of their vendor is off:
    their bounds are symmetric, NVIDIA's errors count as two more chips, and no bound is nearer than NVIDIA's.
    """
    chips = len({chip(gpu) for gpu in rows.gpu[own].tolist()})
    if chips >= _MANY_CHIPS:
        low, high = np.array(_quantiles(logs[own], _counted(rows, own), [0.05, 0.95])) * (1.0 + 1.0 / chips)
        return float(np.exp(low)), float(np.exp(high))
    both = np.concatenate([logs[own], logs[nvidia]])
    counted = np.concatenate([chips * _counted(rows, own), _BORROWED * _counted(rows, nvidia)])
    nearest = np.abs(_quantiles(logs[nvidia], _counted(rows, nvidia), [0.05, 0.95])).max()
    reach = max(_quantiles(np.abs(both), counted, [0.9])[0], float(nearest)) * (1.0 + 1.0 / (chips + _BORROWED))
    return math.exp(-reach), math.exp(reach)


_MANY_CHIPS, _BORROWED = 10, 2.0


def _counted(rows: Rows, mask: Array) -> Array:
    """What each row counts for; their sum is 1."""
    groups = list(zip(rows.source[mask].tolist(), rows.gpu[mask].tolist(), strict=True))
    many = Counter(groups)
    weight = np.array([many[group] ** -0.5 for group in groups])
    return weight / weight.sum()


def _quantiles(values: Array, weight: Array, at: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    place = np.cumsum(weight[order]) / weight.sum()
    return [float(value) for value in np.interp(at, place, values[order])]


SOURCES = (
    "fitted on public measurements: ryujaehun/pytorch-gpu-benchmark and its fork by lamikr (MIT), "
    "lambdal/deeplearning-benchmark, NeuSight (Lee et al., ASPLOS 2025, MIT), NVIDIA DeepLearningExamples, MLPerf "
    "Training v0.7 to v5.1 (Apache-2.0), DLPerf (Apache-2.0), DeepBench (Apache-2.0), EC-NAS (MIT), Zeus (Apache-2.0), "
    "timm (Apache-2.0), u39kun/deep-learning-benchmark, jcjohnson/cnn-benchmarks (MIT), Fischer et al. (MIT), and "
    "kernels of an H100 that the joulecast developers measured"
)


def main() -> None:
    from population_power import fit_power

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    steps = all_steps(options.measured)
    traces = traces_of(steps, options.cache)
    rows = rows_of(for_fit(steps), traces, population_kernels.sample(options.measured))
    made, log_s, _ = fitted(rows, options.cache)
    power, power_error = fit_power(rows_of([step for step in steps if step.watts], traces), made)
    options.out.write_text(json.dumps(document(made, rows, log_s - rows.log_s, power, power_error), indent=1) + "\n")
    print(f"{len(rows.steps)} rows; written to {options.out}")


if __name__ == "__main__":
    main()
