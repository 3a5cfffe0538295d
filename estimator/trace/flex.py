"""`torch.nn.attention.flex_attention` as one op: attention with a user's functions that change and mask the scores.

Devices compile it into one kernel, which skips the blocks of scores that the mask leaves empty. PyTorch's own function
refuses stand-ins. Here its checks run as they are, and the kernel inside of it is replaced, for plain calls and for
`torch.compile(flex_attention)` alike. The multiply-adds are those of all scores, as for every attention. The dim
"scores" says how many of them the kernel computes for one head, and prices it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import flex_attention as flex
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .formulas import attention_backward_flops, attention_dims, attention_flops
from .recorder import Recorder, add_call
from .values import Values, for_real

NAME = "flex_attention"

# A mask without known blocks is evaluated at 8 x 8 points of each, and at this many points in all.
_POINTS_A_SIDE, _MAX_POINTS = 8, 2**20
_MAX_SAMPLES = 8  # of the batch, and heads
_WITH_MAXIMA = hasattr(flex, "AuxRequest")  # since torch 2.9 the kernel returns them too


@contextmanager
def fused_flex_attention(recorder: Recorder) -> Iterator[None]:
    """While active, calls of this thread go to `recorder` as single ops."""
    calls, thread = _Calls(recorder), threading.get_ident()
    replaced: dict[str, Callable[..., Any]] = {
        "flex_attention_hop": calls.attention,
        "create_mask": calls.mask,
        "_create_empty_block_mask": calls.no_mask,
        "_validate_device": _any_device,
    }
    originals = {name: getattr(flex, name) for name in replaced if hasattr(flex, name)}  # versions of torch differ

    def here(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            chosen = replaced if threading.get_ident() == thread else originals
            return chosen[name](*args, **kwargs)

        return call

    for name in originals:
        setattr(flex, name, here(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(flex, name, original)


def _any_device(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Stand-ins lie on the meta device or the CPU, whose own kernel has no backward pass."""


