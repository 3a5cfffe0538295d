"""The design matrix of observations, the forms of time model that compete on it, and the families of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..cost.features import ANY, DENSE, EVERY_DENSE, EVERY_MOVING, Array, covers, pieces
from ..trace.workload import Workload
from .evidence import network_of
from .observation import Observation

Key = tuple[str, str, str]  # kind, role, feature
Sums = Mapping[tuple[str, str], Mapping[str, float]]
STARTUP: Key = ("(run)", ANY, "startup")
FAMILIES = 8

_TILES = ("macs_n32", "macs_n64", "macs_n128")
_VECTORS = ("macs_n8", "macs_n16", "left", "right", "result")
_CONV = ("conv1", "conv", "conv_grouped")
_GEMM = (*_CONV, "matmul")
TIMED = "timed"
_LEAST_SHARE = 0.02
_OPS_OF_A_LAYER = 10  # forward, loss, backward and update of one layer
_IDENTIFYING_BYTES = 2**19  # takes as long to move as a few starts


@dataclass(frozen=True, slots=True)
class Form:
    """A time model before it is fitted: which features of which ops have their own price."""

    name: str
    keys: tuple[Key, ...]


def forms(kinds: Sequence[str]) -> list[Form]:
    """Forms from three prices for all ops to prices by kind, shape and role, for the kinds in `kinds`."""
    dense = [kind for kind in kinds if kind in DENSE]
    moving = [kind for kind in kinds if kind not in DENSE]
    simple = [(EVERY_DENSE, ANY, "macs"), (ANY, ANY, "bytes"), (ANY, ANY, "launch")]
    by_class = [(kind, ANY, "macs") for kind in dense]
    by_class += [(EVERY_DENSE, ANY, "bytes"), (EVERY_MOVING, ANY, "bytes"), (ANY, ANY, "launch")]
    by_kind = [(kind, ANY, feature) for kind in dense for feature in ("macs", "bytes", "launch")]
    by_kind += [(kind, ANY, "bytes") for kind in moving] + [(ANY, ANY, "launch")]
    by_kind += [("pool", ANY, "macs")] if "pool" in moving else []
    gemm = [kind for kind in dense if kind in _GEMM]
    tiled = by_kind + [(kind, ANY, feature) for kind in gemm for feature in _TILES]
    shaped = tiled + [(kind, ANY, feature) for kind in gemm for feature in _VECTORS]
    by_role = [key for key in shaped if key[0] not in gemm]
    by_role += [(kind, role, what) for kind, _, what in shaped if kind in gemm for role in _roles(kind)]
    listed = {
        "simple": simple,
        "classes": by_class,
        "kinds": by_kind,
        "tiles": tiled,
        "shapes": shaped,
        "roles": by_role,
    }
    return [Form(name, tuple(dict.fromkeys(keys))) for name, keys in listed.items()]


def timed_form(most_bytes: Mapping[tuple[str, str], float]) -> Form:
    """Prices for every dense kind by role and shape, and for every other op by its name: as only
    seconds per op identify.

    `most_bytes`: for every (kind, role) that was timed, what its largest piece moved. One that never
    moved much shows the price of its start and no more.
    """
    keys: list[Key] = [
        (ANY, ANY, "fresh"),
        (ANY, ANY, "copied"),
        *((kind, ANY, "fresh") for kind in sorted({kind for kind, _ in most_bytes})),
    ]
    for (kind, role), moved in sorted(most_bytes.items()):
        sizes = _features_of_size(kind) if moved >= _IDENTIFYING_BYTES else ()
        keys += [(kind, role, feature) for feature in ("launch", *sizes)]
    return Form(TIMED, tuple(keys))


def _features_of_size(kind: str) -> tuple[str, ...]:
    """What the seconds of an op of that kind depend on, besides its start."""
    if kind not in DENSE:
        return ("bytes", "macs") if kind == "pool" else ("bytes",)
    shape = (*_TILES, *_VECTORS, "spilled") if kind in _GEMM else ()
    drawn = ("dropped",) if kind == "attention" else ()
    groups = ("planes",) if kind in ("conv_grouped", "conv_depthwise") else ()
    windows = ("wide",) if kind == "conv_depthwise" else ()
    return ("bytes", "macs", *shape, *drawn, *groups, *windows, *(("rereads",) if kind in _CONV else ()))


def _roles(kind: str) -> tuple[str, ...]:
    return ("forward", "grad_input", "grad_weight") if kind.startswith("conv") else ("forward", "backward")


def weighty(listed: Sequence[Sums]) -> list[str]:
    """Kinds with at least 2 % of the bytes or multiply-adds of some observation.

    Whole runs do not identify the price of a lighter kind: it would absorb the cost of whatever occurs
    together with it.
    """
    found: dict[str, None] = {}
    for sums in listed:
        for feature in ("bytes", "macs"):
            total = sum(values[feature] for (kind, _), values in sums.items() if feature == "bytes" or kind in DENSE)
            for kind in {kind for kind, _ in sums}:
                part = sum(values[feature] for (own, _), values in sums.items() if own == kind)
                if total and part >= _LEAST_SHARE * total and (feature == "bytes" or kind in DENSE):
                    found[kind] = None
    return sorted(found)


def _row(sums: Sums, keys: Sequence[Key]) -> list[float]:
    return [
        sum(values[feature] for (own, part), values in sums.items() if covers(kind, role, own, part))
        for kind, role, feature in keys
    ]


@dataclass(slots=True)
class Design:
    """Rows: the whole step of each observation, then its ops by kind and phase where they were timed.

    `columns` has shape (rows, keys), `seconds` and `weights` (rows,); `owner` is the observation of
    each row. `families` are what is left out together.
    """

    observations: Sequence[Observation]
    kinds: list[str] = field(init=False)
    forms: list[Form] = field(init=False)
    keys: list[Key] = field(init=False)
    columns: Array = field(init=False)
    seconds: Array = field(init=False)
    weights: Array = field(init=False)
    owner: Array = field(init=False)
    families: list[str] = field(init=False)
    amounts: dict[tuple[str, str], float] = field(init=False)
    """Multiply-adds, bytes and starts of all observations' steps, by (kind, feature)."""

    def __post_init__(self) -> None:
        known: dict[int, Sums] = {}
        for row in self.observations:
            if id(row.workload) not in known:
                known[id(row.workload)] = pieces(row.workload.ops).sums()
        listed = [known[id(row.workload)] for row in self.observations]
        self.kinds = weighty(list(known.values()))
        self.forms = forms(self.kinds)
        if all(row.op_seconds is not None for row in self.observations):
            self.forms.append(timed_form(_most_bytes(self.observations)))
        self.keys = [*dict.fromkeys(key for form in self.forms for key in form.keys), STARTUP]
        whole = {key: _row(sums, self.keys[:-1]) for key, sums in known.items()}
        timed = [(index, *part) for index, row in enumerate(self.observations) for part in _timed(row, self.keys[:-1])]
        count = len(self.observations)
        self.columns = np.array(
            [[*whole[id(row.workload)], 1.0 / row.steps] for row in self.observations] + [part[1] for part in timed]
        )
        self.seconds = np.array([row.step_seconds for row in self.observations] + [part[2] for part in timed])
        self.weights = np.array([1.0] * count + [part[3] for part in timed])
        self.owner = np.array([*range(count), *(part[0] for part in timed)], dtype=np.int64)
        self.families = _families(self.observations, listed)
        self.amounts = {}
        for sums in listed:
            for (kind, _), values in sums.items():
                for feature in ("macs", "bytes", "launch"):
                    self.amounts[kind, feature] = self.amounts.get((kind, feature), 0.0) + values[feature]

    @property
    def whole(self) -> Array:
        """The rows of whole steps, shape (observations, keys)."""
        return self.columns[: len(self.observations)]

    def positions(self, form: Form, startup: bool) -> list[int]:
        return [self.keys.index(key) for key in (*form.keys, *((STARTUP,) if startup else ()))]

    def identified_prices(self, form: Form) -> int:
        """The number of the form's prices that any row depends on."""
        return int((self.columns[:, self.positions(form, False)] > 0).any(axis=0).sum())


