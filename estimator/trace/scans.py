"""State-space and linear-attention layers as one op each.

Their reference code walks over time (or chunks of it) in Python, where real devices run one fused kernel. Here the
known functions are replaced while a model is traced: the first call of each shape is run once to count its products,
and every call is recorded as one op that reads its inputs and writes its outputs.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .formulas import dtype_name, tensor_bytes
from .kernel_packages import with_references
from .recorder import Recorder
from .workload import Op

FUNCTIONS = frozenset(
    {
        "chunk_gated_delta_rule",
        "chunk_kimi_delta_attention",
        "fused_recurrent_gated_delta_rule",
        "mamba2_chunk_scan",
        "mamba_chunk_scan_combined",
        "mamba_selective_scan",
        "pscan",
        "recurrent_kimi_delta_attention",
        "rwkv_linear_attention",
        "selective_scan",
        "selective_scan_fn",
        "selective_scan_ref",
        "ssd_minimal_discrete",
        "torch_chunk_gated_delta_rule",
        "torch_recurrent_gated_delta_rule",
    }
)
"""Functions that compute a scan, as transformers, mamba-ssm, flash-linear-attention and their ports name them."""

METHODS = frozenset({"_rnn_scan", "mlstm_recurrent_sequence_native", "selective_scan"})
"""Methods, of any module, that do."""


@contextmanager
def fused_scans(recorder: Recorder, model: nn.Module) -> Iterator[None]:
    """While active, scans called from the code of `model` go to `recorder` as single ops."""
    region = _Region(recorder)
    replaced: list[tuple[Any, str, Any]] = []
    with with_references(model, region.around):
        try:
            for owner, name, function in _found(model):
                replaced.append((owner, name, function))
                own = _in_pytorch(function)
                setattr(owner, name, region.around(name, own) if name in FUNCTIONS | METHODS else own)
            yield
        finally:
            for owner, name, function in reversed(replaced):
                setattr(owner, name, function)


def _found(model: nn.Module) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Owner, name and function of each scan in the modules and classes that the model is made of."""
    classes = dict.fromkeys(parent for module in model.modules() for parent in type(module).__mro__)
    homes = dict.fromkeys(cls.__module__ for cls in classes if not cls.__module__.startswith("torch."))
    for home in homes:
        names = vars(sys.modules[home]) if home in sys.modules else {}
        for name, value in list(names.items()):
            if (name in FUNCTIONS and callable(value)) or _in_pytorch(value) is not value:
                yield sys.modules[home], name, value
    for cls in classes:
        for name in METHODS & vars(cls).keys():
            if callable(vars(cls)[name]):
                yield cls, name, vars(cls)[name]


def _in_pytorch(function: Any) -> Any:
    """The PyTorch code of a function of transformers that calls an installed package of kernels in its place."""
    if not inspect.isfunction(function):
        return function
    is_wrapper = {"torch_function", "implementation"} <= set(function.__code__.co_freevars)
    return function.__wrapped__ if is_wrapper else function  # type: ignore[attr-defined]


class _Region:
    """Calls of scan functions, each shape counted once."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._known: dict[Any, tuple[int, list[Any], Any]] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            leaves, spec = tree_flatten((args, kwargs))
            tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
            if not tensors:
                return function(*args, **kwargs)
            key = (name, str(spec), *(_described(leaf) for leaf in leaves))
            if key not in self._known:
                self._known[key] = self._counted(function, leaves, spec)
            flops, templates, output_spec = self._known[key]
            outputs = _Scan.apply(self.recorder, name, flops, templates, *tensors)
            results = iter(outputs if isinstance(outputs, tuple) else (outputs,))
            return tree_unflatten([next(results) if _is_template(t) else t for t in templates], output_spec)

        return call

    def _counted(self, function: Callable[..., Any], leaves: list[Any], spec: Any) -> tuple[int, list[Any], Any]:
        """Multiply-adds of the function's own code, and its outputs as (shape, dtype) or plain values."""
        args, kwargs = tree_unflatten(
            [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves], spec
        )
        with self.recorder.aside() as ops, torch.no_grad():
            output = function(*args, **kwargs)
        flops = sum(op.flops * op.count for op in ops)
        values, output_spec = tree_flatten(output)
        templates = [_Template(value) if isinstance(value, torch.Tensor) else value for value in values]
        return flops, templates, output_spec


class _Template:
    """Shape and number format of an output."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.dtype = tensor.shape, tensor.dtype


def _is_template(value: Any) -> bool:
    return isinstance(value, _Template)


def _described(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else repr(leaf)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorder: Recorder, name: str, flops: int, templates: Any, *tensors: Any) -> Any:
        ctx.recorder, ctx.name, ctx.flops, ctx.layer = recorder, name, flops, recorder.layer
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        outputs = tuple(tensors[0].new_empty(t.shape, dtype=t.dtype) for t in templates if _is_template(t))
        ctx.mark_non_differentiable(*(output for output in outputs if not output.is_floating_point()))
        _add(recorder, name, ctx.layer, flops, tensors, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        tensors = ctx.saved_tensors
        results = [
            torch.empty_like(tensor) if needed else None
            for tensor, needed in zip(tensors, ctx.needs_input_grad[4:], strict=True)
        ]
        reads = (*tensors, *(grad for grad in grads if grad is not None))
        writes = [result for result in results if result is not None]
        # Each product has two gradients.
        _add(ctx.recorder, f"{ctx.name}_backward", ctx.layer, 2 * ctx.flops, reads, writes)
        return None, None, None, None, *results


def _add(recorder: Recorder, name: str, layer: str, flops: int, reads: Any, writes: Any) -> None:
    main = max(reads, key=lambda tensor: tensor.numel())
    recorder.add(
        Op(
            name=name,
            kind="scan",
            phase=recorder.phase,
            layer=layer,
            flops=flops,
            bytes_read=sum(map(tensor_bytes, reads)),
            bytes_written=sum(map(tensor_bytes, writes)),
            dtype=dtype_name(main.dtype),
            dims={"elements": main.numel()},
        )
    )
