"""What the text of `--model` names: a file, a script with its arguments, a package's callable or a config."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import JoulecastError
from ..base.suggest import clipped, near
from ..sandbox.source import is_source

_HUB = "hf:"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".onnx", ".pkl", ".h5", ".keras")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SCRIPT = re.compile(r"(?P<spec>.+?\.(?:py|ipynb)(?::[\w.]+)?)\s+(?P<arguments>\S.*)")
_ON_THE_HUB = re.compile(r"(?:https?://huggingface\.co/)?(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)")
_USAGE = (
    "give FILE.py, FILE.py:name, 'FILE.py ARGUMENTS', package.module:callable, a Hugging Face config.json or "
    "hf:ORGANISATION/NAME"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a text names; `path` is that of a file or config, `module` a package's, or ORGANISATION/NAME on the hub."""

    kind: str  # "file", "package", "config" or "hub"
    path: Path = Path()
    module: str = ""
    name: str = ""  # of the callable in it, "" to choose
    as_script: bool = False  # run under the name "__main__"
    arguments: tuple[str, ...] = ()  # of a script's command line

    @property
    def code(self) -> str:
        """The file or the package with the name in it, without a script's arguments."""
        return ":".join(filter(None, (self.module or str(self.path), self.name)))

    @property
    def label(self) -> str:
        if self.kind == "package":
            return f"{self.module}:{self.name}"
        if self.kind == "hub":
            return f"{_HUB}{self.module}"
        return f"{self.path.name}:{self.name}" if self.name else self.path.name


def parse_spec(spec: str) -> Target:
    """What `spec` names. Raises JoulecastError with the text that was given and the forms that are accepted."""
    if not spec.strip():
        raise JoulecastError(f"no model is named; {_USAGE}")
    if spec.startswith(_HUB):
        return Target("hub", module=spec.removeprefix(_HUB))
    try:
        return _parse_path(spec)
    except (OSError, ValueError, RuntimeError) as error:  # too long for a file name, a null byte, no such home
        raise JoulecastError(f"{clipped(spec)!r} cannot be looked up ({clipped(str(error))}); {_USAGE}") from None


def _parse_path(spec: str) -> Target:
    before, colon, name = spec.rpartition(":")
    is_path = Path(spec).exists() or (_DOTTED.fullmatch(name) and Path(before).exists())
    if (script := _SCRIPT.fullmatch(spec)) and not is_path:
        target = _parse_path(script["spec"])
        return replace(target, as_script=not target.name, arguments=_words(script["arguments"]))
    if colon and is_source(before):
        if not _DOTTED.fullmatch(name):
            raise JoulecastError(f"{name!r} in {spec} is not a name in a Python file; give {_named(before, name)}")
        if name == "__main__":
            return Target("file", _existing(Path(before)), as_script=True)
        return Target("file", _existing(Path(before)), name=name)
    path = Path(spec).expanduser()
    if path.is_dir():
        return Target("config", _config_in(path))
    if is_source(spec):
        return Target("file", _existing(path))
    if spec.endswith(".json"):
        return Target("config", _existing(path))
    if colon and _DOTTED.fullmatch(before) and _DOTTED.fullmatch(name):
        return Target("package", module=before, name=name)
    raise JoulecastError(_not_a_spec(spec, path))


def _named(file: str, call: str) -> str:
    """How the callable of `call`, such as `Net(width=8)`, is given."""
    found = re.fullmatch(r"([A-Za-z_][\w.]*)\((.*)\)", call)
    if found is None:
        return "FILE.py:name"
    return f"{file}:{found[1]}" + (f" and `model_args` {found[2]}" if found[2] else "")


def _words(arguments: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(arguments))
    except ValueError as error:
        raise JoulecastError(f"the script's arguments {clipped(arguments)!r}: {error}; close the quotation") from None


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
        return f"{spec} contains weights, which are not read; give the FILE.py that builds the model"
    if path.exists():
        return f"{spec} is not a .py file; {_USAGE}"
    if path.with_name(path.name + ".py").is_file():
        return f"there is no file {spec}; did you mean {spec}.py?"
    if "::" in spec:
        return f"{spec!r} is not FILE.py:name; did you mean {spec.replace('::', ':')}?"
    if (found := _ON_THE_HUB.fullmatch(spec)) and not path.suffix[1:].isalpha():
        return f"there is no file {spec}; if it is a model of the hub, give {_HUB}{found['name']}"
    if _DOTTED.fullmatch(spec) and "." in spec:
        return f"{spec} names no callable; did you mean {':'.join(spec.rsplit('.', 1))}?"
    return f"{spec!r} is neither a file nor package.module:callable; {_USAGE}"