def _most_bytes(rows: Sequence[Observation]) -> dict[tuple[str, str], float]:
    """For every kind and role, the bytes that its largest op moved."""
    result: dict[tuple[str, str], float] = {}
    for row in rows:
        for kind, role, moved in pieces(row.workload.ops).traffic():
            result[kind, role] = max(result.get((kind, role), 0.0), moved)
    return result


def _timed(row: Observation, keys: Sequence[Key]) -> Iterator[tuple[list[float], float, float]]:
    """Columns, seconds and weights of the timed ops; the weights add up to 1.

    Products of one shape share a row; other ops have one row per name.
    """
    if row.op_seconds is None:
        return
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (op, seconds) in enumerate(zip(row.workload.ops, row.op_seconds, strict=True)):
        if seconds is not None:
            shape = sorted(op.dims.items()) if op.kind in ("conv", "matmul") else ()
            groups.setdefault((op.kind, op.phase, op.name, *shape), []).append(index)
    total = sum(seconds for seconds in row.op_seconds if seconds is not None)
    parts = pieces(row.workload.ops)
    for members in groups.values():
        seconds = sum(row.op_seconds[index] or 0.0 for index in members)
        if seconds > 0:
            yield [*_row(parts.sums(np.array(members)), keys), 0.0], seconds, seconds / total


