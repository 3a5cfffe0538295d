"""The calibration suite's networks: each trains for one step, and each is of the kind in its name."""

import pytest
import torch
from torch import nn

from joulecast.estimator.trace.trace import trace
from joulecast.models.reference import NETWORKS, TOKENS, VOCABULARY

KINDS = {
    "residual-cnn": {nn.Conv2d, nn.BatchNorm2d},
    "mobile-cnn": {nn.Conv2d},
    "inverted-residual-cnn": {nn.SiLU, nn.Sigmoid},
    "grouped-cnn": {nn.Conv2d},
    "dense-cnn": {nn.AvgPool2d},
    "convnext": {nn.GELU, nn.GroupNorm},
    "unet": {nn.ConvTranspose2d, nn.MaxPool2d},
    "mlp": {nn.Linear, nn.Dropout},
    "mlp-mixer": {nn.LayerNorm},
    "vision-transformer": {nn.LayerNorm},
    "bert": {nn.Embedding, nn.GELU},
    "gpt": {nn.Embedding},
    "lstm": {nn.LSTM},
    "gru": {nn.GRU},
    "conv1d": {nn.Conv1d},
    "conv3d": {nn.Conv3d},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_training_step_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]
    net = network.build(width=0.25)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    loss = network.loss(net(network.inputs(2)))
    loss.backward()
    optimizer.step()
    assert loss.item() > 0
    for (path, parameter), old in zip(net.named_parameters(), before, strict=True):
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        if not _feeds_a_norm(path, parameter):
            assert not torch.equal(parameter, old), path


def _feeds_a_norm(path: str, parameter: nn.Parameter) -> bool:
    """Some biases may not change: a BatchNorm after them cancels them, or a ReLU is 0."""
    return path.endswith("bias") or parameter.dim() == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_each_is_of_its_kind(name: str) -> None:
    kinds = {type(module) for module in NETWORKS[name].build(width=0.25).modules()}
    assert KINDS[name] <= kinds


def test_groups_are_where_they_should_be() -> None:
    def groups(name: str) -> set[str]:
        convolutions = [m for m in NETWORKS[name].build(width=0.5).modules() if isinstance(m, nn.Conv2d)]
        return {"depthwise" if m.groups == m.in_channels else "grouped" for m in convolutions if m.groups > 1}

    assert groups("mobile-cnn") == groups("convnext") == groups("inverted-residual-cnn") == {"depthwise"}
    assert groups("grouped-cnn") == {"grouped"}
    assert groups("residual-cnn") == set()


@pytest.mark.parametrize("name", NETWORKS)
def test_width_scales_the_work_and_the_trace_reads_it(name: str) -> None:
    network = NETWORKS[name]
    small, large = (
        trace(network.build(width=width), network.inputs(2), loss=network.loss, layers=False) for width in (0.5, 1.0)
    )
    assert 1.5 * small.forward_flops < large.forward_flops < 6 * small.forward_flops
    assert small.trainable_parameters == small.parameters < large.parameters
    assert large.flops > 2.2 * large.forward_flops  # backward costs twice forward, less in the first layer
    assert large.unsupported == {}


def test_decoder_flops_by_hand() -> None:
    channels, depth, batch = 128, 2, 2
    work = trace(NETWORKS["gpt"].build(), NETWORKS["gpt"].inputs(batch), train=False, layers=False)
    per_token = depth * (3 + 1 + 8) * channels**2 + channels * VOCABULARY
    matmuls = batch * TOKENS * per_token
    attention = [op for op in work.ops if op.kind == "attention"]
    assert len(attention) == depth
    assert sum(op.flops for op in work.ops if op.kind != "attention" and "norm" not in op.name) == matmuls


def test_attention_is_causal_in_the_decoder_alone() -> None:
    torch.manual_seed(0)
    ids = NETWORKS["gpt"].inputs(1)
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % VOCABULARY
    for name, sees_ahead in (("gpt", False), ("bert", True)):
        net = NETWORKS[name].build(width=0.25).eval()
        with torch.no_grad():
            difference = (net(ids) - net(changed))[0, 0].abs().max().item()
        assert (difference > 1e-6) is sees_ahead, name
