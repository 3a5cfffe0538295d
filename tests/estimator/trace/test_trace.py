"""The trace agrees with figures worked out by hand and with fvcore."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from joulecast.estimator.base.errors import JoulecastError
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload


def flops(work: Workload, phase: str, kind: str | None = None) -> int:
    return sum(op.flops * op.count for op in work.ops if op.phase == phase and kind in (None, op.kind))


def ops(work: Workload, kind: str, phase: str = "forward") -> list:
    return [op for op in work.ops if op.kind == kind and op.phase == phase]


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 20, bias=False)
        self.second = nn.Linear(20, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_linear_layers_by_hand() -> None:
    work = trace(TwoLayers(), torch.zeros(4, 10))
    assert flops(work, "forward") == 4 * (10 * 20 + 20 * 5)
    # The first layer needs no gradient of its input: weights of both, input of the second.
    assert flops(work, "backward") == 4 * (10 * 20 + 2 * 20 * 5)
    assert work.parameters == work.trainable_parameters == 300
    assert work.parameter_bytes == 1200
    first = next(op for op in work.ops if op.kind == "matmul")
    assert (first.bytes_read, first.bytes_written) == (4 * (40 + 200), 4 * 80)
    assert first.layer == "first"


def test_backward_and_update_belong_to_their_layer() -> None:
    work = trace(TwoLayers(), torch.zeros(4, 10))
    by_layer = {
        path: sum(op.flops for op in work.ops if op.layer == path and op.phase == "backward")
        for path in ("first", "second")
    }
    assert by_layer == {"first": 4 * 200, "second": 4 * 2 * 100}
    assert [(op.layer, op.bytes_read, op.bytes_written) for op in ops(work, "optimizer", "optimizer")] == [
        ("first", 2 * 800, 800),
        ("second", 2 * 400, 400),
    ]


def test_each_layer_of_a_convolutional_block_has_its_own_backward() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    work = trace(net, torch.zeros(2, 3, 8, 8))
    backward = {(op.name, op.layer) for op in work.ops if op.phase == "backward" and op.layer != "(loss)"}
    assert backward == {
        ("convolution_backward", "0"),
        ("native_batch_norm_backward", "1"),
        ("threshold_backward", "2"),
        ("mm", "4"),
        ("sum", "4"),
    }


@pytest.mark.parametrize(("optimizer", "passes"), [("sgd", 3), ("momentum", 5), ("adam", 7), ("adamw", 7)])
def test_optimizer_traffic(optimizer: str, passes: int) -> None:
    work = trace(TwoLayers(), torch.zeros(4, 10), optimizer=optimizer)
    assert sum(op.bytes_moved for op in ops(work, "optimizer", "optimizer")) == passes * 4 * work.parameters


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 8, 8), 2 * 64 * 9 * 3 * 8),
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 8, 8), 2 * 36 * 9 * 8),
        (nn.Conv2d(8, 16, 3, groups=4, stride=2), (2, 8, 9, 9), 2 * 16 * 9 * 8 * 16 // 4),
        (nn.Conv1d(4, 6, 5), (2, 4, 20), 2 * 16 * 5 * 4 * 6),
        (nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5), 27 * 27 * 2 * 4),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), (1, 4, 3, 3), 9 * 4 * 4 * 2),
    ],
)
def test_convolutions_by_hand(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    frozen_input = trace(layer, torch.zeros(shape))
    assert flops(frozen_input, "forward") == macs
    # The input needs no gradient, so backward is the weight's alone: as many as forward.
    assert flops(frozen_input, "backward") == macs
    deep = trace(nn.Sequential(nn.PReLU(), layer), torch.zeros(shape))
    assert flops(deep, "backward", "conv") == 2 * macs


def test_convolutions_know_whether_the_channels_come_last() -> None:
    """ConvNeXt's blocks permute images, so its convolutions get them channels last; users may pass such images too."""

    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(3, 8, 7, padding=3), nn.LayerNorm(8)
            self.second = nn.Conv2d(8, 8, 7, padding=3, groups=8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pixels = self.norm(self.first(images).permute(0, 2, 3, 1))
            moved: torch.Tensor = self.second(pixels.permute(0, 3, 1, 2))
            return moved

    images = torch.zeros(2, 3, 8, 8)
    for given, first in ((images, 0), (images.to(memory_format=torch.channels_last), 1)):
        work = trace(Permuted(), given)
        assert [op.dims["channels_last"] for op in ops(work, "conv")] == [first, 1]
        assert [op.dims["channels_last"] for op in ops(work, "conv", "backward")] == [1, first]
    turned = trace(Permuted().to(memory_format=torch.channels_last), images)
    assert [op.dims["channels_last"] for op in ops(turned, "conv")] == [1, 1], "the weights have it so"
    stacked = trace(
        nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(3))), images.to(memory_format=torch.channels_last)
    )
    assert [op.dims["channels_last"] for op in ops(stacked, "conv")] == [1, 1, 1]
    pixel = trace(nn.Conv2d(8, 8, 1), torch.zeros(2, 8, 1, 1))
    assert [op.dims["channels_last"] for op in ops(pixel, "conv")] == [0], (
        "one pixel lies both ways: the default is taken"
    )


