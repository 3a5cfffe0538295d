"""Runs code that asks for a GPU, or that wraps its model for several, on the device in use.

Nothing is computed while a model is read, so `.cuda()`, `device="cuda"` and `.to("cuda:0")` keep the tensor on the
device in use (meta or CPU), also on a machine that has a GPU.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext
from torch.utils.data import DataLoader

_OWN_DEVICES = ("cpu", "meta")
_GPU_TENSOR_TYPES = (
    *("FloatTensor", "DoubleTensor", "HalfTensor", "BFloat16Tensor"),
    *("LongTensor", "IntTensor", "ShortTensor", "CharTensor", "ByteTensor", "BoolTensor"),
)
_FLASH = re.compile(r"flash|^[\w-]+/")  # flash_attention_2, or a kernel of the hub
_active: list[contextlib.ExitStack] = []
_GPU_TYPE = re.compile(r"^torch\.(cuda|xpu|mps)\.")


@contextlib.contextmanager
def redirected() -> Iterator[None]:
    """Calls that ask for an accelerator succeed on the device in use; a process group has this process alone.

    Only attributes that are looked up at each call are replaced: a library that is imported meanwhile keeps none of it.
    """
    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in _replacements():
            stack.enter_context(mock.patch.object(owner, name, stand_in, create=True))
        _active.append(stack)
        stack.callback(_active.remove, stack)
        for name in _ADAPTED:
            if name in sys.modules:
                as_on_a_gpu(sys.modules[name])
        stack.enter_context(_Redirect())
        stack.enter_context(_own_process_group())
        yield


def asks_for_flash_attention(implementation: Any) -> bool:
    """Whether transformers' name of an attention is FlashAttention's, or that of a kernel of the hub."""
    return bool(_FLASH.search(str(implementation)))


def as_on_a_gpu(module: ModuleType) -> None:
    """While `redirected`, a trainer's module that was just imported accepts what it does where a GPU is.

    Only attributes are replaced, until the context ends.
    """
    if _active and (adapt := _ADAPTED.get(module.__name__)):
        adapt(module)


def _with_any_attention(module: ModuleType) -> None:
    """A model that asks for FlashAttention gets PyTorch's own attention, which is the same op in a trace."""
    model: Any = getattr(module, "PreTrainedModel", None)
    name = "_check_and_adjust_attn_implementation"
    check = getattr(model, name, None)
    if check is None:
        return

    def chosen(self: Any, attn_implementation: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return check(self, attn_implementation, *args, **kwargs)
        except (ImportError, ValueError):
            if not asks_for_flash_attention(attn_implementation):
                raise
            return check(self, None, *args, **kwargs)

    _replace(model, name, chosen)


def _with_any_format(module: ModuleType) -> None:
    """`TrainingArguments` take `bf16` and `tf32`, and leave torch's own setting as it is."""
    answers = {"is_torch_bf16_gpu_available": True, "is_torch_tf32_available": True, "enable_tf32": None}
    for name, answer in answers.items():
        if hasattr(module, name):
            _replace(module, name, lambda *_args, answer=answer: answer)


def _with_any_accelerator(module: ModuleType) -> None:
    """A `Trainer` or `Fabric` of Lightning for GPUs, on several machines too, is made for this process on the CPU.

    Its `asked_precision` is what the script asked for: on a CPU, Lightning takes bfloat16 in place of float16.
    """
    for name in ("_AcceleratorConnector", "_Connector"):
        connector: Any = getattr(module, name, None)
        if connector is not None:
            init = connector.__init__

            def made(self: Any, *args: Any, init: Any = init, **kwargs: Any) -> None:
                kwargs |= {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto"}
                self.asked_precision = kwargs.get("precision")
                init(self, *args, **kwargs)

            _replace(connector, "__init__", made)


def _replace(owner: Any, name: str, value: Any) -> None:
    _active[-1].callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


_ADAPTED: Mapping[str, Callable[[ModuleType], None]] = {
    "transformers.modeling_utils": _with_any_attention,
    "transformers.training_args": _with_any_format,
    "lightning.pytorch.trainer.connectors.accelerator_connector": _with_any_accelerator,
    "pytorch_lightning.trainer.connectors.accelerator_connector": _with_any_accelerator,
    "lightning.fabric.connector": _with_any_accelerator,
    "lightning_fabric.connector": _with_any_accelerator,
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `DataParallel`, `DistributedDataParallel` and what Lightning's `Fabric.setup` returns."""
    inner: Any = model
    while isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel) or is_fabrics(inner):
        inner = inner.module
    return inner  # type: ignore[no-any-return]


def is_fabrics(model: Any) -> bool:
    return type(model).__name__ == "_FabricModule"


class _Redirect(TorchFunctionMode):
    """Takes accelerator devices out of calls to torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch._C._nn._parse_to and args and _is_foreign(args[0]):
            args = (torch.device("cuda"), *args[1:])  # the index of a GPU that is not here is an error, its name is not
        own = args[0].device if args and isinstance(args[0], torch.Tensor) else None
        if func is torch.Tensor.to and len(args) > 1 and _is_foreign(args[1]):
            args = (args[0], own, *args[2:])
        if func is torch.Tensor.type:
            args, kwargs = _on_cpu_type(args), {key: _cpu_type(value) for key, value in kwargs.items()}
        if "device" in kwargs and _is_foreign(kwargs["device"]):
            kwargs["device"] = own
            if own is None:  # the device in use is then filled in, as for a call that names none
                del kwargs["device"]
        return func(*args, **kwargs)


def _is_foreign(device: Any) -> bool:
    """Whether `device` names something other than the CPU or meta; a bare number is the index of a GPU."""
    if isinstance(device, bool):
        return False
    if isinstance(device, str):
        return device.partition(":")[0] not in _OWN_DEVICES
    if isinstance(device, torch.device):
        return device.type not in _OWN_DEVICES
    return isinstance(device, int)


def _on_cpu_type(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_cpu_type(value) for value in args)


def _cpu_type(value: Any) -> Any:
    return _GPU_TYPE.sub("torch.", value) if isinstance(value, str) else value


def _replacements() -> Iterator[tuple[Any, str, Any]]:
    yield DeviceContext, "__init__", _device_context(DeviceContext.__init__)
    yield nn.parallel.DistributedDataParallel, "__init__", _init_wrapper
    yield nn.parallel.DistributedDataParallel, "forward", _forward_wrapper
    yield torch.multiprocessing, "spawn", _first_process
    yield DataLoader, "__iter__", _batches(DataLoader.__iter__)
    yield torch._C, "_set_default_tensor_type", _set_default_tensor_type(torch._C._set_default_tensor_type)
    for name in _GPU_TENSOR_TYPES:
        yield torch.cuda, name, getattr(torch, name)
    if not torch.cuda.is_available():  # what torch.cuda.set_device, current_device and synchronize call
        yield torch.cuda, "_lazy_init", lambda: None
        yield torch._C, "_cuda_setDevice", lambda _device: None
        yield torch._C, "_cuda_getDevice", lambda: 0
        yield torch._C, "_cuda_synchronize", lambda: None


@contextlib.contextmanager
def _own_process_group() -> Iterator[None]:
    """`init_process_group` makes a group of this process, whatever its backend, which ends with the context."""
    distributed = torch.distributed
    if not distributed.is_available() or distributed.is_initialized():
        yield
        return
    init = distributed.init_process_group

    def alone(*_args: Any, **_kwargs: Any) -> None:
        init("gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)

    with mock.patch.object(distributed, "init_process_group", alone):
        try:
            yield
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _device_context(init: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """`with torch.device("cuda")` and `torch.set_default_device("cuda")` keep the device in use."""

    def made(context: Any, device: Any) -> None:
        init(context, torch.get_default_device() if _is_foreign(device) else device)

    return made


def _set_default_tensor_type(function: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda kind: function(_cpu_type(kind))


def _batches(iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any], Iterator[Any]]:
    """The batches of a `DataLoader`, on the CPU and without worker processes: a model that is read needs the first."""

    def batches(loader: Any) -> Iterator[Any]:
        loader.num_workers = loader.timeout = 0
        with torch.device("cpu"):
            remaining = iterate(loader)
        while True:
            with torch.device("cpu"):
                try:
                    batch = next(remaining)
                except StopIteration:
                    return
            yield batch

    return batches


def _first_process(function: Callable[..., Any], args: tuple[Any, ...] = (), *_args: Any, **_kwargs: Any) -> None:
    """What `torch.multiprocessing.spawn` runs in its first process, in this one."""
    function(0, *args)


def _init_wrapper(wrapper: Any, module: nn.Module, *_args: Any, **_kwargs: Any) -> None:
    nn.Module.__init__(wrapper)
    wrapper.module = module


def _forward_wrapper(wrapper: Any, *args: Any, **kwargs: Any) -> Any:
    return wrapper.module(*args, **kwargs)
