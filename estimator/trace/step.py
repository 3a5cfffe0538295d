"""Runs one step of a model on stand-ins for its tensors and lists the ops.

The stand-ins are *meta* tensors, which have shapes but no values; where a model needs more, *fake* tensors
on the CPU; else real ones. They take the place of parameters, buffers and every other tensor that the model
reaches, in forward and backward alike, so that code which runs again in backward (activation checkpointing)
sees the same tensors as the forward. `untouched` puts the originals back.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import traceback
import warnings as python_warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._pytree import tree_map

from ..base.errors import JoulecastError, ModelError
from ..sandbox.collection import without_collection
from .batch import leads_with_batch
from .block_calls import NotEqualError
from .formulas import dtype_name, numel
from .fused import FusedLayers
from .gpu_code import as_on_gpu, is_about_gpus
from .losses import differentiable, training_loss
from .parts import NeedsValuesError
from .recorder import Recorder
from .repeats import EqualBlocks
from .saved_bytes import SavedBytes, storages_of
from .training_step import NotOneStepError, TrainingStep, Update
from .untouched import Reached
from .values import ReadsValues, Values
from .workload import Op

Loss = Callable[[Any], torch.Tensor]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# A model that only a real run can read is run for real up to this size.
MAX_REAL_PARAMETERS = 1_000_000_000
# Other tensors than parameters and buffers are copied for a real run up to this size; larger ones are used as they are.
_MAX_COPIED_BYTES = 256 * 2**20

LOGGER = logging.getLogger("joulecast.trace")


@dataclass(frozen=True, slots=True)
class Step:
    """What to run: the model, its inputs, and how a step treats them."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    train: bool
    precision: str | None  # None: as the parameters are
    loss: Loss | None
    fix: str = ""
    as_on_gpu: bool = False  # stand-ins say that they are on a GPU, for code that accepts nothing else


@dataclass(frozen=True, slots=True)
class Trained:
    """A parameter that got a gradient: what its update costs."""

    path: str
    elements: int
    element_size: int
    dtype: str
    shape: tuple[int, ...]
    updates: int = 1  # in one step


@dataclass(frozen=True, slots=True)
class Listing:
    """What a recorded step left behind: figures, and none of its tensors."""

    recorder: Recorder
    trained: tuple[Trained, ...]
    elements: Mapping[int, int]  # of each parameter of the model, by its id
    saved_bytes: int
    tracer: str
    has_output: bool
    values_drawn: int = 0  # that the model read, and that depend on its activations
    has_transforms: bool = False  # of torch.func, which keep tensors that are not counted
    equal: frozenset[str] = frozenset()  # paths of blocks that were found to be equal to later ones


def list_step(step: Step, batch_size: int, reached: Reached) -> Listing:
    """The step on meta tensors; where the model needs more, on fake ones; else for real.

    Meta tensors know no values and no autocast, fake ones know constants, real ones everything. When
    even the real run fails, the model's own code is at fault and its error is the one to show.
    """
    on_meta: Exception | None = None
    on_fake: Exception | None = None
    values = Values("meta")
    if step.precision not in ("bfloat16", "float16"):
        try:
            return _on_any_device(step, "meta", reached, values)
        except NotOneStepError:
            raise
        except Exception as error:
            _log_retry(step, "meta", error)
            on_meta = error
            reached.try_again()
            too_many = isinstance(error, NeedsValuesError) and not _can_run_for_real(step.model)
            if too_many and (few := _from_few_samples(step, batch_size, reached)):
                return few
    try:
        return _on_any_device(step, "fake", reached, Values("cpu"))
    except NotOneStepError:
        raise
    except Exception as error:
        if not _can_run_for_real(step.model):
            cause = on_meta if on_meta is not None and _is_of_fake_tensors(error) else error
            alike = on_meta is not None and _alike(error, on_meta) and not values.drawn
            raise _model_error(step, cause, is_final=alike) from cause
        _log_retry(step, "fake", error)
        on_fake = error
        reached.try_again()
    try:
        few = _of_two_and_four(step, batch_size, lambda small, _: _run(small, "real", reached, None))
        return few or _run(step, "real", reached, None)
    except Exception as error:
        # The CPU has no kernel for some ops: then the model's own error is the one on meta tensors.
        lacks_kernel = isinstance(error, NotImplementedError) and not isinstance(on_meta, NotImplementedError)
        earlier = on_meta or on_fake
        cause = earlier if earlier is not None and (lacks_kernel or is_about_gpus(error)) else error
        raise _model_error(step, cause) from cause