def test_depthwise_training_flops_are_three_times_forward() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.Conv2d(8, 4, 1))
    work = trace(net, torch.zeros(2, 3, 6, 6))
    depthwise = [op for op in work.ops if op.layer == "1" and op.kind == "conv"]
    assert sum(op.flops for op in depthwise) == 3 * 2 * 36 * 9 * 8


def test_same_padding_is_counted_by_fvcore_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 5, padding="same"), nn.Conv2d(8, 8, 3, groups=8, padding="same"))
    work = trace(net, torch.zeros(2, 3, 6, 6))
    assert work.forward_flops == 2 * 36 * (25 * 3 * 8 + 9 * 8)
    assert {layer.source for layer in work.layers} == {"fvcore"}


def test_batch_norm_that_keeps_no_statistics_computes_them_in_evaluation_too() -> None:
    class Standardised(nn.Conv2d):  # weight standardisation as in NFNets
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gain = torch.ones(8, device=x.device)
            flat = F.batch_norm(self.weight.reshape(1, 8, -1), None, None, gain, training=True)
            return F.conv2d(x, flat.reshape_as(self.weight))

    work = trace(Standardised(3, 8, 3, bias=False), torch.zeros(2, 3, 6, 6))
    # fvcore's convention: 5 an element of the weights; once a step, however many samples
    assert flops(work, "forward", "norm") == 5 * 8 * 27
    assert flops(work, "forward", "conv") == 2 * 16 * 27 * 8
    assert trace(nn.BatchNorm1d(4), torch.zeros(2, 4)).forward_flops == 2 * 8


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_are_one_op_however_long(cell: type[nn.RNNBase], gates: int) -> None:
    work = trace(cell(10, 20, num_layers=2, bidirectional=True, batch_first=True), torch.zeros(3, 500, 10))
    (forward,) = ops(work, "rnn")
    assert forward.flops == 3 * 500 * 2 * gates * 20 * ((10 + 20) + (40 + 20))
    (backward,) = ops(work, "rnn", "backward")
    assert backward.flops == 2 * forward.flops
    assert (forward.dims["steps"], forward.dims["n"]) == (500, 3)


def test_autocast_runs_recurrent_layers_in_16_bit() -> None:
    steps, batch, width, hidden = 5, 4, 8, 16
    ops = trace(nn.LSTM(width, hidden), torch.zeros(steps, batch, width), precision="fp16").ops
    lstm, backward = (op for op in ops if op.kind == "rnn")
    assert (lstm.dtype, backward.dtype) == ("float16", "float16")
    values = steps * batch * width + 2 * batch * hidden  # inputs and both states
    weights = 4 * hidden * (width + hidden + 2)
    assert lstm.bytes_read == 2 * (values + weights)
    assert lstm.bytes_written == 2 * (steps * batch * hidden + 2 * batch * hidden)


def test_lstm_with_projection_and_packed_sequence() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 8, proj_size=3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0]

    work = trace(Packed(), torch.zeros(7, 2, 6))
    assert ops(work, "rnn")[0].flops == 14 * (4 * 8 * (6 + 3) + 3 * 8)
    assert work.layers[0].output_shape == (7, 2, 3)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).sum(dim=(1, 3))


