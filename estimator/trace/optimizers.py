"""What an optimizer does to one parameter tensor: the bytes that it must move, its products and its state.

Frameworks run the same update as a loop of small ops, as `foreach` groups or as one fused kernel, by device and
version. The traffic that the update cannot avoid is the same, and the cost model learns what each device adds to it.
One table serves the command line, Python and the trainers.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..base.errors import JoulecastError
from ..base.suggest import near
from .workload import Op

Shape = tuple[int, ...]
State = Callable[[Shape, int], float]
Products = Callable[[Shape], Iterator["Product"]]


@dataclass(frozen=True, slots=True)
class Product:
    """`count` products of m x k times k x n in one update; a fraction for those that run every few steps."""

    name: str
    m: int
    k: int
    n: int
    count: float = 1.0
    macs: float | None = None  # where it is not m * k * n


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Passes over a tensor of the parameter's size, in the parameter's format: read, written, and kept as state.

    `extra_state` is the state besides those tensors, in bytes of a shape and the bytes of an element; all of it is
    read and written once in a step. `products` are its matrix products. `matrices_only` names the optimizer that
    updates vectors in its place. `note` says what is left out.
    """

    reads: int
    writes: int
    state: int
    extra_state: State | None = None
    products: Products | None = None
    matrices_only: str = ""
    note: str = ""


# -- states that are not of the parameter's size or format -------------------------------------------


def _matrix(shape: Shape) -> tuple[int, int]:
    """A tensor as rows and columns: convolutions by their output channels."""
    return shape[0], math.prod(shape[1:])


def _factored(shape: Shape, element_bytes: int) -> float:
    """Adafactor: a row and a column in place of a matrix of second moments; the whole for a vector."""
    if len(shape) < 2:
        return float(math.prod(shape) * element_bytes)
    outer = math.prod(shape[:-2])
    return float(outer * (shape[-2] + shape[-1]) * element_bytes)


_BLOCK = 256  # elements that share one 4-byte scale in bitsandbytes' 8-bit states
_SMALLEST_8_BIT = 4096  # below, bitsandbytes keeps states of 32 bits


def _eight_bit(states: int) -> State:
    def size(shape: Shape, _element_bytes: int) -> float:
        elements = math.prod(shape)
        if elements < _SMALLEST_8_BIT:
            return states * elements * 4.0
        return states * (elements + 4.0 * math.ceil(elements / _BLOCK))

    return size


# -- matrix products ---------------------------------------------------------------------------------

_NEWTON_SCHULZ_STEPS = 5
_PRECONDITION_EVERY = 10  # steps between two decompositions, the default of SOAP and usual for Shampoo
_LARGEST_PRECONDITIONER = 10_000  # a longer side gets none, as in SOAP


def _newton_schulz(shape: Shape) -> Iterator[Product]:
    """Muon: X <- aX + (bA + cAA)X with A = XX^T, five times, on the wide side (Jordan et al., 2024)."""
    m, n = sorted(_matrix(shape))
    for name, k, width in (("gram", n, m), ("square", m, m), ("apply", m, n)):
        yield Product(f"newton_schulz_{name}", m, k, width, _NEWTON_SCHULZ_STEPS)


def _sides(shape: Shape) -> Iterator[tuple[int, int]]:
    """Each side that has a preconditioner, with the elements over that side."""
    elements = math.prod(shape)
    for side in shape:
        if 1 < side <= _LARGEST_PRECONDITIONER:
            yield side, elements // side


def _preconditioners(shape: Shape, element_bytes: int) -> float:
    """The statistics of each side and what they are decomposed into."""
    return float(sum(2 * side * side for side, _ in _sides(shape)) * element_bytes)


def _shampoo_products(shape: Shape) -> Iterator[Product]:
    """L += GG^T and the product with its inverse root, for each side (Gupta et al., 2018)."""
    for side, rest in _sides(shape):
        yield Product("statistics", side, rest, side)
        yield Product("precondition", side, side, rest)
        # An eigendecomposition of a symmetric matrix takes about 9 n^3 operations, 4.5 n^3 multiply-adds.
        yield Product("inverse_root", side, side, side, 1 / _PRECONDITION_EVERY, macs=4.5 * side**3 + side**3)


def _soap_products(shape: Shape) -> Iterator[Product]:
    """Adam in Shampoo's eigenbasis: gradient and momentum go in, the update comes out (Vyas et al., 2024)."""
    for side, rest in _sides(shape):
        yield Product("statistics", side, rest, side)
        yield Product("project", side, side, rest, 3.0)
        # One power iteration and a QR decomposition, 4/3 n^3 multiply-adds with its orthogonal factor.
        yield Product("basis", side, side, side, 1 / _PRECONDITION_EVERY, macs=(1 + 4 / 3) * side**3)


