"""From observations to a profile: prices of ops, watts of eq. 2.2.1, and errors on families left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..base.errors import FitError
from ..cost.bounds import Range
from ..cost.curves import Curves, Term
from ..cost.features import ANY, DENSE, EVERY_DENSE, EVERY_MOVING, FEATURES, OTHERS, PRICED_AS, Array
from ..cost.profile import LAYER_OPS, PowerModel, Profile, Provenance, features, op_features
from ..trace.formulas import KINDS
from .design import STARTUP, TIMED, Design, Form, Key, single_layers
from .evidence import LEAST_NETWORKS, checked, network_of
from .few import fit_few, known_gpu, left_out_seconds
from .intervals import LeftOutErrors, out_of_sample
from .observation import CALLER, Observation
from .regression import family_shares, folds, log_errors, nonnegative_fit, relative_errors
from .watts import WattsPrior, fitted_watts

LEAST_FOR_STARTUP = 12
_LEAST_JUDGED = 0.5
"""The least share of the families that others must price for the errors to be known."""


@dataclass(frozen=True, slots=True)
class _Solution:
    """Prices for the columns of a table, and watts: P_s last, after the components' weights."""

    positions: tuple[int, ...]
    prices: Array
    watts: Array

    def seconds(self, columns: Array) -> Array:
        return np.asarray(columns[:, list(self.positions)] @ self.prices)


def _solve(table: Design, form: Form, startup: bool, train: Array, prior: WattsPrior) -> _Solution:
    """Fits on the observations that `train` (a mask) marks."""
    chosen = np.asarray(train, dtype=bool)[table.owner]
    positions = table.positions(form, startup)
    prices = nonnegative_fit(
        table.columns[chosen][:, positions],
        table.seconds[chosen],
        table.weights[chosen],
        symmetric=form.name == TIMED,
    )
    watts = np.zeros(len(Curves.components) + 1)
    solution = _Solution(tuple(positions), prices, watts)
    if table.observations[0].energy_j is not None:
        ratios = _activity(table, solution)[train]
        power = np.array([row.power_w for row, used in zip(table.observations, train, strict=True) if used])
        found = fitted_watts(ratios[:, :-1], power, prior)
        watts = np.array([*found.watts(Curves.components), found.static_w])
        solution = _Solution(tuple(positions), prices, watts)
    return solution


def _activity(table: Design, solution: _Solution) -> Array:
    """AR_i of every observation, shape (observations, components + 1): the last column, P_s's, is 1."""
    count = len(table.observations)
    parts = table.whole[:, list(solution.positions)] * solution.prices
    owner = [_component(table.keys[position]) for position in solution.positions]
    shares = np.stack(
        [parts[:, [name == component for name in owner]].sum(axis=1) for component in Curves.components], axis=1
    )
    shares /= np.maximum(parts.sum(axis=1, keepdims=True), 1e-300)
    return np.hstack([shares, np.ones((count, 1))])


def _component(key: Key) -> str:
    """A run's start-up keeps no component busy: it draws P_s."""
    return "" if key == STARTUP else FEATURES[key[2]].component


@dataclass(frozen=True, slots=True)
class _Choice:
    """A form that competes, with seconds per step and watts of each observation from a fit without its family."""

    form: Form
    startup: bool
    seconds: Array
    watts: Array


def _left_out(table: Design, form: Form, startup: bool, seed: int, prior: WattsPrior) -> _Choice:
    count = len(table.observations)
    seconds, watts = np.zeros(count), np.zeros(count)
    for train, test in folds(table.families, seed=seed):
        solution = _solve(table, form, startup, train, prior)
        seconds[test] = solution.seconds(table.whole[test])
        watts[test] = (_activity(table, solution) @ solution.watts)[test]
    return _Choice(form, startup, seconds, watts)


def _candidates(table: Design, startup: bool) -> list[tuple[Form, bool]]:
    """Forms with no more prices than observations can carry; with a run's start-up where the rows suffice."""
    rows = len(table.seconds)
    fitting = [form for form in table.forms if form.name == "simple" or 2 * table.identified_prices(form) <= rows]
    wanted = (True, False) if startup and rows >= LEAST_FOR_STARTUP else (False,)
    return [(form, choice) for form in fitting for choice in wanted]