def test_attention_by_hand() -> None:
    work = trace(Attention(), torch.zeros(3, 10, 16))
    (forward,) = ops(work, "attention")
    assert forward.flops == 3 * 2 * 10 * 10 * (8 + 8)
    assert ops(work, "attention", "backward")[0].flops == forward.flops * 5 // 2
    assert flops(work, "forward", "matmul") == 30 * 16 * 48


def test_a_frozen_backbone_has_no_weight_gradients() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2, bias=False))
    net[0].requires_grad_(False)
    work = trace(net, torch.zeros(2, 3, 8, 8))
    assert flops(work, "backward", "conv") == 0
    assert flops(work, "backward", "matmul") == 2 * 144 * 2
    assert [op.layer for op in ops(work, "optimizer", "optimizer")] == ["2"]
    assert work.trainable_parameters == 288


def test_tied_weights_are_counted_and_updated_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 8)
            self.head = nn.Linear(8, 50, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    work = trace(Tied(), torch.zeros(2, 5, dtype=torch.int64), optimizer="adam")
    assert work.parameters == 400
    assert len(ops(work, "optimizer", "optimizer")) == 1
    assert work.tokens_per_sample == 5
    assert flops(work, "forward") == 10 * 8 * 50
    assert {op.kind for op in work.ops if op.layer == "table"} >= {"embedding"}


@pytest.mark.parametrize(("precision", "tracer"), [(None, "meta"), ("bfloat16", "fake")])
def test_a_module_that_hangs_in_two_places_is_counted_once_and_trains_afterwards(
    precision: str | None, tracer: str
) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)
            self.blocks = nn.ModuleList([nn.Sequential(self.conv, self.norm), nn.Sequential(self.conv, self.norm)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    net, images = Shared(), torch.randn(2, 3, 8, 8)
    before = {name: (tensor, tensor.clone()) for name, tensor in net.state_dict(keep_vars=True).items()}
    work = trace(net, images, optimizer="adam", precision=precision)
    assert work.tracer == tracer
    assert work.parameters == 3 * 3 * 9 + 3 + 2 * 3
    assert flops(work, "forward", "conv") == 2 * 2 * 64 * 3 * 3 * 9
    assert len(ops(work, "optimizer", "optimizer")) == 4
    for name, tensor in net.state_dict(keep_vars=True).items():
        assert tensor is before[name][0], name
        assert torch.equal(tensor, before[name][1]), name
    net(images).sum().backward()
    assert net.conv.weight.grad is not None


def test_inference_is_the_forward_pass_alone() -> None:
    work = trace(TwoLayers(), torch.zeros(4, 10), train=False)
    assert {op.phase for op in work.ops} == {"forward"}
    assert work.optimizer is None
    assert work.activation_bytes == 0
    assert flops(trace(TwoLayers(), torch.zeros(4, 10)).forward_only(), "forward") == work.flops


def test_accumulation_repeats_all_but_the_update() -> None:
    one = trace(TwoLayers(), torch.zeros(4, 10))
    four = trace(TwoLayers(), torch.zeros(4, 10), accumulate=4)
    assert four.batch_size == 16
    assert four.flops == 4 * one.flops
    assert len(ops(four, "optimizer", "optimizer")) == len(ops(one, "optimizer", "optimizer"))
    adds = [op for op in four.ops if op.name == "add_"]
    assert sum(op.count * op.bytes_moved for op in adds) == 3 * 3 * 4 * 300


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_runs_products_in_half_precision(precision: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    work = trace(net, torch.zeros(2, 3, 8, 8), precision=precision)
    whole = {"bf16": "bfloat16", "fp16": "float16"}[precision]
    assert work.precision == whole
    assert {op.dtype for op in work.ops if op.kind in ("conv", "matmul")} == {whole}
    assert {op.dtype for op in work.ops if op.kind == "optimizer"} == {"float32"}
    assert work.flops == trace(net, torch.zeros(2, 3, 8, 8)).flops
    assert not work.unsupported


def test_attention_counts_the_scores_that_its_dropout_draws_for() -> None:
    class Dropping(Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1).sum(dim=(1, 3))

    for model, dropped in ((Attention(), 0), (Dropping(), 3 * 2 * 10 * 10)):
        work = trace(model, torch.zeros(3, 10, 16))
        found = [op.dims["dropped"] for phase in ("forward", "backward") for op in ops(work, "attention", phase)]
        assert found == [dropped, dropped]


def test_attention_under_autocast_is_half_precision() -> None:
    work = trace(Attention(), torch.zeros(3, 10, 16), precision="bf16")
    assert {op.dtype for op in work.ops if op.kind == "attention"} == {"bfloat16"}


def test_dict_inputs_and_outputs() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, features: torch.Tensor, scale: float = 1.0) -> dict[str, object]:
            return {"note": "text", "logits": self.head(features) * scale, "hidden": features}

    work = trace(Named(), {"features": torch.zeros(5, 6), "scale": 2.0})
    assert work.batch_size == 5
    assert flops(work, "forward") == 5 * 18
    assert {layer.path: layer.source for layer in work.layers} == {"": "fvcore", "head": "fvcore"}


def test_activation_checkpointing_runs_the_forward_twice() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Linear(10, 10, bias=False), TwoLayers()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.body, self.stem(x), use_reentrant=False)

    work = trace(Checkpointed(), torch.zeros(4, 10))
    assert flops(work, "forward") == 4 * (100 + 300)
    # Recomputing stops once all that backward needs is there: after the first layer and its relu.
    assert flops(work, "backward") == 4 * (100 + 2 * 300 + 200)
    recomputed = [op for op in work.ops if op.phase == "backward" and op.layer.startswith("body")]
    assert sum(op.flops for op in recomputed) == 4 * (2 * 300 + 200)


def test_the_model_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))
    net[1].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    trace(net, torch.zeros(2, 3, 8, 8), precision="bf16")
    trace(net, torch.zeros(2, 3, 8, 8), train=False)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert modes == [module.training for module in net.modules()]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(parameter.is_meta for parameter in net.parameters())


