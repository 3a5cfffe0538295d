"""The networks that published measurements of many GPUs name, each built here so that it can be traced.

Image networks come from timm and pytorchcv, language models from transformers; the rest are short stand-ins for
NVIDIA's DeepLearningExamples and MLPerf, with the sizes that their papers and configurations state. What a stand-in
leaves out (data-dependent loss matching, samplers) is a small part of a step.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from nasbench import NasBench
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision_stub import import_pytorchcv, import_timm

from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Op, Workload

Builder = Callable[[int], tuple[nn.Module, Any]]  # batch -> model and inputs, both on the meta device


@dataclass(frozen=True, slots=True)
class WorkKey:
    """What a step does: `network` names a builder, `mode` is "fp32", "amp" (autocast) or "half" (model.half())."""

    network: str
    batch: int
    mode: str = "fp32"
    train: bool = True
    optimizer: str | None = "sgd"  # None: forward and backward alone
    channels_last: bool = False


def build_work(key: WorkKey) -> Workload:
    """The traced step. Raises KeyError for a network that has no builder."""
    model, inputs = builder_of(key.network)(key.batch)
    if key.mode == "half":
        model = model.half()
        inputs = _mapped(inputs, lambda t: t.half() if t.is_floating_point() else t)
    if key.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = _mapped(inputs, lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t)
    work = trace(
        model,
        inputs,
        train=key.train,
        optimizer=key.optimizer or "sgd",
        precision="fp16" if key.mode == "amp" else None,
        loss=_loss_of(model),
        layers=False,
        name=key.network,
    )
    ops = tuple(
        op if op.phase == "optimizer" else replace(op, count=op.count * _repeats(model, op.layer))
        for op in work.ops
        if key.optimizer is not None or op.phase != "optimizer"
    )
    if key.train and getattr(model, "keeps_gradients", False):
        ops += tuple(_added(parameter) for parameter in model.parameters())
    return replace(work, ops=ops)


def _added(parameter: Tensor) -> Op:
    """A gradient added to the one of the step before."""
    size = parameter.numel() * parameter.element_size()
    return Op("add_", "pointwise", "backward", "", 0, 2 * size, size)


def _repeats(model: nn.Module, layer: str) -> int:
    """How often the part that `layer` belongs to really runs: long loops are traced shorter."""
    for name, times in getattr(model, "repeated", {}).items():
        if layer == name or layer.startswith(name + "."):
            return int(times)
    return 1


def _mapped(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Tensor):
        return change(inputs)
    if isinstance(inputs, dict):
        return {name: _mapped(value, change) for name, value in inputs.items()}
    return tuple(_mapped(value, change) for value in inputs)


def _loss_of(model: nn.Module) -> Callable[[Any], Tensor] | None:
    return getattr(model, "joulecast_loss", None)


def builder_of(network: str) -> Builder:
    if network in _BUILDERS:
        return _BUILDERS[network]
    library, _, rest = network.partition(":")
    name, _, side = rest.partition("@")
    if library in ("timm", "pytorchcv"):
        return _image(library, name, int(side or 224))
    if library == "nasbench":
        return _nasbench(rest)
    raise KeyError(network)


def _image(library: str, name: str, side: int) -> Builder:
    def build(batch: int) -> tuple[nn.Module, Any]:
        with torch.device("meta"):
            if library == "pytorchcv":
                model = import_pytorchcv().get_model(name, pretrained=False)
            elif name.startswith("mnasnet_b1_"):
                import_timm()
                from timm.models import _efficientnet_builder  # noqa: F401  registers what the next import needs
                from timm.models.efficientnet import _gen_mnasnet_b1

                model = _gen_mnasnet_b1("mnasnet_100", float(name.removeprefix("mnasnet_b1_")), pretrained=False)
            else:
                model = import_timm().create_model(name, pretrained=False)
        return model, torch.empty(batch, 3, side, side, device="meta")

    return build


def _nasbench(text: str) -> Builder:
    """A cell of NAS-Bench-101 as JSON: adjacency matrix and operations."""

    def build(batch: int) -> tuple[nn.Module, Any]:
        with torch.device("meta"):
            return NasBench(*json.loads(text)), torch.empty(batch, 3, 32, 32, device="meta")

    return build


TORCHVISION = {
    **{name: f"timm:{name}" for name in ("densenet121", "densenet161", "densenet169", "densenet201")},
    **{name: f"timm:{name}" for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{name: f"timm:{name}" for name in ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")},
    **{name: f"timm:{name}" for name in ("wide_resnet50_2", "wide_resnet101_2")},
    **{f"vgg{n}": f"pytorchcv:vgg{n}" for n in (11, 13, 16, 19)},
    **{f"vgg{n}_bn": f"pytorchcv:bn_vgg{n}" for n in (11, 13, 16, 19)},
    "mnasnet0_5": "timm:mnasnet_b1_0.5",
    "mnasnet0_75": "timm:mnasnet_b1_0.75",
    "mnasnet1_0": "timm:mnasnet_b1_1.0",
    "mnasnet1_3": "timm:mnasnet_b1_1.3",
    "mobilenet_v2": "timm:mobilenetv2_100",
    "mobilenet_v3_small": "timm:mobilenetv3_small_100",
    "mobilenet_v3_large": "timm:mobilenetv3_large_100",
    "shufflenet_v2_x0_5": "pytorchcv:shufflenetv2_wd2",
    "shufflenet_v2_x1_0": "pytorchcv:shufflenetv2_w1",
    "shufflenet_v2_x1_5": "pytorchcv:shufflenetv2_w3d2",
    "shufflenet_v2_x2_0": "pytorchcv:shufflenetv2_w2",
    "squeezenet1_0": "pytorchcv:squeezenet_v1_0",
    "squeezenet1_1": "pytorchcv:squeezenet_v1_1",
}


# -- Language models ------------------------------------------------------------------------------------


def _ids(batch: int, length: int) -> Tensor:
    return torch.empty(batch, length, dtype=torch.int64, device="meta")


def _logits_loss(output: Any) -> Tensor:
    total: Tensor = output.start_logits.square().mean() + output.end_logits.square().mean()
    return total


def _bert(layers: int, hidden: int, length: int, task: str, attention: str = "eager") -> Builder:
    def build(batch: int) -> tuple[nn.Module, Any]:
        import transformers

        config = transformers.BertConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            intermediate_size=4 * hidden,
            attn_implementation=attention,
        )
        with torch.device("meta"):
            if task == "squad":
                model: nn.Module = transformers.BertForQuestionAnswering(config)
                model.joulecast_loss = _logits_loss  # type: ignore[assignment]
                return model, {"input_ids": _ids(batch, length)}
            model = Pretraining(transformers.BertModel(config), hidden, int(0.15 * length))
        return model, _ids(batch, length)

    return build


class Pretraining(nn.Module):
    """BERT with the masked-token head on 15 % of the tokens, as NVIDIA's examples gather them."""

    def __init__(self, body: nn.Module, hidden: int, masked: int) -> None:
        super().__init__()
        self.body, self.masked = body, masked
        self.transform = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.decoder = nn.Linear(hidden, 30528)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.body(ids).last_hidden_state[:, : self.masked]
        logits: Tensor = self.decoder(self.transform(hidden)).flatten(0, 1)
        return F.cross_entropy(logits.float(), logits.new_zeros(logits.shape[0], dtype=torch.int64))


