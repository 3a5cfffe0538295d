"""Code that accepts tensors on a GPU only: kernels that someone wrote for it check where their arguments are."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

_ABOUT_GPUS = re.compile(r"cuda|gpu|triton|active driver", re.IGNORECASE)
_DEVICE = torch.device("cuda", 0)
_SAYS: dict[Any, Any] = {
    torch.Tensor.device.__get__: _DEVICE,
    torch.Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
    torch.Tensor.is_meta.__get__: False,  # type: ignore[attr-defined]
    torch.Tensor.get_device: 0,
}
"""What a tensor on a GPU says of its place."""
# Of a recent GPU, where there is none: kernels choose their blocks by these.
_PROPERTIES = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=80 * 2**30,
    warp_size=32,
    shared_memory_per_block_optin=232_448,
)


def is_about_gpus(error: BaseException) -> bool:
    """Whether the error of the model's code, or the line that raised it (`assert x.is_cuda`), names a GPU."""
    if type(error).__module__.partition(".")[0] == "joulecast":
        return False
    said = [str(error), *(frame.line or "" for frame in traceback.extract_tb(error.__traceback__)[-1:])]
    if (
        not said[0] and error.__traceback__ is not None
    ):  # `raise NotImplementedError`, where the condition before it names the device
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        said += [*last.f_code.co_names, *map(str, last.f_code.co_consts)]
    return bool(_ABOUT_GPUS.search(" ".join(said)))


class _SaysCuda(TorchFunctionMode):
    """Stand-ins say that they are on a GPU; what is then made there is a stand-in too."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _SAYS and _asks_from_outside(sys._getframe(1)):
            with torch._C.DisableTorchFunction():
                is_stand_in = args[0].is_meta or isinstance(args[0], FakeTensor)
            if is_stand_in:
                return _SAYS[func]
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_gpu() -> Iterator[None]:
    """While active, stand-ins say that they are on a GPU, and the machine has one."""
    with ExitStack() as stack:
        if not torch.cuda.is_available():
            for name, answer in _MACHINE.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(FakeTensor, "device", property(_device_of_fake)))
        stack.enter_context(_SaysCuda())
        yield


_own_device: Any = FakeTensor.device


def _device_of_fake(tensor: FakeTensor) -> torch.device:
    """A property of the class, which no function mode sees."""
    own: torch.device = _own_device.fget(tensor)
    return _DEVICE if _asks_from_outside(sys._getframe(1)) else own


def _asks_from_outside(caller: FrameType) -> bool:
    """Torch's own code, and ours, get the device in use."""
    return caller.f_globals.get("__name__", "").partition(".")[0] not in ("torch", "joulecast")


def _constant(value: Any) -> Any:
    return lambda *_, **__: value


_MACHINE = {
    "_exchange_device": _constant(0),
    "_maybe_exchange_device": _constant(0),
    "current_device": _constant(0),
    "get_device_properties": _constant(_PROPERTIES),
    "get_device_capability": _constant((9, 0)),
    "get_device_name": _constant(_PROPERTIES.name),
    "synchronize": _constant(None),
}
