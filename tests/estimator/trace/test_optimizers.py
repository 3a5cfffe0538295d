"""Optimizers: passes, state and products of one tensor, worked out by hand; every spelling; PyTorch's own classes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.optimizers import (
    OPTIMIZERS,
    clip_op,
    ema_op,
    optimizer_name,
    optimizer_of,
    state_bytes,
    update_ops,
)
from joulecast.estimator.trace.trace import trace

SHAPE = (30, 20)  # 600 elements, 2,400 bytes in float32
TENSOR = 2400


def update(name, shape=SHAPE):
    return update_ops(name, "layer", shape, 4, "float32")


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("sgd", 2, 1),  # parameter and gradient; parameter
        ("momentum", 3, 2),
        ("adam", 4, 3),
        ("adamw", 4, 3),
        ("amsgrad", 5, 4),
        ("rmsprop", 3, 2),
        ("adagrad", 3, 2),
        ("adadelta", 4, 3),
        ("nadam", 4, 3),
        ("lion", 3, 2),
        ("lamb", 6, 4),  # g, m, v, p; then p and the update
        ("adamax", 4, 3),
        ("radam", 4, 3),
        ("sparseadam", 4, 3),
        ("rmsprop_momentum", 4, 3),
        ("asgd", 3, 2),
        ("rprop", 4, 3),
        ("ftrl", 4, 3),
        ("lars", 5, 2),  # parameter and gradient for their norms; then both with the velocity
        ("lbfgs", 2 + 100 * 8, 1 + 100 * 2),  # both loops over a history of 100 pairs
    ],
)
def test_passes(name, reads, writes):
    (op,) = update(name)
    assert (op.bytes_read, op.bytes_written) == (reads * TENSOR, writes * TENSOR)
    assert (op.kind, op.phase, op.flops, op.dims["elements"]) == ("optimizer", "optimizer", 0, 600)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("sgd", SHAPE, 0),
        *((name, SHAPE, TENSOR) for name in ("momentum", "adagrad", "rmsprop", "asgd", "lion", "lars")),
        *((name, SHAPE, 2 * TENSOR) for name in ("adamw", "adamax", "nadam", "radam", "sparseadam", "adadelta")),
        *((name, SHAPE, 2 * TENSOR) for name in ("rmsprop_momentum", "rprop", "ftrl", "lamb")),
        ("amsgrad", SHAPE, 3 * TENSOR),
        ("lbfgs", SHAPE, 202 * TENSOR),
        ("momentum_8bit", (64, 64), 4096 + 16 * 4),
        ("momentum_8bit", (4095,), 4095 * 4),  # one element too few for 8 bits
        ("soap", (10_000, 1), 2 * 40_000 + 2 * 10_000**2 * 4),  # a side of one needs none
        ("adam", SHAPE, 2 * TENSOR),
        ("adafactor", SHAPE, (30 + 20) * 4),
        ("adafactor", (5, 30, 20), 5 * (30 + 20) * 4),
        ("adafactor", (30,), 30 * 4),
        ("adamw_8bit", (64, 64), 2 * (4096 + 16 * 4)),  # one float32 scale for 256 elements
        ("adamw_8bit", SHAPE, 2 * TENSOR),  # too small for 8 bits
        ("lion_8bit", (64, 65), 4160 + 17 * 4),
        ("muon", SHAPE, TENSOR),
        ("muon", (30,), 2 * 30 * 4),  # AdamW's
        ("shampoo", SHAPE, TENSOR + 2 * (900 + 400) * 4),
        ("soap", SHAPE, 2 * TENSOR + 2 * (900 + 400) * 4),
        ("soap", (20_000, 20), 2 * 1_600_000 + 2 * 400 * 4),  # the long side has no preconditioner
    ],
)
def test_state(name, shape, expected):
    assert state_bytes(name, shape, 4) == expected


def test_eight_bit_states_are_read_and_written_once():
    (op,) = update("AdamW8bit", (64, 64))
    assert op.bytes_read == 2 * 4096 * 4 + 2 * (4096 + 64)
    assert op.bytes_written == 1 * 4096 * 4 + 2 * (4096 + 64)


def test_muons_newton_schulz():
    """Five times XX^T (20 x 30 x 20), A^2 (20^3) and BX (20 x 20 x 30), on the wide side and in bfloat16."""
    _, *products = update("muon")
    assert sum(op.flops * op.count for op in products) == 5 * (20 * 30 * 20 + 20**3 + 20 * 20 * 30)
    assert {(op.kind, op.dtype, op.count) for op in products} == {("matmul", "bfloat16", 5)}
    assert [tuple(op.dims.values()) for op in products] == [(20, 30, 20), (20, 20, 20), (20, 20, 30)]
    convolution = update("muon", (20, 3, 2, 5))[1:]
    assert [op.flops for op in convolution] == [op.flops for op in products]
    assert [op.name for op in update("muon", (600,))] == ["adamw"]


def test_products_of_preconditioners():
    """Statistics GG^T and the product with the inverse root take side x side x rest = 600 x side each."""
    flops = {}
    for op in update("shampoo"):
        flops[op.name] = flops.get(op.name, 0) + op.flops * op.count
    assert flops["statistics"] == flops["precondition"] == 600 * 30 + 600 * 20
    assert flops["inverse_root"] == round(5.5 * 30**3 / 10) + round(5.5 * 20**3 / 10)
    soap = [op for op in update("soap") if op.name == "project"]
    assert sum(op.flops * op.count for op in soap) == 3 * 600 * (30 + 20)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("SGD", "sgd"),
        ("AdamW", "adamw"),
        ("adamw_torch_fused", "adamw"),
        ("adamw_bnb_8bit", "adamw_8bit"),
        ("AdamW8bit", "adamw_8bit"),
        ("Paged-AdamW-8bit", "adamw_8bit"),
        ("NAdam", "nadam"),
        ("MUON", "muon"),
    ],
)
def test_spellings(spelling, name):
    assert optimizer_name(spelling) == name


def test_a_name_that_is_not_known():
    with pytest.raises(JoulecastError, match=r"^`optimizer` 'adamm' is not known; did you mean adam"):
        optimizer_name("adamm")
    with pytest.raises(JoulecastError, match="choose one of sgd, momentum"):
        optimizer_name("")


def test_every_optimizer_of_torch_is_in_the_table():
    classes = [kind for kind in vars(torch.optim).values() if isinstance(kind, type)]
    names = {kind.__name__ for kind in classes if issubclass(kind, torch.optim.Optimizer)} - {"Optimizer"}
    assert {optimizer_name(name) for name in names} <= OPTIMIZERS.keys()
    assert len(names) >= 14


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("SGD", {"lr": 1}, "sgd"),
        ("SGD", {"lr": 1, "momentum": 0.9}, "momentum"),
        ("Adam", {"amsgrad": True}, "amsgrad"),
        ("RMSprop", {"momentum": 0.9}, "rmsprop_momentum"),
        ("Adagrad", {}, "adagrad"),
        ("Adafactor", {}, "adafactor"),
        ("Rprop", {}, "rprop"),
        ("NAdam", {}, "nadam"),
    ],
)
def test_state_is_that_of_torchs_own_optimizers(kind, options, name):
    """The tensors that a real optimizer keeps after a step, next to the table."""
    weight = nn.Parameter(torch.ones(SHAPE))
    optimizer = getattr(torch.optim, kind)([weight], **options)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    tensors = [value for value in optimizer.state[weight].values() if torch.is_tensor(value) and value.numel() > 1]
    assert optimizer_of(optimizer) == name
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == state_bytes(name, SHAPE, 4)


def test_an_unknown_class_keeps_two_states():
    assert optimizer_of(type("Novel", (), {})()) == "adamw"


def test_clipping_averages_and_state_in_a_trace():
    """Clipping reads every gradient twice and writes it once; so does an average with the parameter."""
    model, batch = nn.Linear(20, 30), torch.zeros(2, 20)
    plain = trace(model, batch, optimizer="AdamW", layers=False)
    both = trace(model, batch, optimizer="AdamW", layers=False, clip_gradients=True, ema=True)
    assert plain.optimizer == "adamw"
    assert plain.optimizer_state_bytes == 2 * 630 * 4
    assert both.optimizer_state_bytes == 3 * 630 * 4
    assert both.bytes_moved - plain.bytes_moved == 2 * (2 + 1) * 630 * 4
    assert [op.name for op in both.ops if op.phase == "optimizer"] == ["clip_grad_norm_", "adamw", "ema"] * 2
    assert trace(model, batch, train=False, layers=False).optimizer_state_bytes == 0


def test_what_is_left_out_is_noted():
    work = trace(nn.Linear(2, 2), torch.zeros(2, 2), optimizer="lbfgs", layers=False)
    assert "lbfgs evaluates the model up to 20 times a step; it is costed as one evaluation" in work.warnings


def products(name: str, shape: tuple[int, ...] = SHAPE) -> list[tuple[str, tuple[int, ...], int, int, int, int]]:
    """Name, sizes, multiply-adds, bytes read and written and count of each product."""
    ops = [op for op in update(name, shape) if op.kind == "matmul"]
    return [(op.name, tuple(op.dims.values()), op.flops, op.bytes_read, op.bytes_written, op.count) for op in ops]


def test_every_product_of_an_update():
    assert products("muon") == [
        ("newton_schulz_gram", (20, 30, 20), 12_000, 2 * 1200, 2 * 400, 5),
        ("newton_schulz_square", (20, 20, 20), 8000, 2 * 800, 2 * 400, 5),
        ("newton_schulz_apply", (20, 20, 30), 12_000, 2 * 1000, 2 * 600, 5),
    ]
    assert products("shampoo", (30, 1)) == [
        ("statistics", (30, 1, 30), 900, 4 * 60, 4 * 900, 1),
        ("precondition", (30, 30, 1), 900, 4 * 930, 4 * 30, 1),
        # every tenth step 4.5 x 30^3 for the eigenvectors and 30^3 for the root
        ("inverse_root", (30, 30, 30), 14_850, 4 * 180, 4 * 90, 1),
    ]
    assert products("soap", (30, 1)) == [
        ("statistics", (30, 1, 30), 900, 4 * 60, 4 * 900, 1),
        ("project", (30, 30, 1), 900, 4 * 930, 4 * 30, 3),
        ("basis", (30, 30, 30), 6300, 4 * 180, 4 * 90, 1),  # a tenth of 30^3 and of 4/3 x 30^3
    ]
    assert [name for name, *_ in products("soap", (10_001, 2))] == ["statistics", "project", "basis"]
    assert products("soap", (2, 3, 4))[0][1] == (2, 12, 2)
    assert products("adam") == []


def test_all_products_run_in_the_parameters_format_but_newton_schulz():
    assert {op.dtype for op in update("muon") if op.kind == "matmul"} == {"bfloat16"}
    assert {op.dtype for op in update_ops("soap", "", SHAPE, 4, "float32")} == {"float32"}


def test_a_part_of_a_tensor_is_updated_in_its_share():
    (op,) = update_ops("adam", "layer", SHAPE, 4, "float32", elements=50)
    assert (op.bytes_read, op.bytes_written, op.dims) == (4 * 50 * 4, 3 * 50 * 4, {"elements": 50})


def test_clipping_and_averages_read_twice_and_write_once():
    for op in (clip_op("layer", 50, 4, "float32"), ema_op("layer", 50, 4, "float32")):
        assert (op.bytes_read, op.bytes_written, op.layer, op.flops) == (400, 200, "layer", 0)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        ("AdamW", "adamw"),
        (SimpleNamespace(optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1)), "sgd"),
        (SimpleNamespace(inner_optimizer=SimpleNamespace(optimizer="lion")), "adamw"),
        (SimpleNamespace(inner_optimizer="lion"), "lion"),
        (torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1, momentum=0.9), "momentum"),
        (torch.optim.AdamW([nn.Parameter(torch.ones(1))], amsgrad=True), "amsgrad"),
        (torch.optim.Adam([nn.Parameter(torch.ones(1))]), "adam"),
        (torch.optim.NAdam([nn.Parameter(torch.ones(1))]), "nadam"),
        (type("SGD", (), {"momentum": 0.9})(), "momentum"),  # as Keras keeps it
        (type("SGD", (), {"momentum": 0.0})(), "sgd"),
        (type("Adam", (), {"amsgrad": True})(), "amsgrad"),
    ],
)
def test_optimizers_of_libraries_and_their_wrappers(optimizer, name):
    assert optimizer_of(optimizer) == name


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        ("SGDMomentum sgd_m nesterov", "momentum"),
        ("adamw_hf adamw_apex_fused FusedAdamW paged_adamw_32bit", "adamw"),
        ("FusedAdam DeepSpeedCPUAdam", "adam"),
        ("Adam8bit paged_adamw_8bit", "adamw_8bit"),
        ("SGD8bit LARS8bit", "momentum_8bit"),
        ("PagedLion8bit", "lion_8bit"),
        ("PagedLion lion_32bit", "lion"),
        ("DistributedShampoo", "shampoo"),
        ("FusedLAMB", "lamb"),
        ("FusedSGD", "sgd"),
        ("MuonWithAuxAdam SingleDeviceMuon", "muon"),
    ],
)
def test_names_of_libraries(spellings, name):
    assert {optimizer_name(one) for one in spellings.split()} == {name}
