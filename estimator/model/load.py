"""From `--model` to a model: a file, a package's callable, or a Hugging Face config; no weights."""

from __future__ import annotations

import contextlib
import importlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import JoulecastError
from ..base.suggest import near
from ..sandbox.importing import UserImports
from ..sandbox.user_code import time_limit, user_code
from .builders import build, choose, named, parse_args
from .keras_bridge import is_keras_target

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".onnx", ".pkl", ".h5", ".keras")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# Code that asks about the meta device would build another network there.
_ASKS_FOR_META = re.compile(r"""\bis_meta\b|["']meta["']""")
_USAGE = "give FILE.py, FILE.py:name, package.module:callable or a Hugging Face config.json"
_FIX = "correct the model, or what it is built with (`model_args`)"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model as `--model` named it, on the meta device wherever it can be built there.

    `framework` is "pytorch", or "keras" with `model` None: Keras is read in a process of its own.
    `example_inputs` is what the file defines under that name, a value or a function, else None.
    `device` is "meta" or "cpu"; `source` says where the model came from.
    """

    spec: str
    name: str
    framework: str
    source: str
    model: nn.Module | None
    example_inputs: Any = None
    device: str = "meta"
    _imports: UserImports | None = field(default=None, repr=False)
    _on_cpu: Callable[[], LoadedModel] | None = field(default=None, repr=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around calls into the model: its modules can be imported, prints and errors are taken care of."""
        with self._imports.active() if self._imports else contextlib.nullcontext(), user_code(self.name):
            yield

    def on_cpu(self) -> LoadedModel:
        """The same model built again with real tensors, for a trace that must know values.

        Raises ModelError as `load_model` does.
        """
        return self if self._on_cpu is None else self._on_cpu()


@dataclass(frozen=True, slots=True)
class _Target:
    kind: str  # "file", "package" or "config"
    path: Path = Path()
    module: str = ""
    name: str = ""  # of the callable in it, "" to choose

    @property
    def label(self) -> str:
        if self.kind == "package":
            return f"{self.module}:{self.name}"
        return f"{self.path.name}:{self.name}" if self.name else self.path.name


def load_model(
    spec: str,
    *,
    args: Mapping[str, str] | None = None,
    time_limit_s: float = 60,
    num_classes: int | None = None,
) -> LoadedModel:
    """The model that `spec` names, with no weights: built on the meta device, else on the CPU.

    Parameters
    ----------
    spec:
        `FILE.py`, `FILE.py:name`, `package.module:callable`, or a Hugging Face `config.json` (or the
        folder that holds it). In a file without a name: `model`, `build_model`, `get_model`, else the
        one model class that builds without arguments and is no part of another.
    args:
        Arguments of the callable, or settings of the config, as text; literals are parsed.
    num_classes:
        Passed on to a callable that takes `num_classes`, unless `args` says otherwise.

    Module-level code of a file runs twice where the model cannot be built on the meta device. Raises
    ModelError for errors of the model's own code and for code that runs longer than `time_limit_s`,
    JoulecastError for a spec or arguments that cannot be used.
    """
    target = _parse_spec(spec)
    import torch  # noqa: F401  # takes seconds that are not the model's: before the time limit

    values = parse_args(args or {})

    def attempt(device: str) -> LoadedModel:
        with _on_device(device):
            return _build(spec, target, values, num_classes, device)

    def on_cpu() -> LoadedModel:
        with time_limit(time_limit_s, f"loading {target.label}"), user_code(target.label, fix=_FIX):
            return attempt("cpu")

    with time_limit(time_limit_s, f"loading {target.label}"), user_code(target.label, fix=_FIX):
        if target.kind != "config" and is_keras_target(spec):
            return LoadedModel(spec, _display_name(target, values), "keras", spec, None)
        loaded = _on_meta(attempt) if _allows_meta(target) else None
        loaded = loaded or attempt("cpu")
    return replace(loaded, _on_cpu=on_cpu) if loaded.device == "meta" else loaded