def _on_any_device(step: Step, tracer: str, reached: Reached, values: Values) -> Listing:
    """The step on stand-ins; where its code accepts tensors on a GPU only, on some that say that they are there."""
    try:
        return _listed(step, tracer, reached, values)
    except Exception as error:
        if not is_about_gpus(error):
            raise
        _log_retry(step, tracer, error)
        reached.try_again()
    return _listed(replace(step, as_on_gpu=True), tracer, reached, Values(values.device))


def _alike(error: Exception, other: Exception) -> bool:
    """Whether two errors are the same, or complain in one place about shapes, each in its own words."""
    from ..sandbox.user_code import about_arguments, user_frames

    if repr(error) == repr(other):
        return True
    places = [[(frame.filename, frame.lineno) for frame in user_frames(one)[-1:]] for one in (error, other)]
    return places[0] == places[1] != [] and about_arguments(error) and about_arguments(other)


def _is_of_fake_tensors(error: Exception) -> bool:
    """Whether an error says what fake tensors cannot do, and nothing about the model."""
    return type(error).__module__ == FakeTensorMode.__module__ or "data is not allocated yet" in str(error)


def _log_retry(step: Step, tracer: str, error: Exception) -> None:
    traceback.clear_frames(error.__traceback__)  # which keep every tensor of the run alive
    reason = str(error).strip().partition("\n")[0]
    LOGGER.debug("%s: not on %s tensors: %s: %s", type(step.model).__name__, tracer, type(error).__name__, reason)


def _can_run_for_real(model: nn.Module) -> bool:
    """Small enough, and with values: zeros in place of what a model computed at birth would mislead."""
    state = [tensor for tensor in (*model.parameters(), *model.buffers()) if not is_lazy(tensor)]
    return sum(tensor.numel() for tensor in state) <= MAX_REAL_PARAMETERS and not any(t.is_meta for t in state)


def _from_few_samples(step: Step, batch_size: int, reached: Reached) -> Listing | None:
    """The step where a whole batch has too many values to compute: by two and four samples on meta tensors."""

    def listed(small: Step, earlier: Listing | None) -> Listing:
        return _listed(small, "meta", reached, Values("meta"), earlier.equal if earlier else frozenset())

    try:
        return _of_two_and_four(step, batch_size, listed)
    except Exception as error:
        _log_retry(step, "few meta", error)
        return None


def _of_two_and_four(step: Step, batch_size: int, listed: Callable[[Step, Listing | None], Listing]) -> Listing | None:
    """The step by those of two and four samples; None if these list other ops, or the batch is as small.

    `listed` gets the step and the listing before.
    """
    if batch_size <= 4 or not leads_with_batch((step.args, step.kwargs), batch_size):
        return None
    two = listed(_with_batch(step, batch_size, 2), None)
    four = listed(_with_batch(step, batch_size, 4), two)
    if [op.name for op in two.recorder.ops] != [op.name for op in four.recorder.ops]:
        return None
    return _extrapolated(two, four, batch_size)


