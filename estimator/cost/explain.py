"""What a profile says, in rows a person can read: watts, prices by op kind, evidence and errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..base.digits import short
from ..trace.formulas import conv_dims, conv_flops
from ..trace.workload import Op
from .bounds import ErrorModel
from .curves import Curves
from .deviation import learnt_shares
from .features import ANY, DENSE, EVERY_DENSE, EVERY_MOVING
from .population import PopulationTime, load_population
from .profile import Profile

_BATCH, _CHANNELS, _SIDE = 64, 128, 16
_ELEMENTS = _BATCH * _CHANNELS * _SIDE**2


@dataclass(frozen=True, slots=True)
class Fact:
    """One line: `section` groups lines, `value` may be text; `unit` is "" for text and shares."""

    section: str
    name: str
    value: float | str
    unit: str = ""


def explain(profile: Profile) -> tuple[Fact, ...]:
    """The weights of eq. 2.2.1, J per GFLOP (10^9 multiply-adds) and per GB by kind, evidence, errors.

    Prices are those of a medium-sized op of each kind, forward, long enough for its start not to matter:
    with prices that depend on shape there is no single one.
    """
    facts = [Fact("hardware", "name", profile.hardware), Fact("hardware", "framework", profile.framework)]
    facts += [Fact("power", f"w_{name}", watts, "W") for name, watts in profile.power.weights_w.items()]
    facts += [Fact("power", "P_s", profile.power.static_w, "W")]
    prices = [fact for kind in _kinds(profile) for fact in _prices(profile, kind)]
    facts += sorted(prices, key=lambda fact: fact.section)  # all prices, then all speeds
    if profile.startup_s:
        facts.append(Fact("time", "start of a run", profile.startup_s, "s"))
    provenance = profile.provenance
    facts += [
        Fact("evidence", "fitted on", provenance.fitted_on or "a datasheet"),
        Fact("evidence", "time", provenance.time),
        Fact("evidence", "power", provenance.power),
        Fact("evidence", "boundary", provenance.boundary or "not said"),
        *(Fact("evidence", "source", source) for source in provenance.sources),
        *(Fact("evidence", "note", note) for note in provenance.notes),
        *_learnt(profile),
    ]
    facts += [
        Fact("range", name, f"{short(bounds.low)} to {short(bounds.high)}") for name, bounds in profile.ranges.items()
    ]
    facts += [
        Fact("errors", f"90 % of {what}, measured over predicted", _bounds(error))
        for what, error in (("times", profile.time_error), ("energies", profile.energy_error))
    ]
    return (*facts, *(Fact("errors", name, value) for name, value in profile.scores.items()))


_TOLD = 0.05
"""A trait counts as learnt where the runs determine at least this share of it."""


def _learnt(profile: Profile) -> list[Fact]:
    """What the runs changed of the population's seconds, how much of it they determine, and what they do not."""
    if not isinstance(profile.time, PopulationTime) or not profile.time.deviation.covariance:
        return []
    logs = profile.time.deviation.logs
    told = learnt_shares(profile.time.deviation, load_population(), amd=bool(profile.time.specs["amd"]))
    rows = [
        Fact(
            "learnt from the runs",
            name,
            f"{100 * math.expm1(logs[name]):+.1f} % time, {100 * share:.0f} % known from the runs",
        )
        for name, share in sorted(told.items(), key=lambda item: -item[1])
        if share >= _TOLD
    ]
    rest = [name for name, share in told.items() if share < _TOLD]
    if rest:
        rows.append(Fact("from the population", "all others", ", ".join(rest)))
    return rows


def _bounds(error: ErrorModel) -> str:
    many = f"{error.low:.3g} to {error.high:.3g}"
    if not error.per_op:
        return many
    twenty = error.interval(1.0, ops=20)
    return f"{many} in networks of very many ops; {twenty.low:.3g} to {twenty.high:.3g} in those of 20 different ones"


def _kinds(profile: Profile) -> list[str]:
    """Kinds with prices of their own, those never fitted left out; the classes where there are none."""
    if not isinstance(profile.time, Curves):
        return ["conv", "matmul", "norm"]
    named = list(dict.fromkeys(term.kind for term in profile.time.terms if term.kind != ANY))
    plain = {"conv" if kind.startswith("conv") else kind for kind in named}
    if plain & {EVERY_DENSE, EVERY_MOVING}:
        return ["conv", "matmul", "norm"]
    known = set(profile.kinds) or plain
    return sorted(plain & known)


def _prices(profile: Profile, kind: str) -> list[Fact]:
    ops = [_example(kind, 64), _example(kind, 128)]
    seconds = profile.time.seconds(ops)
    seconds = seconds[1] - seconds[0]  # what the larger adds: no start
    joules = float(seconds @ (profile.power.watts(profile.time.components) + profile.power.static_w))
    giga = (ops[1].flops - ops[0].flops) / 1e9
    gigabytes = (ops[1].bytes_moved - ops[0].bytes_moved) / 1e9
    amount, unit = (giga, "GFLOP") if kind in DENSE and giga else (gigabytes, "GB")
    if joules <= 0:
        return [Fact("price", kind, 0.0, f"J/{unit}")]
    return [
        Fact("price", kind, joules / amount, f"J/{unit}"),
        Fact("speed", kind, float(amount / seconds.sum()), f"{unit}/s"),
    ]


def _example(kind: str, times: int) -> Op:
    """A forward op of `kind`, `times` as large in its batch."""
    elements, batch = times * _ELEMENTS, times * _BATCH
    moved = 4 * elements
    if kind == "conv":
        shape = (batch, _CHANNELS, _SIDE, _SIDE)
        dims = conv_dims(shape, (_CHANNELS, _CHANNELS, 3, 3), shape, 1, False)
        return Op("convolution", kind, "forward", "", conv_flops(dims), moved, moved, dims=dims)
    if kind == "matmul":
        rows = elements // 1024
        dims = {"b": 1, "m": rows, "k": 1024, "n": 1024}
        return Op("mm", kind, "forward", "", rows * 1024**2, moved, moved, dims=dims)
    flops = elements * _CHANNELS if kind in DENSE else 0
    dims = {"elements_in": elements, "elements_out": elements}
    return Op(kind, kind, "forward", "", flops, moved, moved, dims=dims)
