"""The change between two answers about a model: by how much, which settings, which layers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..estimator.answer import figures
from ..estimator.answer.answer import Answer
from ..estimator.trace.workload import Layer

_NOTICEABLE = 5e-4  # of the energy: a smaller change is not visible in the digits shown
_SIDE_EFFECT = 0.02  # of an unchanged layer's energy: it may shift so much with costs that all ops of a step share
_NAMED_SHARE = 0.8  # layers are named until they make up this share of the change of all layers
_MOST_NAMED = 3
ROOT = "the model itself"  # a layer without a path
_MORE, _LESS = "costs more", "costs less"  # the layer itself is unchanged
_FACTORS = {2.0: "doubled", 3.0: "tripled", 0.5: "halved"}


@dataclass(frozen=True, slots=True)
class LayerChange:
    """A layer that is new, removed or of another size. Sizes are (base, head); None if there is no such layer.

    `energy_kwh` is the energy with PUE that the change adds over a run as long as the head's.
    """

    path: str
    kinds: tuple[str | None, str | None]
    what: str
    energy_kwh: float
    parameters: tuple[int | None, int | None]
    macs_per_sample: tuple[float | None, float | None]

    @property
    def sizes(self) -> tuple[str, str]:
        """Parameters and multiply-adds per sample: "36.9 k → 73.9 k", or one figure if they are equal."""
        return _from_to(*self.parameters), _from_to(*self.macs_per_sample)

    @property
    def kind(self) -> str:
        return self.kinds[1] or self.kinds[0] or ""

    @property
    def is_cause(self) -> bool:
        """Whether the layer itself was changed; for other layers, only the input or output is different."""
        return self.kinds[0] != self.kinds[1] or self.parameters[0] != self.parameters[1]

    def __str__(self) -> str:
        parameters, macs = self.sizes
        return f"{self.path or ROOT} ({self.kind}): parameters {parameters}, multiply-adds per sample {macs}"

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "kind": self.kind,
            "what": self.what,
            "energy_kwh": self.energy_kwh,
            "parameters": list(self.parameters),
            "forward_flops_per_sample": list(self.macs_per_sample),
        }


@dataclass(frozen=True, slots=True)
class Change:
    """From the base's answer to the head's: energy with PUE, CO2e, settings, and layers by the energy they add."""

    energy_kwh: tuple[float, float]
    co2e_kg: tuple[float, float]
    settings: tuple[str, ...]
    layers: tuple[LayerChange, ...]

    @property
    def energy_added_kwh(self) -> float:
        return self.energy_kwh[1] - self.energy_kwh[0]

    @property
    def named(self) -> tuple[LayerChange, ...]:
        """The few layers that make up most of the change; none if settings explain the change of all layers."""
        layers = [layer for layer in self.layers if layer.is_cause] or ([] if self.settings else self.layers)
        whole, sum_ = sum(abs(layer.energy_kwh) for layer in layers), 0.0
        chosen: list[LayerChange] = []
        for layer in layers[:_MOST_NAMED]:
            if chosen and sum_ >= _NAMED_SHARE * whole:
                break
            chosen.append(layer)
            sum_ += abs(layer.energy_kwh)
        return tuple(chosen)

    @property
    def headline(self) -> str:
        """As in "+38 % energy"; with the CO2e if it changed differently."""
        energy, co2e = _percent(*self.energy_kwh), _percent(*self.co2e_kg)
        if energy == co2e:
            return "unchanged" if energy is None else f"{energy} energy"
        return ", ".join(f"{text or 'same'} {what}" for text, what in ((energy, "energy"), (co2e, "CO2e")))

    def __str__(self) -> str:
        causes = [*self.settings, *self._layer_causes()]
        return f"{self.headline}: {'; '.join(causes)}" if causes else self.headline

    def _layer_causes(self) -> Iterator[str]:
        named = self.named
        if not named:
            return
        whole = self.energy_added_kwh
        *parts, total = signed_energies([*(layer.energy_kwh for layer in named), whole])
        total, unit = total.split(" ")
        rest = len(self.layers) - len(named)
        for layer, part in zip(named, parts, strict=True):
            of = f" of {total}" if math.copysign(1, layer.energy_kwh) == math.copysign(1, whole) else ""
            yield f"{layer.path or ROOT} {layer.what} ({part.split(' ')[0]}{of} {unit})"
        if rest:
            yield f"{rest} more layer{'s' if rest > 1 else ''}"

    def to_json(self) -> dict[str, Any]:
        return {
            "base_energy_kwh": self.energy_kwh[0],
            "base_co2e_kg": self.co2e_kg[0],
            "energy_added_kwh": self.energy_added_kwh,
            "co2e_added_kg": self.co2e_kg[1] - self.co2e_kg[0],
            "summary": str(self),
            "settings": list(self.settings),
            "layers": [layer.to_json() for layer in self.layers],
        }


def compare(base: Answer, head: Answer) -> Change:
    """What changed from `base` to `head`, two answers about a model of the same name."""
    settings = tuple(_settings(base, head))
    layers = [layer for layer in _layers(base, head) if not (settings and layer.what in (_MORE, _LESS))]
    return Change(
        energy_kwh=(base.facility_energy_kwh.value, head.facility_energy_kwh.value),
        co2e_kg=(base.co2e_kg.value, head.co2e_kg.value),
        settings=settings,
        layers=tuple(sorted(layers, key=lambda layer: -abs(layer.energy_kwh))),
    )


def signed_energies(values_kwh: Sequence[float]) -> list[str]:
    """["+0.40 kWh", "+0.41 kWh"]: all in the unit of the largest."""
    factor, unit = figures.scale(max(map(abs, values_kwh)), figures.ENERGIES)
    return [f"{'-' if value < 0 else '+'}{figures.number(abs(value) / factor)} {unit}" for value in values_kwh]


def _from_to(old: float | None, new: float | None) -> str:
    texts = [figures.count(value) for value in (old, new) if value is not None]
    return " → ".join(dict.fromkeys(texts))


def _percent(base: float, head: float) -> str | None:
    """None if the change is too small to show."""
    if abs(head - base) <= _NOTICEABLE * abs(base):
        return None
    if not base:
        return "from nothing"
    change = 100 * (head / base - 1)
    return f"{change:+,.0f} %" if abs(change) >= 10 else f"{change:+.2g} %"


# -- settings ------------------------------------------------------------------------------------


def _settings(base: Answer, head: Answer) -> Iterator[str]:
    """Every setting that differs, as "steps 200, was 100"."""
    old, new = base.schedule, head.schedule
    same_length = math.isclose(_length(base, head), 1.0, rel_tol=0.01)
    resized = base.workload.batch_size != head.workload.batch_size or old.devices != new.devices
    for name, before, after, told in (
        ("hardware", base.profile.name, head.profile.name, True),
        ("steps", old.steps, new.steps, not (resized and same_length)),
        ("validation passes", old.validation_steps, new.validation_steps, same_length and not resized),
        ("batch size", base.workload.batch_size, head.workload.batch_size, True),
        ("devices", old.devices, new.devices, True),
        ("tokens per sample", base.workload.tokens_per_sample, head.workload.tokens_per_sample, True),
        (
            "input per sample",
            _input(base),
            _input(head),
            base.workload.tokens_per_sample == head.workload.tokens_per_sample,
        ),
        ("run", _run(base), _run(head), True),
        ("precision", base.workload.precision, head.workload.precision, True),
        ("PUE", base.site.pue, head.site.pue, True),
        ("g CO2e/kWh", base.site.carbon_g_per_kwh, head.site.carbon_g_per_kwh, True),
        ("price", _price(base), _price(head), True),
    ):
        if told and before != after:
            yield f"{name} {_shown(after)}, was {_shown(before)}"
    if base.profile.name == head.profile.name and base.profile != head.profile:
        yield f"profile {head.profile.name} was fitted again"


def _run(answer: Answer) -> str:
    return f"training with {answer.workload.optimizer}" if answer.workload.train else "inference"


def _input(answer: Answer) -> str:
    return figures.size(answer.workload.input_bytes / answer.workload.batch_size)


def _price(answer: Answer) -> str:
    return f"{figures.number(answer.site.price_per_kwh)} {answer.site.currency}/kWh"


def _shown(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else figures.number(value)


# -- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Charged:
    """A module that energy is attributed to. Its sizes are its own: one that contains others has only an output."""

    layer: Layer
    energy_kwh: float
    batch_size: int

    @property
    def macs(self) -> float:
        return self.layer.flops / self.batch_size if self.layer.leaf else 0.0

    @property
    def parameters(self) -> int:
        return self.layer.parameters if self.layer.leaf else 0

    @property
    def size(self) -> tuple[float, float, float]:
        """Multiply-adds per sample, parameters, output values per sample."""
        return self.macs, self.parameters, math.prod(self.layer.output_shape[1:])

    def differs_from(self, other: _Charged) -> bool:
        """Whether the energy differs: work that a module does outside its layers changes no size of its own."""
        return abs(other.energy_kwh - self.energy_kwh) > _SIDE_EFFECT * self.energy_kwh

    @property
    def signature(self) -> tuple[Any, ...]:
        return self.layer.kind, self.layer.output_shape[1:], self.size


def _layers(base: Answer, head: Answer) -> Iterator[LayerChange]:
    """The layers that differ.

    Layers are matched by path. An `nn.Sequential` numbers its layers, so the paths after an inserted or removed layer
    shift. Equal layers are therefore aligned first, as a diff aligns lines.
    """
    before, after = _charged(base, _length(base, head)), _charged(head, 1.0)
    matcher = difflib.SequenceMatcher(
        None, [item.signature for item in before], [item.signature for item in after], autojunk=False
    )
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag == "equal":
            pairs = zip(before[i:j], after[k:m], strict=True)
            yield from (_change(new.layer.path, old, new) for old, new in pairs if old.differs_from(new))
            continue
        old, new = ({item.layer.path: item for item in items} for items in (before[i:j], after[k:m]))
        for path in dict.fromkeys([*old, *new]):
            yield _change(path, old.get(path), new.get(path))


def _length(base: Answer, head: Answer) -> float:
    """The samples of the head's run divided by those of the base's."""
    old, new = (one.schedule.steps * one.schedule.samples_per_step for one in (base, head))
    return new / old


def _charged(answer: Answer, times: float) -> list[_Charged]:
    energy = {part.name: part.energy_kwh * answer.site.pue * times for part in answer.estimate.layers}
    samples = answer.schedule.batch_size  # a layer's FLOPs are of one pass, a workload's of a whole step
    return [_Charged(layer, energy[layer.path], samples) for layer in answer.workload.layers if layer.path in energy]


def _change(path: str, old: _Charged | None, new: _Charged | None) -> LayerChange:
    return LayerChange(
        path=path,
        kinds=(old.layer.kind if old else None, new.layer.kind if new else None),
        what=_what(old, new),
        energy_kwh=(new.energy_kwh if new else 0.0) - (old.energy_kwh if old else 0.0),
        parameters=(old.parameters if old else None, new.parameters if new else None),
        macs_per_sample=(old.macs if old else None, new.macs if new else None),
    )


def _what(old: _Charged | None, new: _Charged | None) -> str:
    if old is None or new is None:
        return f"is new ({new.layer.kind})" if new else "was removed"
    if old.layer.kind != new.layer.kind:
        return f"is {new.layer.kind}, was {old.layer.kind}"
    for before, after in zip(old.size, new.size, strict=True):
        if before and after and before != after:
            factor = after / before
            word = next((word for known, word in _FACTORS.items() if math.isclose(factor, known, rel_tol=0.02)), None)
            return word or f"is {factor:.3g} times as large"
    return _MORE if new.energy_kwh > old.energy_kwh else _LESS
