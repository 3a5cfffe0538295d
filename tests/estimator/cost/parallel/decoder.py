"""A made-up decoder whose figures are easy to work out by hand, and a made-up device."""

from __future__ import annotations

import itertools

from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.parallel.cluster import Cluster
from joulecast.estimator.cost.profile import PowerModel, Profile, Provenance
from joulecast.estimator.cost.stacks import Links
from joulecast.estimator.trace.workload import Op, Workload

BLOCKS, HIDDEN, HEADS, TOKENS, VOCABULARY = 4, 64, 8, 128, 1024
SECONDS_PER_MAC = 1e-9
LINKS = Links(0.75, 0.75, 10e-6, 20e-6, overlap=0.9, straggling=0.0, other_overlap=0.9)
BOUNDARY_BYTES = TOKENS * HIDDEN * 2


def matmul(layer: str, phase: str, m: int, k: int, n: int) -> Op:
    dims = {"b": 1, "m": m, "k": k, "n": n}
    return Op("mm", "matmul", phase, layer, m * k * n, 2 * (m * k + k * n), 2 * m * n, "bfloat16", dims)


def update(layer: str, elements: int) -> Op:
    return Op(
        "adamw", "optimizer", "optimizer", layer, 0, 8 * elements, 6 * elements, "bfloat16", {"elements": elements}
    )


def linear(layer: str, inner: int, outer: int) -> list[Op]:
    backward = [
        matmul(layer, "backward", TOKENS, outer, inner),
        matmul(layer, "backward", outer, TOKENS, inner),
    ]
    return [matmul(layer, "forward", TOKENS, inner, outer), *backward, update(layer, inner * outer)]


def block(index: int) -> list[Op]:
    at = f"model.layers.{index}"
    elements = TOKENS * HIDDEN
    dims = {"elements_in": elements, "elements_out": elements}
    norm = Op("norm", "norm", "forward", f"{at}.norm", 0, 2 * elements, 2 * elements, "bfloat16", dims)
    heads = {"b": HEADS, "q": TOKENS, "s": TOKENS, "d": HIDDEN // HEADS, "dv": HIDDEN // HEADS, "causal": 1}
    flops = 2 * TOKENS * TOKENS * HIDDEN
    attention = Op(
        "attention", "attention", "forward", f"{at}.attn", flops, 6 * elements, 2 * elements, "bfloat16", heads
    )
    return [
        norm,
        update(f"{at}.norm", HIDDEN),
        attention,
        *linear(f"{at}.attn.proj", HIDDEN, HIDDEN),
        *linear(f"{at}.mlp.up", HIDDEN, 4 * HIDDEN),
        *linear(f"{at}.mlp.down", 4 * HIDDEN, HIDDEN),
    ]


def decoder(passes: int = 1) -> Workload:
    """One sample of TOKENS tokens a pass; a step of `passes` passes."""
    rows = {"tokens": TOKENS, "rows": VOCABULARY, "width": HIDDEN}
    embedding = Op("embedding", "embedding", "forward", "model.embed", 0, 0, BOUNDARY_BYTES, "bfloat16", rows)
    ops = [
        embedding,
        update("model.embed", VOCABULARY * HIDDEN),
        *itertools.chain.from_iterable(block(index) for index in range(BLOCKS)),
        *linear("head", HIDDEN, VOCABULARY),
    ]
    ops = [op if op.phase == "optimizer" else _times(op, passes) for op in ops]
    parameters = sum(op.dims["elements"] for op in ops if op.phase == "optimizer")
    return Workload(
        name="decoder",
        framework="pytorch",
        batch_size=passes,
        train=True,
        optimizer="adamw",
        precision="bfloat16",
        parameters=parameters,
        trainable_parameters=parameters,
        parameter_bytes=2 * parameters,
        activation_bytes=BLOCKS * 10 * BOUNDARY_BYTES + 2 * TOKENS * VOCABULARY,
        layers=(),
        ops=tuple(ops),
        tokens_per_sample=TOKENS,
    )


def _times(op: Op, passes: int) -> Op:
    return Op(
        op.name, op.kind, op.phase, op.layer, op.flops, op.bytes_read, op.bytes_written, op.dtype, op.dims, passes
    )


def device(memory_bytes: int | None = None) -> Profile:
    """A device on which only multiply-adds take time, SECONDS_PER_MAC each; 100 W busy, 40 W waiting."""
    terms = (Term("dense", "*", "macs", SECONDS_PER_MAC), Term("*", "*", "launch", 0.0))
    return Profile(
        name="made-up",
        hardware="Made-up device",
        device="gpu",
        framework="pytorch",
        time=Curves(terms),
        power=PowerModel({"compute": 60.0, "memory": 0.0, "launch": 0.0}, 40.0),
        time_error=ErrorModel(0.8, 1.25),
        energy_error=ErrorModel(0.8, 1.25),
        provenance=Provenance("datasheet", "datasheet", ("made up",)),
        memory_bytes=memory_bytes,
    )


def nodes(count: int = 1, devices: int = 8, gb_per_s: float = 1.0, network: float | None = 0.25) -> Cluster:
    """Links with a usable rate of `gb_per_s`, and the network that `network` describes."""
    usable = None if network is None else network / LINKS.network_share
    return Cluster("made-up", "made-up", count, devices, gb_per_s / LINKS.link_share, usable, links=LINKS)