class _Calls:
    """What runs in place of PyTorch's functions during one run of a step."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._values = recorder.values or Values("meta")
        self._create_mask, self._create_empty = flex.create_mask, flex._create_empty_block_mask
        self._counted: dict[int, tuple[Any, int]] = {}

    def mask(self, mod_fn: Any, B: Any, H: Any, Q_LEN: int, KV_LEN: int, device: Any = None) -> torch.Tensor:  # noqa: N803
        """The mask lies where the stand-ins do, whatever device the model names."""
        return self._create_mask(mod_fn, B, H, Q_LEN, KV_LEN, self._values.device)

    def no_mask(self, query: torch.Tensor, key: torch.Tensor) -> Any:
        """One block that is not empty, which a compiled call never makes."""
        with self._recorder.aside():
            return self._create_empty(query, key)

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        score_mod: Callable[..., Any],
        block_mask: Sequence[Any],
        *options: Any,
    ) -> Any:
        dims = attention_dims(query, key, value, causal=False)
        dims["scores"] = self._scores(block_mask, dims["q"], dims["s"])
        taken = self._taken_by(score_mod, query)
        output, sums = _FlexAttention.apply(self._recorder, dims, query, key, value, *taken)
        return (output, sums, sums.detach()) if _WITH_MAXIMA else (output, sums)

    def _taken_by(self, score_mod: Callable[..., Any], query: torch.Tensor) -> list[torch.Tensor]:
        """The tensors that a user's function takes from around it, such as a learnable bias."""
        with self._recorder.aside(), torch.no_grad():
            places = [torch.zeros(1, dtype=torch.int32, device=query.device) for _ in range(4)]
            score = query.new_empty(1, 1, 1, 1)
            with _Taken(score, *places) as taken:
                _at_each(score_mod, *places, score=score)
        return list(taken.found.values())

    def _scores(self, block_mask: Sequence[Any], q: int, s: int) -> int:
        """Scores of one head in the blocks that are not empty, on average over the batch and the heads."""
        _, _, partial, _, full, *_, block_q, block_s, mask_mod = block_mask
        if id(partial) not in self._counted:
            counts = [self._known(one) for one in (partial, full) if one is not None]
            known = [one for one in counts if one is not None]
            if len(known) == len(counts):
                with for_real():
                    heights = _extents(torch.arange(partial.shape[-1]), block_q, q)
                    widths = (torch.stack(known).sum(0) * block_s).clamp(max=s)
                    found = float((widths * heights).sum(-1).double().mean())
            else:
                found = self._sampled(mask_mod, partial.shape[:2], (q, s), (block_q, block_s))
            self._counted[id(partial)] = partial, round(found)
        return self._counted[id(partial)][1]

    def _known(self, tensor: torch.Tensor) -> torch.Tensor | None:
        if not self._values.stands_in(tensor):
            return tensor
        return None if self._values.is_invented(tensor) else self._values.known(tensor)

    def _sampled(
        self, mask_mod: Callable[..., Any], outer: Sequence[int], sizes: tuple[int, int], block: tuple[int, int]
    ) -> float:
        """The same from points in each block of some rows, for masks that are too large to be made."""
        (q, s), (block_q, block_s) = sizes, block
        values = self._values
        with for_real():
            batch, heads = (_spread(size, _MAX_SAMPLES) for size in outer)
            columns = torch.arange(-(-s // block_s))
            a_row = len(batch) * len(heads) * len(columns) * _POINTS_A_SIDE**2
            rows = _spread(-(-q // block_q), max(_MAX_POINTS // a_row, 1))
            places = [batch, heads, _points(rows, block_q, q), _points(columns, block_s, s)]
        with self._recorder.aside(), torch.no_grad():
            mask = _at_each(mask_mod, *[values.stand_in_for(one) for one in places])
            shown = values.known(mask)
            shown = values.of(mask) if shown is None else shown
        with for_real():
            sides = (2, (-1, _POINTS_A_SIDE)), (4, (-1, _POINTS_A_SIDE))
            for dim, shape in sides:
                shown = shown.unflatten(dim, shape)
            kept = shown.any(5).any(3).double()
            heights, widths = _extents(rows, block_q, q).double(), _extents(columns, block_s, s).double()
            return float((kept @ widths @ heights).mean() * q / heights.sum())


def _at_each(function: Callable[..., Any], *places: torch.Tensor, score: torch.Tensor | None = None) -> Any:
    """A user's function at every combination of positions in batch, heads, queries and keys, as PyTorch calls it."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    scores = () if score is None else (score,)
    with TransformGetItemToIndex():
        return flex._vmap_for_bhqkv(function, prefix=(0,) * len(scores))(*scores, *places)


class _Taken(TorchFunctionMode):
    """Notes the tensors in the calls of a function that it did not make itself."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.found: dict[int, torch.Tensor] = {}
        self._made = {id(one): one for one in given}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        made = _tensors(output)
        for one in _tensors((args, kwargs)) if made else ():  # a shape or a device is no use of its values
            if id(one) not in self._made and not torch._C._functorch.is_batchedtensor(one):
                self.found[id(one)] = one
        self._made.update({id(one): one for one in made})
        return output


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _spread(size: int, most: int) -> torch.Tensor:
    """Up to `most` of `size` positions, each in the middle of an equal part."""
    count = min(size, most)
    return (torch.arange(count) * 2 + 1) * size // (2 * count)


def _points(blocks: torch.Tensor, block: int, size: int) -> torch.Tensor:
    """Positions in each of `blocks`, from its first to its last."""
    inside = torch.linspace(0, min(block, size) - 1, _POINTS_A_SIDE).long()
    return (blocks[:, None] * block + inside).clamp(max=size - 1).flatten()


def _extents(blocks: torch.Tensor, block: int, size: int) -> torch.Tensor:
    """The positions that each of `blocks` has; the last one may be cut."""
    return (size - blocks * block).clamp(0, block)


class _FlexAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, recorder: Recorder, dims: dict[str, int], q: Any, k: Any, v: Any, *taken: Any) -> Any:
        ctx.recorder, ctx.dims, ctx.layer = recorder, dims, recorder.layer
        ctx.set_materialize_grads(False)
        # The kernel lays its output out as the queries are.
        output = torch.empty_like(q) if v.shape[-1] == q.shape[-1] else q.new_empty((*q.shape[:-1], v.shape[-1]))
        sums = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, output, sums, *taken)
        add_call(recorder, NAME, "attention", ctx.layer, attention_flops(dims), (q, k, v, *taken), (output,), dims)
        return output, sums

    @staticmethod
    def backward(ctx: Any, grad: Any, of_sums: Any) -> Any:
        q, k, v, output, _, *taken = ctx.saved_tensors
        wanted = zip((q, k, v, *taken), ctx.needs_input_grad[2:], strict=True)
        results = [torch.empty_like(tensor) if needed else None for tensor, needed in wanted]
        reads = (q, k, v, output, *taken, grad, of_sums)
        flops = attention_backward_flops(ctx.dims)
        writes = [result for result in results if result is not None]
        add_call(ctx.recorder, f"{NAME}_backward", "attention", ctx.layer, flops, reads, writes, ctx.dims)
        return None, None, *results