def _causal(kind: str, length: int, attention: str = "eager", **sizes: int) -> Builder:
    def build(batch: int) -> tuple[nn.Module, Any]:
        import transformers

        with torch.device("meta"):
            if kind == "opt":
                config: Any = transformers.OPTConfig(
                    hidden_size=sizes["hidden"],
                    num_hidden_layers=sizes["layers"],
                    num_attention_heads=sizes["heads"],
                    ffn_dim=4 * sizes["hidden"],
                    word_embed_proj_dim=sizes["hidden"],
                    max_position_embeddings=length,
                    use_cache=False,
                    attn_implementation=attention,
                )
                model: nn.Module = transformers.OPTForCausalLM(config)
            else:
                config = transformers.GPT2Config(
                    n_embd=sizes["hidden"],
                    n_layer=sizes["layers"],
                    n_head=sizes["heads"],
                    n_positions=length,
                    use_cache=False,
                    attn_implementation=attention,
                )
                model = transformers.GPT2LMHeadModel(config)
        return model, {"input_ids": _ids(batch, length)}

    return build


# -- NeuSight's networks, as its scripts run them: transformers 4.38 with eager attention ------------------------


def _divided_scores(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **options: Any) -> Any:
    """BERT's attention of 4.38: it always adds a mask."""
    scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    scores = scores + scores.new_zeros(scores.shape[0], 1, 1, scores.shape[-1])
    return _mixed(module, scores, v, options["dropout"])