def _with_batch(step: Step, batch_size: int, new: int) -> Step:
    def cut(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch_size:
            return value[:new]
        return value

    args, kwargs = tree_map(cut, (step.args, dict(step.kwargs)))
    return replace(step, args=args, kwargs=kwargs)


def _extrapolated(two: Listing, four: Listing, batch_size: int) -> Listing:
    """What a step of `batch_size` samples lists, from those of two and four: each figure is linear in the batch."""

    def at(a: int, b: int) -> int:
        return a + (b - a) * (batch_size - 2) // 2

    recorder = two.recorder
    made: dict[Any, Op] = {}  # by all but the layers: the dims of copied ops are one object

    def between(a: Op, b: Op) -> Op:
        key = (
            a.name,
            a.kind,
            a.phase,
            a.dtype,
            a.count,
            *((op.flops, op.bytes_read, op.bytes_written, id(op.dims)) for op in (a, b)),
        )
        if key not in made:
            made[key] = replace(
                a,
                flops=at(a.flops, b.flops),
                bytes_read=at(a.bytes_read, b.bytes_read),
                bytes_written=at(a.bytes_written, b.bytes_written),
                dims={name: at(size, b.dims.get(name, size)) for name, size in a.dims.items()},
            )
        return made[key].in_layer(a.layer)

    with without_collection():
        recorder.ops = [between(a, b) for a, b in zip(recorder.ops, four.recorder.ops, strict=True)]
    for path, shape in recorder.output_shapes.items():
        other = four.recorder.output_shapes.get(path, shape)
        if len(other) == len(shape):
            recorder.output_shapes[path] = tuple(at(a, b) for a, b in zip(shape, other, strict=True))
    return replace(two, saved_bytes=at(two.saved_bytes, four.saved_bytes))


def _model_error(step: Step, error: Exception, is_final: bool = False) -> JoulecastError:
    if isinstance(error, JoulecastError):
        return error
    from ..sandbox.user_code import about_arguments, model_error

    if "Expected more than 1 value per channel when training" in str(error):
        fix = "BatchNorm cannot train on one value per channel: give a batch size of 2 or more"
    else:
        fix = step.fix
    made = model_error(error, what=type(step.model).__name__, fix=fix)
    if isinstance(made, ModelError):
        made.is_final = is_final and about_arguments(error)
    return made


# -- one run -------------------------------------------------------------------------------------


def _listed(
    step: Step, tracer: str, reached: Reached, values: Values, known_equal: frozenset[str] = frozenset()
) -> Listing:
    """One run in which equal blocks are traced once; where they turn out to differ, one in full."""
    try:
        return _run(step, tracer, reached, values, known_equal, repeat=True)
    except NotEqualError as error:
        _log_retry(step, "repeated", error)
    in_full = Values(values.device)
    try:
        return _run(step, tracer, reached, in_full)
    finally:
        values.drawn = in_full.drawn


def _run(
    step: Step,
    tracer: str,
    reached: Reached,
    values: Values | None,
    known_equal: frozenset[str] = frozenset(),
    repeat: bool = False,
) -> Listing:
    """One run: forward, loss and backward on stand-ins, with everything put back at the end."""
    recorder = Recorder(step.model, values)
    with ExitStack() as stack:
        stack.enter_context(reached.attempt())
        stack.enter_context(_quiet(tracer))
        # Scripted code keeps a record of its runs, and computes otherwise after some of them.
        stack.enter_context(torch.jit.optimized_execution(False))  # type: ignore[attr-defined]
        step.model.train(step.train)
        if tracer == "fake":
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stand_ins = StandIns(tracer, values)
        state = stand_ins.swapped_in(step.model, reached)
        sizes = SavedBytes(state)
        stack.callback(sizes.release)
        if values is not None:
            values.note_state(state.values())
        args, kwargs = tree_map(stand_ins.of, (step.args, dict(step.kwargs)))
        stack.enter_context(_watched(step, tracer, recorder, values))
        stack.enter_context(_following_backward(recorder, sizes))
        blocks = EqualBlocks(step.model, recorder, sizes, reached, state, step.train, known_equal) if repeat else None
        if blocks is not None:
            stack.callback(blocks.release)
            stack.enter_context(blocks.watching())
        output, loss = _forward(step, args, kwargs, recorder, sizes, blocks)
        sizes.backward_starts()
        if loss is not None:
            recorder.phase = "backward"
            recorder.forward_nodes = torch._C._autograd._get_sequence_nr()
            with recorder:
                loss.backward()
        if blocks is not None:
            blocks.finish()
        # Here, because everything that the model has is put back at the end of the block.
        trained = _trained(state, step.model.updates if isinstance(step.model, TrainingStep) else {})
        has_output = next(differentiable(output), None) is not None
    recorder.values = None  # and with it every tensor of this run
    elements = {id(parameter): stand_ins.of(parameter).numel() for parameter in step.model.parameters()}
    drawn = values.drawn if values else 0
    equal = frozenset(blocks.equal) if blocks is not None else frozenset()
    return Listing(recorder, trained, elements, sizes.most, tracer, has_output, drawn, sizes.was_paused, equal)


@contextmanager
def _watched(step: Step, tracer: str, recorder: Recorder, values: Values | None) -> Iterator[None]:
    """Around forward and backward: the device and modes under which the model's code sees stand-ins only."""
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta" if tracer == "meta" else "cpu"))
        stack.enter_context(recorder.watching_modules())
        stack.enter_context(torch.set_grad_enabled(step.train))
        if tracer != "real":
            stack.enter_context(without_collection())  # stand-ins take no memory, and ops are many objects
            stack.enter_context(_one_thread())
            stack.enter_context(FusedLayers(recorder))
        if values is not None:
            stack.callback(values.put_back)
            stack.enter_context(ReadsValues(values))
        if step.as_on_gpu:
            stack.enter_context(as_on_gpu())
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """Values that stand-ins have are small: on a busy machine, threads that wait for each other take most of the time.

    Finding an expert's tokens took 0.15 ms with one thread, and 4 to 13 ms with two on two busy cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _forward(
    step: Step,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    recorder: Recorder,
    sizes: SavedBytes,
    blocks: EqualBlocks | None,
) -> tuple[Any, torch.Tensor | None]:
    """The model's output and its loss; no loss in inference, and where the model ran its own backward pass."""
    with ExitStack() as stack:
        stack.enter_context(recorder)
        if step.precision in ("bfloat16", "float16"):
            stack.enter_context(torch.autocast("cpu", dtype=PRECISIONS[step.precision]))
        if step.train:
            stack.enter_context(sizes.counting())
        if blocks is not None:
            blocks.forward_starts()
        output = step.model(*args, **kwargs)
        if blocks is not None:
            blocks.forward_ends()
        if not step.train or (recorder.ran_backward and isinstance(step.model, TrainingStep)):
            return output, None
        return output, training_loss(step.loss, output, (args, kwargs))


@contextmanager
def _following_backward(recorder: Recorder, sizes: SavedBytes) -> Iterator[None]:
    """Code that runs again in backward sees the function modes of the forward; a backward that the model runs is one.

    torch switches a mode off while the mode handles a call, and the whole of `backward` is one such call.
    """
    autograd: Any = torch.autograd
    run, thread = autograd._engine_run_backward, threading.get_ident()
    modes = _get_current_function_mode_stack()

    def run_with_modes(*args: Any, **kwargs: Any) -> Any:
        missing = modes[len(_get_current_function_mode_stack()) :] if threading.get_ident() == thread else []
        for mode in missing:
            _push_mode(mode)
        of_model = kwargs.get("accumulate_grad") and recorder.phase == "forward"
        if of_model:
            sizes.backward_starts()
        try:
            with recorder.own_backward() if of_model else nullcontext():
                return run(*args, **kwargs)
        finally:
            for _ in missing:
                _pop_mode()

    autograd._engine_run_backward = run_with_modes
    try:
        yield
    finally:
        autograd._engine_run_backward = run


@contextmanager
def _quiet(tracer: str) -> Iterator[None]:
    """No warnings, and nothing in a log about what fails on fake tensors and is tried again with real ones."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")
        if tracer == "fake":
            logger.setLevel(sys.maxsize)
        try:
            yield
        finally:
            logger.setLevel(level)


def _trained(state: Mapping[str, torch.Tensor], updates: Mapping[str, Update]) -> tuple[Trained, ...]:
    """The parameters with a gradient; where the model runs its optimizers itself, those that they update."""
    first_names: dict[int, tuple[str, torch.Tensor]] = {}
    for path, tensor in state.items():
        first_names.setdefault(id(tensor), (path, tensor))  # tied ones by their first name
    found = []
    for path, tensor in first_names.values():
        update = updates.get(path)
        if update is None and (updates or not tensor.requires_grad or tensor.grad is None):
            continue
        elements = numel(tensor.grad) if update is None else update.elements  # of a sparse gradient, its rows alone
        dtype, shape = dtype_name(tensor.dtype), tuple(tensor.shape)
        count = 1 if update is None else update.count
        found.append(Trained(path, elements, tensor.element_size(), dtype, shape, count))
    return tuple(found)


def is_lazy(tensor: torch.Tensor) -> bool:
    """True for a parameter that has no shape before the model's first call."""
    return isinstance(tensor, (UninitializedParameter, UninitializedBuffer))


class StandIns:
    """From a tensor to what stands for it; the same one each time it is asked.

    `tracer` is "meta", "fake" or "real", or "zeros": real, with zeros for parameters, which costs no memory.
    """

    def __init__(self, tracer: str, values: Values | None = None) -> None:
        self._values = values
        self._tracer, self._device = tracer, "meta" if tracer == "meta" else "cpu"
        self._made: dict[int, torch.Tensor] = {}
        self._originals: list[torch.Tensor] = []  # alive as long as their ids are used

    def of(self, value: Any) -> Any:
        """A stand-in for a tensor; everything else is returned as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._made:
            self._originals.append(value)
            stand_in = self._made[id(value)] = self._make(value)
            self._made[id(stand_in)] = stand_in  # which a container of the user's may hold in the meantime
        return self._made[id(value)]

    def swapped_in(self, model: nn.Module, reached: Reached) -> dict[str, torch.Tensor]:
        """Parameters and buffers of `model` by path, all of them replaced by stand-ins, with what else is reached."""
        state: dict[str, torch.Tensor] = {}
        for prefix, module in model.named_modules():
            at = f"{prefix}." if prefix else ""
            for own in (module._parameters, module._buffers):
                for name, tensor in list(own.items()):
                    if tensor is None:
                        continue
                    state[at + name] = own[name] = self.of(tensor)
                    if not isinstance(own, dict):  # of a scripted module: a view, which no record holds
                        reached.undo(functools.partial(own.__setitem__, name, tensor))
        for tensor in reached.tensors.values():
            self.of(tensor)
        reached.swap(self._made)
        return state

    def _make(self, tensor: torch.Tensor) -> torch.Tensor:
        if is_lazy(tensor):
            lazy: Any = type(tensor)
            options = {"requires_grad": tensor.requires_grad} if lazy is UninitializedParameter else {}
            return lazy(device=self._device, dtype=tensor.dtype, **options)  # type: ignore[no-any-return]
        stand_in = self._real(tensor) if self._tracer in ("real", "zeros") else self._empty(tensor)
        if isinstance(tensor, nn.Parameter):
            stand_in = nn.Parameter(stand_in, requires_grad=tensor.requires_grad)
            stand_in.__dict__.update(tensor.__dict__)
        elif tensor.is_leaf and tensor.requires_grad:
            stand_in.requires_grad_()
        if self._values is not None:
            self._values.know(stand_in, tensor)
        return stand_in

    def _empty(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout is not torch.strided:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._device)

    def _real(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the CPU; what is on the meta device may have any value, and so may parameters on "zeros"."""
        if tensor.is_meta or (self._tracer == "zeros" and isinstance(tensor, nn.Parameter)):
            return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
        there = tensor.detach().to("cpu")
        size = sum(storage.nbytes() for storage in storages_of(there))
        return there.clone() if isinstance(tensor, nn.Parameter) or size <= _MAX_COPIED_BYTES else there
