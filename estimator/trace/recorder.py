"""Reads the ops of a step off as PyTorch dispatches them, each with its layer and phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode

from .formulas import count_op, dtype_name, is_free, tensor_bytes
from .meta_rules import meta_output
from .values import Values
from .workload import Op

LOSS_LAYER = "(loss)"


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

    def __init__(self, module: nn.Module, values: Values | None = None) -> None:
        super().__init__()
        self.module, self.values = module, values
        self.ops: list[Op] = []
        self.nodes: list[int] = []  # for each op, the number of the autograd node that runs; -1 in forward
        self.forward_nodes = 0  # nodes made before the backward pass
        self.output_shapes: dict[str, tuple[int, ...]] = {}
        self.unsupported: dict[str, int] = {}
        self.phase = "forward"
        self.ran_backward = False  # by the model's own code, within its forward
        self._paths: dict[int, str] = {}
        for path, child in module.named_modules():
            self._paths.setdefault(id(child), path)
        self._stack: list[str] = []
        self._layer_of_node: dict[int, str] = {}
        self._free: dict[Any, bool] = {}

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

    @contextmanager
    def own_backward(self) -> Iterator[None]:
        """A backward pass that the model's code runs within its forward: a `training_step` with its own optimizers."""
        stack, self._stack, self.phase, self.ran_backward = self._stack, [], "backward", True
        try:
            yield
        finally:
            self._stack, self.phase = stack, "forward"

    # -- which op --------------------------------------------------------------------------------

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: PyTorch would guard the method below against its compiler by importing all of it, which
        takes as long as importing torch; nothing is compiled here."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(one.__name__ == "NestedTensor" for one in types):
            return NotImplemented  # its own code runs ops on the tensor that has all rows, and these come here
        if func is torch.ops.aten.matmul.default:  # called by such code, and made of products that are counted
            with self:
                return func.decompose(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():  # nothing here is a call of the model's
            return self._dispatched(func, args, kwargs or {})

    def _dispatched(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self._note_node()
        name = func._schema.name.rpartition("::")[2]
        output = None
        if self.values is not None:
            args, kwargs = self.values.prepared(func, name, args, kwargs)
            if (copied := self.values.to_host(name, args, kwargs)) is not None:
                return copied
            output = self.values.answer(name, args, kwargs)
        if output is None:
            output = meta_output(name, args, kwargs)
        if output is None:
            output = func(*args, **kwargs)
        if self.values is not None:
            self.values.follow(func, name, args, kwargs, output)
        on_host = self.values is not None and self.values.on_host(args, kwargs, output)
        if not on_host and not self.costs_nothing(func):
            self._record(func, layer, args, kwargs, output)
        return output

    def costs_nothing(self, func: Any) -> bool:
        """Whether the op only makes a view or allocates."""
        if func not in self._free:
            name = func._schema.name.removeprefix("aten::")
            self._free[func] = name.startswith("prim::") or is_free(name) or _is_view(func)
        return self._free[func]

    def _note_node(self) -> str:
        layer = self.layer
        if self._stack or self.phase == "forward":
            # The first op after a node was made is the node's own; later ones may make none.
            self._layer_of_node.setdefault(torch._C._autograd._get_sequence_nr() - 1, layer)
        return layer

    def _record(self, func: Any, layer: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        count = count_op(func, args, kwargs, output)
        if not count.known:
            moved = count.bytes_read + count.bytes_written
            self.unsupported[count.name] = self.unsupported.get(count.name, 0) + moved
        self.add(
            Op(
                name=count.name,
                kind=count.kind,
                phase=self.phase,
                layer=layer,
                flops=count.flops,
                bytes_read=count.bytes_read,
                bytes_written=count.bytes_written,
                dtype=count.dtype,
                dims=count.dims,
            )
        )

    def add(self, op: Op) -> None:
        node = torch._C._current_autograd_node() if self.phase == "backward" else None
        self.ops.append(op)
        self.nodes.append(-1 if node is None else node._sequence_nr())

    @contextmanager
    def aside(self) -> Iterator[list[Op]]:
        """Ops in the block go to the list that it gets, not to the listing."""
        ops, nodes = self.ops, self.nodes
        self.ops, self.nodes = [], []
        try:
            yield self.ops
        finally:
            self.ops, self.nodes = ops, nodes


def _first_shape(output: Any) -> tuple[int, ...] | None:
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    values = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, (Mapping, list, tuple)):
        for value in values:
            if (shape := _first_shape(value)) is not None:
                return shape
    return None


def add_call(
    recorder: Recorder,
    name: str,
    kind: str,
    layer: str,
    flops: int,
    reads: Any,
    writes: Any,
    dims: dict[str, int],
) -> None:
    """Lists a call that is one op on real devices, whatever PyTorch splits it into on stand-ins."""
    recorder.add(
        Op(
            name=name,
            kind=kind,
            phase=recorder.phase,
            layer=layer,
            flops=flops,
            bytes_read=sum(tensor_bytes(tensor) for tensor in reads if tensor is not None),
            bytes_written=sum(map(tensor_bytes, writes)),
            dtype=dtype_name(reads[0].dtype),
            dims=dims,
        )
    )