def _chosen_scores(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **options: Any) -> Any:
    """GPT-2's: scores of later tokens are replaced, which the backward pass does once more."""
    scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    return _mixed(module, torch.where(module.causal, scores, _least(scores)), v, options["dropout"])


def _limited_scores(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, **options: Any) -> Any:
    """OPT's: the masked scores have a lower limit, whose backward pass compares, halves ties and fills."""
    scores = torch.matmul(q, k.transpose(-1, -2)) + mask
    return _mixed(module, torch.maximum(scores, _least(scores)), v, 0.0)


def _least(scores: Tensor) -> Tensor:
    return scores.new_full((), torch.finfo(scores.dtype).min)


def _mixed(module: nn.Module, scores: Tensor, v: Tensor, dropout: float) -> tuple[Tensor, None]:
    shares = F.dropout(F.softmax(scores, -1), dropout, module.training)
    return torch.matmul(shares, v).transpose(1, 2).contiguous(), None


def _of_2024(attention: Callable[..., Any]) -> str:
    """The name under which transformers calls `attention`, with a float mask."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    name = f"eager-4.38-{attention.__name__.strip('_')}"
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, eager_mask)
    return name


def _every_token(output: Any) -> Tensor:
    logits = output.prediction_logits if "prediction_logits" in output else output.logits
    flat = logits.flatten(0, 1)
    return F.cross_entropy(flat, torch.zeros(flat.shape[0], dtype=torch.int64, device=flat.device))


def _neusight_bert(train: bool) -> Builder:
    """Training: logits of every token. Inference: two classes from the first token."""

    def build(batch: int) -> tuple[nn.Module, Any]:
        import transformers

        config = transformers.BertConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            attn_implementation=_of_2024(_divided_scores),
        )
        kind = transformers.BertForPreTraining if train else transformers.BertForSequenceClassification
        with torch.device("meta"):
            return _keeping_gradients(kind(config)), {"input_ids": _ids(batch, 512)}

    return build


def _neusight_causal(kind: str, length: int, **sizes: int) -> Builder:
    def build(batch: int) -> tuple[nn.Module, Any]:
        attention = _of_2024(_limited_scores if kind == "opt" else _chosen_scores)
        model, inputs = _causal(kind, length, attention=attention, **sizes)(batch)
        with torch.device("meta"):
            for module in model.modules():
                if hasattr(module, "attn_dropout"):
                    module.causal = torch.ones(1, 1, length, length, dtype=torch.bool)
        return _keeping_gradients(model), inputs

    return build


def _keeping_gradients(model: nn.Module) -> nn.Module:
    """NeuSight's script clears no gradients: each backward pass adds to those of before."""
    model.joulecast_loss, model.keeps_gradients = _every_token, True  # type: ignore[assignment]
    return model