def _on_meta(attempt: Callable[[str], LoadedModel]) -> LoadedModel | None:
    """The model on the meta device, or None where anything speaks against it: the CPU then has the word."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attempt("meta")
    except (SyntaxError, ModuleNotFoundError):
        raise
    except Exception:
        return None


# -- what the text names -------------------------------------------------------------------------


def _parse_spec(spec: str) -> _Target:
    """Raises JoulecastError with what was given and what would do."""
    if not spec.strip():
        raise JoulecastError(f"no model is named; {_USAGE}")
    before, colon, name = spec.rpartition(":")
    if colon and before.endswith(".py"):
        if not _DOTTED.fullmatch(name):
            raise JoulecastError(f"{name!r} in {spec} is not a name in a Python file; give FILE.py:name")
        return _Target("file", _existing(Path(before)), name=name)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _Target("config", _config_in(path))
    if spec.endswith(".py"):
        return _Target("file", _existing(path))
    if spec.endswith(".json"):
        return _Target("config", _existing(path))
    if colon and _DOTTED.fullmatch(before) and _DOTTED.fullmatch(name):
        return _Target("package", module=before, name=name)
    raise JoulecastError(_not_a_spec(spec, path))


def _existing(path: Path) -> Path:
    path = path.expanduser()
    if path.is_dir():
        raise JoulecastError(f"{path} is a folder; give a FILE.py")
    if path.is_file():
        return path
    folder = path.parent
    if not folder.is_dir():
        raise JoulecastError(f"there is no file {path}: no folder {folder}; check the path")
    names = [entry.name for entry in folder.iterdir() if entry.suffix == path.suffix]
    raise JoulecastError(f"there is no file {path}{near(path.name, names) or '; check the path'}")


def _config_in(folder: Path) -> Path:
    config = folder / "config.json"
    if config.is_file():
        return config
    files = sorted(entry.name for entry in folder.glob("*.py"))[:8]
    hint = f"name a file in it: {', '.join(files)}" if files else "give a FILE.py"
    raise JoulecastError(f"{folder} is a folder without a config.json; {hint}")


def _not_a_spec(spec: str, path: Path) -> str:
    if path.suffix in _WEIGHTS:
        return f"{spec} holds weights, which are not read; give the FILE.py that builds the model"
    if path.exists():
        return f"{spec} is not a .py file; {_USAGE}"
    if path.with_name(path.name + ".py").is_file():
        return f"there is no file {spec}; did you mean {spec}.py?"
    if _DOTTED.fullmatch(spec) and "." in spec:
        return f"{spec} names no callable; did you mean {':'.join(spec.rsplit('.', 1))}?"
    return f"{spec!r} is neither a file nor package.module:callable; {_USAGE}"


# -- building ------------------------------------------------------------------------------------


def _build(spec: str, target: _Target, values: dict[str, Any], num_classes: int | None, device: str) -> LoadedModel:
    """One attempt, the user's modules imported afresh. Errors of the user's code are raised as they are."""
    imports: UserImports | None = None
    example_inputs = None
    with contextlib.ExitStack() as stack:
        if target.kind == "config":
            from .hub import from_config_file

            model, name = from_config_file(target.path, values, num_classes), ""
        else:
            imports = _imports(target)
            stack.enter_context(imports.active())
            package = target.kind == "package"
            module = importlib.import_module(target.module) if package else imports.import_file(target.path)
            name, value = _pick(module, target, values)
            label = target.label if package else f"{target.path.name}:{name}"
            model = build(value, label, values, num_classes)
            example_inputs = vars(module).get("example_inputs")
    if device == "meta":
        _all_to_meta(model)
    return LoadedModel(
        spec=spec,
        name=_display_name(target, values) or type(model).__name__,
        framework="pytorch",
        source=f"{target.path}:{name}".removesuffix(":") if target.kind != "package" else target.label,
        model=model,
        example_inputs=example_inputs,
        device=device,
        _imports=imports,
    )


def _imports(target: _Target) -> UserImports:
    """Beside a file its neighbours come first, as for a script; for a package this folder comes last."""
    if target.kind == "file":
        return UserImports([target.path.resolve().parent], own_name=target.path.stem)
    return UserImports([Path.cwd()], before_installed=False)


def _pick(module: Any, target: _Target, values: Mapping[str, Any]) -> tuple[str, Any]:
    label = target.module or target.path.name
    if target.name:
        return target.name, named(module, target.name, label)
    return choose(module, label, values)


def _display_name(target: _Target, values: Mapping[str, Any]) -> str:
    if target.kind == "config":
        return ""
    if target.kind == "file":
        return f"{target.path.stem}:{target.name}" if target.name else target.path.stem
    return str(values.get("model_name", values.get("name", target.name)))


def _allows_meta(target: _Target) -> bool:
    return target.kind != "file" or not _ASKS_FOR_META.search(target.path.read_text("utf-8", "replace"))


def _all_to_meta(model: nn.Module) -> None:
    """Moves what the code put elsewhere (`torch.from_numpy`) to the meta device; tied tensors stay tied."""
    from torch import nn

    moved: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not parameter.is_meta:
                twin = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved.setdefault(id(parameter), twin)
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = moved.setdefault(id(buffer), buffer.to("meta"))


@contextlib.contextmanager
def _on_device(device: str) -> Iterator[None]:
    """New tensors lie on `device`; torch's global settings that a model file may change are put back."""
    import torch

    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    with torch.device(device):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(grad)
            if torch.get_default_device() != torch.device(device):  # the file's own, which covers ours
                torch.set_default_device(None)
