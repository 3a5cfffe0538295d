"""From `--model` to a workload, in this process: load, find inputs, trace. `reader.py` does so in another process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError, ModelError, UndeclaredInputsError
from ..trace.workload import Workload
from .adapt import Lora, adapt
from .input_spec import InputSpec
from .presets import DatasetPreset

if TYPE_CHECKING:
    from torch import nn

    from .inputs import ModelInputs
    from .load import LoadedModel

_SPARE_TOKENS = 4  # what models add to a text


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How a model is read: the same for every `--model` of a command."""

    args: Mapping[str, str] = field(default_factory=dict)
    specs: Sequence[InputSpec] = ()
    preset: DatasetPreset | None = None
    sequence_length: int | None = None
    batch_size: int = 32
    own_batch: bool = False  # a script's batch in place of `batch_size`, which nobody stated
    train: bool = True
    optimizer: str = "sgd"
    own_optimizer: bool = False  # that of a training in place of `optimizer`, which nobody stated
    loss: str | None = None
    precision: str | None = None
    half_weights: bool = False  # weights are in the 16 bits of `precision`, as training stacks keep them
    accumulate: int = 1
    layers: bool = False
    time_limit_s: float = 60.0
    lora: Lora | None = None
    freeze: Sequence[str] = ()
    checkpointing: bool = False
    clip_gradients: bool = False
    ema: bool = False

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TraceOptions:
        """The options of which `document` is `asdict`."""
        specs, preset, lora = (document[name] for name in ("specs", "preset", "lora"))
        own = {
            "specs": tuple(InputSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in specs),
            "preset": preset and DatasetPreset(**{**preset, "input_shape": tuple(preset["input_shape"])}),
            "lora": lora and Lora(lora["rank"], tuple(lora["targets"])),
        }
        return cls(**{**document, **own})


def read_model(spec: str, options: TraceOptions) -> Workload:
    """One step of the model that `spec` names.

    `options.batch_size` is that of one micro-batch. Raises what `load_model`, `model_inputs`, `read_keras` and
    `trace` raise. Time limits apply as `time_limit` says.
    """
    from ..trace.step import MAX_REAL_PARAMETERS
    from .load import load_model

    classes = options.preset.classes if options.preset else None
    loaded = load_model(
        spec, args=options.args, time_limit_s=options.time_limit_s, num_classes=classes, loss=options.loss
    )
    if loaded.framework == "keras":
        if unused := _not_for_keras(options):
            raise JoulecastError(f"`{unused}` is not available for Keras models; leave it out")
        from .keras_read import read_keras

        return read_keras(loaded, options)
    try:
        return _trace(loaded, options)
    except UndeclaredInputsError:
        if (work := _as_script(spec, options)) is None:
            raise
        return work
    except ModelError as error:
        if shorter := _shorter(loaded, options, error):
            return shorter
        if loaded.device != "meta" or error.is_final or _parameters(loaded) > MAX_REAL_PARAMETERS:
            raise
        # The model may need values, which meta tensors do not have: trace it again with real tensors.
        return _trace(loaded.on_cpu(), options)


def _as_script(spec: str, options: TraceOptions) -> Workload | None:
    """The training that a file without inputs starts as a script, which has a batch; None where it has none."""
    from ..sandbox.source import has_main_block
    from .spec import parse_spec

    target = parse_spec(spec)
    if target.kind != "file" or target.name or target.as_script or not has_main_block(target.path):
        return None
    with contextlib.suppress(JoulecastError):
        return read_model(f"{spec}:__main__", options)
    return None


def _shorter(loaded: LoadedModel, options: TraceOptions, error: ModelError) -> Workload | None:
    """With a few tokens fewer than the config's longest text: some models add their own."""
    from .config_inputs import longest_text

    asked = options.specs or options.preset or options.lora or options.sequence_length is not None
    if asked or not error.is_final or loaded.example_inputs is not None:
        return None
    longest = longest_text(loaded.model)
    if longest is None or longest <= _SPARE_TOKENS:
        return None
    tokens = longest - _SPARE_TOKENS
    try:
        work = _trace(loaded, replace(options, sequence_length=tokens))
    except ModelError:
        return None
    note = f"{tokens} tokens a sample: the model does not take the {longest} that its config allows"
    return replace(work, warnings=(*work.warnings, note))


def _not_for_keras(options: TraceOptions) -> str:
    asked = {
        "loss": options.loss is not None,
        "lora": options.lora is not None,
        "freeze": bool(options.freeze),
        "activation_checkpointing": options.checkpointing,
        "clip_gradients": options.clip_gradients,
        "ema": options.ema,
    }
    return next((name for name, is_asked in asked.items() if is_asked), "")


def _parameters(loaded: LoadedModel) -> int:
    assert loaded.model is not None
    return sum(parameter.numel() for parameter in loaded.model.parameters())