class TransformerBig(nn.Module):
    """Vaswani et al., table 3, "big": 6 + 6 layers of 1,024, 16 heads, 33,712 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(33712, 1024)
        self.body = nn.Transformer(1024, 16, 6, 6, 4096, batch_first=True)
        self.out = nn.Linear(1024, 33712, bias=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body(self.embed(source), self.embed(target)))
        flat = logits.flatten(0, 1).float()
        return F.cross_entropy(flat, torch.zeros(flat.shape[0], dtype=torch.int64, device=flat.device))


def _transformer_big(batch: int) -> tuple[nn.Module, Any]:
    with torch.device("meta"):
        return TransformerBig(), (_ids(batch, 32), _ids(batch, 32))


class Gnmt(nn.Module):
    """GNMT v2 of the DeepLearningExamples: 4 + 4 layers of 1,024, first encoder layer in both directions."""

    def __init__(self, vocabulary: int = 32320, hidden: int = 1024) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.first = nn.LSTM(hidden, hidden, bidirectional=True, batch_first=True)
        self.second = nn.LSTM(2 * hidden, hidden, batch_first=True)
        self.encoder = nn.ModuleList(nn.LSTM(hidden, hidden, batch_first=True) for _ in range(2))
        self.attending = nn.LSTM(hidden, hidden, batch_first=True)
        self.query, self.key = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Parameter(torch.empty(hidden))
        self.decoder = nn.ModuleList(nn.LSTM(2 * hidden, hidden, batch_first=True) for _ in range(3))
        self.classifier = nn.Linear(hidden, vocabulary)
        self.drop = nn.Dropout(0.2)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, _ = self.second(self.drop(self.first(self.drop(self.embed(source)))[0]))
        for layer in self.encoder:
            memory = memory + layer(self.drop(memory))[0]
        state, _ = self.attending(self.drop(self.embed(target)))
        energy = torch.tanh(self.query(state).unsqueeze(2) + self.key(memory).unsqueeze(1))
        context = torch.matmul(F.softmax(energy @ self.score, -1), memory)
        for layer in self.decoder:
            state = layer(self.drop(torch.cat([state, context], -1)))[0] + state
        logits = self.classifier(state).flatten(0, 1).float()
        return F.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.int64, device=logits.device))


GNMT_LENGTH = 26


def _gnmt(batch: int) -> tuple[nn.Module, Any]:
    with torch.device("meta"):
        return Gnmt(), (_ids(batch, GNMT_LENGTH), _ids(batch, GNMT_LENGTH))


class XlLayer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * 64 * heads, bias=False), nn.Linear(64 * heads, width, bias=False)
        self.position = nn.Linear(width, 64 * heads, bias=False)
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(inplace=True), nn.Dropout(0.1), nn.Linear(inner, width), nn.Dropout(0.1)
        )
        self.bias_u, self.bias_v = nn.Parameter(torch.empty(heads, 64)), nn.Parameter(torch.empty(heads, 64))
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        length, batch, _ = x.shape
        whole = torch.cat([memory, x])
        q, k, v = (part.unflatten(-1, (self.heads, 64)) for part in self.qkv(whole).chunk(3, -1))
        r = self.position(positions).unflatten(-1, (self.heads, 64))
        content = torch.einsum("ibnd,jbnd->bnij", q[-length:] + self.bias_u, k)
        place = torch.einsum("ibnd,jnd->bnij", q[-length:] + self.bias_v, r)
        padded = F.pad(place, (1, 0)).reshape(batch, self.heads, -1, length)[:, :, 1:].reshape_as(place)
        share = self.drop(F.softmax((content + padded) * 0.125, -1))
        mixed = torch.einsum("bnij,jbnd->ibnd", share, v).flatten(2)
        x = self.norm(x + self.drop(self.out(mixed)))
        return self.norm2(x + self.feed(x))


class TransformerXl(nn.Module):
    """Dai et al., arXiv 1901.02860, with the adaptive softmax's usual shares of tokens in its tails.

    Without `adaptive`, every token gets all 267,735 logits, from the weights of the embedding.
    """

    def __init__(self, layers: int, width: int, heads: int, inner: int, length: int, adaptive: bool) -> None:
        super().__init__()
        self.length, self.width, self.adaptive = length, width, adaptive
        self.embed = nn.Embedding(267735, width)
        self.layers = nn.ModuleList(XlLayer(width, heads, inner) for _ in range(layers))
        sizes = (20000, 20000, 160000, 67735) if adaptive else ()
        self.tails = nn.ModuleList(nn.Linear(width, size) for size in sizes)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids.t())
        memory = torch.empty(self.length, ids.shape[0], self.width, device=ids.device, dtype=x.dtype)
        positions = torch.empty(2 * self.length, self.width, device=ids.device, dtype=x.dtype)
        for layer in self.layers:
            x = layer(x, memory, positions)
        tokens, total = x.flatten(0, 1), x.new_zeros(())
        if not self.adaptive:
            logits = F.linear(tokens, self.embed.weight).float()
            return F.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.int64, device=ids.device))
        for tail, share in zip(self.tails, (1.0, 0.12, 0.08, 0.01), strict=True):
            logits = tail(tokens[: max(int(share * tokens.shape[0]), 1)]).float()
            zeros = torch.zeros(logits.shape[0], dtype=torch.int64, device=ids.device)
            total = total + F.cross_entropy(logits, zeros)
        return total


def _transformer_xl(layers: int, width: int, heads: int, inner: int, length: int, adaptive: bool = True) -> Builder:
    def build(batch: int) -> tuple[nn.Module, Any]:
        with torch.device("meta"):
            return TransformerXl(layers, width, heads, inner, length, adaptive), _ids(batch, length)

    return build


# -- Detection ------------------------------------------------------------------------------------------


class Ssd(nn.Module):
    """SSD300 as NVIDIA's examples and MLPerf build it: a ResNet whose third stage keeps 38 x 38."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        net = import_timm().create_model(backbone, pretrained=False)
        block = net.layer3[0]
        block.conv1.stride = block.conv2.stride = (1, 1)
        block.downsample[0].stride = (1, 1)
        self.features = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool, net.layer1, net.layer2, net.layer3)
        width = 1024 if backbone == "resnet50" else 256
        outs = (width, 512, 512, 256, 256, 256)
        extra = []
        for position, middle in enumerate((256, 256, 128, 128, 128)):
            stride, pad = (2, 1) if position < 3 else (1, 0)
            extra.append(
                nn.Sequential(
                    nn.Conv2d(outs[position], middle, 1, bias=False),
                    nn.BatchNorm2d(middle),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(middle, outs[position + 1], 3, stride, pad, bias=False),
                    nn.BatchNorm2d(outs[position + 1]),
                    nn.ReLU(inplace=True),
                )
            )
        self.extra = nn.ModuleList(extra)
        boxes = (4, 6, 6, 6, 4, 4)
        self.loc = nn.ModuleList(nn.Conv2d(c, 4 * b, 3, padding=1) for c, b in zip(outs, boxes, strict=True))
        self.conf = nn.ModuleList(nn.Conv2d(c, 81 * b, 3, padding=1) for c, b in zip(outs, boxes, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        maps = [self.features(images)]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        loc = torch.cat(
            [head(x).flatten(2).unflatten(1, (4, -1)).flatten(2) for head, x in zip(self.loc, maps, strict=False)], -1
        )
        conf = torch.cat(
            [head(x).unflatten(1, (81, -1)).flatten(2) for head, x in zip(self.conf, maps, strict=False)], -1
        ).float()
        labels = torch.zeros(conf.shape[0], conf.shape[2], dtype=torch.int64, device=conf.device)
        each = F.cross_entropy(conf, labels, reduction="none")
        order = each.detach().sort(1)[1].sort(1)[1]
        return loc.float().abs().mean() + (each * (order < 100)).mean()


def _ssd(backbone: str) -> Builder:
    def build(batch: int) -> tuple[nn.Module, Any]:
        with torch.device("meta"):
            return Ssd(backbone), torch.empty(batch, 3, 300, 300, device="meta")

    return build


class RetinaNet(nn.Module):
    """MLPerf's: ResNeXt-50 32x4d, FPN of 256 channels on five levels, 9 anchors, 264 classes, 800 x 800."""

    def __init__(self) -> None:
        super().__init__()
        net = import_timm().create_model("resnext50_32x4d", pretrained=False)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool, net.layer1)
        self.stages = nn.ModuleList([net.layer2, net.layer3, net.layer4])
        self.lateral = nn.ModuleList(nn.Conv2d(c, 256, 1) for c in (512, 1024, 2048))
        self.smooth = nn.ModuleList(nn.Conv2d(256, 256, 3, padding=1) for _ in range(3))
        self.p6, self.p7 = nn.Conv2d(2048, 256, 3, 2, 1), nn.Conv2d(256, 256, 3, 2, 1)
        self.classes, self.boxes = self._head(9 * 264), self._head(9 * 4)

    def _head(self, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers, nn.Conv2d(256, outputs, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        levels = []
        for stage in self.stages:
            levels.append(x := stage(x))
        tops = [self.p6(levels[-1])]
        tops.append(self.p7(F.relu(tops[0])))
        above, maps = None, []
        for level, lateral, smooth in zip(
            reversed(levels), reversed(self.lateral), reversed(self.smooth), strict=False
        ):
            inner = lateral(level)
            if above is not None:
                inner = inner + F.interpolate(above, size=inner.shape[-2:])
            above = inner
            maps.append(smooth(inner))
        total = images.new_zeros(())
        for x in (*maps, *tops):
            scores = self.classes(x).float()
            total = total + F.binary_cross_entropy_with_logits(scores, torch.zeros_like(scores))
            total = total + self.boxes(x).float().abs().mean()
        return total


def _retinanet(batch: int) -> tuple[nn.Module, Any]:
    with torch.device("meta"):
        return RetinaNet(), torch.empty(batch, 3, 800, 800, device="meta")


# -- Speech ---------------------------------------------------------------------------------------------

_FRAMES, _TRACED_FRAMES, _TEXT = 840, 8, 160
TACOTRON_MEL_FRAMES = 566
"""Frames of a clip of LJSpeech on average; a batch is as long as its longest clip, about 840."""


class TacotronStep(nn.Module):
    """One frame of Tacotron 2's decoder (Shen et al., arXiv 1712.05884)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_cell, self.decoder_cell = nn.LSTMCell(768, 1024), nn.LSTMCell(1536, 1024)
        self.query, self.location = nn.Linear(1024, 128, bias=False), nn.Linear(32, 128, bias=False)
        self.convolution = nn.Conv1d(2, 32, 31, padding=15, bias=False)
        self.score = nn.Linear(128, 1, bias=False)
        self.mel, self.gate = nn.Linear(1536, 80), nn.Linear(1536, 1)
        self.drop = nn.Dropout(0.1)

    def forward(self, frame: Tensor, memory: Tensor, keys: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h1, c1, h2, c2, weights, context = state
        h1, c1 = self.attention_cell(torch.cat([frame, context], -1), (h1, c1))
        h1 = self.drop(h1)
        where = self.location(self.convolution(torch.stack([weights, weights], 1)).transpose(1, 2))
        energy = self.score(torch.tanh(self.query(h1.unsqueeze(1)) + where + keys)).squeeze(-1)
        weights = F.softmax(energy, -1)
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
        h2, c2 = self.decoder_cell(torch.cat([h1, context], -1), (h2, c2))
        h2 = self.drop(h2)
        both = torch.cat([h2, context], -1)
        return torch.cat([self.mel(both), self.gate(both)], -1), [h1, c1, h2, c2, weights, context]


def _conv1d(c_in: int, c_out: int) -> list[nn.Module]:
    return [nn.Conv1d(c_in, c_out, 5, padding=2), nn.BatchNorm1d(c_out), nn.Tanh(), nn.Dropout(0.5)]


class Tacotron2(nn.Module):
    repeated = {"step": _FRAMES // _TRACED_FRAMES}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(148, 512)
        self.encoder = nn.Sequential(*_conv1d(512, 512), *_conv1d(512, 512), *_conv1d(512, 512))
        self.lstm = nn.LSTM(512, 256, bidirectional=True, batch_first=True)
        self.memory = nn.Linear(512, 128, bias=False)
        self.prenet = nn.Sequential(nn.Linear(80, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 256), nn.ReLU())
        self.step = TacotronStep()
        sizes = (80, 512, 512, 512, 512, 80)
        self.post = nn.Sequential(*(m for a, b in itertools.pairwise(sizes) for m in _conv1d(a, b)))

    def forward(self, text: Tensor, mel: Tensor) -> Tensor:
        memory, _ = self.lstm(self.encoder(self.embed(text).transpose(1, 2)).transpose(1, 2))
        frames, keys = self.prenet(mel.transpose(1, 2)), self.memory(memory)
        batch = text.shape[0]
        state = [memory.new_zeros(batch, size) for size in (1024, 1024, 1024, 1024, _TEXT, 512)]
        outs = []
        for position in range(_TRACED_FRAMES):
            out, state = self.step(frames[:, position], memory, keys, state)
            outs.append(out)
        return self.post(mel).float().square().mean() + torch.stack(outs).float().square().mean()


def _tacotron2(batch: int) -> tuple[nn.Module, Any]:
    with torch.device("meta"):
        return Tacotron2(), (_ids(batch, _TEXT), torch.empty(batch, 80, _FRAMES, device="meta"))


class WaveNetPart(nn.Module):
    def __init__(self, half: int) -> None:
        super().__init__()
        self.start, self.end = nn.Conv1d(half, 512, 1), nn.Conv1d(512, 2 * half, 1)
        self.inner = nn.ModuleList(nn.Conv1d(512, 1024, 3, dilation=2**i, padding=2**i) for i in range(8))
        self.condition = nn.ModuleList(nn.Conv1d(640, 1024, 1) for _ in range(8))
        self.skip = nn.ModuleList(nn.Conv1d(512, 1024 if i < 7 else 512, 1) for i in range(8))

    def forward(self, audio: Tensor, mel: Tensor) -> Tensor:
        x, total = self.start(audio), 0
        for position, (inner, condition, skip) in enumerate(zip(self.inner, self.condition, self.skip, strict=True)):
            both = inner(x) + condition(mel)
            out = skip(torch.tanh(both[:, :512]) * torch.sigmoid(both[:, 512:]))
            if position < 7:
                x, out = x + out[:, :512], out[:, 512:]
            total = total + out
        result: Tensor = self.end(total)
        return result


class WaveGlow(nn.Module):
    """Prenger et al., arXiv 1811.00002, 512 channels, segments of 8,000 samples."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose1d(80, 80, 1024, 256)
        halves = [4] * 4 + [3] * 4 + [2] * 4
        self.flows = nn.ModuleList(WaveNetPart(half) for half in halves)
        self.mixes = nn.ModuleList(nn.Conv1d(2 * half, 2 * half, 1, bias=False) for half in halves)
        self.halves = halves

    def forward(self, mel: Tensor, audio: Tensor) -> Tensor:
        mel = self.upsample(mel)[:, :, :8000].unflatten(2, (1000, 8)).permute(0, 1, 3, 2).flatten(1, 2)
        x = audio.unflatten(1, (1000, 8)).transpose(1, 2)
        total = audio.new_zeros(())
        for half, mix, flow in zip(self.halves, self.mixes, self.flows, strict=True):
            if x.shape[1] > 2 * half:
                x = x[:, 2:]
            x = mix(x)
            both = flow(x[:, :half], mel)
            scale, shift = both[:, :half], both[:, half:]
            x = torch.cat([x[:, :half], torch.exp(scale) * x[:, half:] + shift], 1)
            total = total + scale.sum()
        return (x * x).sum() + total


def _waveglow(batch: int) -> tuple[nn.Module, Any]:
    with torch.device("meta"):
        return WaveGlow(), (torch.empty(batch, 80, 32, device="meta"), torch.empty(batch, 8000, device="meta"))


def _vgg_head(batch: int) -> tuple[nn.Module, Any]:
    """VGG-16 without the dense layers of 4,096, as a Keras base has none; 128 x 128, one output."""
    with torch.device("meta"):
        model = import_pytorchcv().get_model("vgg16", pretrained=False)
        model.output = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1))
        return nn.Sequential(model.features, model.output), torch.empty(batch, 3, 128, 128, device="meta")


def cifar_shufflenet(batch: int) -> tuple[nn.Module, Any]:
    """ShuffleNetV2 as CIFAR repositories train it: a 3x3 stem that keeps 32 x 32."""
    with torch.device("meta"):
        model = import_pytorchcv().get_model("shufflenetv2_w1", pretrained=False, in_size=(32, 32))
        model.features.init_block = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)
        model.output = nn.Linear(model.output.in_features, 100)
        return model, torch.empty(batch, 3, 32, 32, device="meta")


