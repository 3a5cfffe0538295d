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


PASSES = {  # tensors of the parameter's size: read, written, and kept between steps
    "sgd": (2, 1, 0),  # parameter and gradient; parameter
    "momentum": (3, 2, 1),  # and the velocity
    "adam": (4, 3, 2),  # and two moments
    "adamw": (4, 3, 2),
    "amsgrad": (5, 4, 3),  # and the largest second moment
    "adamax": (4, 3, 2),  # the momentum and the largest gradient
    "nadam": (4, 3, 2),
    "radam": (4, 3, 2),
    "sparseadam": (4, 3, 2),
    "adagrad": (3, 2, 1),  # the sum of squares
    "adadelta": (4, 3, 2),  # averages of squared gradients and of squared updates
    "rmsprop": (3, 2, 1),  # the average of squares
    "rmsprop_momentum": (4, 3, 2),
    "asgd": (3, 2, 1),  # the average of the parameter
    "rprop": (4, 3, 2),  # the last gradient and the step sizes
    "ftrl": (4, 3, 2),  # the sum of squares and the linear term
    # 100 pairs of vectors, the direction and the last gradient; both loops read each pair and twice the direction
    "lbfgs": (2 + 100 * 8, 1 + 100 * 2, 2 * 100 + 2),
    "adafactor": (4, 1, 0),  # the gradient for its statistics, for the size of the update and for the update; parameter
    "lion": (3, 2, 1),
    "lamb": (6, 4, 2),  # gradient, moments, parameter; then parameter and update. Moments, update and parameter
    "lars": (5, 2, 1),  # parameter and gradient for their norms; then both with the velocity
    "adamw_8bit": (2, 1, 0),  # states are not of the parameter's format
    "momentum_8bit": (2, 1, 0),
    "lion_8bit": (2, 1, 0),
    # gradient, momentum, the direction for its norm, the orthogonal update, parameter; momentum, direction, parameter
    "muon": (5, 3, 1),
    # gradient, momentum, preconditioned direction, parameter; momentum, direction, parameter
    "shampoo": (4, 3, 1),
    # gradient, momentum, their projections, second moment, parameter; the same without the gradient
    "soap": (6, 5, 2),
}


def test_every_optimizer_has_its_passes_here() -> None:
    assert PASSES.keys() == OPTIMIZERS.keys()


@pytest.mark.parametrize("name", PASSES)
def test_passes(name: str) -> None:
    reads, writes, states = PASSES[name]
    op, *_ = update(name)
    extra = state_bytes(name, SHAPE, 4) - states * TENSOR  # read and written once
    assert (op.bytes_read, op.bytes_written) == (reads * TENSOR + extra, writes * TENSOR + extra)
    assert (op.name, op.kind, op.phase, op.layer, op.dtype) == (name, "optimizer", "optimizer", "layer", "float32")
    assert (op.flops, op.count, op.dims) == (0, 1, {"elements": 600})
    assert OPTIMIZERS[name].state == states


