"""Values of stand-ins, where a step reads them.

A stand-in has a shape but no values. Masks, lengths, positions and random draws are small and follow from constants.
Their values are computed together with their stand-ins, for models that read them (`if torch.rand([]) < p`, `.item()`,
`nonzero`, a boolean index). Values that depend on activations are computed only when they are read, with random
numbers as the activations, so that a router spreads its tokens evenly. A large weight has its values once it is read,
and random ones where it has none (on the meta device). Where the code reads parts or sums of a tensor that is too large
to be computed, such as the one-hot vectors of many experts, these are computed in parts (`parts.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from .formulas.traffic import tensors, with_tensors
from .parts import NeedsValuesError, in_parts

# The largest tensor whose values are computed, in elements. Above `_MAX_TOTAL` bytes in all, only small tensors are.
MAX_ELEMENTS = 2**23
_MAX_TOTAL = 2**29
_MAX_FOLLOWED_FLOATS, _SMALL = 2**21, 2**16
_SMALL_PART = 2**12
# Floating-point inputs and parameters have values up to this size: scales and thresholds.
MAX_FLOATS = 2**12
# Ops between a value and its sources. Each takes 7 of Python's 1,000 frames.
_MAX_DEPTH = 80
# The value of whole numbers on the meta device: neither padding (0, 1) nor a size that changes the network.
_TOKEN = 2

_OVERWRITES = frozenset(("fill_", "zero_", "uniform_", "normal_", "bernoulli_", "random_", "exponential_", "copy_"))
_SHAPE_ONLY = frozenset(
    (
        *("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"),
        *("new_zeros", "new_ones", "new_full"),
    )
)
_BLANK = frozenset(
    (
        *("empty", "empty_strided", "empty_like", "empty_permuted", "new_empty", "new_empty_strided"),
        "native_dropout",
    )
)
_READS = frozenset(
    (
        *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),
        *("bincount", "repeat_interleave"),
    )
)
_PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm", "convolution"))
# What makes lengths of activations, and what looks for local maxima: their values follow from those of the activations.
_WHOLE = frozenset(("ceil", "floor", "round", "trunc"))
_PEAKS = frozenset(
    ("max_pool2d_with_indices", "max_pool3d_with_indices", "topk", "sort", "kthvalue", "max", "amax")  # thresholds too
)
# What writes activations to chosen places, and what leaves the zeros of the other places as they are.
_PICKS = frozenset(("where", "scatter", "masked_fill", "index_put", "mul", "bmm"))
_PICKS_IN_PLACE = frozenset(("scatter_", "masked_fill_", "index_put_"))
_KEEPS_ZEROS = frozenset(("_softmax", "div", "mul", "sum", "_to_copy", "clone"))
_BY_MASK = frozenset(("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"))


_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True)
class _Later:
    """How a tensor is computed when it is read: whole numbers, truth values, and what follows from weights alone."""

    func: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    index: int | None = None  # in a tuple of outputs
    of_weights: bool = False  # and of nothing else
    is_peak: bool = False  # an activation of which only the places matter: of local maxima, or of what is not zero


class _Storages:
    """Storages of tensors. The weak references keep their addresses from being used again after they are freed."""

    def __init__(self) -> None:
        self._found: dict[int, StorageWeakRef] = {}

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self._found.setdefault(storage._cdata, StorageWeakRef(storage))

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return bool(self._found) and tensor.untyped_storage()._cdata in self._found


class Values:
    """The known values of the stand-ins of one run, on `device` ("meta", or "cpu" for fake tensors)."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.drawn = 0  # values read that depend on activations
        self.reads = 0  # of values that are made up, or that follow from parameters or buffers
        self.state_reads = 0  # of the latter alone
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor | _Later]] = {}
        self._lifted: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._spoilt = _Storages()
        self._of_state = _Storages()  # of values that follow from parameters or buffers
        self._invented: set[int] = set()  # stand-ins whose values are made up, or computed from such when they are read
        self._written: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._generator = torch.Generator().manual_seed(0)
        self._total = 0

    # -- what is known -----------------------------------------------------------------------------

    def know(self, stand_in: torch.Tensor, original: torch.Tensor) -> None:
        """Gives `stand_in` the values of `original` if it is small or has whole numbers; a weight's if it is read."""
        limit = MAX_ELEMENTS if not _is_float(original) else MAX_FLOATS
        if original.layout is not torch.strided:
            return
        if original.numel() > limit:
            if isinstance(original, nn.Parameter) and not original.is_meta:
                self._set(stand_in, _Later(partial(original.detach().to, "cpu", copy=True), of_weights=True))
            return
        if original.is_meta:
            if not _is_float(original):
                self._invented.add(id(stand_in))
                self._set(stand_in, torch.full(original.shape, _TOKEN, device="cpu").to(original.dtype))
            return
        with for_real():
            self._set(stand_in, original.detach().to("cpu", copy=True))

    def note_state(self, stand_ins: Iterable[torch.Tensor]) -> None:
        """Says which stand-ins are parameters and buffers: what is read of these may differ between equal blocks."""
        for stand_in in stand_ins:
            if (value := self.known(stand_in)) is not None:
                self._of_state.add(value)

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values of a tensor; random where they depend on activations. Raises NeedsValuesError for large ones."""
        if not self.stands_in(tensor):
            return tensor
        value = self._entry(tensor)
        if not isinstance(value, torch.Tensor):
            if tensor.numel() > MAX_ELEMENTS:
                raise NeedsValuesError(f"the values of a tensor of {tensor.numel():,} elements are read")
            with for_real():
                value = self._found(tensor, value, depth=0)
            self.drawn += self.is_invented(tensor)
        of_state = self._is_of_state(value)
        self.state_reads += of_state
        self.reads += of_state or self.is_invented(tensor)
        return value

    def known(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The values of a tensor; None if they depend on something unknown."""
        entry = self._entry(tensor)
        return entry if isinstance(entry, torch.Tensor) else None

    def is_invented(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a tensor are made up: it lay on the meta device, or depends on activations."""
        return id(tensor) in self._invented

    def _is_of_state(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value in self._of_state

    def follows(self, tensor: torch.Tensor) -> bool:
        """Whether the values of a tensor are known or can be computed; False for what follows from weights alone."""
        entry = self._entry(tensor)
        return entry is not None and not (isinstance(entry, _Later) and (entry.of_weights or entry.is_peak))

    @property
    def followed(self) -> int:
        """Bytes of all tensors whose values were computed."""
        return self._total

    def count_left_out(self, followed: int, drawn: int) -> None:
        """Counts the bytes that a block would have followed and the values that it would have drawn."""
        self._total += followed
        self.drawn += drawn

    def scalar(self, tensor: torch.Tensor) -> Any:
        """The value of a tensor with one element; a neutral one if it cannot be computed."""
        try:
            value = self.of(tensor)
            with for_real():
                return value.item()
        except RuntimeError:
            return {torch.bool: False, **dict.fromkeys(_FLOATS, 1.0)}.get(tensor.dtype, 1)

    def _set(self, stand_in: torch.Tensor, value: torch.Tensor | _Later) -> None:
        if isinstance(value, torch.Tensor):
            self._total += min(value.nbytes, value.untyped_storage().nbytes())
        self._known[id(stand_in)] = stand_in, value

    def _entry(self, tensor: torch.Tensor) -> torch.Tensor | _Later | None:
        found = self._known.get(id(tensor))
        if found is None:
            return None
        value = found[1]
        if isinstance(value, torch.Tensor) and value in self._spoilt:
            return None
        return value

    def stands_in(self, tensor: torch.Tensor) -> bool:
        return tensor.is_meta or isinstance(tensor, FakeTensor)

    # -- around an op ------------------------------------------------------------------------------

    def prepared(self, func: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Arguments on one device: real tensors among stand-ins get stand-ins, and boolean indices become numbers."""
        leaves = list(tensors((*args, *kwargs.values())))
        stands = [self.stands_in(leaf) for leaf in leaves]
        if not all(stands) and (any(stands) or self.device == "cpu"):
            args, kwargs = with_tensors(self._lift, (args, kwargs))
        elif not any(stands) and func._schema.is_mutable:
            self._keep_written(func, args)
        if name in _BY_MASK and any(stands):
            args = (args[0], self._numbered(args[1]), *args[2:])
        device = kwargs.get("device")
        if name == "_to_copy" and device is not None:
            kwargs = self._moved(args, kwargs)
        elif device is not None and torch.device(device).type not in ("meta", "cpu"):
            kwargs = self._here(kwargs)
        return args, kwargs

    def _lift(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.stands_in(tensor):
            return tensor
        if id(tensor) not in self._lifted:
            stand_in = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self.device)
            self._lifted[id(tensor)] = tensor, stand_in
            self.know(stand_in, tensor)
        return self._lifted[id(tensor)][1]

    def _keep_written(self, func: Any, args: Any) -> None:
        """Keeps the contents of a user's tensor before the first write to it."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, torch.Tensor) and not any(kept is value for kept, _ in self._written):
                self._written.append((value, value.detach().clone()))

    def put_back(self) -> None:
        """Undoes what the step wrote into real tensors."""
        with torch.no_grad():
            for tensor, before in reversed(self._written):
                tensor.detach().copy_(before)
        self._written.clear()

    def _numbered(self, indices: Sequence[Any]) -> list[Any]:
        """Indices with positions in place of boolean masks."""
        numbered: list[Any] = []
        for index in indices:
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                mask = self.of(index)
                if mask.numel() > MAX_ELEMENTS:  # expanded over the width of an embedding: only their number is needed
                    numbered += [torch.empty((_count(mask),), dtype=torch.int64, device=self.device)] * mask.dim()
                    continue
                with for_real():
                    positions = mask.nonzero().unbind(1)
                numbered += [self._lift(position.contiguous()) for position in positions]
            else:
                numbered.append(index)
        return numbered

    def _moved(self, args: Any, kwargs: Any) -> Any:
        """A copy of a real tensor on the CPU stays real; other copies are stand-ins."""
        (tensor,) = args
        return kwargs if not self.stands_in(tensor) and _is_cpu(kwargs["device"]) else self._here(kwargs)

    def _here(self, kwargs: Any) -> Any:
        """Stand-ins stay on their device, whatever device the model names."""
        return {**kwargs, "device": torch.device(self.device)}

    def answer(self, name: str, args: Any, kwargs: Any) -> Any:
        """The output of an op that reads values or has no rule for stand-ins; None for all others."""
        if name == "_local_scalar_dense":
            return self.scalar(*args)
        if name == "equal":
            left, right = self.of(args[0]), self.of(args[1])
            with for_real():
                return bool(torch.equal(left, right))
        if name in _READS and any(isinstance(arg, torch.Tensor) and self.stands_in(arg) for arg in args):
            return self._read(name, args, kwargs)
        rule = _SHAPES.get(name)
        return rule(self, *args) if rule and self.stands_in(args[0]) else None

    def to_host(self, name: str, args: Any, kwargs: Any) -> torch.Tensor | None:
        """A copy on the CPU of whole numbers, such as lengths, which torch's own code reads without a call."""
        if name != "_to_copy" or self.device != "meta" or not _is_cpu(kwargs.get("device")):
            return None
        (tensor,) = args
        if _is_float(tensor) or not tensor.is_meta or tensor.numel() > MAX_ELEMENTS:
            return None
        try:
            value = self.of(tensor)
        except NeedsValuesError:
            return None
        with for_real():
            return value.to(kwargs.get("dtype") or tensor.dtype, copy=True)

    def _read(self, name: str, args: Any, kwargs: Any) -> Any:
        function = getattr(torch.ops.aten, name)
        if name == "masked_select":
            with for_real():
                count = int(self.of(args[1]).expand(torch.broadcast_shapes(args[0].shape, args[1].shape)).sum())
            return args[0].new_empty((count,))
        with for_real():
            output = function(*with_tensors(self.of, args), **kwargs)
        return with_tensors(self.stand_in_for, output)

    def stand_in_for(self, value: torch.Tensor) -> torch.Tensor:
        """A new stand-in with the values of a real tensor."""
        stand_in = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=self.device)
        self._set(stand_in, value)
        return stand_in

    def on_host(self, args: Any, kwargs: Any, output: Any) -> bool:
        """True for an op on real tensors only: lengths and other whole numbers that the model keeps on the CPU."""
        found = [*tensors((*args, *kwargs.values())), *tensors((output,))]
        return bool(found) and not any(self.stands_in(tensor) for tensor in found)

    # -- after an op -------------------------------------------------------------------------------

    def follow(self, func: Any, name: str, args: Any, kwargs: Any, output: Any) -> None:
        """Computes the values of an op's output if all values that it depends on are known."""
        outputs = output if isinstance(output, (tuple, list)) else (output,)
        first = next((one for one in outputs if isinstance(one, torch.Tensor)), None)
        if first is None or not self.stands_in(first):
            return
        if name in _BLANK:
            if not _is_float(first) and first.numel() <= _SMALL:  # about to be filled: positions, permutations
                with for_real():
                    self._set(first, torch.zeros(first.shape, dtype=first.dtype, device="cpu"))
            return
        leaves = list(tensors((*args, *kwargs.values())))
        writes = func._schema.is_mutable
        entries = [self._entry(leaf) for leaf in leaves]
        needed = entries[1:] if name in _OVERWRITES else entries
        given = name in _SHAPE_ONLY or all(isinstance(entry, torch.Tensor) for entry in needed)
        # A mask of floats is that of dropout, which nothing reads: drawing it takes time.
        limit = MAX_FLOATS if name == "bernoulli_" and _is_float(first) else self._limit(first)
        if writes and not given and not _is_float(first) and first.numel() <= limit:
            given = self._settled(leaves)
        if given and (first.numel() <= limit or _is_view(func)):
            self._compute(func, name, args, kwargs, outputs)
            return
        weights = [isinstance(entry, _Later) and entry.of_weights for entry in entries]
        # One-hot vectors of chosen experts, for one. What weights and other values give is an activation, and so is
        # what layers make of a learnt input.
        plain = len(set(weights)) < 2 and not (any(weights) and name in _PRODUCTS)
        has_peak = any(isinstance(entry, _Later) and entry.is_peak for entry in entries)
        chosen = any(isinstance(entry, _Later) and not entry.is_peak for entry in entries) and not any(weights)
        picks = chosen and name in _PICKS
        peak = name in _PEAKS or picks or (has_peak and (_is_view(func) or name in _KEEPS_ZEROS))
        follows = plain and all(entry is not None for entry in entries) and not has_peak
        follows = follows or peak or name in _WHOLE
        if writes:
            before = entries[0]
            self._spoil(leaves[0])
            if chosen and name in _PICKS_IN_PLACE and isinstance(before, torch.Tensor):
                self._pick(name, args, kwargs, before)
        elif follows or not all(_is_float(one) for one in outputs if isinstance(one, torch.Tensor)):
            for index, one in enumerate(outputs):
                if isinstance(one, torch.Tensor) and (follows or not _is_float(one)):
                    place = index if isinstance(output, (tuple, list)) else None
                    self._set(one, _Later(func, args, kwargs, place, any(weights) and follows, peak and _is_float(one)))

    def _settled(self, leaves: Sequence[torch.Tensor]) -> bool:
        """Whether all of these have values now: masks of chosen items that are written into a padded one."""
        try:
            with for_real():
                for leaf in leaves:
                    entry = self._entry(leaf)
                    if entry is None or (isinstance(entry, _Later) and leaf.numel() > MAX_ELEMENTS):
                        return False
                    if isinstance(entry, _Later):
                        self._found(leaf, entry, depth=0)
                        self.drawn += self.is_invented(leaf)
        except NeedsValuesError:
            return False
        return all(isinstance(self._entry(leaf), torch.Tensor) for leaf in leaves)

    def _limit(self, tensor: torch.Tensor) -> int:
        if self._total > _MAX_TOTAL:
            return _SMALL
        return _MAX_FOLLOWED_FLOATS if _is_float(tensor) else MAX_ELEMENTS

    def forget(self, written: torch.Tensor) -> None:
        """Says that code that is not followed wrote into a stand-in."""
        self._spoil(written)

    def _spoil(self, written: torch.Tensor) -> None:
        """After a write of unknown values, the values of the tensor and its views are unknown."""
        value = self._entry(written)
        if isinstance(value, torch.Tensor):
            self._spoilt.add(value)
        elif value is not None:
            del self._known[id(written)]  # and with it the tensor, whose id may then be another's
            self._invented.discard(id(written))

    def _pick(self, name: str, args: Any, kwargs: Any, before: torch.Tensor) -> None:
        """After a write of activations to chosen places of `before`: a router's gates, which are zero elsewhere."""
        with for_real():
            earlier = self.stand_in_for(before.clone())
        func = getattr(torch.ops.aten, name.removesuffix("_"))
        self._set(args[0], _Later(func, (earlier, *args[1:]), kwargs, is_peak=True))

    def _compute(self, func: Any, name: str, args: Any, kwargs: Any, outputs: Sequence[Any]) -> None:
        def real(tensor: torch.Tensor) -> torch.Tensor:
            entry = self._entry(tensor)
            if isinstance(entry, torch.Tensor):
                return entry
            if name in _SHAPE_ONLY:
                return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
            return torch.zeros(tensor.shape, dtype=tensor.dtype)

        try:
            with for_real():
                given, named = with_tensors(real, (args, kwargs))
                result = func(*given, **_on_cpu(named))
        except (RuntimeError, IndexError):
            return  # unknown: the model's own errors are raised by the op on the stand-ins
        results = result if isinstance(result, (tuple, list)) else (result,)
        if any(isinstance(one, torch.Tensor) and one.layout is not torch.strided for one in results):
            return  # gradients of few rows, which nothing reads
        of_state = any(self._is_of_state(self._entry(leaf)) for leaf in tensors((*args, *kwargs.values())))
        for one, value in zip(outputs, results, strict=True):
            if isinstance(one, torch.Tensor):
                self._set(one, value)
                if of_state:
                    self._of_state.add(value)

    def _found(self, tensor: torch.Tensor, entry: _Later | None, depth: int) -> torch.Tensor:
        """The value of an entry, which is kept; a number is drawn for a float without one, or of too large a source."""
        try:
            found = self._evaluate(entry, depth) if entry is not None else None
        except NeedsValuesError:
            if not _is_float(tensor):
                raise
            found = None
        if entry is None or found is None:
            value = self._draw(tensor)
            self._set(tensor, value)
            return value
        value, used, is_part = found
        if any(id(source) in self._invented for source in used):
            self._invented.add(id(tensor))
        if entry.of_weights or any(self._is_of_state(self._entry(source)) for source in used):
            self._of_state.add(value)
        if not is_part or value.numel() <= _SMALL_PART:  # parts of a large tensor are many, and each is read once
            self._set(tensor, value)
        return value

    def _evaluate(self, later: _Later, depth: int) -> tuple[torch.Tensor, list[torch.Tensor], bool]:
        """The value, the tensors that it was computed from, and whether it is a part of one that is too large."""
        if depth > _MAX_DEPTH:
            raise NeedsValuesError("a value depends on too many others")
        used: list[torch.Tensor] = []

        def real(tensor: torch.Tensor) -> torch.Tensor:
            used.append(tensor)
            entry = self._entry(tensor)
            if isinstance(entry, torch.Tensor):
                return entry
            if tensor.numel() > MAX_ELEMENTS:
                raise NeedsValuesError(f"the values of a tensor of {tensor.numel():,} elements are read")
            return self._found(tensor, entry, depth + 1)

        def made_by(tensor: torch.Tensor) -> Any:
            entry = self._entry(tensor)
            return (entry.func, entry.args, entry.kwargs) if isinstance(entry, _Later) and entry.index is None else None

        large = next((one for one in tensors(later.args) if self._is_too_large(one)), None)
        if large is not None and later.index is None:
            return in_parts(later.func, later.args, later.kwargs, large, made_by, real), used, True
        args, kwargs = with_tensors(real, (later.args, later.kwargs))
        result = later.func(*args, **_on_cpu(kwargs))
        value: torch.Tensor = result if later.index is None else result[later.index]
        is_part = any(not isinstance(self._entry(tensor), torch.Tensor) for tensor in used)
        return value, used, is_part

    def _is_too_large(self, tensor: torch.Tensor) -> bool:
        return tensor.numel() > MAX_ELEMENTS and not isinstance(self._entry(tensor), torch.Tensor)

    def _draw(self, tensor: torch.Tensor) -> torch.Tensor:
        """Numbers between 0 and 1 for an activation, which may be a probability, a score or a length; 0 for others."""
        self._invented.add(id(tensor))
        if not _is_float(tensor):
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        return torch.rand(tensor.shape, generator=self._generator).to(tensor.dtype)


