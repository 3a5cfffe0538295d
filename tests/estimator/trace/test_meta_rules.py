"""Each rule gives the shapes, dtypes and strides that PyTorch gives."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch

from joulecast.estimator.trace.meta_rules import meta_output

aten = torch.ops.aten


def meta(*shape: int, last: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.empty(shape, device="meta", dtype=dtype)
    return tensor.contiguous(memory_format=torch.channels_last) if last else tensor


IMAGE = (2, 8, 5, 5)
BF16 = torch.bfloat16
TARGET = torch.empty(4, dtype=torch.int64, device="meta")
CASES: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.add.Tensor, (meta(2, 3), meta(2, 3))),
    (aten.add.Tensor, (meta(*IMAGE, last=True), meta(*IMAGE, last=True))),
    (aten.mul.Tensor, (meta(2, 3, dtype=BF16), meta(2, 3, dtype=BF16))),
    (aten.div.Tensor, (meta(2, 3), 4)),
    (aten.add.Tensor, (meta(2, 3), meta(3))),
    (aten.add.Tensor, (meta(2, 1, 3), meta(1, 3))),
    (aten.mul.Tensor, (meta(*IMAGE), meta(2, 8, 1, 1))),
    (aten.mul.Tensor, (meta(2, 1, 5, 1), meta(2, 1, 1, 1))),
    (aten.add_.Tensor, (meta(2, 3), meta(3))),
    (aten.relu_.default, (meta(*IMAGE, last=True),)),
    (aten.bernoulli_.float, (meta(2, 3), 0.5)),
    (aten.sub.Tensor, (meta(), 4)),
    (aten.relu.default, (meta(*IMAGE, last=True),)),
    (aten.gelu.default, (meta(4, 7),)),
    (aten.hardswish.default, (meta(4, 7),)),
    (aten.sigmoid.default, (meta(4, 7, dtype=BF16),)),
    (aten.leaky_relu.default, (meta(4, 7), 0.1)),
    (aten.hardtanh.default, (meta(4, 7), 0.0, 6.0)),
    (aten.threshold_backward.default, (meta(*IMAGE), meta(*IMAGE), 0)),
    (aten.gelu_backward.default, (meta(4, 7), meta(4, 7))),
    (aten.silu_backward.default, (meta(4, 7), meta(4, 7))),
    (aten.mm.default, (meta(4, 7), meta(7, 3))),
    (aten.mm.default, (meta(7, 4).t(), meta(3, 7).t())),
    (aten.addmm.default, (meta(3), meta(4, 7), meta(3, 7).t())),
    (aten.native_layer_norm.default, (meta(2, 5, 8), [8], meta(8), meta(8), 1e-5)),
    (aten.native_layer_norm.default, (meta(2, 5, 8), [5, 8], None, None, 1e-5)),
    (
        aten.native_layer_norm_backward.default,
        (*[meta(2, 5, 8)] * 2, [8], *[meta(2, 5, 1)] * 2, *[meta(8)] * 2, [True] * 3),
    ),
    (aten.mean.dim, (meta(*IMAGE), [2, 3])),
    (aten.mean.dim, (meta(*IMAGE), [-1, -2], True)),
    (aten.sum.dim_IntList, (meta(4, 7), [0], True)),
    (aten.nll_loss_forward.default, (meta(4, 7), TARGET, None, 1, -100)),
    (aten.nll_loss_backward.default, (meta(), meta(4, 7), TARGET, None, 1, -100, meta())),
    (aten.native_dropout.default, (meta(4, 7), 0.5, True)),
    (aten._softmax.default, (meta(4, 7), -1, False)),
    (aten._log_softmax.default, (meta(4, 7), 1, False)),
    (aten._log_softmax_backward_data.default, (meta(4, 7), meta(4, 7), 1, torch.float32)),
    (
        aten.native_batch_norm.default,
        (meta(*IMAGE), meta(8), meta(8), meta(8), meta(8), True, 0.1, 1e-5),
    ),
    (
        aten.native_batch_norm.default,
        (meta(*IMAGE, last=True), None, None, None, None, True, 0.1, 1e-5),
    ),
    (
        aten.native_batch_norm_backward.default,
        (
            meta(*IMAGE),
            meta(*IMAGE),
            *[meta(8) for _ in range(5)],
            True,
            1e-5,
            [True, True, True],
        ),
    ),
]


def described(output: Any) -> list[Any]:
    values = output if isinstance(output, (tuple, list)) else [output]
    return [None if v is None else (tuple(v.shape), v.dtype, v.stride(), v.device.type) for v in values]


@pytest.mark.parametrize(("op", "args"), CASES, ids=lambda value: str(value)[:40])
def test_same_as_pytorch(op: Any, args: tuple[Any, ...]) -> None:
    ours = meta_output(op._schema.name.partition("::")[2], args, {})
    assert ours is not None
    assert described(ours) == described(op(*args))


PERMUTED, VOLUME = meta(2, 3, 4).permute(2, 0, 1), meta(2, 8, 3, 4, 5)
NORM, MASK = (8, 8, 8, 8), [True] * 3
FORMS = [
    *(meta(2, 3), meta(3), meta(2, 1), meta(1, 3), meta(4, 3), meta(3, 2).t(), meta(2, 3, dtype=BF16), meta()),
    *(meta(*IMAGE), meta(*IMAGE, last=True), meta(8, 1, 1), meta(1, 8, 1, 1, last=True), meta(5), PERMUTED, VOLUME),
    *(meta(2, 3, dtype=torch.int64), 2, 2.0, True),
]
GRID: list[tuple[Any, tuple[Any, ...]]] = [
    *(
        (op, (one, other))
        for op in (aten.add.Tensor, aten.mul.Tensor, aten.add_.Tensor)
        for one in FORMS[:15]
        for other in FORMS
    ),
    *((op, (one,)) for op in (aten.relu.default, aten.exp.default, aten.tanh_.default) for one in FORMS[:15]),
    *(
        (aten.mm.default, pair)
        for pair in itertools.product([meta(4, 7), meta(7, 4).t(), meta(7, 3), meta(3, 7).t()], repeat=2)
    ),
    *(
        (aten.addmm.default, (bias, meta(4, 7), meta(7, 3)))
        for bias in (meta(3), meta(1), meta(4, 3), meta(), meta(1, 3))
    ),
    *((aten._softmax.default, (one, 0, half)) for one in FORMS[:6] for half in (False,)),
    *((aten.native_dropout.default, (one, 0.5, train)) for one in FORMS[:15] for train in (True, False)),
    *(
        (op, (one, dims, keep))
        for op in (aten.mean.dim, aten.sum.dim_IntList)
        for one in (meta(2, 3), meta(3, 2).t(), meta(*IMAGE), PERMUTED, meta(3))
        for dims in ([0], [-1], [0, -1], [])
        for keep in (False, True)
        if len({dim % one.dim() for dim in dims}) == len(dims)
    ),
    *(
        (aten.native_batch_norm.default, (one, *parts, train, 0.1, 1e-5))
        for one in (
            meta(2, 8),
            meta(*IMAGE),
            meta(*IMAGE, last=True),
            VOLUME,
            meta(2, 8, 3),
            meta(2, 3, 8).transpose(1, 2),
        )
        for parts in ((meta(8),) * 4, (meta(8), None, None, None), (None,) * 4, (None, None, meta(8), meta(8)))
        for train in (True, False)
        if train or parts[2] is not None
    ),
    *(
        (
            aten.native_batch_norm_backward.default,
            (grad, data, weight, meta(8), meta(8), meta(8), meta(8), True, 1e-5, mask),
        )
        for grad, data in itertools.product((meta(*IMAGE), meta(*IMAGE, last=True)), repeat=2)
        for weight in (meta(8), None)
        for mask in (MASK, [True, weight is not None, False])
    ),
    *(
        (aten.native_layer_norm.default, (one, shape, weight, weight, 1e-5))
        for one, shape in ((meta(2, 5, 8), [8]), (meta(2, 5, 8), [5, 8]), (meta(8, 2).t(), [8]), (meta(8), [8]))
        for weight in (meta(*shape), None)
    ),
    *(
        (aten.native_layer_norm_backward.default, (grad, data, [8], meta(2, 1), meta(2, 1), weight, bias, mask))
        for grad, data in itertools.product((meta(2, 8), meta(8, 2).t()), repeat=2)
        for weight, bias in ((meta(8), meta(8)), (meta(8), None), (None, None))
        for mask in ([True, weight is not None, bias is not None], [True, False, False])
    ),
    *(
        (aten._softmax_backward_data.default, (grad, out, 1, torch.float32))
        for grad, out in itertools.product((meta(4, 7), meta(7, 4).t()), repeat=2)
    ),
    *(
        (aten.nll_loss_forward.default, (meta(4, 7), TARGET, weight, reduction, -100))
        for weight in (None, meta(7))
        for reduction in (0, 1, 2)
    ),
    *(
        (aten.nll_loss_backward.default, (meta(), scores, TARGET, None, 1, -100, meta()))
        for scores in (meta(4, 7), meta(7, 4).t())
    ),
]


COVERED = {  # calls of the grid that a rule covers, and those that it leaves to PyTorch
    "add": (73, 123),
    "mul": (73, 123),
    "add_": (81, 31),
    "relu": (13, 2),
    "exp": (13, 2),
    "tanh_": (15, 0),
    "mm": (4, 0),
    "addmm": (1, 4),
    "_softmax": (5, 1),
    "native_dropout": (13, 17),
    "mean": (16, 22),
    "sum": (16, 22),
    "native_batch_norm": (20, 16),
    "native_batch_norm_backward": (2, 14),
    "native_layer_norm": (6, 2),
    "native_layer_norm_backward": (1, 23),
    "_softmax_backward_data": (1, 3),
    "nll_loss_forward": (2, 4),
    "nll_loss_backward": (1, 1),
}


def _covered(op: Any, args: tuple[Any, ...]) -> bool | None:
    """Whether a rule covers the call; None if PyTorch raises. What a rule gives is what PyTorch gives."""
    try:
        theirs = described(op(*args))
    except (RuntimeError, IndexError):
        return None
    ours = meta_output(op._schema.name.partition("::")[2], args, {})
    assert ours is None or described(ours) == theirs, (op, args)
    return ours is not None


def test_a_rule_never_differs_from_pytorch_over_a_grid_of_layouts_and_formats() -> None:
    covered = Counter(
        (op._schema.name.partition("::")[2], found) for op, args in GRID if (found := _covered(op, args)) is not None
    )
    assert {name: (covered[name, True], covered[name, False]) for name, _ in covered} == COVERED


VOLUME_LAST = VOLUME.contiguous(memory_format=torch.channels_last_3d)
SPARSE = torch.sparse_coo_tensor(meta(2, 3, dtype=torch.int64), meta(3), (2, 2), check_invariants=False)
WEIGHT, PLAIN = (8, 8, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0])
DEPTHWISE_LAST = torch.empty_strided((8, 1, 3, 3), (9, 1, 3, 1), device="meta")  # as Module.to leaves it
KEPT_LAST: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.convolution.default, (meta(*IMAGE, last=True), meta(*WEIGHT), None, *PLAIN, 1)),
    (aten.convolution.default, (meta(*IMAGE), meta(*WEIGHT, last=True), meta(8), *PLAIN, 1)),
    (aten.convolution.default, (meta(*IMAGE, last=True), meta(8, 1, 3, 3), None, *PLAIN, 8)),
    (aten.convolution.default, (meta(*IMAGE), DEPTHWISE_LAST, None, *PLAIN, 8)),
    (
        aten.convolution.default,
        (meta(*IMAGE, last=True), meta(8, 4, 2, 2), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1),
    ),
    (aten.native_group_norm.default, (meta(*IMAGE, last=True), meta(8), meta(8), 2, 8, 25, 2, 1e-5)),
]


@pytest.mark.parametrize(("op", "args"), KEPT_LAST, ids=lambda value: str(value)[:40])
def test_channels_stay_last_as_in_the_cpus_kernels(op: Any, args: tuple[Any, ...]) -> None:
    ours = meta_output(op._schema.name.partition("::")[2], args, {})
    real = op(*(torch.ones_like(arg, device="cpu") if isinstance(arg, torch.Tensor) else arg for arg in args))
    assert [one[:3] for one in described(ours)] == [one[:3] for one in described(real)]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("convolution", (meta(*IMAGE), meta(*WEIGHT), None, *PLAIN, 1)),
        ("convolution", (meta(*IMAGE), meta(8, 1, 3, 3), None, *PLAIN, 8)),
        ("convolution", (meta(2, 8, 1, 1), meta(8, 8, 1, 1), None, *PLAIN, 1)),
        ("native_group_norm", (meta(*IMAGE), meta(8), meta(8), 2, 8, 25, 2, 1e-5)),
        ("add", (meta(3), meta(2, 3))),  # the first is spread over the second
        ("add", (meta(*IMAGE, last=True), meta(2, 8, 1, 1))),
        ("native_batch_norm_backward", (*[meta(*IMAGE)] * 2, *[meta(8)] * 5, True, 1e-5, [False, True, True])),
        ("add", (meta(2, 3), meta(3, 2).t())),  # two layouts
        ("mul", (meta(2, 3), meta(2, 3, dtype=BF16))),  # promotion
        ("div", (torch.empty(2, dtype=torch.int64, device="meta"), 2)),  # integers become floats
        ("relu", (meta(2, 3, 4).permute(2, 0, 1),)),  # neither of the plain layouts
        ("relu", (torch.zeros(2, 3),)),  # a real tensor
        ("mul", (meta(2, 3), torch.zeros(2, 3))),
        ("native_batch_norm", (meta(*IMAGE), None, None, meta(8), meta(8), False, 0.1, 1e-5)),
        ("_softmax", (meta(2, 3, dtype=BF16), 1, True)),
        ("mean", (meta(2, 3),)),
        ("sum", (meta(2, 3, 4).permute(2, 0, 1), [0])),
        ("nll_loss_forward", (meta(4, 7), TARGET, None, 0, -100)),
        ("mm", (meta(4, 7), meta(8, 3))),  # shapes that do not fit: PyTorch raises
        ("addmm", (meta(3), meta(4, 7), meta(8, 3))),
        ("addmm", (meta(4), meta(4, 7), meta(7, 3))),
        ("add", (meta(2, 3), meta(2, 4))),
        ("native_batch_norm", (meta(*IMAGE), meta(7), meta(7), None, None, True, 0.1, 1e-5)),
        ("nll_loss_forward", (meta(4, 7), meta(3), None, 1, -100)),
        ("native_layer_norm", (meta(2, 8), [7], None, None, 1e-5)),
        ("native_layer_norm", (meta(2, 8), [8], meta(7), None, 1e-5)),
        ("cumsum", (meta(2, 3), 1)),
        ("relu", (VOLUME.transpose(1, 2),)),
        ("convolution", (VOLUME_LAST, meta(8, 8, 1, 1, 1), None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1)),
        ("convolution", (meta(2, 5, 8).transpose(1, 2), meta(8, 8, 1), None, [1], [0], [1], False, [0], 1)),
        ("native_batch_norm", (meta(8), None, None, None, None, True, 0.1, 1e-5)),
        ("native_batch_norm", (meta(*IMAGE), meta(7), None, None, None, True, 0.1, 1e-5)),
        ("native_batch_norm", (meta(*IMAGE), meta(8), meta(8), meta(8), meta(7), True, 0.1, 1e-5)),
        ("native_batch_norm", (meta(*IMAGE, dtype=BF16), None, None, None, None, True, 0.1, 1e-5)),
        ("native_batch_norm_backward", (*[meta(*IMAGE, dtype=BF16)] * 2, *[meta(8)] * 5, True, 1e-5, MASK)),
        ("native_batch_norm_backward", (*[PERMUTED] * 2, *[meta(3)] * 5, True, 1e-5, MASK)),
        ("native_group_norm", (meta(*IMAGE, last=True, dtype=BF16), meta(8), meta(8), 2, 8, 25, 2, 1e-5)),
        ("native_group_norm", (PERMUTED, None, None, 4, 2, 3, 2, 1e-5)),
        ("native_layer_norm", (meta(2, 8), [8], None, meta(7), 1e-5)),
        ("native_layer_norm", (meta(2, 8, dtype=BF16), [8], None, None, 1e-5)),
        (
            "native_layer_norm_backward",
            (*[meta(2, 8, dtype=BF16)] * 2, [8], meta(2, 1), meta(2, 1), meta(8), meta(8), MASK),
        ),
        ("native_layer_norm_backward", (*[meta(2, 8)] * 2, [8], meta(2, 1), meta(2, 1), meta(8), None, MASK)),
        ("native_layer_norm_backward", (*[meta(2, 8)] * 2, [8], meta(2, 1), meta(2, 1), None, meta(8), MASK)),
        ("native_batch_norm_backward", (*[meta(*IMAGE)] * 2, None, *[meta(8)] * 4, True, 1e-5, MASK)),
        ("mm", (meta(2, 4, 7), meta(7, 3))),
        ("mm", (meta(4, 7), meta(2, 7, 3))),
        ("mm", (meta(2, 4, 7), meta(2, 4, 3))),
        ("mm", (meta(4, 7), meta(7, 3, dtype=BF16))),
        ("addmm", (meta(3, dtype=BF16), meta(4, 7), meta(7, 3))),
        ("_softmax_backward_data", (*[meta(4, 7, dtype=BF16)] * 2, 1, torch.float32)),
        ("_softmax_backward_data", (meta(4, 7, dtype=BF16), meta(4, 7), 1, torch.float32)),
        ("nll_loss_forward", (meta(7), torch.empty((), dtype=torch.int64, device="meta"), None, 1, -100)),
        ("nll_loss_forward", (meta(4, 7, 2), TARGET, None, 1, -100)),
        ("add", (SPARSE, SPARSE)),
        ("relu", (SPARSE,)),
        ("mul", (meta(2, 2), SPARSE)),
        ("mul", (meta(2, 3), 2j)),
        ("clone", (meta(2, 3),)),
        ("clone", ()),
        ("relu", ()),
    ],
)
def test_other_calls_are_left_to_pytorch(name: str, args: tuple[Any, ...]) -> None:
    assert meta_output(name, args, {}) is None


def test_options_are_left_to_pytorch() -> None:
    assert meta_output("add", (meta(2), meta(2)), {"alpha": 2}) is None
    assert meta_output("clone", (SPARSE,), {"memory_format": torch.preserve_format}) is None


def test_a_clone_of_a_sparse_tensor_stores_as_many_values() -> None:
    made = meta_output("clone", (SPARSE,), {})
    assert (made.layout, made.shape, made._nnz(), made.is_meta) == (torch.sparse_coo, (2, 2), 3, True)
    assert meta_output("clone", (torch.eye(2).to_sparse(),), {}) is None  # a real one


def test_a_plain_network_is_traced_without_pytorchs_compiler() -> None:
    """Importing the compiler takes as long as importing torch; a real process checks what was imported."""
    program = """
import sys
import torch
if "torch._dynamo" in sys.modules:
    sys.exit(77)
from torch import nn
from joulecast.estimator.trace.trace import trace
conv = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1), nn.Flatten()]
net = nn.Sequential(*conv, nn.LazyLinear(16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 10))
net(torch.zeros(2, 3, 8, 8))
work = trace(net, torch.zeros(2, 3, 8, 8), layers=False)
assert work.tracer == "meta" and work.flops > work.forward_flops > 0
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this PyTorch imports its compiler with itself")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
