"""Running code of the user's: within a time limit, its prints kept off stdout, its errors in one line."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
import signal
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ..base.errors import JoulecastError, ModelError

# Seconds between the time limit and the end of the process, for code that catches the interruption.
_GRACE_S = 3.0
_MESSAGE_CHARACTERS = 400
_FRAMES = 20

# Import names that pip knows under another.
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
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
_NO_GPU = re.compile(r"not compiled with CUDA|NVIDIA driver|No CUDA GPUs|CUDA driver|no NVIDIA GPU", re.I)

_PACKAGE = Path(__file__).parents[2]
_ROOMS = ("estimator", "measure", "trainers", "check", "report", "cli")  # `models` holds files that users name
_OWN = tuple(str(_PACKAGE / name) + os.sep for name in _ROOMS)
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_PLUMBING = re.compile(r"[/\\](site|dist)-packages[/\\](torch|fvcore|functorch|keras|_pytest|pluggy)[/\\]")


# -- errors --------------------------------------------------------------------------------------


@contextlib.contextmanager
def user_code(what: str, *, fix: str = "") -> Iterator[None]:
    """Around code of the user's: what it prints goes to stderr, what it raises becomes a ModelError.

    `what` names it ("mynet.py"); `fix` ends the message, where the error itself suggests no fix.
    KeyboardInterrupt and JoulecastErrors pass through.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except (JoulecastError, KeyboardInterrupt, GeneratorExit):
            raise
        except _TimeUp as up:
            up.where = up.where or _where(user_frames(up))
            raise
        except BaseException as error:  # SystemExit too: a sys.exit() in a model file is an error of its own
            raise model_error(error, what=what, fix=fix) from error


def model_error(error: BaseException, *, what: str, fix: str = "") -> JoulecastError:
    """`error` of the user's code as one line, `mynet.py:23 in forward: RuntimeError: ...; fix`.

    The ModelError's `frames` hold the traceback cut to the user's own files. A JoulecastError is
    returned as it is.
    """
    if isinstance(error, JoulecastError):
        return error
    frames = user_frames(error)
    where = _where(frames) or what
    if isinstance(error, SyntaxError) and error.filename and not _ours(error.filename):
        where = f"{Path(error.filename).name}:{error.lineno}"
    said, hint = _said(error)
    line = f"{where}: {said}" + (f"; {hint or fix}" if hint or fix else "")
    return ModelError(line, "".join(traceback.format_list(frames[-_FRAMES:])))


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames of the user's own files; where there are none, those of the installed model library."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _ours(frame.filename)]
    own = [frame for frame in frames if not _INSTALLED.search(frame.filename)]
    return own or frames


def _ours(filename: str) -> bool:
    """Whether a frame is joulecast's, torch's or Python's rather than the model's."""
    if filename.startswith("<") or filename.startswith(_OWN) or _PLUMBING.search(filename):
        return True
    return filename.startswith(_STDLIB) and not _INSTALLED.search(filename)


def _where(frames: list[traceback.FrameSummary]) -> str:
    if not frames:
        return ""
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}"


def _said(error: BaseException) -> tuple[str, str]:
    """What the error says, in one line, and the fix where it is known."""
    text = one_line(str(error)).replace("`", "'")  # backticks name fields of joulecast's own (base/errors.py)
    if isinstance(error, SystemExit):
        return f"calls sys.exit({text})", 'put what is not the model under `if __name__ == "__main__":`'
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}", "mend the file"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing_module(error.name)
    if _NO_GPU.search(text):
        return (
            f"the model asks for a GPU ({text})",
            "guard it with torch.cuda.is_available(), or run on the machine that has the GPU",
        )
    return f"{type(error).__name__}: {text}" if text else type(error).__name__, ""


def _missing_module(name: str) -> tuple[str, str]:
    top = name.partition(".")[0]
    if top != name and _is_installed(top):
        return f"the installed {top} has no module {name}", f"install the version of {top} that has it"
    return f"the module {top} is not installed", f"pip install {_PIP_NAMES.get(top, top)}"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def one_line(text: str) -> str:
    """`text` on one line, cut where it grows too long to read."""
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE_CHARACTERS else text[: _MESSAGE_CHARACTERS - 1] + "…"


# -- the time limit ------------------------------------------------------------------------------


class _TimeUp(BaseException):
    """Interrupts the user's code; no Exception, so that `except Exception` does not hold it."""

    where = ""


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Ends what runs longer than `seconds` (infinity: no limit) with a ModelError that names `what`.

    In the main thread on POSIX the code is interrupted, again every second where it catches that; what
    holds on for three seconds more ends the process with the same line and status 1. Elsewhere there is
    no way to interrupt, so the process ends at the limit. C code that never lets go of the interpreter
    lock cannot be stopped either way.
    """
    if not seconds > 0:
        raise JoulecastError(f"time limit is {seconds:g} s; give `time_limit_s` more than 0 seconds")
    if math.isinf(seconds):
        yield
        return
    can_interrupt = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    message = f"{what} still ran after {seconds:g} s, the time limit; raise it with `time_limit_s`"
    watchdog = threading.Timer(seconds + (_GRACE_S if can_interrupt else 0), _end_process, [message])
    watchdog.daemon = True
    watchdog.start()
    try:
        with _alarm(seconds) if can_interrupt else contextlib.nullcontext():
            yield
    except _TimeUp as up:
        raise ModelError(f"{up.where}: {message}" if up.where else message) from None
    finally:
        watchdog.cancel()


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


def _end_process(message: str) -> None:
    os.write(2, f"Error: {message}\n".encode())
    os._exit(1)
