"""Bytes of the tensors that a step keeps from its forward for its backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .formulas.traffic import sparse_parts


class _Saved:
    """A tensor that autograd keeps for backward."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor: Any = tensor

    def unpacked(self) -> Any:
        return self.tensor


class SavedBytes:
    """Bytes of the tensors that autograd keeps for backward, each storage once and without those of `state`."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self.most = 0  # at the start of any backward pass, which frees what it needs
        self.storages: dict[int, int] = {}
        self.kept: list[torch.Tensor] = []  # whose storages are listed, and which autograd does not keep
        self.repeated = 0  # bytes of blocks that were left out
        self.was_paused = False
        self._state = state
        self._saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts what autograd saves in the block."""
        with torch.autograd.graph.saved_tensors_hooks(self.add, _Saved.unpacked), _paused_in_transforms(self):
            yield

    def add(self, tensor: torch.Tensor) -> _Saved:
        self.storages.update((storage._cdata, storage.nbytes()) for storage in storages_of(tensor))
        saved = _Saved(tensor)
        self._saved.add(saved)
        return saved

    def alive(self) -> dict[int, int]:
        """The storages that are still kept, without those of freed nodes, whose addresses may be used again."""
        kept = [*(saved.tensor for saved in self._saved), *self.kept]
        keys = {storage._cdata for tensor in kept for storage in storages_of(tensor)}
        self.storages = {key: size for key, size in self.storages.items() if key in keys}
        return self.storages

    def release(self) -> None:
        """Forgets the tensors of a step that failed: an output that its own node keeps is never freed otherwise."""
        self.kept.clear()
        for saved in self._saved:
            saved.tensor = None

    def backward_starts(self) -> None:
        own = {storage._cdata for tensor in self._state.values() for storage in storages_of(tensor)}
        kept = self.repeated + sum(size for key, size in self.alive().items() if key not in own)
        self.most = max(self.most, kept)


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """The memory of a tensor; of a sparse one, that of its indices and values."""
    if tensor.layout is torch.strided:
        return [tensor.untyped_storage()]
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        return [part.untyped_storage() for part in sparse_parts(tensor) or (tensor,)]


@contextmanager
def _paused_in_transforms(sizes: SavedBytes) -> Iterator[None]:
    """Gradients of torch.func (`grad`, `vjp`, `jacrev`) refuse hooks on saved tensors: these pause inside them."""
    graph: Any = torch.autograd.graph
    own: Any = torch._C._autograd
    refuse = graph.disable_saved_tensors_hooks

    @contextmanager
    def paused(message: str) -> Iterator[None]:
        hooks = own._top_saved_tensors_default_hooks(True)
        if hooks is None or hooks[0] != sizes.add:  # none, or those of the model, with which torch cannot go on
            with refuse(message):
                yield
            return
        sizes.was_paused = True
        own._pop_saved_tensors_default_hooks()
        try:
            with refuse(message):
                yield
        finally:
            own._push_saved_tensors_default_hooks(*hooks)

    graph.disable_saved_tensors_hooks = paused
    try:
        yield
    finally:
        graph.disable_saved_tensors_hooks = refuse
