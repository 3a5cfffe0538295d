"""Ops as training stacks for language models run them: fused attention, and one kernel where eager PyTorch has many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..trace.workload import Op

FORWARD_PRODUCTS, BACKWARD_PRODUCTS = 2, 5
ELEMENT_WISE = frozenset({"elementwise", "activation", "norm", "dropout", "copy", "reduce", "softmax", "loss"})
_MOST_SINKS = 8  # columns
ELEMENT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def needed_share(op: Op) -> float:
    """The share of the scores that an attention op's mask leaves: half, a band, or the triangles of chunks."""
    if "scores" in op.dims:
        return op.computed_flops / op.flops
    q, s = op.dims.get("q", 0), op.dims.get("s", 0)
    if not op.dims.get("causal") or q != s or not s:
        return 1.0
    chunk = min(op.dims.get("chunk") or s, s)
    window = min(op.dims.get("window") or chunk, chunk)
    scores = s // chunk * _below_diagonal(chunk, window) + _below_diagonal(s % chunk, window)
    return scores / (s * s)


def _below_diagonal(queries: int, window: int) -> float:
    """Scores of a causal mask in which each query sees at most `window` keys."""
    most = min(window, queries)
    return most * (most + 1) / 2 + (queries - most) * most


def as_fused(ops: Sequence[Op]) -> list[Op | None]:
    """The ops as fused kernels, as long as `ops`: None for those that another op stands for.

    Attention by hand (product, softmax, product) is one op. Element-wise ops, norms and reductions of one module in one
    phase are one kernel, which moves as much as the largest of them. Weights are kept in the number format of the
    products: autocast's copies of them are gone.
    """
    found = _with_fused_attention(ops)
    weights = {(op.layer, op.dims["k"] * op.dims["n"]) for op in ops if is_product(op)}
    for index, op in enumerate(found):
        if op is not None and op.kind == "copy" and (op.layer, op.dims.get("elements_in")) in weights:
            found[index] = None
    largest: dict[tuple[str, str], int] = {}
    for index, op in enumerate(found):
        if op is None or op.phase == "optimizer" or op.kind not in ELEMENT_WISE:
            continue
        place = (op.layer, op.phase)
        other = largest.get(place)
        if other is None:
            largest[place] = index
            continue
        smaller, larger = sorted((other, index), key=lambda i: ops[i].bytes_moved * ops[i].count)
        found[smaller], largest[place] = None, larger
    return found


def is_product(op: Op) -> bool:
    """A forward product with a weight."""
    return op.kind == "matmul" and op.phase == "forward" and op.dims.get("b", 1) == 1 and "n" in op.dims


def _with_fused_attention(ops: Sequence[Op]) -> list[Op | None]:
    """Scores are recognised by their size: in a layer with a softmax, ops on as many elements."""
    found: list[Op | None] = list(ops)
    for part in _by_hand(ops):
        for index in part.gone:
            found[index] = None
        found[part.first] = part.attention
    return found


@dataclass(frozen=True, slots=True)
class _Part:
    """Attention by hand of one layer in one phase, as positions in the list of ops."""

    first: int
    gone: tuple[int, ...]
    attention: Op


def _by_hand(ops: Sequence[Op]) -> Iterator[_Part]:
    layers: dict[tuple[str, str], list[int]] = {}
    for index, op in enumerate(ops):
        if op.phase != "optimizer":
            layers.setdefault((op.layer, op.phase), []).append(index)
    shapes: dict[str, dict[str, int]] = {}
    sizes: dict[str, set[int]] = {}
    for (layer, phase), members in layers.items():
        if phase == "forward" and (shape := _scores(ops, members)):
            shapes[layer] = shape
            sizes[layer] = _score_sizes(ops, members, shape)
    for (layer, phase), members in layers.items():
        if layer in shapes:
            part = _part(ops, members, shapes[layer], sizes[layer], phase)
            if part:
                yield part


