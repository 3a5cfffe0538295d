"""From the text of `--model` to a model: a file, a package's callable or a Hugging Face config; no weights."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError, NoModelError
from ..sandbox.importing import UserImports
from ..sandbox.source import has_main_block, python_source
from ..sandbox.time_limit import time_limit
from ..sandbox.training_stop import TrainingStarted, training_stopped
from ..sandbox.user_code import user_code
from .builders import build, choose, named, parse_args
from .interrupted import Training, models_in_frames, stopped_training, where_it_trains, whole_step
from .keras_target import is_keras_target
from .loss import file_loss, named_loss
from .spec import Target, parse_spec

if TYPE_CHECKING:
    from torch import nn


_log = logging.getLogger(__name__)

# Code that asks about the meta device would build another network there.
_ASKS_FOR_META = re.compile(r"""\bis_meta\b|["']meta["']""")
_FIX = "correct the model, or what it is built with (`model_args`)"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as `--model` names it, on the meta device wherever it can be built there.

    `framework` is "pytorch", or "keras" with `model` None: `on_cpu` builds it, where Keras runs on torch.
    `example_inputs` is what the file defines under that name, a value or a function, else None; `loss` is the one that
    was asked for (`loss_asked`), otherwise the file's. `training` is the one that was stopped in the file.
    `device` is "meta" or "cpu"; `source` says where the model came from; `notes` what was assumed.
    """

    spec: str
    name: str
    framework: str
    source: str
    model: nn.Module | None
    example_inputs: Any = None
    loss: Callable[..., Any] | None = None
    loss_asked: bool = False
    training: Training | None = None
    device: str = "meta"
    notes: tuple[str, ...] = ()
    processor: Mapping[str, Any] = field(default_factory=dict)  # of a config's folder: image sizes, audio frames
    _imports: UserImports | None = field(default=None, repr=False)
    _on_cpu: Callable[[], LoadedModel] | None = field(default=None, repr=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A context for calls into the model: its modules can be imported, and it runs without a GPU."""
        from ..sandbox.redirect import redirected

        imports = self._imports.active() if self._imports else contextlib.nullcontext()
        with imports, user_code(self.name), redirected():
            yield

    def on_cpu(self) -> LoadedModel:
        """The same model built again with real tensors, for a trace that needs values.

        Raises ModelError as `load_model` does.
        """
        return self if self._on_cpu is None else self._on_cpu()


def load_model(
    spec: str,
    *,
    args: Mapping[str, str] | None = None,
    time_limit_s: float = 60,
    num_classes: int | None = None,
    loss: str | None = None,
) -> LoadedModel:
    """The model that `spec` names, with no weights: built on the meta device if possible, otherwise on the CPU.

    Parameters
    ----------
    spec:
        `FILE.py` or `FILE.ipynb`, `FILE.py:name`, `FILE.py:__main__` for what it does as a script, `FILE.py ARGUMENTS`,
        `package.module:callable`, a Hugging Face `config.json` (or its folder), or `hf:ORGANISATION/NAME[@REVISION]`
        for the config of a repository on the hub. In a file without a name: the model of a training that the file
        starts, else `model`, `build_model`, `get_model`, otherwise the one model class that builds without arguments
        and is not part of another, otherwise the one variable that holds a model, otherwise that of a training under
        `if __name__ == "__main__":`. A named function that trains is stopped in the same way.
    args:
        Arguments of the callable, or settings of the config, as text; literals are parsed.
    num_classes:
        Passed on to a callable that takes `num_classes`, unless `args` says otherwise.
    loss:
        The text that `--loss` takes; the default is `loss` of the model's file, if that is a function.

    Module-level code of a file runs twice where the model cannot be built on the meta device. Code that runs longer
    than `time_limit_s` ends a process that reads user code (`time_limit`). Raises ModelError for errors of the
    model's own code, JoulecastError for a spec or arguments that cannot be used.
    """
    target = parse_spec(spec)
    if target.kind == "hub":
        from .hub import fetch_config

        target = replace(target, kind="config", path=fetch_config(target.module))
    import torch  # noqa: F401  # takes seconds that are not the model's: before the time limit

    values = parse_args(args or {})

    def attempt(device: str) -> LoadedModel:
        with _on_device(device):
            return _build(spec, target, values, num_classes, device, loss)

    def on_cpu() -> LoadedModel:
        with time_limit(time_limit_s, f"loading {target.label}"), user_code(target.label):
            return attempt("cpu")

    with time_limit(time_limit_s, f"loading {target.label}"), user_code(target.label):
        if target.kind != "config" and is_keras_target(target.code):
            if target.arguments:
                raise JoulecastError(f"{target.label} is a Keras script: it gets no arguments; name its model")
            return LoadedModel(spec, _display_name(target, values), "keras", spec, None, _on_cpu=on_cpu)
        loaded = _on_meta(attempt, is_installed=target.kind != "file") if _allows_meta(target) else None
        loaded = loaded or attempt("cpu")
    return replace(loaded, _on_cpu=on_cpu) if loaded.device == "meta" else loaded


def _on_meta(attempt: Callable[[str], LoadedModel], *, is_installed: bool) -> LoadedModel | None:
    """The model on the meta device, or None where it cannot be built there: the CPU is tried next.

    An error of an installed class that fake tensors on the CPU raise too is raised: real weights would not avoid it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt("meta")
    except (SyntaxError, ModuleNotFoundError):
        raise
    except Exception as error:
        if is_installed and _fails_alike(attempt, error):
            raise
        _log.debug("not built on the meta device, so built on the CPU: %s: %s", type(error).__name__, error)
        return None


def _fails_alike(attempt: Callable[[str], LoadedModel], error: Exception) -> bool:
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with warnings.catch_warnings(), FakeTensorMode():
            warnings.simplefilter("ignore")
            attempt("cpu")
    except Exception as on_fake:
        return repr(on_fake) == repr(error)
    return False


# -- building ------------------------------------------------------------------------------------


def _build(
    spec: str, target: Target, values: dict[str, Any], num_classes: int | None, device: str, loss: str | None
) -> LoadedModel:
    """One attempt, with the user's modules imported again. Errors of the user's code are raised as they are."""
    imports: UserImports | None = None
    example_inputs = own_loss = module = training = None
    notes: list[str] = []
    processor: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if target.kind == "config":
            from .hub import from_config_file, processor_beside

            processor = processor_beside(target.path)
            model, name = from_config_file(target.path, values, num_classes, notes), ""
        else:
            from ..sandbox.redirect import redirected, unwrapped

            imports = _imports(target)
            stack.enter_context(imports.active())
            stack.enter_context(redirected())
            stack.enter_context(training_stopped())
            module, stop = _import(target, imports)
            try:
                name, model, training = _model_of(module, stop, target, values, num_classes, notes)
            except NoModelError:
                if target.as_script or target.kind == "package" or not has_main_block(target.path):
                    raise
                module, stop = _import(target := replace(target, as_script=True), imports)
                name, model, training = _model_of(module, stop, target, values, num_classes, notes)
            model = unwrapped(model)
            example_inputs, own_loss = vars(module).get("example_inputs"), file_loss(module)
        if loss is not None:
            own_loss = _named_loss(loss, imports, module)
    if device == "meta":
        _all_to_meta(model)
        if training is not None and training.with_others is not None:
            _all_to_meta(training.with_others.model)
    return LoadedModel(
        spec=spec,
        name=_display_name(target, values) or type(model).__name__,
        framework="pytorch",
        source=f"{target.path}:{name}".removesuffix(":") if target.kind != "package" else target.label,
        model=model,
        example_inputs=example_inputs,
        loss=own_loss,
        loss_asked=loss is not None,
        training=training,
        device=device,
        notes=tuple(notes),
        processor=processor,
        _imports=imports,
    )


def _model_of(
    module: Any,
    stop: TrainingStarted | None,
    target: Target,
    values: Mapping[str, Any],
    num_classes: int | None,
    notes: list[str],
) -> tuple[str, nn.Module, Training | None]:
    """The name in `module` and the model that it builds, or the one of a training that was stopped there."""
    training = None if stop is None or target.name else stopped_training(stop) or whole_step(stop)
    name, value = (training.name, training.model) if training else _pick(module, target, values, stop)
    label = target.label if target.kind == "package" else f"{target.path.name}:{name}"
    read = name
    with user_code(label, fix=_FIX):
        try:
            model = build(value, label, values, num_classes, notes)
        except TrainingStarted as while_built:
            stop, training = while_built, stopped_training(while_built) or whole_step(while_built)
            if training is None:
                raise JoulecastError(
                    f"{where_it_trains(stop, label)} while it builds the model; name a function that only builds it"
                ) from None
            model, read = training.model, training.name
    if stop is not None:
        as_then = "are read as they were then" if training and training.loops else "is read as it was then"
        notes.append(f"{where_it_trains(stop, label)}: it was stopped there, and {read} {as_then}")
        if stop.problem:
            notes.append(f"the first batch of the training was not read ({stop.problem}): its shapes are not used")
        if stop.accumulated > 1:
            notes.append(
                f"the training updates once in {stop.accumulated} batches: `accumulate` {stop.accumulated} says so"
            )
    return name, model, training


def _named_loss(text: str, imports: UserImports | None, module: Any) -> Callable[..., Any]:
    with contextlib.ExitStack() as stack, user_code(f"`loss` {text}"):
        if imports is None:
            imports = UserImports([Path.cwd()], before_installed=False)
            stack.enter_context(imports.active())
        return named_loss(text, imports, module)


def _imports(target: Target) -> UserImports:
    """For a file, its own folder comes first, as for a script; for a package, this folder comes last."""
    if target.kind == "file":
        return UserImports([target.path.resolve().parent], file=target.path, arguments=target.arguments)
    return UserImports([Path.cwd()], before_installed=False)


def _import(target: Target, imports: UserImports) -> tuple[Any, TrainingStarted | None]:
    """The module, and the start of a training if its import was stopped there."""
    try:
        if target.kind == "package":
            return importlib.import_module(target.module), None
        return imports.import_file(target.path, as_main=target.as_script), None
    except TrainingStarted as stop:
        if stop.module is None:
            raise JoulecastError(f"{where_it_trains(stop, target.label)} on import; name another file") from None
        return stop.module, stop


def _pick(module: Any, target: Target, values: Mapping[str, Any], stop: TrainingStarted | None) -> tuple[str, Any]:
    label = target.module or target.path.name
    try:
        if target.name:
            return target.name, named(module, target.name, label)
        return choose(module, label, values)
    except JoulecastError as error:
        if stop is None:
            raise
        if len(together := models_in_frames(stop)) > 1:
            raise JoulecastError(
                f"{where_it_trains(stop, label)} of {' and '.join(together)}; name the class of one, "
                "or of a module whose training_step(batch) trains them all"
            ) from None
        raise JoulecastError(
            f"{where_it_trains(stop, label)} and was stopped there ({error}); "
            'put the training under `if __name__ == "__main__":`'
        ) from None


def _display_name(target: Target, values: Mapping[str, Any]) -> str:
    if target.kind == "config":
        return ""
    if target.kind == "file":
        return f"{target.path.stem}:{target.name}" if target.name else target.path.stem
    return str(values.get("model_name", values.get("name", target.name)))


def _allows_meta(target: Target) -> bool:
    return target.kind != "file" or not _ASKS_FOR_META.search(python_source(target.path).decode("utf-8", "replace"))


def _all_to_meta(model: nn.Module) -> None:
    """Moves tensors that the code made elsewhere (`torch.from_numpy`) to the meta device; tied tensors stay tied."""
    from torch import nn

    moved: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta:
                twin = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved.setdefault(id(parameter), twin)
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta and buffer.dim():  # single numbers keep their values
                module._buffers[name] = moved.setdefault(id(buffer), buffer.to("meta"))


@contextlib.contextmanager
def _on_device(device: str) -> Iterator[None]:
    """New tensors are made on `device`; torch's global settings that a model file may change are restored."""
    import torch

    from ..trace.values import RealNumbers

    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    with torch.device(device), RealNumbers() if device == "meta" else contextlib.nullcontext():
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            if torch.get_default_device() != torch.device(device):  # the file's own, which covers ours
                torch.set_default_device(None)
