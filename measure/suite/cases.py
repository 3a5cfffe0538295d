"""The cases of the calibration suite, the most informative first."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import zip_longest
from random import Random
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from ...estimator.base.errors import HardwareError, JoulecastError
from ...estimator.cost.names import find_hardware
from . import random_networks, random_sequences
from .random_networks import ModelAndInputs

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and keyword, as `trace` takes them

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")


@dataclass(frozen=True, slots=True)
class Case:
    """One network with a batch and an optimizer; `build` makes the same network every time.

    Similar networks share a `family`. `rounds_factor`: how many times as long as other cases it is measured.
    `precision`: of autocast, "bfloat16" or "float16"; None is the parameters' own.
    """

    name: str
    family: str
    build: Callable[[], tuple[nn.Module, Arguments]]
    optimizer: str = "sgd"
    rounds_factor: int = 1
    precision: str | None = None


# Kinds of random networks; those with the most variation come first and more often.
_KINDS: Mapping[str, Callable[[Random], ModelAndInputs]] = {
    "convolutions": random_networks.convolutions,
    "transformers": random_sequences.transformers,
    "patches": random_sequences.patches,
    "recurrent": random_sequences.recurrent,
    "unet": random_networks.unet,
    "perceptrons": random_sequences.perceptrons,
    "signals": random_networks.signals,
    "upscaler": random_networks.upscaler,
    "tables": random_sequences.tables,
    "volumes": random_networks.volumes,
}
_ROUND = (
    *("convolutions", "transformers", "patches", "convolutions", "recurrent", "convolutions"),
    *("transformers", "unet", "convolutions", "perceptrons", "signals", "convolutions"),
    *("transformers", "upscaler", "tables", "convolutions", "patches", "volumes"),
)
_ROUNDS = 12

# The networks of the first estimates are measured longer, and again before the cases with these numbers. A quick run
# on two cores measures about seventy cases.
_LANDMARKS = ("alexnet width 1 batch 128 sgd", "simplenet width 1 batch 32 sgd", "alexnet width 1 batch 32 sgd")
_VISITS = (17, 30, 43, 56, 100, 150)
_LANDMARK_ROUNDS = 3

_USUAL_TFLOPS = 16.0  # FP32 peak of a GPU that is not in the hardware table


def suite_cases(only: str | None = None) -> list[Case]:
    """All cases, the most useful first. `only`: a pattern (`alexnet*`) or a part of a name or family.

    Raises JoulecastError if `only` matches nothing.
    """
    return _selected(_with_visits([*_first(), *_interleaved(_thesis(), _references(), _random())]), only)


def _selected(cases: list[Case], only: str | None) -> list[Case]:
    if only is None:
        return cases
    found = [case for case in cases if _matches(case, only)]
    if not found:
        families = sorted({case.family.partition(" ")[0] for case in cases})
        raise JoulecastError(f"`only` {only!r} matches no case; families are {', '.join(families)}")
    return found


def machine_cases(host: Mapping[str, Any], only: str | None = None) -> list[Case]:
    """The cases for the machine that `host` describes (`describe_host`): `suite_cases`, or those of a GPU."""
    if host["device"] != "gpu":
        return suite_cases(only)
    try:
        tflops = find_hardware(str(host["gpus"][0])).fp32_tflops or _USUAL_TFLOPS
    except HardwareError:
        tflops = _USUAL_TFLOPS
    half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return _selected(gpu_cases(tflops, half), only)


def gpu_cases(tflops: float, half: str) -> list[Case]:
    """Cases for a GPU with that FP32 peak, the most useful first; every other one under autocast to `half`.

    Wide networks with large batches come first, as GPUs train them: small ones wait for the host, and networks with few
    channels show what wide ones do not need.
    """
    power = 2 ** round(math.log2(max(tflops, 1.0)))
    batch = min(max(4 * power, 32), 256)
    wide = list(_reference_cases(((4.0, batch),)))
    wider = list(_reference_cases(((8.0, batch // 2),)))[::-1]
    drawn = [_enlarged(case, power) for case in _random()]
    small = [*_reference_cases(((2.0, 2 * batch), (1.0, 32))), *_thesis()]
    rest = _interleaved(iter(wider), iter(drawn), iter(small))
    return [
        case if index % 2 == 0 else replace(case, name=f"{case.name} {half}", precision=half)
        for index, case in enumerate((*wide, *rest))
    ]


def _enlarged(case: Case, factor: int) -> Case:
    """The case with a batch `factor` times as large."""

    def build() -> tuple[nn.Module, Arguments]:
        model, (args, kwargs) = case.build()
        return model, tree_map(repeated, (args, kwargs))

    def repeated(leaf: Any) -> Any:
        return leaf.repeat(factor, *(1 for _ in leaf.shape[1:])) if isinstance(leaf, torch.Tensor) else leaf

    return replace(case, name=f"{case.name} batch x{factor}", build=build)


def _with_visits(cases: Sequence[Case]) -> list[Case]:
    """Adds repeated measurements of the landmarks, which are also measured longer: step time drifts from minute to
    minute, and a single measurement shows one minute.
    """
    landmarks = [replace(case, rounds_factor=_LANDMARK_ROUNDS) for case in cases if case.name in _LANDMARKS]
    named = {case.name: case for case in landmarks}
    result: list[Case] = []
    for index, case in enumerate(cases):
        if index in _VISITS:
            visit = _VISITS.index(index) + 2
            result += [replace(landmark, name=f"{landmark.name}, visit {visit}") for landmark in landmarks]
        result.append(named.get(case.name, case))
    return result


def _matches(case: Case, pattern: str) -> bool:
    names = (case.name, case.family)
    return any(fnmatch(name, pattern) or pattern.casefold() in name.casefold() for name in names)


def _interleaved(*groups: Iterator[Case]) -> Iterator[Case]:
    for row in zip_longest(*groups):
        yield from (case for case in row if case is not None)


# -- the two networks of the thesis ----------------------------------------------------------------


def _first() -> list[Case]:
    """Enough for a fit on the slowest machine, including the two networks in their original size."""
    return [
        _module("alexnet", "AlexNet", 1.0, 128, "sgd"),
        _module("simplenet", "SimpleNet", 0.25, 32, "sgd"),
        random_case("transformers", 0),
        random_case("perceptrons", 0),
        _module("simplenet", "SimpleNet", 1.0, 32, "sgd"),
        _module("alexnet", "AlexNet", 1.0, 32, "sgd"),
    ]


def _thesis() -> Iterator[Case]:
    yield _module("simplenet", "SimpleNet", 1.0, 128, "sgd")
    yield _module("alexnet", "AlexNet", 1.0, 128, "adam")
    yield _module("simplenet", "SimpleNet", 0.5, 64, "momentum")
    for width, batch, optimizer in (
        (0.5, 16, "adam"),
        (1.0, 64, "momentum"),
        (0.75, 32, "adamw"),
        (1.5, 16, "sgd"),
        (0.25, 128, "momentum"),
    ):
        yield _module("alexnet", "AlexNet", width, 2 * batch, optimizer)
        yield _module("simplenet", "SimpleNet", width, batch, optimizer)
    yield _module("simplenet", "SimpleNet", 1.0, 16, "sgd")


def _module(module: str, attribute: str, width: float, batch: int, optimizer: str) -> Case:
    def build() -> tuple[nn.Module, Arguments]:
        network = getattr(_models(module), attribute)(width=width)
        return network, ((torch.randn(batch, 3, 32, 32),), {})

    return Case(f"{module} width {width:g} batch {batch} {optimizer}", module, build, optimizer)


def _models(name: str) -> Any:
    return importlib.import_module(f"joulecast.models.{name}")


# -- reference and random networks -----------------------------------------------------------------


def _references() -> Iterator[Case]:
    """The small networks of many kinds in models/reference.py, with an optimizer drawn for each."""
    return _reference_cases(((1.0, 32), (2.0, 16), (0.5, 128)))


def _reference_cases(sizes: Sequence[tuple[float, int]]) -> Iterator[Case]:
    networks = _models("reference").NETWORKS
    for width, batch in sizes:
        for name, network in networks.items():
            yield _reference(name, network, width, batch)


def _reference(name: str, network: Any, width: float, batch: int) -> Case:
    optimizer = Random(f"{name} {width} {batch}").choice(OPTIMIZERS)

    def build() -> tuple[nn.Module, Arguments]:
        return network.build(width=width), ((network.inputs(batch),), {})

    return Case(f"{name} width {width:g} batch {batch} {optimizer}", name, build, optimizer)


def _random() -> Iterator[Case]:
    seen = {"transformers": 0, "perceptrons": 0}  # the two cases of _first
    for kind in _ROUND * _ROUNDS:
        seed = seen[kind] = seen.get(kind, -1) + 1
        yield random_case(kind, seed)


def random_case(kind: str, seed: int) -> Case:
    """Network number `seed` of a kind of random networks; each is its own family."""
    optimizer = Random(f"{kind} {seed} optimizer").choice(OPTIMIZERS)

    def build() -> tuple[nn.Module, Arguments]:
        model, inputs = _KINDS[kind](Random(f"{kind} {seed}"))
        return model, ((inputs,), {})

    return Case(f"random {kind} {seed} {optimizer}", f"random-{kind} {seed}", build, optimizer)


def user_case(spec: str, batch_size: int, optimizer: str = "sgd") -> Case:
    """The network that `spec` names. Building it raises what loading raises."""

    def build() -> tuple[nn.Module, Arguments]:
        from ...estimator.model.inputs import model_inputs
        from ...estimator.model.load import load_model

        loaded = load_model(spec)
        if loaded.framework != "pytorch":
            raise JoulecastError(
                f"{spec} is a Keras model and the suite measures PyTorch models only; give a PyTorch model"
            )
        real = loaded.on_cpu()
        assert real.model is not None
        inputs = model_inputs(real, batch_size, device="cpu")
        return real.model, (inputs.args, dict(inputs.kwargs))

    return Case(f"{spec} batch {batch_size} {optimizer}", spec, build, optimizer, _LANDMARK_ROUNDS)