def fit(
    observations: Iterable[Observation],
    *,
    name: str,
    hardware: str | None = None,
    device: str | None = None,
    sources: Sequence[str] = (),
    boundary: str = "",
    notes: Sequence[str] = (),
    power: PowerModel | None = None,
    memory_bytes: int | None = None,
    created: str = "",
    software: str | None = None,
    startup: bool = False,
    seed: int = 0,
    jobs: int = 1,
) -> Profile:
    """A profile of the hardware that the observations were made on.

    Time: seconds of an op are non-negative prices times features of its work (`features.FEATURES`),
    fitted on relative error. Among forms from three prices to prices by kind, role and shape, the one
    with the least error on families left out is taken. Energy: eq. 2.2.1 times that time.

    Parameters
    ----------
    observations:
        Whole runs, with or without seconds per op, of one hardware, framework and precision; at
        least 4 different networks, or one where `hardware` is a GPU of the table: its deviation from the
        population of GPUs is then fitted, for one or several precisions, and competes with the other forms
        from 4 networks of one precision on.
    software:
        What ran them, as `--software` takes it; None: the framework as installed.
    device:
        "gpu" or "cpu"; left out, "gpu" where the meter names NVML, else "cpu".
    power:
        A power model that was not measured, for observations without energy; the profile says so.
    startup:
        True where the windows are whole runs, so that some seconds of them are spent once and not in
        every step; fitted from a dozen observations on.
    jobs:
        Parallel workers (joblib) for the forms that compete.

    Raises
    ------
    FitError
        The observations cannot carry a fit; the message says what is missing.
    """
    part, few = known_gpu(hardware, observations := tuple(observations)), None
    if part is not None:
        runs = checked(observations, least=1, one_precision=False)
        few = fit_few(runs, part, name=name, software=software, created=created)
        if _deviation_only(runs):
            return few
    rows = checked(observations, unknown=hardware if part is None else None)
    metered = rows[0].energy_j is not None
    if not metered and power is None:
        raise FitError(
            f"none of {len(rows)} observations has energy; measure it, or give power=PowerModel(...), "
            "which the profile labels as modelled"
        )
    table, prior = Design(rows), WattsPrior.of(part, rows[0])
    best = _best(table, startup, seed, jobs, prior)
    if few is not None and _is_better(rows, left_out_seconds(rows, table.families, few), best.seconds, table.families):
        return few
    solution = _solve(table, best.form, best.startup, np.ones(len(rows), dtype=bool), prior)
    curves = _curves(table, best.form, solution)
    left_out = _errors(table, best, curves if best.form.name == TIMED else None)
    meter, hardware = str(rows[0].meter), hardware or rows[0].hardware or name
    networks = len({network_of(row) for row in rows})
    return Profile(
        name=name,
        hardware=hardware,
        device=device or ("gpu" if "nvml" in meter.lower() else "cpu"),
        framework=rows[0].framework or rows[0].workload.framework,
        precision=rows[0].workload.precision,
        time=curves,
        power=_power(solution) if metered or power is None else power,
        time_error=left_out.time_error,
        energy_error=left_out.energy_error,
        provenance=Provenance(
            time="measured",
            power="measured" if metered else "modelled",
            sources=tuple(sources) or (f"{len(rows)} observations on {hardware}, meter: {meter}",),
            fitted_on=f"{len(rows)} observations of {networks} networks, form {best.form.name}",
            created=created,
            boundary=boundary or (f"what {meter} covers" if metered else ""),
            notes=(*notes, *_remarks(meter, metered), *_unpriced(int((best.seconds <= 0).sum()), len(rows))),
        ),
        memory_bytes=memory_bytes,
        ranges=_ranges(rows),
        kinds=tuple(sorted({op.kind for row in rows for op in row.workload.ops})),
        scores={"observations": float(len(rows)), "families": float(len(set(table.families))), **left_out.scores},
        host=dict(rows[0].host),
        startup_s=_startup(table, solution),
    )


def _deviation_only(rows: Sequence[Observation]) -> bool:
    """Whether the rows fit a GPU's deviation from the population but no prices: few networks, or several precisions."""
    few_networks = len({network_of(row) for row in rows}) < LEAST_NETWORKS
    return few_networks or len({row.workload.precision for row in rows}) > 1


def _power(solution: _Solution) -> PowerModel:
    *weights, static_w = solution.watts.tolist()
    return PowerModel(dict(zip(Curves.components, weights, strict=True)), static_w)


def _errors(table: Design, best: _Choice, curves: Curves | None) -> LeftOutErrors:
    """The errors on families left out, of the rows that the other families price."""
    priced = np.flatnonzero(best.seconds > 0).tolist()
    return out_of_sample(
        [table.observations[index] for index in priced],
        [table.families[index] for index in priced],
        best.seconds[priced],
        (best.seconds * best.watts)[priced],
        curves,
    )


def _is_better(rows: Sequence[Observation], few: Array, seconds: Array, families: Sequence[str]) -> bool:
    """Whether `few` is closer to the measured times than `seconds`; each is predicted without the row's family."""
    measured, shares = np.array([row.step_seconds for row in rows]), family_shares(families)
    return float(log_errors(few, measured) @ shares) < float(log_errors(seconds, measured) @ shares)


