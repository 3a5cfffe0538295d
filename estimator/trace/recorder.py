"""Reads the ops of a step off as PyTorch dispatches them, each with its layer and phase."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode

from .formulas import FREE, lookup
from .meta_rules import meta_output
from .workload import Op

LOSS_LAYER = "(loss)"


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes that a pass over the tensor touches: an expanded dimension (stride 0) counts once."""
    if tensor.layout is not torch.strided:
        return tensor.numel() * tensor.element_size()
    elements = prod(
        size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0 or size == 0
    )
    return elements * tensor.element_size()


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_view(func: Any) -> bool:
    """True for ops that return an alias of an input and write nothing (view, expand, transpose...)."""
    returns = func._schema.returns
    return bool(returns) and all(value.alias_info is not None and not value.alias_info.is_write for value in returns)


class Recorder(TorchDispatchMode):
    """Lists every ATen op that runs while it is entered, as `Op`s, in order.

    Forward ops belong to the module that is running. A backward op belongs to the layer whose
    forward made its autograd node: each forward op notes the sequence number that autograd has just
    given out, and the node that runs in backward carries the same number.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.output_shapes: dict[str, tuple[int, ...]] = {}
        self.unsupported: dict[str, int] = {}
        self.phase = "forward"
        self._paths: dict[int, str] = {}
        for path, child in module.named_modules():
            self._paths.setdefault(id(child), path)
        self._stack: list[str] = []
        self._layer_of_node: dict[int, str] = {}
        self._view: dict[Any, bool] = {}

    # -- which layer -----------------------------------------------------------------------------

    @property
    def layer(self) -> str:
        """Path of the module that is running, or whose gradient is."""
        if self._stack:
            return self._stack[-1]
        if self.phase == "backward":
            node = torch._C._current_autograd_node()
            if node is not None:
                return self._layer_of_node.get(node._sequence_nr(), LOSS_LAYER)
        return LOSS_LAYER

    def enter(self, module: nn.Module) -> None:
        if (path := self._paths.get(id(module))) is not None:
            self._stack.append(path)

    def leave(self, module: nn.Module, output: Any) -> None:
        if (path := self._paths.get(id(module))) is None or path not in self._stack:
            return
        while self._stack.pop() != path:  # a module that raised never left
            pass
        if (shape := _first_shape(output)) is not None:
            self.output_shapes[path] = shape

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Follows module calls through PyTorch's global hooks while the block runs."""
        hooks = [
            nn_module.register_module_forward_pre_hook(lambda module, _: self.enter(module)),
            nn_module.register_module_forward_hook(
                lambda module, _, output: self.leave(module, output), always_call=True
            ),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    # -- which op --------------------------------------------------------------------------------

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: PyTorch would guard the method below against its compiler by importing all of it, which
        takes as long as importing torch; nothing is compiled here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        layer = self._note_node()
        namespace, _, name = func._schema.name.partition("::")
        output = meta_output(name, args, kwargs)
        if output is None:
            output = func(*args, **kwargs)
        if namespace != "prim" and name not in FREE and not self._views(func):
            self._record(name, layer, args, kwargs, output)
        return output

    def _views(self, func: Any) -> bool:
        if func not in self._view:
            self._view[func] = _is_view(func)
        return self._view[func]

    def _note_node(self) -> str:
        layer = self.layer
        if self._stack or self.phase == "forward":
            # The first op after a node was made is the node's own; later ones may make none.
            self._layer_of_node.setdefault(torch._C._autograd._get_sequence_nr() - 1, layer)
        return layer

    def _record(self, name: str, layer: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        outputs = list(_tensors(output if isinstance(output, (list, tuple)) else (output,)))
        inputs = list(_tensors((*args, *kwargs.values())))
        entry = lookup(name)
        flat = (*args, *kwargs.values()) if entry.kind != "copy" else inputs
        flops, dims = entry.formula(flat, outputs)
        bytes_read, bytes_written = _traffic(name, inputs, outputs)
        if entry.kind == "other":
            self.unsupported[name] = self.unsupported.get(name, 0) + bytes_read + bytes_written
        main = next((t for t in (*inputs, *outputs) if t.is_floating_point()), None)
        self.add(
            Op(
                name=name,
                kind=entry.kind,
                phase=self.phase,
                layer=layer,
                flops=flops,
                bytes_read=bytes_read,
                bytes_written=bytes_written,
                dtype=dtype_name(main.dtype) if main is not None else "int64",
                dims=dims,
            )
        )

    def add(self, op: Op) -> None:
        self.ops.append(op)


def _traffic(name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> tuple[int, int]:
    """Bytes read and written. Look-ups read only the rows that they fetch, fills read nothing."""
    written = sum(map(tensor_bytes, outputs))
    if name in ("embedding", "index_select", "index", "gather"):
        return written + sum(map(tensor_bytes, inputs[1:])), written
    if name in ("copy_", "fill_", "zero_", "uniform_", "normal_", "bernoulli_"):
        return sum(map(tensor_bytes, inputs[1:])), written
    return sum(map(tensor_bytes, inputs)), written


def _first_shape(output: Any) -> tuple[int, ...] | None:
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (Mapping, list, tuple)):
        for value in values:
            if (shape := _first_shape(value)) is not None:
                return shape
    return None