def _families(rows: Sequence[Observation], listed: Sequence[Sums]) -> list[str]:
    """The families that the observations name, otherwise groups of similar networks."""
    named = [row.family for row in rows]
    if all(named):
        return named
    networks = list(dict.fromkeys(network_of(row) for row in rows))
    member = [networks.index(network_of(row)) for row in rows]
    if len(networks) <= FAMILIES:
        return [f"network {index}" for index in member]
    first = [member.index(index) for index in range(len(networks))]
    if single_layers(rows):
        names = _dealt([_main_kind(listed[index]) for index in first])
        return [names[index] for index in member]
    from sklearn.cluster import KMeans

    traits = np.array([_traits(listed[index], rows[index].workload) for index in first])
    spread = traits.std(axis=0)
    traits = (traits - traits.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    labels = KMeans(n_clusters=FAMILIES, n_init=4, random_state=0).fit_predict(traits)
    return [f"group {labels[index]}" for index in member]


def single_layers(rows: Sequence[Observation]) -> bool:
    """Whether the rows are single layers rather than networks."""
    return float(np.median([len(row.workload.ops) for row in rows])) <= _OPS_OF_A_LAYER


def _dealt(kinds: Sequence[str]) -> list[str]:
    """Each kind's layers dealt out to all families in turn: alike layers are of one kind, and its price is needed."""
    seen: Counter[str] = Counter()
    names = []
    for kind in kinds:
        names.append(f"part {seen[kind] % FAMILIES}")
        seen[kind] += 1
    return names


def _main_kind(sums: Sums) -> str:
    """The kind with the most multiply-adds, or that moves the most bytes where there are none."""
    for feature in ("macs", "bytes"):
        total: dict[str, float] = {}
        for (kind, _), values in sums.items():
            if feature == "bytes" or kind in DENSE:
                total[kind] = total.get(kind, 0.0) + values[feature]
        if any(total.values()):
            return max(total, key=lambda kind: total[kind])
    return ""


def _traits(sums: Sums, work: Workload) -> list[float]:
    """Traits that similar networks share: logarithms of their sizes, and shares of work by kind."""
    macs = sum(values["macs"] for (kind, _), values in sums.items() if kind in DENSE)
    moved = sum(values["bytes"] for values in sums.values())
    launches = sum(values["launch"] for values in sums.values())
    shares = [
        sum(values[feature] for (kind, _), values in sums.items() if kind == name) / max(total, 1.0)
        for feature, total, names in (("macs", macs, DENSE), ("bytes", moved, ("norm", "pool", "copy", "elementwise")))
        for name in names
    ]
    return [float(np.log(max(size, 1.0))) for size in (macs, moved, launches, work.batch_size)] + shares
