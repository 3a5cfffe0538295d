"""Code that asks for a GPU runs on the device in use."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from joulecast.estimator.sandbox.redirect import redirected, unwrapped

DEVICES = ["cuda", "cuda:0", 0, torch.device("cuda", 1), "mps", torch.device("xpu")]


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("own", ["cpu", "meta"])
def test_tensors_and_modules_stay_on_the_device_in_use(device, own):
    with torch.device(own), redirected():
        layer = nn.Linear(3, 4).to(device)
        made = [
            torch.zeros(2, 3, device=device),
            torch.zeros(2, 3).to(device),
            torch.zeros(2, 3).to(device=device),
            torch.zeros(2, 3).to(device, torch.float64),
            torch.zeros(2, 3).new_ones(4, device=device),
            torch.zeros_like(torch.zeros(2, 3), device=device),
            torch.arange(3, device=device),
            torch.tensor([1.0], device=device),
            torch.rand(2, 3).cuda(),
            layer(torch.rand(2, 3, device=device)),
            layer.cuda().weight,
        ]
    assert [tensor.device.type for tensor in made] == [own] * len(made)
    assert made[3].dtype == torch.float64


def test_default_devices_and_tensor_types():
    with torch.device("meta"), redirected():
        with torch.device("cuda"):
            assert torch.zeros(1).is_meta
        assert torch.zeros(1).is_meta
    with redirected():
        assert torch.zeros(2).type("torch.cuda.LongTensor").dtype == torch.int64
        assert torch.cuda.HalfTensor(2, 3).dtype == torch.float16
        assert torch.zeros(1, device="meta").is_meta  # a device that was asked for and is here


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_calls_about_the_current_gpu_and_what_is_left_after():
    with redirected():
        torch.cuda.set_device(0)
        torch.cuda.empty_cache()
        assert torch.cuda.current_device() == 0
        assert not torch.cuda.is_available()  # code that asks takes its own way without one
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1).cuda()
    assert not hasattr(torch._C, "_cuda_setDevice")


def test_wrappers_for_several_gpus_are_removed():
    with redirected():
        inner = nn.Linear(2, 2)
        spread = nn.parallel.DistributedDataParallel(inner, device_ids=[0])
        assert spread.module is inner
        assert spread(torch.zeros(1, 2)).shape == (1, 2)
        assert unwrapped(nn.DataParallel(spread)) is inner
    assert unwrapped(inner) is inner
    with pytest.raises(ValueError, match="process group"):
        nn.parallel.DistributedDataParallel(inner)


def test_a_process_group_has_this_process_alone() -> None:
    distributed = torch.distributed
    init = distributed.init_process_group
    with redirected():
        distributed.init_process_group("nccl", init_method="env://", world_size=8, rank=3)
        assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)
        numbers = torch.ones(2)
        distributed.all_reduce(numbers)
        assert numbers.tolist() == [1.0, 1.0]
        with redirected():  # of another model meanwhile
            assert distributed.is_initialized()
        assert distributed.is_initialized()
    assert not distributed.is_initialized()
    assert distributed.init_process_group is init


def test_spawned_processes_are_the_first_of_them_here() -> None:
    ranks: list[tuple[int, int]] = []
    with redirected():
        torch.multiprocessing.spawn(lambda rank, world: ranks.append((rank, world)), args=(8,), nprocs=8, join=True)
    assert ranks == [(0, 8)]


def test_data_is_loaded_in_this_process_on_the_cpu() -> None:
    class Numbers(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((2,), float(index)), os.getpid()

    loader = torch.utils.data.DataLoader(Numbers(), batch_size=2, shuffle=True, num_workers=2, timeout=9)
    with torch.device("meta"), redirected():
        batches = list(loader)
    assert [tuple(numbers.shape) for numbers, _ in batches] == [(2, 2), (2, 2), (1, 2)]
    assert sorted(torch.cat([numbers[:, 0] for numbers, _ in batches]).tolist()) == [0, 1, 2, 3, 4]
    assert {pid for _, pids in batches for pid in pids.tolist()} == {os.getpid()}


def test_training_arguments_for_gpus() -> None:
    """They are refused on a machine without one, before and afterwards; torch's own setting stays."""
    arguments = pytest.importorskip("transformers.training_args")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    before = torch.backends.cuda.matmul.allow_tf32
    for options in ({"bf16": True}, {"tf32": True}, {"bf16_full_eval": True}):
        with redirected():
            assert vars(arguments.TrainingArguments(**options))[next(iter(options))] is True
        assert torch.backends.cuda.matmul.allow_tf32 is before
        with pytest.raises(ValueError, match=r"bf16|tf32"):
            arguments.TrainingArguments(**options)
