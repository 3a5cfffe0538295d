"""One profile for all machines of a kind, from the records of many, with the spread between them.

The seconds of a case on a machine are those of the typical machine times the machine's factor, the same for all cases:
ln s = a_case + b_machine, by median polish (Tukey 1977, Exploratory Data Analysis), which single outlying cases and
machines do not move. The profile is fitted on the typical machine; the spread of b widens its intervals.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...estimator.base.errors import FitError
from ...estimator.cost.bounds import ErrorModel
from ...estimator.cost.profile import Profile
from ...estimator.fit.observation import Observation
from ..records.records import Record, hardware_name, now_utc, same_machine
from .calibrate import alike, chosen_records, consistent, first_lines, modelled_power, profile_of

FEW_MACHINES = 3
UNKNOWN_SPREAD = 0.08
"""Between GPUs of one kind in six clusters, 8 % (Sinha et al. 2022, "Not All GPUs Are Created Equal", SC22)."""
_OUTLYING_DEVIATIONS = 4.0  # robust standard deviations from the middle of its kind
_OUTLYING_LEAST = 0.05  # and by at least this much
_NORMAL_MAD = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
_ROUNDS = 20
_NOISE = 0.02  # of a case on one machine, where the records do not show it


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of a kind: its seconds over those of the typical one, and the same for joules where measured.

    `outlying` says whether it is far from the others in either.
    """

    name: str
    cases: int
    factor: float
    energy_factor: float | None
    outlying: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """All machines with the same parts.

    `spread` is the standard deviation of ln(factor) between them, `energy_spread` that of ln(energy_factor).
    """

    hardware: str
    profile: Profile
    machines: tuple[Machine, ...]
    spread: float
    energy_spread: float

    @property
    def outlying(self) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if machine.outlying)