@contextmanager
def for_real() -> Iterator[None]:
    """Plain torch on the CPU: nothing in the block is recorded, redirected or differentiated."""
    with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
        yield


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _is_float(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_view(func: Any) -> bool:
    """Whether an op returns its argument's memory in another shape, which takes none of its own."""
    returns = func._schema.returns
    return not func._schema.is_mutable and bool(returns) and all(one.alias_info is not None for one in returns)


def _count(mask: torch.Tensor) -> int:
    """The true elements of a mask; those along an expanded dimension are counted once and multiplied."""
    with for_real():
        kept, times = mask, 1
        for dim, (size, stride) in enumerate(zip(mask.shape, mask.stride(), strict=True)):
            if stride == 0 and size > 1:
                kept, times = kept.narrow(dim, 0, 1), times * size
        return int(kept.count_nonzero()) * times


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the same op on the CPU, without the user's generator."""
    named = {name: value for name, value in kwargs.items() if name != "generator"}
    return {**named, "device": torch.device("cpu")} if named.get("device") is not None else named


class ReadsValues(TorchFunctionMode):
    """Calls that torch answers without an op: constants, values as lists and arrays, and other devices."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.scalar_tensor):
            return self._constant(func, args, kwargs)
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__):
            needs_detach = func is not torch.Tensor.tolist and args[0].requires_grad and torch.is_grad_enabled()
            if needs_detach and not kwargs.get("force"):
                raise RuntimeError(
                    "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
                )
            value = self.values.of(args[0])
            with for_real():
                return func(value.detach(), *args[1:], **kwargs)
        if func is torch.Tensor.__format__ and args[0].dim() == 0:  # f"expert_{index}"
            return format(args[0].item(), *args[1:])
        if func is torch.Tensor.cuda:
            return args[0]
        if _is_elsewhere(kwargs.get("device")):
            kwargs = {**kwargs, "device": self.values.device}
        if func is torch.Tensor.to:
            args = tuple(self.values.device if _is_elsewhere(arg) else arg for arg in args)
        return func(*args, **kwargs)

    def _constant(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A stand-in with the constant's values; a real tensor where the model asks for the CPU."""
        if isinstance(args[0] if args else None, (list, tuple)):  # of numbers and tensors of one number
            args = with_tensors(lambda one: self.values.scalar(one) if one.numel() == 1 else one, args)
        if any(True for _ in tensors(args)) or (self.values.device == "meta" and _is_cpu(kwargs.get("device"))):
            return func(*args, **kwargs)
        with for_real():
            value = func(
                *args,
                **{**kwargs, "device": "cpu", "requires_grad": False}
                if func is torch.tensor
                else {**kwargs, "device": "cpu"},
            )
        stand_in = self.values.stand_in_for(value)
        return stand_in.requires_grad_() if kwargs.get("requires_grad") else stand_in


class RealNumbers(TorchFunctionMode):
    """Single numbers are made on the CPU: strides and sizes that a model keeps as tensors have their values.

    A tensor on meta that is moved to where such a number is (`to(number.device)`) stays where it is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and args and isinstance(args[0], (bool, int, float)) and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "cpu"}
        try:
            return func(*args, **kwargs)
        except NotImplementedError:
            if func not in (torch.Tensor.to, torch.Tensor.cpu) or not args[0].is_meta:
                raise
        if any(isinstance(other, torch.Tensor) for other in args[1:]):
            return args[0].to(dtype=args[1].dtype)
        place = {"device": "meta"} if "device" in kwargs else {}
        return args[0].to(*("meta" if _is_place(one) else one for one in args[1:]), **{**kwargs, **place})


def _is_place(value: Any) -> bool:
    return isinstance(value, (str, torch.device))


class Following(TorchDispatchMode):
    """Ops on stand-ins with values, which are not recorded."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.rpartition("::")[2]
        args, kwargs = self.values.prepared(func, name, args, kwargs or {})
        output = self.values.answer(name, args, kwargs)
        if output is None:
            output = func(*args, **kwargs)
        self.values.follow(func, name, args, kwargs, output)
        return output


def made_on_meta(function: Callable[[], Any]) -> Any:
    """What `function` returns: meta tensors for data, real ones for whole numbers (lengths, indices)."""
    values = Values("meta")

    def known(tensor: torch.Tensor) -> torch.Tensor:
        entry = values.known(tensor)
        return tensor if entry is None or _is_float(tensor) else entry

    with torch.device("meta"), Following(values), ReadsValues(values):
        made = function()
    return tree_map_only(torch.Tensor, known, made)


def _is_elsewhere(device: Any) -> bool:
    if not isinstance(device, (str, torch.device)):
        return False
    return str(device).partition(":")[0] in ("cuda", "mps", "xpu", "hpu", "npu", "xla")


# -- ops that read values and have no rule for stand-ins --------------------------------------------


def _packed(values: Values, data: torch.Tensor, lengths: torch.Tensor, batch_first: bool) -> Any:
    # _pack_padded_sequence(input, lengths, batch_first)
    with for_real():
        known = values.of(lengths).to("cpu", torch.int64)
        steps = torch.arange(int(known.max()))
        batch_sizes = (known[None, :] > steps[:, None]).sum(1)
        total = int(known.sum())
    return data.new_empty((total, *data.shape[2:])), batch_sizes


def _ctc(
    values: Values, scores: torch.Tensor, targets: torch.Tensor, input_lengths: Any, lengths: Any, *rest: Any
) -> Any:
    # _ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, zero_infinity)
    if isinstance(lengths, torch.Tensor):
        with for_real():
            lengths = values.of(lengths).tolist()
    steps, batch = scores.shape[:2]
    return scores.new_empty((batch,)), scores.new_empty((batch, steps, 2 * max(lengths, default=0) + 1))


def _ctc_backward(values: Values, grad: torch.Tensor, scores: torch.Tensor, *rest: Any) -> Any:
    return scores.new_empty(scores.shape)


_SHAPES: dict[str, Callable[..., Any]] = {
    "_pack_padded_sequence": _packed,
    "_ctc_loss": _ctc,
    "_ctc_loss_backward": _ctc_backward,
}
