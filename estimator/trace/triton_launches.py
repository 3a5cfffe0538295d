"""Launches of Triton kernels, which neither meta nor fake tensors run through.

On stand-ins a launch would get null pointers, which a GPU answers with an illegal access that also ends the user's
own training. While a step is traced, each launch is one op instead: it moves the bytes of its tensors once, and its
multiply-adds follow from the kernel's source (`triton_programs.py`).
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from .formulas import dtype_name, lookup, tensor_bytes
from .formulas.table import OTHER, Called
from .recorder import Recorder
from .triton_programs import Launched, launched
from .workload import Op


@contextmanager
def recorded_launches(recorder: Recorder) -> Iterator[None]:
    """While active, launches on stand-ins go to `recorder` as single ops."""
    launches = _Launches(recorder)
    replaced: list[tuple[type, Any]] = []
    for cls in _kernel_classes():
        original = vars(cls)["run"]
        replaced.append((cls, original))
        setattr(cls, "run", launches.around(original))  # noqa: B010
    try:
        yield
    finally:
        for cls, original in replaced:
            setattr(cls, "run", original)  # noqa: B010


def _kernel_classes() -> list[type]:
    """Triton's classes of kernels that define `run`: compiled, tuned and with heuristics, and subclasses of others."""
    if "triton" not in sys.modules and torch.version.cuda is None and torch.version.hip is None:
        return []  # a model that imports it while it runs would need a GPU's build of torch
    try:
        interface = importlib.import_module("triton.runtime.jit").KernelInterface
    except (ImportError, AttributeError):
        return []
    found, waiting = [], list(interface.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if "run" in vars(cls) and cls not in found:
            found.append(cls)
    return found


class _Launches:
    """Launches of one step; equal ones are read once."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._known: dict[Any, tuple[Any, Launched]] = {}  # with the kernel, whose id is part of the key

    def around(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def launch(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            with torch._C.DisableTorchFunction():
                is_on_stand_ins = any(
                    one.is_meta or isinstance(one, FakeTensor) for one in _tensors((*args, *kwargs.values()))
                )
            if not is_on_stand_ins:
                return run(kernel, *args, **kwargs)
            if not kwargs.pop("warmup", False):
                grid = kwargs.pop("grid")
                with torch._C.DisableTorchFunction():
                    self._launched(kernel, grid, args, kwargs)
            return None

        return launch

    def _launched(self, kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = {**dict(zip(kernel.arg_names, args, strict=False)), **kwargs}
        inner = _innermost(kernel)
        key = (id(kernel), *((name, _described(value)) for name, value in given.items()))
        if key not in self._known:
            found = [self._read(inner, grid, one) for one in _tuned(kernel, given)]
            # Tuning takes blocks that fit: larger ones multiply padding.
            self._known[key] = kernel, min(found, key=lambda done: math.inf if done.flops is None else done.flops)
        self._add(inner, given, self._known[key][1])

    def _read(self, kernel: Any, grid: Any, given: Mapping[str, Any]) -> Launched:
        arguments = {**_defaults(kernel), **{name: given[name] for name in kernel.arg_names if name in given}}
        sizes = grid(arguments) if callable(grid) else grid
        return launched(kernel, sizes if isinstance(sizes, (tuple, list)) else (sizes,), arguments)

    def _add(self, kernel: Any, arguments: Mapping[str, Any], done: Launched) -> None:
        recorder = self.recorder
        reads = [one for name in done.read for one in _tensors(arguments[name])]
        writes = [one for name in done.written for one in _tensors(arguments[name])]
        moved = sum(map(tensor_bytes, reads)), sum(map(tensor_bytes, writes))
        name = f"triton::{getattr(kernel, '__name__', None) or kernel.fn.__name__}"
        flops, entry = done.flops, lookup(name)
        if isinstance(entry.formula, Called):  # that someone registered
            flops = entry.formula(tuple(arguments.values()), {}, writes)
        if flops is None:
            recorder.unsupported[name] = recorder.unsupported.get(name, 0) + sum(moved)
        main = max((*reads, *writes), key=lambda one: (one.is_floating_point(), one.numel()))
        layer = recorder._note_node()
        dims = {
            "elements_in": max((one.numel() for one in reads), default=0),
            "elements_out": max((one.numel() for one in writes), default=0),
        }
        recorder.add(
            Op(
                name=name,
                kind=entry.kind if entry is not OTHER else "scan" if flops else "elementwise",
                phase=recorder.phase,
                layer=layer,
                flops=flops or 0,
                bytes_read=moved[0],
                bytes_written=moved[1],
                dtype=dtype_name(main.dtype),
                dims={"elements": main.numel()} if flops else dims,
            )
        )
        if recorder.values is not None:
            for tensor in writes:
                recorder.values.forget(tensor)


def _innermost(kernel: Any) -> Any:
    """The compiled function inside tuners and heuristics."""
    while hasattr(kernel, "configs") or hasattr(kernel, "values"):
        kernel = kernel.fn
    return kernel


def _tuned(kernel: Any, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The arguments with those that tuners and heuristics add, for each choice of blocks."""
    if hasattr(kernel, "configs"):
        choices = {repr(config.kwargs): config.kwargs for config in kernel.configs} or {"": {}}
        for choice in choices.values():
            yield from _tuned(kernel.fn, {**given, **choice})
    elif hasattr(kernel, "values"):
        added = dict(given)
        for name, heuristic in kernel.values.items():
            added[name] = heuristic(added)
        yield from _tuned(kernel.fn, added)
    else:
        yield dict(given)


def _defaults(kernel: Any) -> dict[str, Any]:
    parameters = inspect.signature(kernel.fn).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


def _leaves(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _leaves(value)
        else:
            yield getattr(value, "base", value) if hasattr(value, "block_shape") else value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    return (one for one in _leaves((value,)) if isinstance(one, torch.Tensor))


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    if isinstance(value, (tuple, list)):
        return tuple(map(_described, value))
    return repr(getattr(value, "value", value)) if not hasattr(value, "block_shape") else repr(value.block_shape)