def _best(table: Design, startup: bool, seed: int, jobs: int, prior: WattsPrior) -> _Choice:
    """The form with the least mean relative error on families left out; the smaller one on a tie.

    Each family counts once, regardless of how often its networks were measured. Where `timed` competes, which is fitted
    so that half and double are equally wrong, errors are logarithms: a relative one of too little is at most 1.
    """
    from joblib import Parallel, delayed

    candidates = _candidates(table, startup)
    results: list[_Choice] = Parallel(n_jobs=jobs, prefer="threads")(
        delayed(_left_out)(table, form, started, seed, prior) for form, started in candidates
    )
    measured = np.array([row.step_seconds for row in table.observations])
    shares = family_shares(table.families)
    error = log_errors if any(form.name == TIMED for form, _ in candidates) else relative_errors
    errors = [float(error(choice.seconds, measured) @ shares) for choice in results]
    best = next(choice for choice, error in zip(results, errors, strict=True) if error <= 1.02 * min(errors))
    if float((best.seconds > 0) @ shares) < _LEAST_JUDGED:
        raise FitError(
            "cross-validation predicts 0 s for most families left out; add observations of more kinds of networks"
        )
    return best


def _curves(table: Design, form: Form, solution: _Solution) -> Curves:
    """The fitted terms; ops that were never observed cost the average of their kind or class."""
    terms = [Term(*key, float(price)) for key, price in zip(form.keys, solution.prices, strict=False)]
    if form.name == TIMED:  # a name at 0 s has been seen: it is not one of the others
        named = [term for term in terms if term.seconds or term.role != ANY]
        return Curves((*named, *_others(table, form, solution), *_stand_ins(table, form, solution)))
    kept = tuple(term for term in terms if term.seconds)
    return Curves(kept if form.name == "simple" else (*kept, *_stand_ins(table, form, solution)))


def _others(table: Design, form: Form, solution: _Solution) -> list[Term]:
    """Terms for ops of a priced kind whose name was never observed, or only with tiny sizes."""
    spent = _spent(table, form, solution)
    result = []
    for kind in sorted({kind for kind, _, _ in form.keys} - {ANY, *DENSE}):
        for feature in ("bytes", "launch"):
            named = [key for key in spent if key[0] == kind and key[1] != ANY]
            seconds = sum(spent[key] for key in named if (key[2] == "launch") == (feature == "launch"))
            if (kind, feature) in table.amounts and seconds:
                result.append(Term(kind, OTHERS, feature, seconds / table.amounts[kind, feature]))
    return result


def _stand_ins(table: Design, form: Form, solution: _Solution) -> list[Term]:
    """Terms for kinds without their own prices: dense kinds by multiply-adds, all kinds by bytes."""
    spent = _spent(table, form, solution)
    kinds = {key[0] for key in form.keys} - {ANY}
    result = []
    for cls, feature in ((EVERY_DENSE, "macs"), (EVERY_DENSE, "bytes"), (EVERY_MOVING, "bytes")):
        priced = [kind for kind in kinds if _class(kind) == cls]
        amount = sum(table.amounts.get((kind, feature), 0.0) for kind in priced)
        component = FEATURES[feature].component
        seconds = sum(
            value for key, value in spent.items() if key[0] in priced and FEATURES[key[2]].component == component
        )
        kinds_of_pieces = dict.fromkeys(kind for kind in (*DENSE, *KINDS) if kind not in PRICED_AS)
        others = [kind for kind in kinds_of_pieces if _class(kind) == cls and kind not in priced]
        result += [Term(kind, ANY, feature, seconds / amount) for kind in others if amount and seconds]
    return result


def _spent(table: Design, form: Form, solution: _Solution) -> dict[Key, float]:
    """Seconds of all observations' steps under each key."""
    seconds = table.whole[:, list(solution.positions)].sum(axis=0) * solution.prices
    return {key: float(value) for key, value in zip(form.keys, seconds, strict=False)}


def _class(kind: str) -> str:
    return EVERY_DENSE if kind in DENSE else EVERY_MOVING


def _startup(table: Design, solution: _Solution) -> float:
    where = [table.keys[position] for position in solution.positions]
    return float(solution.prices[where.index(STARTUP)]) if STARTUP in where else 0.0


def _ranges(rows: Sequence[Observation]) -> dict[str, Range]:
    """Of networks, their sizes; of single layers, those of their ops, since a network is a sum of them."""
    if single_layers(rows):
        ops = [op_features(op) for row in rows for op in row.workload.ops]
        counts = [sum(op.count for op in row.workload.ops) for row in rows]
        by_op = {name: [one[name] for one in ops if one[name] > 0] for name in ops[0]}
        return {LAYER_OPS: Range(min(counts), max(counts))} | {
            name: Range(min(values), max(values)) for name, values in by_op.items() if values
        }
    listed = [features(row.workload) for row in rows]
    return {name: Range(min(v[name] for v in listed), max(v[name] for v in listed)) for name in listed[0]}


def _unpriced(count: int, rows: int) -> tuple[str, ...]:
    """A note on the rows that were not used for the errors."""
    if not count:
        return ()
    return (f"{count} of {rows} observations do work that no other family does: they do not count in the errors",)


def _remarks(meter: str, metered: bool) -> tuple[str, ...]:
    if not metered:
        return ("power was not measured here: its weights are modelled",)
    return ("energies are the caller's own; no meter was named",) if meter == CALLER else ()