def test_kept_activations_by_hand() -> None:
    # relu keeps its output, the second product its input: the same 4 x 20 tensor, once; the first
    # product keeps x (4 x 10); the loss keeps log-probabilities, targets and nll's total weight.
    work = trace(TwoLayers(), torch.zeros(4, 10))
    hidden, inputs, log_probabilities, targets, total = 4 * 80, 4 * 40, 4 * 20, 8 * 4, 4
    assert work.activation_bytes == hidden + inputs + log_probabilities + targets + total


@torch.library.custom_op("joulecast_tests::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@odd.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_unknown_ops_are_named_with_their_bytes() -> None:
    class Odd(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(odd(x))

    work = trace(Odd(4, 4), torch.zeros(4, 4))
    assert work.unsupported == {"joulecast_tests::odd": 2 * 16 * 4}
    assert 0 < work.unsupported_byte_share < 1


def test_a_workload_survives_its_document() -> None:
    work = trace(Attention(), torch.zeros(3, 10, 16))
    assert Workload.from_json(json.loads(json.dumps(work.to_json()))) == work


def test_fvcore_counts_the_layers_it_can_trace() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    work = trace(net, torch.zeros(4, 3, 8, 8))
    rows = {layer.path: layer for layer in work.layers}
    assert rows["0"].flops == 4 * 36 * 9 * 3 * 8
    assert rows["1"].flops == 4 * 36 * 8 * 2
    assert rows[""].flops == work.forward_flops
    assert {layer.source for layer in work.layers} == {"fvcore"}
    assert rows["0"].output_shape == (4, 8, 6, 6)
    assert rows["4"].parameters == 2890


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "nonsense"}, "'nonsense' is not known"),
        ({"precision": "int3"}, "precision 'int3' is not known"),
        ({"accumulate": 0}, "accumulate is 0"),
    ],
)
def test_options_that_cannot_be(arguments: dict, message: str) -> None:
    with pytest.raises(JoulecastError, match=message):
        trace(TwoLayers(), torch.zeros(4, 10), **arguments)


def test_nothing_to_train() -> None:
    with pytest.raises(JoulecastError, match="has no parameters: nothing to train"):
        trace(nn.ReLU(), torch.zeros(2, 2))
    with pytest.raises(JoulecastError, match="all 2 parameter tensors frozen"):
        trace(TwoLayers().requires_grad_(False), torch.zeros(2, 10))
    assert trace(nn.ReLU(), torch.zeros(2, 2), train=False).flops == 0


def test_inputs_without_a_batch() -> None:
    with pytest.raises(JoulecastError, match="no tensor with a batch dimension"):
        trace(TwoLayers(), {"x": 3})
