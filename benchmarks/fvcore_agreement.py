"""joulecast's FLOPs compared with fvcore (forward) and with a hand formula per layer (training).

    python benchmarks/fvcore_agreement.py [--only TEXT]

Exit status 1 when one network is off by more than 1 %.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from architectures import Architecture, image_networks, text_networks
from torch import nn

from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload

TOLERANCE = 0.01
BATCH = 2  # BatchNorm cannot train on one value per channel

# Grouped and depthwise convolutions, where torch.utils.flop_counter is wrong, and plain ones.
DEPTHWISE = (
    "mobilenet_w1",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "convnext_atto",
    "shufflenet_g3_w1",
    "shufflenetv2_w1",
    "regnetx_002",
    "resnext50_32x4d",
    "ghostnet_100",
    "legacy_xception",
    "resnet18",
    "vgg11",
)


@dataclass(frozen=True, slots=True)
class Forward:
    """Multiply-adds a sample of a forward pass: ours in training mode, fvcore's in evaluation mode."""

    network: Architecture
    ours: float
    fvcore: float
    handled: bool  # fvcore has no count for an op and received a handle
    seconds: float  # of the CPU, for the trace

    @property
    def off(self) -> float:
        return self.ours / self.fvcore - 1


def fvcore_total(model: nn.Module, inputs: torch.Tensor) -> tuple[int, bool]:
    """Plain `FlopCountAnalysis(model.eval(), inputs).total()`, and whether an extra count was used.

    Two extras, for ops that fvcore counts as 0: `scaled_dot_product_attention`, queries x keys x
    (width of keys + width of values) as fvcore counts the two products written out, and convolutions
    with padding="same", output elements x weights of one output channel.
    """
    from fvcore.nn import FlopCountAnalysis

    met = []

    def sizes(node: Any) -> list[int]:
        return [int(size) for size in node.type().sizes()]

    def attention(nodes: Sequence[Any], _: Sequence[Any]) -> int:
        q, k, v = map(sizes, nodes[:3])
        met.append(True)
        return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])

    def same_convolution(nodes: Sequence[Any], outputs: Sequence[Any]) -> int:
        met.append(True)
        return prod(sizes(outputs[0])) * prod(sizes(nodes[1])[1:])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analysis = FlopCountAnalysis(model.eval(), inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        analysis.set_op_handle("aten::scaled_dot_product_attention", attention)
        analysis.set_op_handle("aten::_convolution_mode", same_convolution)
        return int(analysis.total()), bool(met)


class _Tuples(nn.Module):
    """A transformers model that returns a tuple of tensors, because TorchScript can trace nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        output = self.model(input_ids=ids, return_dict=False)[0]
        assert isinstance(output, torch.Tensor)
        return output


def forward_of(network: Architecture) -> Forward:
    torch.manual_seed(0)
    model = network.build()
    start = time.process_time()
    work = trace(model, network.inputs(BATCH), layers=False)
    seconds = time.process_time() - start
    theirs, handled = fvcore_total(
        _Tuples(model) if network.library == "transformers" else model, network.inputs(BATCH)
    )
    return Forward(network, work.forward_flops / BATCH, theirs / BATCH, handled, seconds)


# -- training ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Training:
    """Multiply-adds of convolutions and linear layers in one sample's training step."""

    name: str
    forward: float
    ours: float
    by_hand: float
    flop_counter: float

    @property
    def off(self) -> float:
        return self.ours / self.by_hand - 1


def training_of(network: Architecture) -> Training:
    with torch.device("meta"):
        model = network.build()
    inputs = network.inputs(BATCH)
    work = trace(model, inputs, layers=False)
    forward, by_hand = flops_by_hand(model, inputs.to("meta"))
    return Training(
        name=network.name,
        forward=forward / BATCH,
        ours=_dense(work) / BATCH,
        by_hand=by_hand / BATCH,
        flop_counter=_flop_counter(model, inputs.to("meta")) / BATCH,
    )


def _dense(work: Workload) -> int:
    return sum(op.flops * op.count for op in work.ops if op.kind in ("conv", "matmul"))


def flops_by_hand(model: nn.Module, inputs: torch.Tensor) -> tuple[int, int]:
    """Forward, and forward + backward, of every Conv2d and Linear, from their shapes alone.

    A layer's forward takes out elements x kernel elements x input channels of the group. Each of the two
    gradients takes as many again: that of the weight always, that of the input where something before
    the layer is trained (the first layer's input is data).
    """
    forward = total = 0

    def count(module: Any, args: Any, output: torch.Tensor) -> None:
        nonlocal forward, total
        if isinstance(module, nn.Linear):
            flops = output.numel() * module.in_features
        else:
            flops = output.numel() * prod(module.kernel_size) * module.in_channels // module.groups
        gradients = int(module.weight.requires_grad) + int(args[0].requires_grad)
        forward += flops
        total += flops * (1 + gradients)

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        model.train()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return forward, total


def _flop_counter(model: nn.Module, inputs: torch.Tensor) -> float:
    """torch.utils.flop_counter's count of the same step; it counts a multiply-add as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.train()(inputs).sum().backward()
    return counter.get_total_flops() / 2


# -- printing ------------------------------------------------------------------------------------


def print_forward(networks: Sequence[Architecture]) -> bool:
    """Prints the table as it grows; True when every network agrees."""
    print("Forward multiply-adds of one sample\n")
    print(f"| {'family':15} | {'network':29} | {'joulecast':>15} | {'fvcore':>15} | {'off':>8} | {'CPU s':>7} |")
    print(f"|{'-' * 17}|{'-' * 31}|{'-' * 16}:|{'-' * 16}:|{'-' * 9}:|{'-' * 8}:|")
    rows = []
    for network in networks:
        row = forward_of(network)
        rows.append(row)
        mark = "+" if row.handled else " "
        print(
            f"| {network.family:15} | {network.name:29} | {row.ours:15,.0f} | {row.fvcore:14,.0f}{mark} "
            f"| {row.off:+8.3%} | {row.seconds:7.2f} |",
            flush=True,
        )
        gc.collect()
    if not rows:
        return True
    worst = max(rows, key=lambda row: abs(row.off))
    wrong = [row.network.name for row in rows if not abs(row.off) <= TOLERANCE]
    families = {row.network.family for row in rows}
    print("\n+ counted by fvcore with a handle for an op that it lacks (fused attention, padding='same')\n")
    print(f"{len(rows)} networks of {len(families)} families; worst {worst.network.name} {worst.off:+.3%}; ", end="")
    print(f"{len(rows) - len(wrong)} within {TOLERANCE:.0%}" + (f"; off: {', '.join(wrong)}" if wrong else ""))
    return not wrong


def print_training(networks: Sequence[Architecture]) -> bool:
    """The same for training steps; True when every network agrees with the hand formula."""
    print("\nTraining multiply-adds of one sample, convolutions and linear layers\n")
    print(
        f"| {'network':23} | {'by hand':>15} | {'joulecast':>15} | {'off':>8} | {'/ forward':>9} "
        f"| {'flop_counter':>15} | {'/ by hand':>9} |"
    )
    print(f"|{'-' * 25}|{'-' * 16}:|{'-' * 16}:|{'-' * 9}:|{'-' * 10}:|{'-' * 16}:|{'-' * 10}:|")
    agreed = True
    for network in networks:
        row = training_of(network)
        agreed &= abs(row.off) <= TOLERANCE
        print(
            f"| {row.name:23} | {row.by_hand:15,.0f} | {row.ours:15,.0f} | {row.off:+8.3%} "
            f"| {row.ours / row.forward:9.3f} | {row.flop_counter:15,.0f} | {row.flop_counter / row.by_hand:9.2f} |",
            flush=True,
        )
    return agreed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="networks whose family or name holds this text")
    only = parser.parse_args().only.lower()
    chosen = [n for n in (*image_networks(), *text_networks()) if only in f"{n.family} {n.name}".lower()]
    agreed = print_forward(chosen)
    agreed &= print_training([network for network in chosen if network.name in DEPTHWISE])
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