def _trace(loaded: LoadedModel, options: TraceOptions) -> Workload:
    import torch

    from ..sandbox.time_limit import time_limit
    from ..sandbox.user_code import user_code
    from ..trace.script_step import ScriptStep
    from ..trace.targets import with_targets
    from ..trace.trace import half_of, trace
    from ..trace.training_step import has_training_step
    from .config_faults import config_fault
    from .inputs import ModelInputs, describe_inputs
    from .script import read_script, read_with_others

    assert loaded.model is not None
    is_script = isinstance(loaded.model, ScriptStep)
    if is_script and (options.specs or not options.train or loaded.loss_asked):
        option = "inputs" if options.specs else "loss" if loaded.loss_asked else "train"
        raise JoulecastError(f"`{option}` is not available for a script that trains several models; leave it out")
    inputs = ModelInputs((), {}, "script") if is_script else _inputs(loaded, options)
    precision = options.precision or (loaded.training.precision if loaded.training else None)
    own = _names(loaded.training.optimizers) if options.own_optimizer and loaded.training else set()
    optimizer = min(own) if len(own) == 1 else options.optimizer
    half = half_of(precision) if options.half_weights and not is_script else None
    fix = config_fault(getattr(loaded.model, "config", None)) or describe_inputs(inputs.args, inputs.kwargs)
    with (
        time_limit(options.time_limit_s, f"tracing {loaded.name}"),
        loaded.running(),
        user_code(loaded.name, fix=fix),
    ):
        with torch.device(loaded.device):
            notes = adapt(loaded.model, lora=options.lora, freeze=options.freeze, checkpointing=options.checkpointing)
            if half is not None:
                loaded.model.to(half)
        read = functools.partial(
            trace,
            train=options.train,
            optimizer=optimizer,
            precision=precision,
            accumulate=options.accumulate,
            name=loaded.name,
            layers=options.layers,
            clip_gradients=options.clip_gradients,
            ema=options.ema,
            fix=fix,
        )
        if half is not None:
            read = functools.partial(_with_half_weights, read, precision)
        batch_size = None if options.own_batch else options.batch_size
        together: Workload | None = None
        whole = loaded.training if is_script or loaded.training is None else loaded.training.with_others
        # The script has its own autocast, apart from that of its trainer.
        as_written = functools.partial(read, precision=options.precision or (whole.precision if whole else None))
        if options.train and not (options.specs or options.preset or loaded.loss_asked):
            together, problem = read_with_others(as_written, loaded, batch_size)
            notes = (*notes, *[problem] * bool(problem))
        if is_script:
            work = read_script(as_written, loaded, batch_size)
        elif together is not None:
            work, inputs = together, ModelInputs((), {}, "script")
        elif options.train and has_training_step(loaded.model) and not loaded.loss_asked:
            work = _trace_training_step(read, loaded.model, inputs, options)
        else:
            kwargs = dict(inputs.kwargs)
            if options.train and loaded.loss is None and not inputs.are_whole:
                kwargs, about_targets = with_targets(loaded.model, inputs.args, kwargs)
                notes = (*notes, *about_targets)
            work = read(loaded.model, (inputs.args, kwargs), batch_size=inputs.batch_size, loss=loaded.loss)
    if loaded.training is not None:
        if precision != options.precision:
            notes = (*notes, f"{loaded.name} trains under autocast in {precision}")
        notes = (*notes, *_other_optimizers(loaded.training.optimizers, work.optimizer, loaded.name))
    loading = loaded.training.loading if loaded.training else None
    return replace(
        work,
        warnings=(*work.warnings, *inputs.notes, *loaded.notes, *notes),
        samples_per_epoch=loading.samples if loading else None,
    )


def _with_half_weights(read: Callable[..., Workload], precision: str | None, *args: Any, **kwargs: Any) -> Workload:
    """What `read` finds in a model with weights in 16 bits; under autocast only where inputs or its code need it."""
    from ..trace.batch import tensors_in
    from ..trace.fp8 import FP8, as_fp8

    under_autocast = functools.partial(read, *args, **{**kwargs, "precision": precision})
    if any(tensor.is_floating_point() for tensor in tensors_in(args[1:])):
        return under_autocast()
    try:
        work = read(*args, **{**kwargs, "precision": None})
    except ModelError:
        return under_autocast()
    return as_fp8(work) if precision in ("fp8", FP8) else work


def _inputs(loaded: LoadedModel, options: TraceOptions) -> ModelInputs:
    from .inputs import model_inputs

    return model_inputs(
        loaded,
        options.batch_size,
        own_batch=options.own_batch,
        specs=options.specs,
        preset=options.preset,
        sequence_length=options.sequence_length,
    )


def _trace_training_step(
    read: Callable[..., Workload], model: nn.Module, inputs: ModelInputs, options: TraceOptions
) -> Workload:
    """The training step of a LightningModule on the first form of a batch that it takes, otherwise its forward."""
    from ..trace.training_step import TrainingStep, configured, possible_batches, step_loss

    first: JoulecastError | None = None
    optimizers = configured(model)
    if options.own_optimizer and len(own := _names(optimizers)) == 1:
        read = functools.partial(read, optimizer=min(own))
    batch_size = inputs.batch_size or options.batch_size
    for batch in possible_batches(inputs.args, inputs.kwargs, batch_size):
        try:
            work = read(TrainingStep(model), ((batch,), {}), loss=step_loss, batch_size=batch_size)
            notes = _other_optimizers(optimizers, work.optimizer, "configure_optimizers")
            return replace(work, warnings=(*work.warnings, *notes))
        except JoulecastError as error:
            first = first or error
    try:
        work = read(model, (inputs.args, dict(inputs.kwargs)), batch_size=inputs.batch_size)
    except JoulecastError:
        raise ModelError(
            f"training_step cannot be traced ({first}); define example_inputs(batch_size) that returns its batch"
        ) from first
    return replace(work, warnings=(*work.warnings, f"forward was traced in place of training_step ({first})"))


def _other_optimizers(own: Iterable[Any], priced: str | None, place: str) -> list[str]:
    """A note where the optimizers that `place` makes are not the one whose update is priced."""
    names = _names(own)
    if not names or priced is None or names == {priced}:
        return []
    return [
        f"{place} has {' and '.join(sorted(names))}, the update is costed as {priced}: give `optimizer` {min(names)}"
    ]


def _names(optimizers: Iterable[Any]) -> set[str]:
    from ..trace.optimizers import optimizer_of

    return {optimizer_of(optimizer) for optimizer in optimizers}