_LBFGS_HISTORY = 100
_LBFGS_NOTE = "lbfgs evaluates the model up to 20 times a step; it is costed as one evaluation"

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(reads=2, writes=1, state=0),  # p -= lr * g
    "momentum": Optimizer(reads=3, writes=2, state=1),  # + velocity
    "adam": Optimizer(reads=4, writes=3, state=2),  # + two moments (Kingma and Ba, 2015)
    "adamw": Optimizer(reads=4, writes=3, state=2),  # decay folded into the same pass
    "amsgrad": Optimizer(reads=5, writes=4, state=3),  # + the largest second moment
    "adamax": Optimizer(reads=4, writes=3, state=2),
    "nadam": Optimizer(reads=4, writes=3, state=2),
    "radam": Optimizer(reads=4, writes=3, state=2),
    "sparseadam": Optimizer(reads=4, writes=3, state=2, note="sparseadam is costed as if every row had a gradient"),
    "adagrad": Optimizer(reads=3, writes=2, state=1),
    "adadelta": Optimizer(reads=4, writes=3, state=2),
    "rmsprop": Optimizer(reads=3, writes=2, state=1),
    "rmsprop_momentum": Optimizer(reads=4, writes=3, state=2),
    "asgd": Optimizer(reads=3, writes=2, state=1),  # + the average
    "rprop": Optimizer(reads=4, writes=3, state=2),  # + the last gradient and a step size for each element
    "ftrl": Optimizer(reads=4, writes=3, state=2),
    # The two-loop recursion reads both vectors of a step and the direction twice, for every step in its history.
    "lbfgs": Optimizer(
        reads=2 + 8 * _LBFGS_HISTORY, writes=1 + 2 * _LBFGS_HISTORY, state=2 * _LBFGS_HISTORY + 2, note=_LBFGS_NOTE
    ),
    # The gradient is read for its statistics, for the root mean square of the update, and for the update.
    "adafactor": Optimizer(reads=4, writes=1, state=0, extra_state=_factored),
    "lion": Optimizer(reads=3, writes=2, state=1),
    # The norms of parameter and update are known only after a pass over both.
    "lamb": Optimizer(reads=6, writes=4, state=2),
    "lars": Optimizer(reads=5, writes=2, state=1),
    "adamw_8bit": Optimizer(reads=2, writes=1, state=0, extra_state=_eight_bit(2)),
    "momentum_8bit": Optimizer(reads=2, writes=1, state=0, extra_state=_eight_bit(1)),
    "lion_8bit": Optimizer(reads=2, writes=1, state=0, extra_state=_eight_bit(1)),
    # Momentum, its norm, and the orthogonal update; vectors go to AdamW, as in every published recipe.
    "muon": Optimizer(reads=5, writes=3, state=1, products=_newton_schulz, matrices_only="adamw"),
    "shampoo": Optimizer(reads=4, writes=3, state=1, extra_state=_preconditioners, products=_shampoo_products),
    "soap": Optimizer(reads=6, writes=5, state=2, extra_state=_preconditioners, products=_soap_products),
}

# Names that libraries give the same updates, without case, "-" and "_".
_ALIASES = {
    "sgdmomentum": "momentum",
    "sgdm": "momentum",
    "nesterov": "momentum",
    **{f"adamw{tail}": "adamw" for tail in ("torch", "torchfused", "hf", "apexfused", "anyprecision", "torchxla")},
    **dict.fromkeys(("fusedadamw", "schedulefreeadamw", "pagedadamw", "pagedadamw32bit", "cpuadam"), "adamw"),
    **dict.fromkeys(("fusedadam", "deepspeedcpuadam"), "adam"),
    **dict.fromkeys(("adam8bit", "adamwbnb8bit", "pagedadamw8bit", "pagedadam8bit", "bnbadamw8bit"), "adamw_8bit"),
    **dict.fromkeys(("sgd8bit", "rmsprop8bit", "adagrad8bit", "lars8bit"), "momentum_8bit"),
    "pagedlion8bit": "lion_8bit",
    **dict.fromkeys(("lion32bit", "pagedlion", "pagedlion32bit"), "lion"),
    "distributedshampoo": "shampoo",
    "fusedlamb": "lamb",
    "fusedsgd": "sgd",
    "singledevicemuon": "muon",
    "muonwithauxadam": "muon",
}
_UNKNOWN = "adamw"