_BUILDERS: dict[str, Builder] = {
    "bert-base-squad": _bert(12, 768, 384, "squad"),
    "bert-large-squad": _bert(24, 1024, 384, "squad"),
    "bert-base-128": _bert(12, 768, 128, "pretraining"),
    "bert-base-512": _bert(12, 768, 512, "pretraining"),
    "bert-large-128": _bert(24, 1024, 128, "pretraining"),
    "bert-large-512": _bert(24, 1024, 512, "pretraining"),
    "bert-large-512-fused": _bert(24, 1024, 512, "pretraining", "sdpa"),
    "neusight-bert-train": _neusight_bert(train=True),
    "neusight-bert-infer": _neusight_bert(train=False),
    "neusight-gpt2-large": _neusight_causal("gpt2", 1024, hidden=1280, layers=36, heads=20),
    "neusight-gpt3-xl": _neusight_causal("gpt2", 2048, hidden=3072, layers=24, heads=24),
    "neusight-gpt3-2.7b": _neusight_causal("gpt2", 2048, hidden=2560, layers=32, heads=32),
    "neusight-opt-1.3b": _neusight_causal("opt", 2048, hidden=2048, layers=24, heads=32),
    "gpt-l12": _causal("gpt2", 1024, hidden=768, layers=12, heads=12),
    "gpt-l16": _causal("gpt2", 1024, hidden=1536, layers=16, heads=16),
    "transformer-big": _transformer_big,
    "gnmt": _gnmt,
    "transformer-xl-base": _transformer_xl(16, 512, 8, 2048, 192),
    "transformer-xl-large": _transformer_xl(18, 1024, 16, 4096, 256),
    "transformer-xl-base-full": _transformer_xl(16, 512, 8, 2048, 192, adaptive=False),
    "transformer-xl-large-full": _transformer_xl(18, 1024, 16, 4096, 256, adaptive=False),
    "ssd300-resnet50": _ssd("resnet50"),
    "ssd300-resnet34": _ssd("resnet34"),
    "retinanet": _retinanet,
    "tacotron2": _tacotron2,
    "waveglow": _waveglow,
    "vgg16-base": _vgg_head,
    "cifar-shufflenet": cifar_shufflenet,
}
