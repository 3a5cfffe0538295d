"""Runs the user's code with its prints on stderr and its errors as one line."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..base.errors import JoulecastError, ModelError
from .training_stop import TrainingStarted

_MESSAGE_CHARACTERS = 400
_FRAMES = 20

# Import names whose distributions have another name.
_PIP_NAMES = {
    "cv2": "opencv-python",
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "pytorch_lightning": "pytorch-lightning",
    "torch_geometric": "torch-geometric",
    "flash_attn": "flash-attn",
    "mamba_ssm": "mamba-ssm",
    "causal_conv1d": "causal-conv1d",
    "fla": "flash-linear-attention",
    "liger_kernel": "liger-kernel",
    "transformer_engine": "transformer-engine",
    "hydra": "hydra-core",
    "dotenv": "python-dotenv",
    "open_clip": "open_clip_torch",
    "sentence_transformers": "sentence-transformers",
    "pytorch_forecasting": "pytorch-forecasting",
    "pytorch_metric_learning": "pytorch-metric-learning",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
# Names of folders in many repositories: a package of that name on PyPI is somebody else's.
_REPOSITORY_FOLDERS = frozenset(
    [
        *("src", "lib", "libs", "core", "common", "utils", "util", "helpers", "tools", "scripts", "engine", "train"),
        *("models", "model", "modules", "networks", "network", "nets", "layers", "blocks", "backbones", "losses"),
        *("config", "configs", "data", "dataset", "datasets", "experiments"),
    ]
)
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ONE_PROCESS = "RANK=0 LOCAL_RANK=0 WORLD_SIZE=1"
_NO_GPU = re.compile(
    r"not compiled with CUDA|NVIDIA driver|No CUDA GPUs|CUDA driver|no NVIDIA GPU|"
    r"\b(CUDA|GPUs?)\b.{0,12}\b(not|un)\s?(available|found|detected)|\bno\b.{0,12}\b(CUDA|GPUs?)\b.{0,20}\b(available|found)",
    re.I,
)
# Of a compiled kernel, or of Triton, that was given a tensor elsewhere.
_ON_GPUS_ONLY = re.compile(
    r"is_cuda\b|(only|must|should|expect|require)\w*\b.{0,40}\bCUDA\b|\(cpu tensor\?\)|\d active drivers", re.I
)
_NO_MEMORY = re.compile(r"Not available for 'meta' device|data pointer|data is not allocated yet", re.I)

_PACKAGE = Path(__file__).parents[2]
_ROOMS = (
    "estimator",
    "measure",
    "trainers",
    "check",
    "report",
    "sweeps",
    "service",
    "cli",
)  # `models` holds files that users name
_OWN = tuple(str(_PACKAGE / name) + os.sep for name in _ROOMS)
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
# What an error says that may come from the arguments or inputs that the model was given.
_ABOUT_SHAPES = re.compile(
    r"shape|size|dimension|\bdims?\b|channel|mat1|broadcast|out of (range|bounds)|unpack|expand|elements", re.I
)
_ABOUT_DTYPES = re.compile(r"dtype|scalar type|float(16|32|64)", re.I)
# A library's lazy import: the error that it raises hides the cause.
_LAZY_IMPORT = re.compile(r"Could not import module|Failed to import")
_PLUMBING = re.compile(r"[/\\](site|dist)-packages[/\\](torch|fvcore|functorch|keras|_pytest|pluggy)[/\\]")


# -- errors --------------------------------------------------------------------------------------


@contextlib.contextmanager
def user_code(what: str, *, fix: str = "") -> Iterator[None]:
    """Around the user's code: what it prints goes to stderr, what it raises becomes a ModelError.

    `what` names it ("mynet.py"); `fix` is as in `model_error`. KeyboardInterrupt, TrainingStarted and
    JoulecastErrors pass through.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except (JoulecastError, KeyboardInterrupt, GeneratorExit, TrainingStarted):
            raise
        except BaseException as error:  # SystemExit too: a sys.exit() in a model file is an error in that file
            raise model_error(error, what=what, fix=fix) from error


def model_error(error: BaseException, *, what: str, fix: str = "") -> JoulecastError:
    """`error` of the user's code as one line, `mynet.py:23 in forward: RuntimeError: ...; fix`.

    `fix` says how to give other arguments or inputs; it ends the message where the error may come from those and
    suggests nothing itself. The ModelError's `frames` hold the traceback cut to the user's own files. A
    JoulecastError is returned as it is.
    """
    if isinstance(error, JoulecastError):
        return error
    frames = user_frames(error)
    error = _cause(error)
    where = _where(frames) or what
    if isinstance(error, SyntaxError) and error.filename and not _ours(error.filename):
        where = f"{Path(error.filename).name}:{error.lineno}"
    said, hint = _said(error, frames)
    advice = hint or _folder(error, frames) or (fix if about_arguments(error) else "")
    line = f"{where}: {said.removesuffix('.')}; {advice}" if advice else f"{where}: {said}"
    return ModelError(line, _shown(frames))


def located(message: str, frames: Iterable[traceback.FrameSummary]) -> ModelError:
    """`message` with the place in the user's code where `frames`, outermost first, end."""
    frames = _users_own(frames)
    where = _where(frames)
    return ModelError(f"{where}: {message}" if where else message, _shown(frames))


