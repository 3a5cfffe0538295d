"""Every formula by hand: op, shapes, multiply-adds, bytes. Ops run on the meta device, under the recorder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import joulecast as jc
from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.formulas import FREE, KINDS, TABLE, lookup, plain_name
from joulecast.estimator.trace.recorder import Recorder
from joulecast.estimator.trace.workload import Op

aten = torch.ops.aten
F4, F2, I8, BOOL = 4, 2, 8, 1  # bytes of float32, bfloat16, int64 and bool


def m(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def ids(*shape: int) -> torch.Tensor:
    return m(*shape, dtype=torch.int64)


def c(*shape: int) -> torch.Tensor:
    return m(*shape, dtype=torch.complex64)


def recorded(call: Callable[[], Any]) -> Op:
    """The one op that `call` runs."""
    recorder = Recorder(nn.Identity())
    with torch.no_grad(), recorder:
        call()
    (op,) = recorder.ops
    return op


# name: (call, kind, multiply-adds, bytes read, bytes written)
Row = tuple[Callable[[], Any], str, int, int, int]

PRODUCTS: dict[str, Row] = {
    "mm": (lambda: aten.mm(m(2, 3), m(3, 5)), "matmul", 2 * 3 * 5, F4 * (6 + 15), F4 * 10),
    "mm complex": (lambda: aten.mm(c(2, 3), c(3, 5)), "matmul", 4 * 2 * 3 * 5, 8 * (6 + 15), 8 * 10),
    "mm bfloat16": (
        lambda: aten.mm(m(2, 3, dtype=torch.bfloat16), m(3, 5, dtype=torch.bfloat16)),
        *("matmul", 30, F2 * 21, F2 * 10),
    ),
    "addmm": (lambda: aten.addmm(m(5), m(2, 3), m(3, 5)), "matmul", 30, F4 * (5 + 6 + 15), F4 * 10),
    "bmm": (lambda: aten.bmm(m(7, 2, 3), m(7, 3, 5)), "matmul", 7 * 30, F4 * 7 * 21, F4 * 70),
    "bmm spread": (  # an expanded dimension is read once
        lambda: aten.bmm(m(1, 2, 3).expand(7, 2, 3), m(7, 3, 5)),
        *("matmul", 7 * 30, F4 * (6 + 7 * 15), F4 * 70),
    ),
    "baddbmm": (lambda: aten.baddbmm(m(7, 2, 5), m(7, 2, 3), m(7, 3, 5)), "matmul", 210, F4 * (70 + 147), F4 * 70),
    "addbmm": (lambda: aten.addbmm(m(2, 5), m(7, 2, 3), m(7, 3, 5)), "matmul", 210, F4 * (10 + 147), F4 * 10),
    "mv": (lambda: aten.mv(m(2, 3), m(3)), "matmul", 6, F4 * 9, F4 * 2),
    "addmv": (lambda: aten.addmv(m(2), m(2, 3), m(3)), "matmul", 6, F4 * 11, F4 * 2),
    "dot": (lambda: aten.dot(m(3), m(3)), "matmul", 3, F4 * 6, F4),
    "_int_mm": (
        lambda: aten._int_mm(m(32, 16, dtype=torch.int8), m(16, 8, dtype=torch.int8)),
        *("matmul", 32 * 16 * 8, 32 * 16 + 16 * 8, F4 * 32 * 8),
    ),
    "_trilinear": (  # nn.Bilinear(3, 4, 5): x W is 5 x 3 x 4 a sample, times y is 5 x 4
        lambda: aten._trilinear(m(2, 3), m(5, 3, 4), m(2, 4), [1, 3], [0], [1, 2], [2, 3]),
        *("matmul", 2 * (5 * 3 * 4 + 5 * 4), F4 * (6 + 60 + 8), F4 * 10),
    ),
    "_trilinear weight gradient": (  # grad x is 5 x 3 a sample, times y is 5 x 3 x 4
        lambda: aten._trilinear(m(2, 5), m(2, 3), m(2, 4), [2, 3], [1, 3], [1, 2], [0]),
        *("matmul", 2 * (5 * 3 + 5 * 3 * 4), F4 * (10 + 6 + 8), F4 * 60),
    ),
    "_cdist_forward": (
        lambda: aten._cdist_forward(m(2, 5, 3), m(2, 4, 3), 2.0, None),
        *("matmul", 2 * 5 * 4 * 3, F4 * (30 + 24), F4 * 40),
    ),
    "_cdist_backward": (
        lambda: aten._cdist_backward(m(2, 5, 4), m(2, 5, 3), m(2, 4, 3), 2.0, m(2, 5, 4)),
        *("matmul", 2 * 5 * 4 * 3, F4 * (40 + 30 + 24 + 40), F4 * 30),
    ),
    "_pdist_forward": (lambda: aten._pdist_forward(m(5, 3), 2.0), "matmul", 10 * 3, F4 * 15, F4 * 10),
    "convolution": (  # 2 images, 3 -> 8 channels, 3 x 3, 8 x 8 -> 6 x 6
        lambda: aten.convolution(m(2, 3, 8, 8), m(8, 3, 3, 3), m(8), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        *("conv", 2 * 36 * 9 * 3 * 8, F4 * (384 + 216 + 8), F4 * 2 * 8 * 36),
    ),
    "convolution of groups": (
        lambda: aten.convolution(m(2, 8, 8, 8), m(8, 2, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4),
        *("conv", 2 * 64 * 9 * 8 * 8 // 4, F4 * (1024 + 144), F4 * 1024),
    ),
    "convolution transposed": (
        lambda: aten.convolution(m(1, 4, 3, 3), m(4, 2, 2, 2), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1),
        *("conv", 9 * 4 * 4 * 2, F4 * (36 + 32), F4 * 2 * 36),
    ),
    "convolution_backward": (
        lambda: aten.convolution_backward(
            *(m(2, 8, 6, 6), m(2, 3, 8, 8), m(8, 3, 3, 3), [8], [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            [True, True, True],
        ),
        *("conv", 2 * 2 * 36 * 9 * 3 * 8, F4 * (576 + 384 + 216), F4 * (384 + 216 + 8)),
    ),
    "convolution_backward of a weight": (
        lambda: aten.convolution_backward(
            *(m(2, 8, 6, 6), m(2, 3, 8, 8), m(8, 3, 3, 3), [8], [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            [False, True, False],
        ),
        *("conv", 2 * 36 * 9 * 3 * 8, F4 * (576 + 384 + 216), F4 * 216),
    ),
    "conv_tbc": (
        lambda: aten.conv_tbc(m(7, 2, 3), m(3, 3, 4), m(4)),
        *("conv", 5 * 2 * 3 * 3 * 4, F4 * (42 + 36 + 4), F4 * 5 * 2 * 4),
    ),
    "_fft_r2c": (  # 16 real points: 5 N log2 N / 2 operations, half as many multiply-adds
        lambda: aten._fft_r2c(m(3, 16), [1], 0, True),
        *("fft", 3 * 16 * 4 * 5 // 4, F4 * 48, 8 * 3 * 9),
    ),
    "_fft_c2c": (lambda: aten._fft_c2c(c(3, 4, 4), [1, 2], 0, True), "fft", 3 * 16 * 4 * 5 // 2, 8 * 48, 8 * 48),
    "_fft_c2r": (lambda: aten._fft_c2r(c(3, 9), [1], 0, 16), "fft", 3 * 16 * 4 * 5 // 4, 8 * 27, F4 * 48),
    "linalg_cholesky_ex": (
        lambda: aten.linalg_cholesky_ex(m(2, 6, 6)),
        *("linalg", 2 * 6**3 // 6, F4 * 72, F4 * 72 + 4 * 2),
    ),
    "linalg_inv_ex": (lambda: aten.linalg_inv_ex(m(6, 6)), "linalg", 6**3, F4 * 36, F4 * 36 + 4),
    "linalg_qr": (lambda: aten.linalg_qr(m(8, 4)), "linalg", 8 * 4**2, F4 * 32, F4 * (32 + 16)),
    "linalg_solve_triangular": (
        lambda: aten.linalg_solve_triangular(m(6, 6), m(6, 5), upper=True),
        *("linalg", 6 * 6 * 5 // 2, F4 * (36 + 30), F4 * 30),
    ),
    "_linalg_solve_ex": (
        lambda: aten._linalg_solve_ex(m(6, 6), m(6, 5)),
        *("linalg", 6**3 // 3 + 6 * 6 * 5, F4 * (36 + 30), F4 * (30 + 36) + 4 * 6 + 4),
    ),
}

ATTENTION: dict[str, Row] = {
    "_scaled_dot_product_flash_attention": (  # 2 x 3 heads, 5 queries and keys of width 8
        lambda: aten._scaled_dot_product_efficient_attention(m(2, 3, 5, 8), m(2, 3, 7, 8), m(2, 3, 7, 16), None, False)[
            :1
        ],
        *("attention", 2 * 3 * 5 * 7 * (8 + 16), F4 * 6 * (5 * 8 + 7 * 8 + 7 * 16), -1),
    ),
}

NORMS: dict[str, Row] = {
    "native_layer_norm": (
        lambda: aten.native_layer_norm(m(2, 5, 8), [8], m(8), m(8), 1e-5),
        *("norm", 5 * 80, F4 * (80 + 16), F4 * (80 + 10 + 10)),
    ),
    "native_layer_norm plain": (
        lambda: aten.native_layer_norm(m(2, 5, 8), [8], None, None, 1e-5),
        *("norm", 4 * 80, F4 * 80, F4 * (80 + 10 + 10)),
    ),
    "native_layer_norm_backward": (
        lambda: aten.native_layer_norm_backward(
            m(2, 5, 8), m(2, 5, 8), [8], m(2, 5, 1), m(2, 5, 1), m(8), m(8), [True, True, True]
        ),
        *("norm", 2 * 5 * 80, F4 * (160 + 20 + 16), F4 * (80 + 16)),
    ),
    "native_group_norm": (
        lambda: aten.native_group_norm(m(2, 8, 3, 3), m(8), m(8), 2, 8, 9, 4, 1e-5),
        *("norm", 5 * 144, F4 * (144 + 16), F4 * (144 + 8 + 8)),
    ),
    "native_group_norm_backward": (
        lambda: aten.native_group_norm_backward(
            m(2, 8, 3, 3), m(2, 8, 3, 3), m(2, 4), m(2, 4), m(8), 2, 8, 9, 4, [True, True, True]
        ),
        *("norm", 2 * 5 * 144, F4 * (288 + 16 + 8), F4 * (144 + 16)),
    ),
    "native_batch_norm": (
        lambda: aten.native_batch_norm(m(2, 8, 3, 3), m(8), m(8), m(8), m(8), True, 0.1, 1e-5),
        *("norm", 2 * 144, F4 * (144 + 32), F4 * (144 + 16)),
    ),
    "native_batch_norm without statistics": (
        lambda: aten.native_batch_norm(m(2, 8, 3, 3), m(8), m(8), None, None, True, 0.1, 1e-5),
        *("norm", 5 * 144, F4 * (144 + 16), F4 * (144 + 16)),
    ),
    "native_batch_norm_backward": (
        lambda: aten.native_batch_norm_backward(
            *(m(2, 8, 3, 3), m(2, 8, 3, 3), m(8), m(8), m(8), m(8), m(8), True, 1e-5, [True, True, True])
        ),
        *("norm", 2 * 2 * 144, F4 * (288 + 40), F4 * (144 + 16)),
    ),
    "_softmax": (lambda: aten._softmax(m(2, 5), 1, False), "softmax", 0, F4 * 10, F4 * 10),
}

MOVES: dict[str, Row] = {
    "relu": (lambda: aten.relu(m(2, 5)), "activation", 0, F4 * 10, F4 * 10),
    "relu_": (lambda: aten.relu_(m(2, 5)), "activation", 0, F4 * 10, F4 * 10),
    "add": (lambda: aten.add(m(2, 5), m(2, 5)), "elementwise", 0, F4 * 20, F4 * 10),
    "add spread": (lambda: aten.add(m(2, 5), m(5).expand(2, 5)), "elementwise", 0, F4 * (10 + 5), F4 * 10),
    "_foreach_add": (lambda: aten._foreach_add([m(2), m(3)], [m(2), m(3)]), "elementwise", 0, F4 * 10, F4 * 5),
    "sum": (lambda: aten.sum(m(2, 5)), "reduce", 0, F4 * 10, F4),
    "copy_": (lambda: aten.copy_(m(2, 5), m(2, 5)), "copy", 0, F4 * 10, F4 * 10),
    "copy_ of another format": (
        lambda: aten.copy_(m(2, 5), m(2, 5, dtype=torch.bfloat16)),
        *("copy", 0, F2 * 10, F4 * 10),
    ),
    "zero_": (lambda: aten.zero_(m(2, 5)), "copy", 0, 0, F4 * 10),
    "fill_": (lambda: aten.fill_(m(2, 5), 1.0), "copy", 0, 0, F4 * 10),
    "normal_": (lambda: aten.normal_(m(2, 5)), "dropout", 0, 0, F4 * 10),
    "bernoulli_": (lambda: aten.bernoulli_(m(2, 5), 0.5), "dropout", 0, 0, F4 * 10),
    "native_dropout": (lambda: aten.native_dropout(m(2, 5), 0.1, True), "dropout", 0, F4 * 10, F4 * 10 + BOOL * 10),
    "cat": (lambda: aten.cat([m(2, 5), m(3, 5)]), "copy", 0, F4 * 25, F4 * 25),
    "embedding": (  # 6 rows of 8, and not the 1000 of the table
        lambda: aten.embedding(m(1000, 8), ids(2, 3)),
        *("embedding", 0, F4 * 48 + I8 * 6, F4 * 48),
    ),
    "embedding_dense_backward": (
        lambda: aten.embedding_dense_backward(m(2, 3, 8), ids(2, 3), 1000, -1, False),
        *("embedding", 0, F4 * 48 + I8 * 6, F4 * 8000),
    ),
    "_embedding_bag": (  # reads a row for each of 20 indices, writes 4 sums and the bags' sizes
        lambda: aten._embedding_bag(m(1000, 8), ids(20), ids(4), False, 0)[:1],
        *("embedding", 0, F4 * 160 + I8 * 24, -1),
    ),
    "index_select": (
        lambda: aten.index_select(m(1000, 8), 0, ids(6)),
        *("copy", 0, F4 * 48 + I8 * 6, F4 * 48),
    ),
    "index": (lambda: aten.index(m(1000, 8), [ids(6)]), "copy", 0, F4 * 48 + I8 * 6, F4 * 48),
    "gather": (lambda: aten.gather(m(1000, 8), 0, ids(6, 8)), "copy", 0, F4 * 48 + I8 * 48, F4 * 48),
    "index_put_": (
        lambda: aten.index_put_(m(1000, 8), [ids(6)], m(6, 8)),
        *("copy", 0, F4 * 48 + I8 * 6, F4 * 48),
    ),
    "index_put_ of one number": (
        lambda: aten.index_put_(m(1000, 8), [ids(6)], m()),
        *("copy", 0, F4 + I8 * 6, F4 * 48),
    ),
    "index_put_ that adds": (
        lambda: aten.index_put_(m(1000, 8), [ids(6)], m(6, 8), True),
        *("copy", 0, 2 * F4 * 48 + I8 * 6, F4 * 48),
    ),
    "index_put": (  # a copy of the table first
        lambda: aten.index_put(m(1000, 8), [ids(6)], m(6, 8)),
        *("copy", 0, F4 * (8000 + 48) + I8 * 6, F4 * (8000 + 48)),
    ),
    "index_add_": (
        lambda: aten.index_add_(m(1000, 8), 0, ids(6), m(6, 8)),
        *("copy", 0, 2 * F4 * 48 + I8 * 6, F4 * 48),
    ),
    "index_copy_": (
        lambda: aten.index_copy_(m(1000, 8), 0, ids(6), m(6, 8)),
        *("copy", 0, F4 * 48 + I8 * 6, F4 * 48),
    ),
    "index_fill_": (lambda: aten.index_fill_(m(1000, 8), 0, ids(6), 0.0), "copy", 0, I8 * 6, F4 * 48),
    "scatter_": (
        lambda: aten.scatter_(m(1000, 8), 0, ids(6, 8), m(6, 8)),
        *("copy", 0, F4 * 48 + I8 * 48, F4 * 48),
    ),
    "scatter_add_": (
        lambda: aten.scatter_add_(m(1000, 8), 0, ids(6, 8), m(6, 8)),
        *("copy", 0, 2 * F4 * 48 + I8 * 48, F4 * 48),
    ),
    "max_pool2d_with_indices": (
        lambda: aten.max_pool2d_with_indices(m(2, 3, 8, 8), [2, 2], [2, 2]),
        *("pool", 0, F4 * 384, (F4 + I8) * 96),
    ),
    "upsample_nearest2d": (
        lambda: aten.upsample_nearest2d(m(2, 3, 4, 4), [8, 8]),
        *("pool", 384, F4 * 96, F4 * 384),
    ),
    "upsample_bilinear2d": (
        lambda: aten.upsample_bilinear2d(m(2, 3, 4, 4), [8, 8], False),
        *("pool", 4 * 384, F4 * 96, F4 * 384),
    ),
    "grid_sampler_2d": (  # bilinear: four multiply-adds an output element
        lambda: aten.grid_sampler_2d(m(2, 3, 8, 8), m(2, 4, 5, 2), 0, 0, False),
        *("pool", 4 * 120, F4 * (384 + 80), F4 * 120),
    ),
    "mse_loss": (lambda: aten.mse_loss(m(2, 5), m(2, 5)), "loss", 0, F4 * 20, F4),
    "sort": (lambda: aten.sort(m(2, 5)), "sort", 0, F4 * 10, (F4 + I8) * 10),
}

ROWS = {**PRODUCTS, **NORMS, **MOVES, **ATTENTION}


@pytest.mark.parametrize("name", ROWS)
def test_by_hand(name: str) -> None:
    call, kind, macs, read, written = ROWS[name]
    op = recorded(call)
    assert (op.kind, op.flops) == (kind, macs)
    assert op.bytes_read == read
    assert written in (-1, op.bytes_written)


@pytest.mark.parametrize(
    ("pool", "size", "window"),
    [
        (lambda x: aten.max_pool2d_with_indices(x, [3, 2], [1, 1]), (12, 12), 6),
        (lambda x: aten.avg_pool2d(x, [4, 4]), (12, 12), 16),
        (lambda x: aten._adaptive_avg_pool2d(x, [1, 1]), (12, 12), 144),
        (lambda x: aten._adaptive_avg_pool2d(x, [6, 4]), (12, 12), 2 * 3),
        (lambda x: aten._adaptive_avg_pool2d(x, [12, 12]), (12, 12), 1),
        (lambda x: aten._adaptive_avg_pool2d(x, [5, 5]), (12, 12), 9),
    ],
)
def test_windows_of_pools(pool: Callable[[Any], Any], size: tuple[int, int], window: int) -> None:
    assert recorded(lambda: pool(m(2, 3, *size))).dims["k"] == window


def test_dims_that_the_cost_depends_on() -> None:
    assert recorded(lambda: aten.bmm(m(7, 2, 3), m(7, 3, 5))).dims == {"b": 7, "m": 2, "k": 3, "n": 5}
    assert recorded(lambda: aten.embedding(m(1000, 8), ids(2, 3))).dims == {"tokens": 6, "rows": 1000, "width": 8}
    group = recorded(lambda: aten.native_group_norm(m(2, 8, 3, 3), m(8), m(8), 2, 8, 9, 4, 1e-5))
    assert group.dims == {"elements": 144, "channels": 8}
    back = recorded(
        lambda: aten.native_layer_norm_backward(
            m(2, 5, 8), m(2, 5, 8), [8], m(2, 5, 1), m(2, 5, 1), m(8), m(8), [True, True, True]
        )
    )
    assert back.dims == {"elements": 80, "channels": 5, "rows": 10}


def test_complex_ops_have_the_number_format_of_their_parts() -> None:
    assert recorded(lambda: aten.mul(c(2, 3), c(2, 3))).dtype == "float32"
    assert recorded(lambda: aten.mm(c(2, 3), c(3, 5))).dtype == "float32"
    double = m(2, 3, dtype=torch.complex128)
    assert recorded(lambda: aten.mul(double, double)).dtype == "float64"


# -- sparse tensors ------------------------------------------------------------------------------


def adjacency(layout: torch.layout) -> torch.Tensor:
    """100 x 100 with 3 values."""
    dense = torch.zeros(100, 100)
    dense[0, 1] = dense[5, 7] = dense[9, 2] = 1.0
    return dense.to_sparse() if layout is torch.sparse_coo else dense.to_sparse_csr()


@pytest.mark.parametrize(
    ("layout", "index_bytes"), [(torch.sparse_coo, 2 * 3 * I8), (torch.sparse_csr, (101 + 3) * I8)]
)
def test_a_sparse_product_costs_what_is_stored(layout: torch.layout, index_bytes: int) -> None:
    with warnings.catch_warnings():  # some releases call sparse CSR a beta, once a process
        warnings.simplefilter("ignore")
        sparse, features = adjacency(layout), torch.zeros(100, 16)
    recorder = Recorder(nn.Identity())
    with torch.no_grad(), recorder:
        torch.sparse.mm(sparse, features)
    products = [op for op in recorder.ops if op.kind == "matmul"]
    assert sum(op.flops for op in products) == 3 * 16
    assert products[0].bytes_written == F4 * 1600
    assert sum(op.bytes_read for op in products) <= F4 * (3 + 2 * 1600) + index_bytes
    assert "other" not in {op.kind for op in recorder.ops}


# -- which ops are known -------------------------------------------------------------------------


def differentiable_ops() -> Iterator[str]:
    """Base names of the ATen ops that PyTorch has a derivative for, from the table it is built from."""
    yaml = pytest.importorskip("yaml")
    torchgen = pytest.importorskip("torchgen")
    (folder,) = torchgen.__path__
    entries = yaml.safe_load(Path(folder, "packaged/autograd/derivatives.yaml").read_text())
    yield from dict.fromkeys(entry["name"].partition("(")[0].partition(".")[0] for entry in entries)


def only_views(name: str) -> bool:
    packet = getattr(aten, name)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    return all(
        schema.returns and all(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        for schema in schemas
    )


def test_every_differentiable_op_has_a_decision() -> None:
    undecided = [
        name
        for name in differentiable_ops()
        if hasattr(aten, name)
        and plain_name(name) not in TABLE
        and plain_name(name) not in FREE
        and not only_views(name)
    ]
    assert undecided == []


def test_every_name_in_the_table_exists() -> None:
    names = [name for name in (*TABLE, *FREE) if "::" not in name]
    assert [name for name in names if not hasattr(aten, name)] == []
    assert {entry.kind for entry in TABLE.values()} <= set(KINDS)
    assert not FREE & TABLE.keys()


WORDS = (
    "mm addmm bmm baddbmm mv linear bilinear trilinear conv convolution attention rnn fft cholesky lu qr svd eig eigh "
    "solve inv det cdist pdist"
)
MOVED_ALL_THE_SAME = {"lu_unpack", "bitsandbytes::int8_mm_dequant"}  # what follows a product


def test_no_product_hides_under_a_kind_that_only_moves_data() -> None:
    dense = {"conv", "matmul", "attention", "rnn", "scan", "fft", "linalg"}
    hidden = [
        name
        for name, entry in TABLE.items()
        if set(WORDS.split()) & set(name.split("_")) and entry.kind not in dense and "upsample" not in name
    ]
    assert set(hidden) <= MOVED_ALL_THE_SAME


@pytest.mark.parametrize(
    ("variant", "plain"), [("relu_", "relu"), ("_foreach_add_", "add"), ("permute_copy", "view_copy"), ("mul", "mul")]
)
def test_variants_are_looked_up_under_the_plain_name(variant: str, plain: str) -> None:
    assert lookup(variant) is TABLE[plain]


# -- ops of users --------------------------------------------------------------------------------


@torch.library.custom_op("joulecast_formulas::twice", mutates_args=())
def twice(x: torch.Tensor, times: int) -> torch.Tensor:
    return x * times


@twice.register_fake
def _(x: torch.Tensor, times: int) -> torch.Tensor:
    return torch.empty_like(x)


@pytest.fixture
def no_registrations() -> Iterator[None]:
    before = dict(TABLE)
    yield
    TABLE.clear()
    TABLE.update(before)


@pytest.mark.usefixtures("no_registrations")
@pytest.mark.parametrize("op", ["joulecast_formulas::twice", twice, torch.ops.joulecast_formulas.twice])
def test_users_add_one_formula(op: Any) -> None:
    assert recorded(lambda: twice(m(2, 5), 3)).kind == "other"
    jc.register_op(op, lambda x, times, out: times * x.shape[0] * out.shape[1], kind="attention")
    known = recorded(lambda: twice(m(2, 5), 3))
    assert (known.kind, known.flops, known.bytes_read, known.bytes_written) == ("attention", 3 * 2 * 5, 40, 40)
    with pytest.raises(JoulecastError, match="joulecast_formulas::twice already has a formula"):
        jc.register_op(op, lambda *args, out: 0)


def test_ops_that_are_known_cannot_be_registered() -> None:
    for name in ("mm", "aten::mm", "aten::relu_", "aten::detach"):
        with pytest.raises(JoulecastError, match="already has a formula"):
            jc.register_op(name, lambda *args, out: 0)
    with pytest.raises(JoulecastError, match="kind 'product' is not known; choose one of conv"):
        jc.register_op("mylib::new", lambda *args, out: 0, kind="product")


def test_formulas_registered_with_torch_count_two_operations_a_multiply_add() -> None:
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    packet = torch.ops.joulecast_formulas.twice
    register_flop_formula(packet)(lambda shape, times, *_, out_shape=None, **__: 2 * times * shape[0] * out_shape[1])
    try:
        op = recorded(lambda: twice(m(2, 5), 3))
    finally:
        del flop_registry[packet]
    assert (op.kind, op.flops, op.bytes_read) == ("matmul", 3 * 2 * 5, 40)


def test_questions_about_number_formats_are_free_and_membership_moves_data() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            known = torch.isin(torch.arange(4, device=x.device), torch.arange(2, device=x.device))
            return self.layer(x).to(torch.promote_types(x.dtype, torch.float32)) * known

    work = jc.trace(Asks(), torch.zeros(2, 4), layers=False)
    assert not work.unsupported
    assert [op.kind for op in work.ops if op.name == "isin"] == ["copy"]
