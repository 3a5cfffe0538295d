"""Watts of eq. 2.2.1 from metered runs, kept physical: idle <= waiting for the host <= busy.

The unknowns are steps up from the idle power: P_s over idle, waiting over P_s, and each busy component over waiting,
none negative. Where a population of GPUs is known, each step starts at its value and stays there if no run shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..cost.bounds import ErrorModel
from ..cost.datasheet import datasheet_profile
from ..cost.features import COMPUTE, LAUNCH, MEMORY, Array
from ..cost.hardware import Hardware
from ..cost.population import load_population
from ..cost.profile import NINETY_PERCENT, PowerModel, Profile
from .observation import Observation

NOISE = 0.08
"""Standard deviation of a network's watts around its device's, as a share of them."""
_STEP_SPREAD = 0.5  # of one step up, as a share of it, besides the factor that all steps share
_LEAST_STEP = 0.05  # of the device's busy power: what a step's spread is at least a share of
_HOST = 0.5  # what a host may draw in addition to its GPU, as a share of the busy GPU
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class WattsPrior:
    """`start` has the population's watts, None where there are none. P_s is at least its idle power, `static_w`.

    `host` is True where the meter covers the host's CPUs too, which the population does not know.
    """

    start: PowerModel | None = None
    host: bool = False

    @classmethod
    def of(cls, hardware: Hardware | None, row: Observation) -> WattsPrior:
        """What is known of a GPU of the table that ran `row`; nothing for None."""
        if hardware is None:
            return cls()
        return cls(datasheet_profile(hardware).for_precision(row.workload.precision).power, covers_host(row))

    @property
    def idle_w(self) -> float:
        return 0.0 if self.start is None else self.start.static_w


def covers_host(row: Observation) -> bool:
    return "rapl" in (row.meter or "").lower()


def fitted_watts(activity: Array, power_w: Array, prior: WattsPrior) -> PowerModel:
    """`activity`, shape (rows, 3), has the shares of compute, memory and launch; `power_w` each row's mean watts."""
    from scipy.optimize import lsq_linear

    compute, memory, launch = activity.T
    columns = np.stack(
        [np.ones(len(power_w)), compute + memory + launch, compute, memory, np.zeros(len(power_w))], axis=1
    )
    rows, goal = columns / (NOISE * power_w[:, None]), (power_w - prior.idle_w) / (NOISE * power_w)
    known, aim = _prior_rows(prior, float(np.median(power_w)))
    robust = np.ones(len(power_w))
    for _ in range(_ROUNDS):
        root = np.sqrt(robust)
        both = np.vstack([rows * root[:, None], known])
        found = lsq_linear(
            both, np.concatenate([goal * root, aim]), bounds=([0.0] * 4 + [-0.9], np.inf), method="bvls"
        ).x
        robust = 1.0 / np.sqrt(1.0 + ((rows @ found - goal) / 2.0) ** 2)
    above, waiting, computing, moving, _ = (float(value) for value in found)
    weights = {COMPUTE: waiting + computing, MEMORY: waiting + moving, LAUNCH: waiting}
    return PowerModel(weights, prior.idle_w + above)


def _prior_rows(prior: WattsPrior, typical_w: float) -> tuple[Array, Array]:
    """Equations that pull the steps to the population's; the last unknown is a factor that all of them share."""
    if prior.start is None:
        return 1e-3 / typical_w * np.eye(5), np.zeros(5)
    weights, static = prior.start.weights_w, prior.start.static_w
    steps = np.array(
        [
            0.0,
            weights[LAUNCH],
            max(weights[COMPUTE] - weights[LAUNCH], 0.0),
            max(weights[MEMORY] - weights[LAUNCH], 0.0),
        ]
    )
    busy = static + max(weights.values())
    spread = _STEP_SPREAD * np.maximum(steps, _LEAST_STEP * busy)
    if prior.host:
        spread[0] = _HOST * busy
    rows = np.hstack([np.eye(4) / spread[:, None], (-steps / spread)[:, None]])  # step - start * (1 + factor)
    return np.vstack([rows, [0.0, 0.0, 0.0, 0.0, 1.0 / load_population().spread["power"]]]), np.append(
        steps / spread, 0.0
    )


def with_watts(profile: Profile, rows: Sequence[Observation], start: Profile) -> Profile:
    """`profile`, fitted from `start`, with the watts from the rows' meters and the error of its energy."""
    power_log = math.sqrt(max(math.log(start.energy_error.high) ** 2 - math.log(start.time_error.high) ** 2, 0.0))
    if rows[0].energy_j is not None:
        groups: dict[bool, list[Observation]] = {False: [], True: []}  # by whether they ran in 16 bits
        for row in rows:
            groups[start.half_power is not None and _without_half(start, row).half_power is None].append(row)
        power, half_power = (_fitted_watts(profile, group, start) if group else None for group in groups.values())
        if power is None and half_power is not None:
            power = _scaled(start.power, start.half_power, half_power)
        elif half_power is None and power is not None:
            half_power = _scaled(start.half_power, start.power, power)
        profile = replace(profile, power=power or profile.power, half_power=half_power)
        between = load_population().spread["power"]
        networks = len({id(row.workload) for row in rows})
        power_log = NINETY_PERCENT * math.sqrt(NOISE**2 + between**2 / (1.0 + networks * (between / NOISE) ** 2))
    reach = math.hypot(math.log(profile.time_error.high), power_log)
    return replace(profile, energy_error=ErrorModel(math.exp(-reach), math.exp(reach)))


def _without_half(start: Profile, row: Observation) -> Profile:
    """`start` with the watts of the row's precision: without `half_power` where it ran in 16 bits."""
    return start.for_precision(row.workload.precision)


def _fitted_watts(profile: Profile, rows: Sequence[Observation], start: Profile) -> PowerModel:
    """The watts of rows of one width of arithmetic, 16 bits or more."""
    times = np.array([profile.time.seconds(row.workload.ops).sum(axis=0) for row in rows])
    shares = times / times.sum(axis=1, keepdims=True)
    order = [profile.time.components.index(name) for name in (COMPUTE, MEMORY, LAUNCH)]
    power = np.array([row.power_w for row in rows], dtype=float)
    return fitted_watts(shares[:, order], power, WattsPrior(_without_half(start, rows[0]).power, covers_host(rows[0])))


def _scaled(other: PowerModel | None, before: PowerModel | None, after: PowerModel) -> PowerModel | None:
    """The watts of a precision that was not run: its weights change as those of the one that was."""
    if other is None or before is None:
        return None
    factor = sum(after.weights_w.values()) / max(sum(before.weights_w.values()), 1e-9)
    return PowerModel({name: watts * factor for name, watts in other.weights_w.items()}, after.static_w)