WITH_OTHER_STATE = {"adafactor", "adamw_8bit", "momentum_8bit", "lion_8bit", "shampoo", "soap"}


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        *((name, SHAPE, PASSES[name][2] * TENSOR) for name in PASSES if name not in WITH_OTHER_STATE),
        ("momentum_8bit", (64, 64), 4096 + 16 * 4),
        ("momentum_8bit", (4095,), 4095 * 4),  # one element too few for 8 bits
        ("soap", (10_000, 1), 2 * 40_000 + 2 * 10_000**2 * 4),  # a side of one needs none
        ("adafactor", SHAPE, (30 + 20) * 4),
        ("adafactor", (5, 30, 20), 5 * (30 + 20) * 4),
        ("adafactor", (30,), 30 * 4),
        ("adamw_8bit", (64, 64), 2 * (4096 + 16 * 4)),  # one float32 scale for 256 elements
        ("adamw_8bit", SHAPE, 2 * TENSOR),  # too small for 8 bits
        ("lion_8bit", (64, 65), 4160 + 17 * 4),
        ("adafactor", (), 4),
        ("muon", (), 2 * 4),
        ("muon", (2, 3, 4), 24 * 4),
        ("muon", (30,), 2 * 30 * 4),  # AdamW's
        ("shampoo", SHAPE, TENSOR + 2 * (900 + 400) * 4),
        ("soap", SHAPE, 2 * TENSOR + 2 * (900 + 400) * 4),
        ("soap", (20_000, 20), 2 * 1_600_000 + 2 * 400 * 4),  # the long side has no preconditioner
    ],
)
def test_state(name, shape, expected):
    assert state_bytes(name, shape, 4) == expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [  # of parameters with two bytes an element
        ("adam", SHAPE, 2 * 600 * 2),
        ("adafactor", SHAPE, (30 + 20) * 2),
        ("adafactor", (30,), 30 * 2),
        ("adamw_8bit", (64, 64), 2 * (4096 + 16 * 4)),
        ("adamw_8bit", SHAPE, 2 * 600 * 4),
        ("shampoo", SHAPE, 600 * 2 + 2 * (900 + 400) * 2),
    ],
)
def test_state_of_parameters_in_half_precision(name: str, shape: tuple[int, ...], expected: int) -> None:
    assert state_bytes(name, shape, 2) == expected


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
    half = update_ops("muon", "", SHAPE, 2, "float16")
    assert [op.dtype for op in half] == ["float16"] * 4
    assert [(op.bytes_read, op.bytes_written) for op in half[1:]] == [(2400, 800), (1600, 800), (2000, 1200)]


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
        (torch.optim.RMSprop([nn.Parameter(torch.ones(1))]), "rmsprop"),
        (  # the first group decides
            torch.optim.SGD(
                [{"params": [nn.Parameter(torch.ones(1))], "momentum": rate} for rate in (0.9, 0.0, 0.0)], lr=1
            ),
            "momentum",
        ),
        (type("SGD", (), {"amsgrad": True})(), "sgd"),
        (type("Adagrad", (), {"momentum": 0.9})(), "adagrad"),
        (type("RMSprop", (), {"amsgrad": True, "param_groups": []})(), "rmsprop"),
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
        ("adamw_hf adamw_torch adamw_torch_fused adamw_apex_fused adamw_anyprecision adamw_torch_xla", "adamw"),
        ("FusedAdamW ScheduleFreeAdamW PagedAdamW paged_adamw_32bit CPUAdam", "adamw"),
        ("FusedAdam DeepSpeedCPUAdam", "adam"),
        ("Adam8bit adamw_bnb_8bit bnb_adamw_8bit PagedAdam8bit paged_adamw_8bit", "adamw_8bit"),
        ("SGD8bit RMSprop8bit Adagrad8bit LARS8bit", "momentum_8bit"),
        ("PagedLion8bit", "lion_8bit"),
        ("PagedLion lion_32bit paged_lion_32bit", "lion"),
        ("DistributedShampoo", "shampoo"),
        ("FusedLAMB", "lamb"),
        ("FusedSGD", "sgd"),
        ("MuonWithAuxAdam SingleDeviceMuon", "muon"),
        ("RMSprop_Momentum", "rmsprop_momentum"),
    ],
)
def test_names_of_libraries(spellings, name):
    assert {optimizer_name(one) for one in spellings.split()} == {name}


def test_what_an_optimizer_leaves_out_has_a_note() -> None:
    noted = {name: optimizer.note for name, optimizer in OPTIMIZERS.items() if optimizer.note}
    assert noted == {
        "lbfgs": "lbfgs evaluates the model up to 20 times a step; it is costed as one evaluation",
        "sparseadam": "sparseadam is costed as if every row had a gradient",
    }
    assert {name for name, optimizer in OPTIMIZERS.items() if optimizer.matrices_only} == {"muon"}
    assert {name for name, optimizer in OPTIMIZERS.items() if optimizer.products} == {"muon", "shampoo", "soap"}
