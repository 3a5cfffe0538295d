"""Equal blocks of a network, traced once.

A network is often a row of equal blocks: modules of one class with the same submodules, shapes and settings. The first
of them run as they are. Once two have listed the same operations for the same kind of call, the others are not run:
their operations, saved bytes, output shapes and gradients are those of the second, under their own paths. The last
block always runs, because its backward pass comes first.

A block is repeated only where nothing can make it differ, and the listing is the same as that of a full trace:

- Its attributes, and the arguments of its call, equal those of the blocks that ran. Attributes with another value in
  every block (`layer_idx`) are hidden while it runs; a block that reads one is not repeated. The key-value caches of
  transformers may take them, because each block has its own entry in them; nothing else may read that of a block
  that was left out.
- It changes nothing that the model reaches: attributes, containers, globals, random states. Nothing of it changes
  between two blocks either.
- It reads no values that follow from parameters or buffers, and keeps no hook. Its modules and parameters are used
  nowhere else. Where it reads activations (the choices of a router), which are random numbers in every trace, two
  blocks are equal if they list the same ops, of any sizes; the others get the sizes of the second.
- Its first new output is the next block's input; nothing uses the gradient of another one, such as attention weights.
- In backward, its operations come one after the other, and each belongs to a node that its forward made.

Where one of these turns out to be false after blocks were left out, the step is traced again in full.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils._python_dispatch import _disable_current_modes

from .block_calls import (
    Gradient,
    Kind,
    Made,
    NotEqualError,
    Place,
    Run,
    alike,
    cache_entry,
    caches_in,
    difference,
    filled,
    flat_arguments,
    grad_forms,
    gradient_layout,
    gradients,
    inserted,
    is_cache,
    is_plain,
    layout,
    numbers_into_caches,
    only_new,
    random_state,
    renamed,
)
from .blocks import PLAIN, Block, Group, HiddenNumber, Slot, equal_blocks, has_hooks
from .recorder import Recorder
from .saved_bytes import SavedBytes
from .untouched import Reached
from .workload import Op

# Blocks of one kind of call that run before the search for two equal ones ends.
_MAX_TRIES = 4


class _Repeated(torch.autograd.Function):
    """Stands in the graph for a block that was left out."""

    @staticmethod
    def forward(
        ctx: Any, blocks: EqualBlocks, kind: Kind, block: Block, data: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        assert kind.equal is not None
        ctx.of = blocks, kind, block
        ctx.set_materialize_grads(False)
        made = kind.equal[1].made
        outputs = tuple(data.new_empty_strided(one.layout[0], one.layout[1], dtype=one.layout[2]) for one in made)
        ctx.mark_non_differentiable(*[out for out, one in zip(outputs, made, strict=True) if not one.requires_grad])
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor | None, *others: torch.Tensor | None) -> Any:
        blocks, kind, block = ctx.of
        if grad is None or any(other is not None for other in others):
            raise NotEqualError("another output of a block than its first has a gradient")
        blocks.passed(kind, block, grad)
        return None, None, None, grad.new_empty_strided(grad.shape, grad.stride())


class EqualBlocks:
    """Follows the calls of equal blocks during one run of a step, and leaves out those that would repeat others."""

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        sizes: SavedBytes,
        reached: Reached,
        state: Mapping[str, Any],
        train: bool,
        known_equal: frozenset[str] = frozenset(),
    ) -> None:
        """`known_equal` are the blocks that equal later ones in a run of the same step with another batch."""
        self.left_out = 0
        self.equal: set[str] = set(known_equal)
        self._recorder, self._sizes, self._reached, self._train = recorder, sizes, reached, train
        self._own = {tensor.untyped_storage()._cdata for tensor in state.values() if is_plain(tensor)}
        self._groups = equal_blocks(model) if reached.complete else []
        self._blocks = {id(block.module): block for group in self._groups for block in group.blocks}
        self._running: Block | None = None
        self._numbers: list[HiddenNumber] = []
        self._nodes: set[int] = set()  # of blocks that were left out
        self._unfilled: set[tuple[int, int]] = set()  # entries of blocks that were left out, in key-value caches
        self._hooks: list[Any] = []
        self._places = 0
        self._thread = threading.get_ident()
        self._saving: Any = None

    # -- around the step ---------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Calls of the blocks come here while the block runs, and their numbers are hidden."""
        if not self._groups:
            yield
            return
        classes = dict.fromkeys(type(block.module) for block in self._blocks.values())
        originals = {cls: cls.__call__ for cls in classes}
        own = {cls for cls in classes if "__call__" in vars(cls)}
        hidden = {id(owner): names for block in self._blocks.values() for owner, names in block.hidden}
        indices = {id(one[0]): index for block in self._blocks.values() for index, one in enumerate(block.hidden)}
        owners = [owner for block in self._blocks.values() for owner, _ in block.hidden]
        getattribute = nn.Module.__getattr__

        def hidden_too(module: nn.Module, name: str) -> Any:
            names = hidden.get(id(module), {})
            if name not in names:
                return getattribute(module, name)
            return self._read(names[name], (indices[id(module)], name))

        try:
            for owner in owners:
                for name in hidden[id(owner)]:
                    del owner.__dict__[name]
            nn.Module.__getattr__ = hidden_too  # type: ignore[method-assign]
            for cls, original in originals.items():
                cls.__call__ = self._calling(original)  # type: ignore[method-assign]
            with numbers_into_caches(self._unfilled):
                yield
        except (AttributeError, KeyError) as error:
            raise NotEqualError("a hidden attribute is missing") from error
        except Exception as error:
            if self.left_out:
                raise NotEqualError("the step fails without the blocks that were left out") from error
            raise
        finally:
            for cls, original in originals.items():
                if cls in own:
                    cls.__call__ = original  # type: ignore[method-assign]
                else:
                    del cls.__call__
            nn.Module.__getattr__ = getattribute  # type: ignore[method-assign]
            for owner in owners:
                for name, value in hidden[id(owner)].items():
                    owner.__dict__.setdefault(name, value)

    def release(self) -> None:
        """Forgets the tensors of the run."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.forward_ends()
        for group in self._groups:
            group.kinds.clear()
            group.state = group.last_kind = None

    def forward_starts(self) -> None:
        self._saving = torch._C._autograd._top_saved_tensors_default_hooks(False) if self._train else None

    def forward_ends(self) -> None:
        """No block is compared any more: arguments that nothing else uses are free."""
        for group in self._groups:
            for kind in group.kinds:
                kind.kept.clear()

    def _read(self, value: Any, slot: Slot) -> Any:
        """A hidden attribute is read: by the code around the blocks, which may, or by a block."""
        if self._running is None and self._recorder.phase == "forward":
            return value
        if self._running is not None and type(value) is int:
            self._numbers.append(number := HiddenNumber(value))
            number.slot = slot
            return number
        if self._running is not None:
            self._running.group.usable = False
        elif self.left_out:
            raise NotEqualError("a block reads its number in backward")
        return value

    # -- calls of blocks ---------------------------------------------------------------------------

    def _calling(self, original: Any) -> Any:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            block = self._blocks.get(id(module))
            if block is None or threading.get_ident() != self._thread or self._running is not None:
                return original(module, *args, **kwargs)
            with torch._C.DisableTorchFunction():
                kind, data = self._kind(block, args, kwargs)
                if kind is not None and kind.equal and block is not block.group.blocks[-1]:
                    return self._left_out(kind, block, data, args, kwargs)
                before = self._before(block, data) if kind is not None else None
            self._running, self._numbers = block, []
            try:
                output = original(module, *args, **kwargs)
            finally:
                self._running = None
            with torch._C.DisableTorchFunction():
                self._note_numbers(block.group)
                self._ran(kind, before, block, data, output, args, kwargs)
            return output

        return call

    def _note_numbers(self, group: Group) -> None:
        """Notes which numbers of a block that ran name its entries in caches; other uses make blocks unequal."""
        cached = frozenset(number.slot for number in self._numbers)
        if any(number.used or not number.cached for number in self._numbers) or group.cached not in (None, cached):
            group.usable = False
        group.cached = cached

    def _kind(self, block: Block, args: Any, kwargs: Any) -> tuple[Kind | None, Any]:
        """The calls that this one is equal to; None if the block must run and is not to be repeated."""
        group = block.group
        in_forward = self._recorder.phase == "forward" and not self._recorder.ran_backward
        if not in_forward or block.position <= group.called:
            self._refuse(group, "a block is called twice, or not in order")
        group.called = block.position
        group.last_kind = None
        if not group.usable:
            return None, None
        data = next((one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)), None)
        if data is None or not is_plain(data) or has_hooks(block.module):
            return None, None
        if torch.is_grad_enabled() != self._train or torch.is_inference_mode_enabled():
            return None, None
        if self._train and torch._C._autograd._top_saved_tensors_default_hooks(False) != self._saving:
            return None, None  # checkpointed: it will be called again
        kept: list[Any] = []
        key = self._key(data, args, kwargs, kept)
        caches = [one for one in flat_arguments(args, kwargs) if is_cache(one)]
        entries = {slot: [cache_entry(one, number) for one in caches] for slot, number in block.cache_numbers.items()}
        if key is None or (caches and not block.numbers):
            return None, None
        kind = next((kind for kind in group.kinds if kind.key == key and kind.entries.items() >= entries.items()), None)
        if kind is None:
            group.kinds.append(kind := Kind(key, entries, kept=kept))
        group.last_kind = kind
        last = block is group.blocks[-1]
        kind.tries += 1
        if kind.tries > _MAX_TRIES and kind.equal is None:
            kind.usable = False
        if ((kind.usable and kind.equal is None) or last) and not self._is_unchanged(group):
            self._refuse(group, "what the model reaches changes between its blocks")
        return (kind, data) if group.usable else (None, None)

    def _refuse(self, group: Group, why: str) -> None:
        """No block of `group` is repeated; too late if some were."""
        group.usable = False
        if any(kind.repeated for kind in group.kinds):
            raise NotEqualError(why)

    def _is_unchanged(self, group: Group) -> bool:
        with _disable_current_modes():
            state = self._reached.state()
        if group.state is None:
            group.state = state
            return not self._reached.has_new(state)
        return len(state) == len(group.state) and all(
            a is b or (type(a) is bytes and a == b) for a, b in zip(state, group.state, strict=True)
        )

    def _key(self, data: torch.Tensor, args: Any, kwargs: Any, kept: list[Any]) -> Any:
        """What two calls must have in common: all arguments apart from the values of `data`."""
        values = self._recorder.values
        if values is not None and values.follows(data):
            return None
        tokens = []
        for name, value in (*enumerate(args), *kwargs.items()):
            token = ("data",) if value is data else self._argument(value, kept)
            if token is None:
                return None
            tokens.append((name, token))
        described = layout(data)
        if described is None:
            return None
        saved = data.untyped_storage()._cdata in self._sizes.alive()
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.get_default_dtype()
        return tuple(tokens), described, data.requires_grad, data._is_view(), saved, autocast

    def _argument(self, value: Any, kept: list[Any], depth: int = 0) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return kind, repr(value)
        if isinstance(value, torch.Tensor):
            kept.append(value)
            return "tensor", id(value), value._version
        if kind is tuple and depth < 4:
            parts = tuple(self._argument(one, kept, depth + 1) for one in value)
            return None if None in parts else (kind, parts)
        if kind is torch.Size:
            return kind, tuple(value)
        if kind is BlockMask:
            kept.append(value)
            return kind, id(value)
        if not is_cache(value):
            return None
        kept.append(value)
        return "cache", id(value)

    # -- a block that runs -------------------------------------------------------------------------

    def _before(self, block: Block, data: torch.Tensor) -> Any:
        recorder, values = self._recorder, self._recorder.values
        return (
            len(recorder.ops),
            dict(recorder.unsupported),
            frozenset(self._sizes.storages),
            torch._C._autograd._get_sequence_nr(),
            (values.state_reads, values.drawn, values.followed) if values is not None else (0, 0, 0),
            random_state(),
        )

    def _ran(
        self, kind: Kind | None, before: Any, block: Block, data: Any, output: Any, args: Any, kwargs: Any
    ) -> None:
        group = block.group
        if kind is None or not (group.usable and kind.usable) or kind.equal is not None:
            return
        recorder, values = self._recorder, self._recorder.values
        start, unsupported, saved, node, (state_reads, drawn, followed), random = before
        read = values is not None and values.state_reads != state_reads
        if read or random != random_state() or not self._is_unchanged(group):
            group.usable = False
            return
        new = only_new(output, data, args, kwargs)
        if new is None or not self._repeats(data, new[0], args, kwargs):
            return
        tensors, template = new
        if values is not None and any(values.known(one) is not None for one in tensors):
            return
        # A mask or a table of positions, which the first block is the first to save.
        shared = {one.untyped_storage()._cdata for one in flat_arguments(args, kwargs) if is_plain(one)}
        shared -= {data.untyped_storage()._cdata}
        keys = [(key, size) for key, size in self._sizes.alive().items() if key not in saved]
        made = tuple(
            Made(
                layout(one),
                one.requires_grad,
                any(key == one.untyped_storage()._cdata for key, _ in keys),
                one._is_view(),
            )
            for one in tensors
        )
        run = Run(
            block,
            start,
            len(recorder.ops),
            (node, torch._C._autograd._get_sequence_nr()),
            difference(recorder.unsupported, unsupported),
            [(key, size) for key, size in keys if key not in self._own and key not in shared],
            template,
            made,
            any(key == data.untyped_storage()._cdata for key, _ in keys),
            values.followed - followed if values is not None else 0,
            values.drawn - drawn if values is not None else 0,
        )
        if tensors[0].requires_grad:
            self._hooks.append(tensors[0].register_hook(lambda grad: self._mark(run, "after", grad)))
            self._hooks.append(data.register_hook(lambda grad: self._mark(run, "before", grad)))
        if block.path in self.equal:
            kind.equal = run, run
        elif kind.runs and self._same_forward(kind.runs[-1], run):
            kind.equal = kind.runs[-1], run
            self.equal.add(kind.runs[-1].block.path)
        kind.runs.append(run)

    def _repeats(self, data: torch.Tensor, made: Sequence[torch.Tensor], args: Any, kwargs: Any) -> bool:
        """Whether the first output has the form of the input, so that the next block gets an equal call.

        Others may be attention weights; each output has memory of its own.
        """
        first = made[0]
        given = [one for one in flat_arguments(args, kwargs) if is_plain(one)]
        storages = {one.untyped_storage()._cdata for one in (*given, *made)}
        return (
            type(first) is type(data)
            and layout(first) == layout(data)
            and first.requires_grad == data.requires_grad
            and all(layout(one) is not None and one.requires_grad <= first.requires_grad for one in made)
            and len(storages) == len({one.untyped_storage()._cdata for one in given}) + len(made)
        )

    def _same_forward(self, one: Run, two: Run) -> bool:
        ops = self._recorder.ops
        same = renamed(ops[one.start : one.end], one.block.path, two.block.path), ops[two.start : two.end]
        form = one.form == two.form and len(one.saved) == len(two.saved)
        if one.drawn and two.drawn:
            return form and alike(*same)
        return (
            form
            and same[0] == same[1]
            and one.followed == two.followed
            and one.unsupported == two.unsupported
            and sorted(size for _, size in one.saved) == sorted(size for _, size in two.saved)
            and self._shapes(one.block) == self._shapes(two.block)
        )

    def _shapes(self, block: Block) -> dict[str, tuple[int, ...]]:
        shapes = self._recorder.output_shapes
        names = (path for path, _ in block.module.named_modules(prefix=block.path))
        return {path.removeprefix(block.path): shapes[path] for path in names if path in shapes}

    def _mark(self, run: Run, name: str, grad: torch.Tensor) -> None:
        if self._recorder.phase != "backward" or getattr(run, name) is not None or self._recorder.ran_backward:
            run.broken = True
            return
        values = self._recorder.values
        mark = Gradient(
            len(self._recorder.ops),
            dict(self._recorder.unsupported),
            values.reads if values is not None else 0,
            gradient_layout(grad),
        )
        setattr(run, name, mark)

    # -- a block that is left out ------------------------------------------------------------------

    def _left_out(self, kind: Kind, block: Block, data: torch.Tensor, args: Any, kwargs: Any) -> Any:
        assert kind.equal is not None
        run = kind.equal[1]
        self.left_out += 1
        kind.repeated.append((block, self._place()))
        numbers = block.cache_numbers.values()
        self._unfilled |= {(id(cache), number) for cache in caches_in(args, kwargs) for number in numbers}
        outputs = [
            output.view(output.shape) if made.is_view else output
            for output, made in zip(_Repeated.apply(self, kind, block, data), run.made, strict=True)
        ]
        extra = run.saved_bytes
        kept = [run.input_saved, *(made.is_saved for made in run.made)]
        for tensor, is_saved in zip((data, *outputs), kept, strict=True):
            if is_saved:
                storage = tensor.untyped_storage()
                self._sizes.storages[storage._cdata] = storage.nbytes()
                self._sizes.kept.append(tensor)
                extra -= storage.nbytes()
        self._sizes.repeated += extra
        if self._recorder.values is not None:
            self._recorder.values.count_left_out(run.followed, run.drawn)
        return filled(run.output, outputs, args, kwargs)

    def passed(self, kind: Kind, block: Block, grad: torch.Tensor) -> None:
        """The gradient arrives at a block that was left out."""
        node = torch._C._current_autograd_node()
        self._nodes.add(node._sequence_nr())
        if self._recorder.phase != "backward" or self._recorder.ran_backward or block.position in kind.passed:
            raise NotEqualError("a backward pass within the forward pass, or a second one")
        kind.passed[block.position] = self._place(), gradient_layout(grad)

    def _place(self) -> Place:
        self._places += 1
        return len(self._recorder.ops), self._places

    # -- after the step ----------------------------------------------------------------------------

    def finish(self) -> None:
        """Adds what the blocks that were left out would have listed. Raises NotEqualError if that cannot be known."""
        if not self.left_out:
            return
        recorder = self._recorder
        if any(node in self._nodes for node in recorder.nodes):
            raise NotEqualError("the input of a block is used elsewhere")
        places: list[tuple[Place, list[Op]]] = []
        for group in self._groups:
            for kind in group.kinds:
                if kind.repeated:
                    if not group.usable or group.called != len(group.blocks) - 1 or group.last_kind is None:
                        raise NotEqualError("the last block is not called as the others are")
                    places += self._repetitions(kind)
        recorder.ops = inserted(recorder.ops, places)

    def _repetitions(self, kind: Kind) -> Iterator[tuple[Place, list[Op]]]:
        """The ops of the blocks that were left out, each with its place among those that were listed."""
        assert kind.equal is not None
        one, run = kind.equal
        recorder = self._recorder
        forward = recorder.ops[run.start : run.end]
        backward, unsupported = self._backward(run)
        before, other = self._backward(one)
        grads = gradients(run.block.module)
        before = renamed(before, one.block.path, run.block.path)
        random = one.drawn and run.drawn
        same = (
            (alike(before, backward) if random else before == backward and other == unsupported)
            and grad_forms(gradients(one.block.module)) == grad_forms(grads)
            and (run.after is None) == (one.after is None)
        )
        if not same:
            raise NotEqualError("the backward passes of two equal blocks differ")
        shapes = self._shapes(run.block)
        for block, place in kind.repeated:
            yield place, renamed(forward, run.block.path, block.path)
            passed = kind.passed.get(block.position)
            if (passed and passed[1]) != (run.after and run.after.layout):
                raise NotEqualError("the gradients of equal blocks differ")
            if passed is not None:
                yield passed[0], renamed(backward, run.block.path, block.path)
            for name, parameter in block.module.named_parameters():
                if parameter.grad is not None:
                    raise NotEqualError("a parameter of a block is used elsewhere")
                parameter.grad = grads[name]
            for added in (run.unsupported, unsupported):
                for name, size in added.items():
                    recorder.unsupported[name] = recorder.unsupported.get(name, 0) + size
            recorder.output_shapes.update({block.path + below: shape for below, shape in shapes.items()})

    def _backward(self, run: Run) -> tuple[list[Op], dict[str, int]]:
        """The ops that a block that ran listed in backward. Raises NotEqualError where they are not one piece."""
        recorder, after, before = self._recorder, run.after, run.before
        low, high = run.nodes
        if run.broken or (after is None) != (before is None):
            raise NotEqualError("a gradient passes a block more than once, or in part")
        first, last = (after.ops, before.ops) if after and before else (0, 0)
        newest = recorder.forward_nodes
        for place, node in enumerate(recorder.nodes):
            inside = low <= node < high
            if first <= place < last:
                if not (inside or node >= newest):  # those that add to a parameter's gradient have the highest number
                    raise NotEqualError("the backward pass of a block is mixed with another's")
            elif inside:
                raise NotEqualError("a part of a block's backward pass comes apart from the rest")
        if after is None or before is None:
            return [], {}
        if after.layout != before.layout or after.reads != before.reads:
            raise NotEqualError("a gradient changes its layout on its way through a block")
        return recorder.ops[first:last], difference(before.unsupported, after.unsupported)