@functools.cache  # asked for each parameter tensor
def optimizer_name(name: str) -> str:
    """The name in the table, from any spelling: `SGD`, `AdamW8bit`, `adamw_bnb_8bit`. Raises JoulecastError."""
    plain = _plain(name)
    known = {_plain(key): key for key in OPTIMIZERS} | _ALIASES
    if plain in known:
        return known[plain]
    hint = near(plain, known) or f"; choose one of {', '.join(OPTIMIZERS)}"
    raise JoulecastError(f"`optimizer` {name!r} is not known{hint}")


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.casefold())


def optimizer_named(name: str) -> Optimizer:
    """Raises JoulecastError for a name that is not in the table."""
    return OPTIMIZERS[optimizer_name(name)]


def optimizer_of(optimizer: Any) -> str:
    """The name in the table of an optimizer of PyTorch, Keras or another library, by its class and options.

    Wrappers (accelerate's, Keras' loss scaling) are looked into. A class that is not in the table keeps two states,
    as Adam does.
    """
    for wrapped in ("optimizer", "inner_optimizer"):
        optimizer = getattr(optimizer, wrapped, optimizer)
    name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
    try:
        known = optimizer_name(name)
    except JoulecastError:
        return _UNKNOWN
    if known in ("sgd", "rmsprop") and _option(optimizer, "momentum"):
        return "momentum" if known == "sgd" else "rmsprop_momentum"
    if known in ("adam", "adamw") and _option(optimizer, "amsgrad"):
        return "amsgrad"
    return known


def _option(optimizer: Any, name: str) -> bool:
    groups = getattr(optimizer, "param_groups", None)
    return bool(groups[0].get(name) if groups else getattr(optimizer, name, None))


# -- one parameter tensor ------------------------------------------------------------------------------


def update_ops(
    name: str, layer: str, shape: Shape, element_bytes: int, dtype: str, elements: int | None = None
) -> list[Op]:
    """The update of one parameter tensor, or of `elements` of it. Element-wise arithmetic has 0 FLOPs, as in fvcore."""
    name = _for_shape(optimizer_name(name), shape)
    optimizer = OPTIMIZERS[name]
    extra = round(optimizer.extra_state(shape, element_bytes)) if optimizer.extra_state else 0
    passes = (optimizer.reads, optimizer.writes)
    touched = math.prod(shape) if elements is None else elements
    ops = [_pass(name, passes, layer, touched, element_bytes, dtype, extra)]
    products = optimizer.products(shape) if optimizer.products else ()
    return ops + [_product_op(product, layer, element_bytes, dtype) for product in products]


def clip_op(layer: str, elements: int, element_bytes: int, dtype: str) -> Op:
    """Clipping by the norm of all gradients: read for the norm, then scaled in place."""
    return _pass("clip_grad_norm_", (2, 1), layer, elements, element_bytes, dtype)


def ema_op(layer: str, elements: int, element_bytes: int, dtype: str) -> Op:
    """A moving average of the parameter, stored separately."""
    return _pass("ema", (2, 1), layer, elements, element_bytes, dtype)


def state_bytes(name: str, shape: Shape, element_bytes: int) -> int:
    """What the optimizer keeps for one parameter tensor."""
    optimizer = OPTIMIZERS[_for_shape(optimizer_name(name), shape)]
    extra = optimizer.extra_state(shape, element_bytes) if optimizer.extra_state else 0.0
    return optimizer.state * math.prod(shape) * element_bytes + round(extra)


def _for_shape(name: str, shape: Shape) -> str:
    return OPTIMIZERS[name].matrices_only or name if len(shape) < 2 else name


def _pass(
    name: str, passes: tuple[int, int], layer: str, elements: int, element_bytes: int, dtype: str, extra: int = 0
) -> Op:
    reads, writes = passes
    return Op(
        name=name,
        kind="optimizer",
        phase="optimizer",
        layer=layer,
        flops=0,
        bytes_read=reads * elements * element_bytes + extra,
        bytes_written=writes * elements * element_bytes + extra,
        dtype=dtype,
        dims={"elements": elements},
    )


def _product_op(product: Product, layer: str, element_bytes: int, dtype: str) -> Op:
    """One record for a product; what runs every few steps is spread over them."""
    m, k, n = product.m, product.k, product.n
    share = min(product.count, 1.0)
    macs = product.macs if product.macs is not None else m * k * n
    half = 2 if product.name.startswith("newton_schulz") else element_bytes  # Newton-Schulz runs in bfloat16
    return Op(
        name=product.name,
        kind="matmul",
        phase="optimizer",
        layer=layer,
        flops=round(macs * share),
        bytes_read=round((m * k + k * n) * half * share),
        bytes_written=round(m * n * half * share),
        dtype="bfloat16" if half != element_bytes else dtype,
        dims=_dims(m, k, n),
        count=max(round(product.count), 1),
    )


def _dims(m: int, k: int, n: int) -> Mapping[str, int]:
    return {"m": m, "k": k, "n": n}
