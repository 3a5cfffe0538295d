"""Made-up networks and a made-up machine whose law is known, to see whether `fit` finds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.fit.observation import Observation
from joulecast.estimator.trace.formulas import conv_dims, conv_flops
from joulecast.estimator.trace.workload import Op, Workload

LAW = Curves(
    (
        Term("dense", "*", "macs", 2e-13),
        Term("moving", "*", "bytes", 4e-12),
        Term("*", "*", "launch", 2e-5),
    )
)
WEIGHTS_W = {"compute": 180.0, "memory": 60.0, "launch": 0.0}
STATIC_W = 50.0


def conv(phase: str, batch: int, c_in: int, c_out: int, side: int, count: int = 1) -> Op:
    dims = conv_dims((batch, c_in, side, side), (c_out, c_in, 3, 3), (batch, c_out, side, side), 1, False)
    flops = conv_flops(dims)
    if phase == "backward":
        dims |= {"grad_input": 1, "grad_weight": 1}
        flops *= 2
    read, written = 4 * batch * c_in * side**2, 4 * batch * c_out * side**2
    return Op(f"conv {phase}", "conv", phase, "conv", flops, read, written, dims=dims, count=count)


def mover(kind: str, phase: str, elements: int, count: int = 1) -> Op:
    dims = {"elements_in": elements, "elements_out": elements}
    return Op(f"{kind} {phase}", kind, phase, kind, 0, 4 * elements, 4 * elements, dims=dims, count=count)


def network(depth: int, width: int, side: int = 16, batch: int = 32, norms: int = 1, train: bool = True) -> Workload:
    """`depth` convolutions of `width` channels, each with `norms` norms and an activation."""
    elements = batch * width * side**2
    ops = [conv("forward", batch, width, width, side, depth), mover("norm", "forward", elements, depth * norms)]
    ops.append(mover("activation", "forward", elements, depth))
    if train:
        ops.append(conv("backward", batch, width, width, side, depth))
        ops += [mover(kind, "backward", elements, depth) for kind in ("norm", "activation")]
        ops.append(mover("optimizer", "optimizer", 9 * width**2, depth))
    parameters = depth * 9 * width**2
    return Workload(
        name=f"net-{depth}-{width}-{side}-{batch}-{norms}",
        framework="pytorch",
        batch_size=batch,
        train=train,
        optimizer="sgd" if train else None,
        precision="float32",
        parameters=parameters,
        trainable_parameters=parameters,
        parameter_bytes=4 * parameters,
        activation_bytes=4 * elements * depth,
        layers=(),
        ops=tuple(ops),
    )


def watts(seconds: np.ndarray) -> float:
    shares = seconds.sum(axis=0) / seconds.sum()
    return STATIC_W + float(shares @ [WEIGHTS_W[name] for name in Curves.components])


def observe(
    work: Workload,
    *,
    steps: int = 100,
    law: Curves = LAW,
    noise: float = 1.0,
    startup_s: float = 0.0,
    ops: bool = False,
) -> Observation:
    """What a perfect meter would have read, times `noise`."""
    parts = law.seconds(work.ops)
    step_s = float(parts.sum()) * noise
    return Observation(
        workload=work,
        steps=steps,
        seconds=step_s * steps + startup_s,
        energy_j=step_s * steps * watts(parts) + startup_s * STATIC_W,
        op_seconds=tuple((parts.sum(axis=1) * noise).tolist()) if ops else None,
        meter="rapl",
        hardware="a machine",
    )


def suite(**options: object) -> list[Observation]:
    """Forty networks of many depths, widths, sides and mixes."""
    rng = np.random.default_rng(1)
    return [observe(work, **options) for work in (random_network(rng) for _ in range(40))]  # type: ignore[arg-type]


def random_network(rng: np.random.Generator) -> Workload:
    return network(
        depth=int(rng.integers(2, 30)),
        width=int(rng.integers(4, 128)),
        side=int(rng.integers(4, 32)),
        batch=int(rng.integers(4, 128)),
        norms=int(rng.integers(1, 4)),
    )


def changed(rows: Sequence[Observation], **values: object) -> list[Observation]:
    """The observations with the first one's fields replaced."""
    return [replace(rows[0], **values), *rows[1:]]  # type: ignore[arg-type]