def _scores(ops: Sequence[Op], members: Sequence[int]) -> dict[str, int] | None:
    """Sizes of the attention in these forward ops of a layer; None where it has no product, softmax, product."""
    softmax = next((index for index in members if ops[index].kind == "softmax"), None)
    if softmax is None:
        return None
    batched = [index for index in members if ops[index].kind == "matmul" and ops[index].dims.get("b", 1) > 1]
    before = [index for index in batched if index < softmax]
    after = [index for index in batched if index > softmax]
    if not before or not after:
        return None
    first, second, mask = ops[before[-1]].dims, ops[after[0]].dims, ops[softmax].dims
    if first["n"] != second["k"] or first["m"] != second["m"] or first["b"] != second["b"]:
        return None
    shape = {"b": first["b"], "q": first["m"], "s": first["n"], "d": first["k"], "dv": second["n"]}
    dropped = any(ops[index].kind == "dropout" for index in members)
    masked = {name: mask[name] for name in ("causal", "window", "chunk") if name in mask}
    return {**shape, "causal": 0, "dropped": int(dropped) * shape["b"] * shape["q"] * shape["s"], **masked}


def _score_sizes(ops: Sequence[Op], members: Sequence[int], shape: dict[str, int]) -> set[int]:
    """Elements of the scores, also with the columns of learned sinks, which take part in the softmax (gpt-oss)."""
    rows = shape["b"] * shape["q"]
    taken = (ops[index].dims.get("elements_in", 0) for index in members if ops[index].kind == "softmax")
    with_sinks = {size for size in taken if 0 < size - rows * shape["s"] <= rows * _MOST_SINKS}
    return {rows * shape["s"], *with_sinks} - {0}


def _part(
    ops: Sequence[Op], members: Sequence[int], shape: dict[str, int], sizes: set[int], phase: str
) -> _Part | None:
    scores = shape["b"] * shape["q"] * shape["s"]
    gone = [index for index in members if _on_scores(ops[index], shape, sizes)]
    if not gone:
        return None
    like = ops[gone[0]]
    size = ELEMENT_BYTES.get(like.dtype, 4) * shape["b"]
    query, output = size * shape["q"] * shape["d"], size * shape["q"] * shape["dv"]
    keys = size * shape["s"] * (shape["d"] + shape["dv"])
    forward = phase == "forward"
    products = FORWARD_PRODUCTS if forward else BACKWARD_PRODUCTS
    reads, writes = (query + keys, output) if forward else (query + keys + 2 * output, query + keys)
    flops = products * scores * (shape["d"] + shape["dv"]) // 2
    attention = Op("attention", "attention", phase, like.layer, flops, reads, writes, like.dtype, shape, like.count)
    return _Part(gone[0], tuple(gone), attention)


def _on_scores(op: Op, shape: dict[str, int], sizes: set[int]) -> bool:
    if op.kind == "matmul":
        dims = op.dims
        return dims.get("b") == shape["b"] and {shape["q"], shape["s"]} <= {dims["m"], dims["k"], dims["n"]}
    if op.kind == "attention":
        return False
    return any(op.dims.get(name) in sizes for name in ("elements", "elements_in", "elements_out"))


def with_written_scores(op: Op, passes: float) -> Iterable[Op]:
    """An attention op as products of whole matrices, with the scores written and read `passes` times between them."""
    dims, size = op.dims, ELEMENT_BYTES.get(op.dtype, 4)
    b, q, s, d, dv = (dims[name] for name in ("b", "q", "s", "d", "dv"))
    shapes = [(q, d, s), (q, s, dv)] if op.phase == "forward" else [(s, q, dv), (q, dv, s), (q, s, d), (s, q, d)]
    for m, k, n in shapes:
        moved = size * b
        yield replace(
            op,
            kind="matmul",
            flops=b * m * k * n,
            bytes_read=moved * (m * k + k * n),
            bytes_written=moved * m * n,
            dims={"b": b, "m": m, "k": k, "n": n},
        )
    moved = round(passes * size * b * q * s)
    yield replace(op, kind="softmax", flops=0, bytes_read=moved - moved // 2, bytes_written=moved // 2, dims={})