def about_arguments(error: BaseException) -> bool:
    """Whether `error` may come from what the model was built or called with, rather than from its code."""
    text = str(error)
    if isinstance(error, NotImplementedError) or _ABOUT_DTYPES.search(text):
        return False
    if isinstance(error, (ValueError, AssertionError, LookupError)):
        return True
    if isinstance(error, TypeError):
        return "argument" in text or bool(_ABOUT_SHAPES.search(text))
    return isinstance(error, RuntimeError) and bool(_ABOUT_SHAPES.search(text))


def _cause(error: BaseException) -> BaseException:
    """The error behind those that a library's lazy imports wrap around it."""
    while error.__cause__ is not None and isinstance(error, (ImportError, RuntimeError)):
        if not _LAZY_IMPORT.search(str(error)):
            break
        error = error.__cause__
    return error


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the user's own files; where there are none, those of the installed model library."""
    return _users_own(traceback.extract_tb(error.__traceback__))


def _users_own(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    models = [frame for frame in frames if not _ours(frame.filename)]
    return [frame for frame in models if is_users(frame.filename)] or models


def _folder(error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    """The fix for a file that is looked for in this folder and is next to the user's code."""
    name = getattr(error, "filename", None)
    if not isinstance(error, FileNotFoundError) or not isinstance(name, str) or os.path.isabs(name):
        return ""
    folders = (Path(frame.filename).parent for frame in reversed(frames))
    return next((f"run this in {folder}, which has it" for folder in folders if (folder / name).exists()), "")


def _shown(frames: list[traceback.FrameSummary]) -> str:
    return "".join(traceback.format_list(frames[-_FRAMES:]))


def is_users(filename: str) -> bool:
    """Whether a file is the user's: not joulecast's, not installed and not Python's."""
    return not _ours(filename) and not _INSTALLED.search(filename)


def is_joulecasts(filename: str) -> bool:
    return filename.startswith(_OWN)


def _ours(filename: str) -> bool:
    """Whether a frame is joulecast's, torch's or Python's rather than the model's."""
    if filename.startswith("<") or filename.startswith(_OWN) or _PLUMBING.search(filename):
        return True
    return filename.startswith(_STDLIB) and not _INSTALLED.search(filename)


def _where(frames: list[traceback.FrameSummary]) -> str:
    if not frames:
        return ""
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"


def _said(error: BaseException, frames: Sequence[traceback.FrameSummary]) -> tuple[str, str]:
    """What the error says, in one line, and the fix where it is known."""
    text = one_line(str(error)).replace("`", "'")  # backticks name fields of joulecast's own (base/errors.py)
    if isinstance(error, SystemExit):
        if refused := _refused_arguments(error):
            return f"its command line needs arguments ({refused})", "give them, as in `model` 'FILE.py --name VALUE'"
        return f"calls sys.exit({text})", 'put what is not the model under `if __name__ == "__main__":`'
    if isinstance(error, KeyError) and error.args[:1] and error.args[0] in _OF_TORCHRUN:
        return (
            f"KeyError: {text}",
            "it is a script for torchrun: set RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 before the command",
        )
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}", "fix the syntax error"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing_module(error.name, frames)
    if isinstance(error, NotImplementedError) and 'missing the required "forward"' in text:
        return text, "define forward"
    asserted = frames[-1].line or "" if isinstance(error, AssertionError) and frames and not text else ""
    if _NO_GPU.search(text) or "cuda.is_available" in asserted:
        return (
            f"the model asks for a GPU ({text or asserted})",
            "guard it with torch.cuda.is_available(), give the script's option for the CPU, or run on the machine that "
            "has the GPU",
        )
    if _ON_GPUS_ONLY.search(text):
        return (
            f"calls a kernel that runs on a GPU only ({type(error).__name__}: {text})",
            "wrap it in torch.library.custom_op with register_fake, or use its PyTorch version",
        )
    if _NO_MEMORY.search(text):
        return (
            f"reads the memory of a tensor, which has none in a trace ({type(error).__name__}: {text})",
            "read its values with .tolist(), .numpy() or .item() in place of untyped_storage() or data_ptr()",
        )
    return f"{type(error).__name__}: {text}" if text else type(error).__name__, ""


def _refused_arguments(error: SystemExit) -> str:
    """What argparse said before it ended the program, "" for any other exit."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "error" and Path(frame.f_code.co_filename).name == "argparse.py":
            return one_line(str(frame.f_locals.get("message", "")))
    return ""


def _missing_module(name: str, frames: Sequence[traceback.FrameSummary]) -> tuple[str, str]:
    top = name.partition(".")[0]
    if top != name and any(top in Path(frame.filename).parts for frame in frames if is_users(frame.filename)):
        return f"the repository's {top} has no module {name}", "build or add it as the repository's instructions say"
    if top != name and _is_installed(top):
        return f"the installed {top} has no module {name}", f"install the version of {top} that has it"
    if top in _REPOSITORY_FOLDERS:
        return (
            f"there is no module {name} next to the file or in the folders above it",
            "add the folder that has it to PYTHONPATH",
        )
    return f"the module {top} is not installed", f"pip install {_PIP_NAMES.get(top, top)}"


def _is_installed(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and bool(_INSTALLED.search(spec.origin))


def one_line(text: str) -> str:
    """`text` on one line, cut where it is too long to read."""
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_CHARACTERS else text[: _MESSAGE_CHARACTERS - 1] + "…"