def kinds_of(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each kind of machine, most frequent kind first."""
    kinds: list[list[Record]] = []
    for record in records:
        for kind in kinds:
            if same_machine(kind[0].host, record.host):
                kind.append(record)
                break
        else:
            kinds.append([record])
    return sorted(kinds, key=len, reverse=True)


def fit_kind(records: Sequence[Record], *, machine: str | None = None) -> Kind:
    """The profile of the machines that the records of one kind come from.

    With `machine` it is that of one of them: its factor is shrunk towards 1 by the spread between machines and the
    noise of its cases (the posterior of a normal prior), and its interval covers what remains. Raises FitError.
    """
    measured, left_out = _by_machine(records)
    if not measured:
        raise FitError("no case was measured on these machines: run `measure` on one of them")
    if machine is not None and machine not in measured:
        raise FitError(f"`machine` {machine!r} has no records; known are {', '.join(sorted(measured))}")
    times, energies = _Factors.of(measured, "seconds"), _Factors.of(measured, "energy_j")
    outliers = outlying(times.machines) | outlying(energies.machines)
    spread, energy_spread = _spreads(times, energies, outliers)
    own = energy_own = 0.0
    if machine is not None:
        # An outlying machine is not one of those that the spread describes: its own cases alone say how fast it is.
        prior, energy_prior = (math.inf, math.inf) if machine in outliers else (spread, energy_spread)
        own, spread = energy_own, energy_spread = times.shrunk(machine, prior)
        if machine in energies.machines:
            energy_own, energy_spread = energies.shrunk(machine, energy_prior)
    typical = [
        _scaled(
            _typical(case, measured, times.machines, middle, energies.cases.get(case)),
            math.exp(own),
            math.exp(energy_own),
        )
        for case, middle in times.cases.items()
    ]
    profile = profile_of(
        consistent(typical),
        list(records),
        power=lambda: modelled_power(records[-1].host),
        now=now_utc,
        notes=(_spread_note(times.machines, outliers, spread, machine), *first_lines(left_out)),
    )
    profile = replace(
        profile,
        time_error=_wider(profile.time_error, spread),
        energy_error=_wider(profile.energy_error, energy_spread),
    )
    machines = tuple(
        Machine(name, len(measured[name]), math.exp(value), energies.factor(name), name in outliers)
        for name, value in sorted(times.machines.items())
    )
    return Kind(hardware_name(records[-1].host), profile, machines, spread, energy_spread)


@dataclass(frozen=True, slots=True)
class _Factors:
    """One figure of a step on all machines: ln of each case's on the typical machine and of each machine's factor.

    `noise` is that of one value, `counts` the number of cases with the figure by machine.
    """

    cases: dict[str, float]
    machines: dict[str, float]
    noise: float
    counts: dict[str, int]

    @classmethod
    def of(cls, measured: Mapping[str, Mapping[str, Observation]], figure: str) -> _Factors:
        """`figure` is a field of an observation: "seconds", or "energy_j", which may be missing."""
        values = {
            name: {case: getattr(one, figure) / one.steps for case, one in own.items() if getattr(one, figure)}
            for name, own in measured.items()
        }
        known = {name: own for name, own in values.items() if own}
        return cls(*polished(known), {name: len(own) for name, own in known.items()})

    def factor(self, machine: str) -> float | None:
        return math.exp(self.machines[machine]) if machine in self.machines else None

    def shrunk(self, machine: str, spread: float) -> tuple[float, float]:
        """The posterior mean and standard deviation of the machine's ln(factor)."""
        return shrunk(self.machines[machine], self.counts[machine], spread, self.noise)


def _spreads(times: _Factors, energies: _Factors, outliers: set[str]) -> tuple[float, float]:
    """The spread of times and of energies between machines, without outlying ones.

    Machines whose energy was not measured differ in energy as they differ in time, at the same power.
    """
    spread = _spread([value for name, value in times.machines.items() if name not in outliers])
    known = [value for name, value in energies.machines.items() if name not in outliers]
    return spread, _spread(known) if len(known) > 1 else spread


def machine_of(record: Record) -> str:
    """The name of the machine that a record comes from; older records have none."""
    return str(record.host.get("node") or "unnamed")


def _by_machine(records: Sequence[Record]) -> tuple[dict[str, dict[str, Observation]], list[str]]:
    """The observation of each case on each machine, the newest clean one, and a line for each that is left out."""
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[machine_of(record)].append(record)
    kept, left_out = alike([record for own in grouped.values() for record in chosen_records(own)])
    found: dict[str, dict[str, Observation]] = defaultdict(dict)
    for record in kept:
        one = record.observation()
        if one is not None and one.seconds > 0:
            found[machine_of(record)][record.name] = one
    return dict(found), left_out


def polished(
    values: Mapping[str, Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, float], float]:
    """ln of each case's value on the typical machine, of each machine's factor, and the noise of one value.

    `values` has positive figures by machine and case; cases may be missing. The median of the factors is 1.
    """
    machines = dict.fromkeys(values, 0.0)
    names = list(dict.fromkeys(case for own in values.values() for case in own))
    logs = {name: {case: math.log(value) for case, value in own.items()} for name, own in values.items()}
    cases = dict.fromkeys(names, 0.0)
    for _ in range(_ROUNDS):
        for case in names:
            cases[case] = statistics.median(own[case] - machines[name] for name, own in logs.items() if case in own)
        for name, own in logs.items():
            machines[name] = statistics.median(value - cases[case] for case, value in own.items())
        middle = statistics.median(machines.values()) if machines else 0.0
        machines = {name: value - middle for name, value in machines.items()}
        cases = {case: value + middle for case, value in cases.items()}
    rest = [value - cases[case] - machines[name] for name, own in logs.items() for case, value in own.items()]
    return cases, machines, _NORMAL_MAD * statistics.median(map(abs, rest)) if rest else 0.0


def outlying(factors: Mapping[str, float]) -> set[str]:
    """The machines whose ln(factor) is far from the others': throttled, or with another power limit."""
    if len(factors) <= FEW_MACHINES:
        return set()
    middle = statistics.median(factors.values())
    deviation = _NORMAL_MAD * statistics.median(abs(value - middle) for value in factors.values())
    least = max(_OUTLYING_DEVIATIONS * deviation, _OUTLYING_LEAST)
    return {name for name, value in factors.items() if abs(value - middle) > least}


def _spread(factors: Sequence[float]) -> float:
    """The standard deviation between machines; with few, no less than what is known of others."""
    if len(factors) < 2:
        return UNKNOWN_SPREAD
    own = statistics.stdev(factors)
    return own if len(factors) > FEW_MACHINES else max(own, UNKNOWN_SPREAD)


def shrunk(factor: float, cases: int, spread: float, noise: float) -> tuple[float, float]:
    """The posterior mean and standard deviation of a machine's ln(factor), from `cases` values with that noise."""
    error = max(noise, _NOISE) ** 2 / cases
    weight = 1 / (1 + error / spread**2) if spread else 0.0
    return weight * factor, math.sqrt(weight * error)


def _typical(
    case: str,
    measured: Mapping[str, Mapping[str, Observation]],
    factors: Mapping[str, float],
    seconds: float,
    energy: float | None,
) -> Observation:
    """The case on the typical machine: its ops share the time as they do in the middle of all machines.

    `seconds` and `energy` are the logarithms of those of one step.
    """
    found = {name: own[case] for name, own in measured.items() if case in own}
    first = next(iter(found.values()))
    rows = [one.op_seconds for one in found.values()]
    ops: tuple[float | None, ...] | None = None
    if all(row is not None and len(row) == len(first.workload.ops) for row in rows):
        scaled = [
            [None if value is None else value / math.exp(factors[name]) for value in one.op_seconds or ()]
            for name, one in found.items()
        ]
        ops = tuple(_middle(column) for column in zip(*scaled, strict=True))
    return replace(
        first,
        meter=next((one.meter for one in found.values() if one.energy_j), None),
        seconds=math.exp(seconds) * first.steps,
        energy_j=None if energy is None else math.exp(energy) * first.steps,
        op_seconds=ops,
        host={name: value for name, value in first.host.items() if name != "node"},
        flags=(),
    )


def _scaled(one: Observation, factor: float, energy_factor: float) -> Observation:
    """The same case on a machine that takes `factor` times as long and `energy_factor` times the energy."""
    ops = None if one.op_seconds is None else tuple(None if op is None else op * factor for op in one.op_seconds)
    energy = None if one.energy_j is None else one.energy_j * energy_factor
    return replace(one, seconds=one.seconds * factor, energy_j=energy, op_seconds=ops)


def _middle(column: Sequence[float | None]) -> float | None:
    known = [value for value in column if value is not None]
    return float(np.median(known)) if len(known) == len(column) else None


def _wider(error: ErrorModel, spread: float) -> ErrorModel:
    """The bounds with the spread between machines (90 % of a normal distribution) added in quadrature."""
    between = 1.645 * spread
    low, high = (math.hypot(math.log(bound), between) for bound in (min(error.low, 1.0), max(error.high, 1.0)))
    return replace(error, low=math.exp(-low), high=math.exp(high))


def _spread_note(factors: Mapping[str, float], outliers: set[str], spread: float, machine: str | None) -> str:
    count = f"{len(factors)} machine{'' if len(factors) == 1 else 's'} of this kind"
    if machine is not None:
        return f"the profile of {machine}, from its own records and {count}; {spread:.1%} of uncertainty is left"
    text = f"fitted on {count}, which differ by {spread:.1%} (standard deviation of their speed)"
    return text + (f"; not counted: {', '.join(sorted(outliers))}" if outliers else "")
