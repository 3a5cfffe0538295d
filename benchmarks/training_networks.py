"""Small networks that reach, keep, draw or compute again what a budget must leave as it is; see trainings.py."""

from __future__ import annotations

import functools
import importlib.util
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from training_loop import tokens

ROOT = Path(__file__).parents[1]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False)


class Recomputed(nn.Module):
    """Blocks of which each is computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Linear(8, 16)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.2), nn.Tanh()) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return x


class Keeps(nn.Module):
    """Keeps tables, counts and statistics between calls, in many places."""

    shared: dict[int, torch.Tensor] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.body, self.table, self.calls = nn.Linear(8, 8), None, 0
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("hidden", torch.ones(8), persistent=False)
        self.history: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.table is None:
            self.table = torch.linspace(0, 1, 8, device=x.device)
        self.shared.setdefault(x.shape[0], torch.ones(8, device=x.device) * 2)
        y = self.body(x) * self.table * self.shared[x.shape[0]] * cached(8) * self.hidden
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * y.mean(0))
        self.history.append(y.detach().mean())
        return y - self.mean


@functools.lru_cache
def cached(size: int) -> torch.Tensor:
    return torch.arange(size, dtype=torch.float32).cos()


class Draws(nn.Module):
    """Random numbers of every kind decide what is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.own = nn.Linear(8, 8), torch.Generator().manual_seed(3)
        self.numpy = np.random.default_rng(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            if torch.rand([]) < 0.5 or random.random() < 0.3:
                x = self.body(x)
        x = x + torch.randn(8, generator=self.own) * float(self.numpy.random()) + np.random.rand()
        return self.body(F.dropout(x, 0.1))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        x, weight = ctx.saved_tensors
        return grad @ weight.T * 2, x.T @ grad * 2


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(Twice.apply(x, self.weight))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module], packed: bool = False) -> None:
        super().__init__()
        self.rnn, self.packed = cell(8, 8, 2, batch_first=True, dropout=0.1), packed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2]), batch_first=True)
        y = self.rnn(x)[0]
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0] if self.packed else y


class Bag(nn.Module):
    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.table, self.bag = nn.Embedding(100, 8, sparse=sparse), nn.EmbeddingBag(100, 8, sparse=sparse)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).mean(1) + self.bag(ids)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.LazyLinear(8), nn.LazyBatchNorm1d()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(x))


class Residual(nn.Module):
    """Trains on a derivative of its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_(True)
        u = self.net(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        return du[:, :1] - u


class Hooked(nn.Module):
    """Hooks change activations and gradients, and count."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.counts = nn.Linear(8, 8), [0, 0, 0]
        self.body.register_forward_hook(lambda *args: self._count(0, args[2] * 2))
        self.body.register_full_backward_hook(lambda *args: self._count(1, None))
        self.body.weight.register_hook(lambda grad: self._count(2, grad * 0.5))

    def _count(self, place: int, value: Any) -> Any:
        self.counts[place] += 1
        return value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def parametrized(kind: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(kind(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))


def frozen(model: nn.Module) -> None:
    next(iter(model.children())).requires_grad_(False)


# -- models that others wrote ----------------------------------------------------------------------

SMALL = (
    dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "encoder_hidden_size"), 32)
    | dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2)
    | dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("intermediate_size", "d_ff", "n_inner", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64)
    | dict.fromkeys(("num_key_value_heads", "num_local_experts", "num_experts_per_tok", "num_decoder_layers"), 2)
    | {"vocab_size": 100, "moe_intermediate_size": 16, "num_experts": 4, "head_dim": 8, "d_kv": 8, "state_size": 8}
    | {"rotary_dim": 4, "dff": 64, "d_inner": 64, "attention_window": 8, "bos_token_id": 1, "eos_token_id": 2}
    | {"pad_token_id": 0, "image_size": 32, "patch_size": 8, "d_head": 8, "max_position_embeddings": 64}
    | {"embed_dim": 32, "ffn_dim": 64, "num_experts_per_token": 2, "attention_hidden_size": 32}
)
TEXT = (
    "Albert", "Bart", "Bert", "Bloom", "Camembert", "DebertaV2", "Deberta", "DistilBert", "Electra", "Ernie",
    "Falcon", "GPT2", "GPTBigCode", "GPTNeoX", "Gemma", "Llama", "MBart", "Mamba", "Mistral", "Mixtral", "OPT",
    "Pegasus", "Phi", "Qwen2", "Qwen3", "Qwen3Moe", "Roberta", "Rwkv", "T5", "XLNet",
)  # fmt: skip
IMAGE = ("ViT", "DeiT")


def transformer(name: str) -> nn.Module:
    import transformers

    kind = getattr(transformers, f"{name}Config")
    known = kind().to_dict()
    config = kind(**{key: value for key, value in SMALL.items() if key in known})
    model: nn.Module = getattr(transformers, f"{name}Model")(config)
    return model.train()


def text_batches(name: str) -> Callable[[], Sequence[dict[str, torch.Tensor]]]:
    decoder = name in ("T5", "Bart", "MBart", "Pegasus")

    def batches() -> Sequence[dict[str, torch.Tensor]]:
        made = [{"input_ids": ids} for ids in tokens()()]
        return [batch | {"decoder_input_ids": batch["input_ids"]} for batch in made] if decoder else made

    return batches


def reference(file: str, name: str, **options: Any) -> nn.Module:
    spec = importlib.util.spec_from_file_location(file, ROOT / "models" / f"{file}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = getattr(module, name)(**options)
    return model
