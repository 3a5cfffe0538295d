"""Short trainings of many kinds, each run with or without a budget; see untouched.py."""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import joulecast as jc
from joulecast.estimator.trace.losses import training_loss

ROOT = Path(__file__).parents[1]
STEPS = 3
MOMENTUM = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)

Train = Callable[[bool], dict[str, Any]]
"""Trains with (True) or without a budget; returns everything that must be the same afterwards."""


def budget() -> jc.Budget:
    return jc.Budget("1000 kWh", hardware="i7-4770", meter="none")


def seed(number: int) -> None:
    for one in (random.seed, np.random.seed, torch.manual_seed):
        one(number)


def state(model: nn.Module, *others: Any) -> dict[str, Any]:
    """Parameters, buffers, gradients, attributes, hooks and modes of a model, other objects, and random states."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path}: class and mode"] = type(module).__name__, module.training
        for name, value in sorted(vars(module).items()):
            if name in ("_modules", "trainer", "_trainer", "_forward_pre_hooks_with_kwargs", "_fabric"):
                continue
            if name.endswith("_hooks"):
                found[f"{path}.{name}"] = len(value)
            else:
                found[f"{path}.{name}"] = plain(value)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found[f"{path}.{name}: gradient"] = parameter.requires_grad, plain(parameter.grad)
    for index, other in enumerate(others):
        found[f"object {index}"] = plain(other)
    found["random"] = plain([random.getstate(), np.random.get_state(), torch.get_rng_state()])
    found["torch"] = str(torch.get_default_dtype()), torch.is_grad_enabled(), str(torch.get_default_device())
    return found


def plain(value: Any) -> Any:
    """Tensors as bytes, containers by content; other objects by their type."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            value = value.to_dense()
        content = (
            value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
        return str(value.dtype), tuple(value.shape), content
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bytes, bool, type(None))) else type(value).__name__


# -- a plain loop ----------------------------------------------------------------------------------


def loop(
    make: Callable[[], nn.Module],
    batches: Callable[[], Sequence[Any]],
    *,
    optimizer: Callable[[Any], torch.optim.Optimizer] = MOMENTUM,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    autocast: torch.dtype | None = None,
    average: bool = False,
    accumulate: int = 1,
    clip: bool = False,
    cleared_last: bool = False,
    to_none: bool = True,
    schedule: bool = False,
    compiled: str | None = None,
    ahead: bool = False,
    validation: bool = False,
    prepare: Callable[[nn.Module], Any] | None = None,
) -> Train:
    """A training in which each batch is a tensor, a tuple of arguments or a dictionary of them."""

    def train(watched: bool) -> dict[str, Any]:
        seed(0)
        model = make()
        if prepare is not None:
            prepare(model)
        seed(1)
        data = batches()
        used: Any = torch.compile(model, backend=compiled) if compiled else model
        trained = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad])
        mean = torch.optim.swa_utils.AveragedModel(model) if average else None
        pace = torch.optim.lr_scheduler.CosineAnnealingLR(trained, len(data)) if schedule else None
        losses: list[float] = []
        inputs = (data[0] if isinstance(data[0], (tuple, dict)) else (data[0],)) if ahead else None
        with ExitStack() as stack:
            run = None
            if watched:
                watch = budget().watch(used, inputs, steps=len(data), optimizer=trained)
                run = stack.enter_context(watch)
            for batch in data:
                if not cleared_last:
                    trained.zero_grad(set_to_none=to_none)
                for _ in range(accumulate):
                    with torch.autocast("cpu", autocast) if autocast else nullcontext():
                        args, kwargs = ((), batch) if isinstance(batch, dict) else (batch, {})
                        args = args if isinstance(args, tuple) else (args,)
                        output = used(*args, **kwargs)
                        value = loss(output, batch) if loss else training_loss(None, output, (args, kwargs))
                    (value / accumulate).backward()
                    losses.append(float(value))
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                trained.step()
                if cleared_last:
                    trained.zero_grad(set_to_none=to_none)
                if mean is not None:
                    mean.update_parameters(model)
                if pace is not None:
                    pace.step()
                if run is not None:
                    run.step()
                if validation:
                    with run.validation() if run else nullcontext(), torch.no_grad():
                        model.eval()
                        used(*args, **kwargs)
                        model.train()
        others = [trained.state_dict(), losses, mean.state_dict() if mean else None]
        return state(model, *others) | {"predicted": run is not None and run.estimate is not None}

    return train


def vectors(width: int = 8, rows: int = 4) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: [torch.randn(rows, width) for _ in range(STEPS)]


def images(side: int = 16, rows: int = 2, channels: int = 3) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: [torch.randn(rows, channels, side, side) for _ in range(STEPS)]


def tokens(length: int = 16, vocabulary: int = 100, rows: int = 2) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: [torch.randint(3, vocabulary, (rows, length)) for _ in range(STEPS)]


def sequences() -> Sequence[torch.Tensor]:
    return [torch.randn(3, 5, 8) for _ in range(STEPS)]


# -- networks --------------------------------------------------------------------------------------


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
    *(
        "Albert",
        "Bart",
        "Bert",
        "Bloom",
        "Camembert",
        "DebertaV2",
        "Deberta",
        "DistilBert",
        "Electra",
        "Ernie",
        "Falcon",
    ),
    *(
        "GPT2",
        "GPTBigCode",
        "GPTNeoX",
        "Gemma",
        "Llama",
        "MBart",
        "Mamba",
        "Mistral",
        "Mixtral",
        "OPT",
        "Pegasus",
        "Phi",
    ),
    *("Qwen2", "Qwen3", "Qwen3Moe", "Roberta", "Rwkv", "T5", "XLNet"),
)
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


def case(folder: Path, model: str, inputs: str, rows: int) -> Train:
    """A model of the cases, as `estimate` loads it, with random inputs."""
    from joulecast.estimator.model.inputs import model_inputs, parse_input
    from joulecast.estimator.model.load import load_model

    found: dict[str, Any] = {}

    def make() -> nn.Module:
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        loaded = found["loaded"] = load_model(model).on_cpu()
        assert loaded.model is not None
        return loaded.model

    def batches() -> Sequence[Any]:
        specs = [parse_input(text) for text in inputs.split()]
        made = [model_inputs(found["loaded"], rows, specs=specs, device="cpu") for _ in range(STEPS)]
        return [dict(one.kwargs) if one.kwargs else filled(one.args) for one in made]

    def filled(args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            torch.randn_like(arg) if isinstance(arg, torch.Tensor) and arg.is_floating_point() else arg for arg in args
        )

    return loop(make, batches)


CASES = {
    "01-checkpoint-attention model.py": "32,64",
    "03-multi-output-detector model.py": "3,64,64",
    "04-losses-dict model.py": "3,32,32",
    "05-list-of-images model.py": "",
    "08-packed-lengths model.py": "",
    "10-bilinear model.py": "256 256",
    "11-fourier-layer model.py": "1,32,32",
    "13-moe-loop model.py:Routed": "16,32",
    "16-custom-op model.py": "4096",
    "20-tied-weights model.py": "int64:16",
    "21-shared-block model.py": "8,768",
    "22-second-derivative model.py": "2",
    "29-deformable-attention model.py": "",
    "30-own-autocast model.py": "4096",
    "32-object-outputs model.py": "784",
    "36-config-object model.py": "int64:16",
    "47-ctc model.py": "",
    "48-selective-scan model.py:Net": "int64:8",
    "49-normalised-weights model.py": "3,64,64",
    "52-scripted model.py:Net": "256",
    "59-attention-mask-cache model.py": "int64:16",
    "62-batch-dictionary tupled.py": "",
    "67-labels-in-call model.py": "",
}


# -- trainers --------------------------------------------------------------------------------------


def transformers_trainer(**options: Any) -> Train:
    def train(watched: bool) -> dict[str, Any]:
        from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

        seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
        )
        model = BertForSequenceClassification(config)
        data = [{"input_ids": torch.randint(50, (12,)), "labels": index % 2} for index in range(24)]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=4,
                per_device_train_batch_size=4, **options,
            )  # fmt: skip
            trainer = Trainer(
                model, arguments, train_dataset=data, eval_dataset=data[:8], callbacks=[budget()] if watched else []
            )
            trainer.train()
        logs = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        return state(model, trainer.optimizer.optimizer.state_dict(), logs)

    return train


def lightning_trainer(kind: str, **options: Any) -> Train:
    def train(watched: bool) -> dict[str, Any]:
        import lightning as L
        import torchmetrics
        from torch.utils.data import DataLoader, TensorDataset

        class Plain(L.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.seen = convolutions(), []
                self.right = torchmetrics.MeanMetric()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = F.cross_entropy(self.net(batch[0]), batch[1])
                self.right(loss)
                self.log("loss", loss)
                self.log("mean", self.right)
                self.seen.append(batch_idx)
                return {"loss": loss} if kind == "dictionary" else loss

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val", F.cross_entropy(self.net(batch[0]), batch[1]))

            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(self.parameters(), 1e-3)

        class Adversarial(L.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False
                self.generator, self.critic = nn.Linear(4, 3 * 16 * 16), nn.Linear(3 * 16 * 16, 1)

            def training_step(self, batch: Any, batch_idx: int) -> None:
                first, second = self.optimizers()
                real = batch[0].flatten(1)
                fake = self.generator(torch.randn(len(real), 4))
                for optimizer, loss in (
                    (
                        second,
                        lambda: F.softplus(self.critic(fake.detach())).mean() + F.softplus(-self.critic(real)).mean(),
                    ),
                    (first, lambda: F.softplus(-self.critic(fake)).mean()),
                ):
                    optimizer.zero_grad()
                    self.manual_backward(loss())
                    optimizer.step()

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.critic.parameters())

        seed(0)
        module = Adversarial() if kind == "adversarial" else Plain()
        data = TensorDataset(torch.randn(12, 3, 16, 16), torch.randint(4, (12,)))
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder, callbacks=[budget()] if watched else [], **options,
            )  # fmt: skip
            validation = DataLoader(data, 4) if kind == "validation" else None
            trainer.fit(module, DataLoader(data, 4, shuffle=True), validation)
        return state(module, [optimizer.state_dict() for optimizer in trainer.optimizers])

    return train


def keras_fit(kind: str) -> Train:
    def train(watched: bool) -> dict[str, Any]:
        import keras
        from keras import layers

        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu")])
        if kind == "norm":
            model.add(layers.BatchNormalization())
        if kind == "dropout":
            model.add(layers.Dropout(0.3))
        model.add(layers.Flatten())
        model.add(layers.Dense(3))
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        data, labels = np.random.rand(16, 8, 8, 3).astype("float32"), np.random.randint(0, 3, 16)
        callbacks = [budget()] if watched else []
        history = model.fit(data, labels, epochs=2, batch_size=4, verbose=0, callbacks=callbacks)
        weights = [plain(np.asarray(value)) for value in model.get_weights()]
        kept = [plain(value.numpy(force=True)) for value in (one.value for one in model.optimizer.variables)]
        return {"weights": weights, "optimizer": kept, "losses": history.history["loss"]}

    return train


# -- all of them -----------------------------------------------------------------------------------


def trainings(cases: Path | None) -> Iterator[tuple[str, Train]]:
    optim = torch.optim
    for name, kind in {
        "SGD": optim.SGD, "Adam": optim.Adam, "AdamW": optim.AdamW, "RMSprop": optim.RMSprop, "Adagrad": optim.Adagrad,
        "Adadelta": optim.Adadelta, "NAdam": optim.NAdam, "Rprop": optim.Rprop, "ASGD": optim.ASGD,
    }.items():  # fmt: skip
        yield f"MLP, {name}", loop(mlp, vectors(), optimizer=functools.partial(kind, lr=0.01))
    yield "MLP, gradients cleared last", loop(mlp, vectors(), cleared_last=True)
    yield "MLP, gradients set to zero", loop(mlp, vectors(), cleared_last=True, to_none=False)
    yield "MLP, accumulated", loop(mlp, vectors(), accumulate=2)
    yield "MLP, clipped", loop(mlp, vectors(), clip=True)
    yield "MLP, schedule", loop(mlp, vectors(), schedule=True)
    yield "MLP, moving average", loop(mlp, vectors(), average=True)
    yield "MLP, first layer frozen", loop(mlp, vectors(), prepare=frozen)
    yield "MLP, inputs ahead", loop(mlp, vectors(), ahead=True)
    yield "MLP, validations", loop(mlp, vectors(), validation=True)
    yield "MLP, float64", loop(lambda: mlp().double(), lambda: [one.double() for one in vectors()()])
    yield "convolutions", loop(convolutions, images())
    yield "convolutions, channels last", loop(lambda: convolutions().to(memory_format=torch.channels_last), images())
    yield "convolutions, bfloat16", loop(convolutions, images(), autocast=torch.bfloat16)
    yield "convolutions, moving average", loop(convolutions, images(), average=True, schedule=True)
    for backend in ("eager", "aot_eager"):
        yield f"convolutions, compiled ({backend})", loop(convolutions, images(), compiled=backend)
    yield "MLP, compiled, inputs ahead", loop(mlp, vectors(), compiled="aot_eager", ahead=True)
    yield "encoder", loop(encoder, lambda: [torch.randn(2, 6, 16) for _ in range(STEPS)])
    yield "encoder, bfloat16", loop(encoder, lambda: [torch.randn(2, 6, 16) for _ in range(3)], autocast=torch.bfloat16)
    for reentrant in (True, False):
        for last in (True, False):
            text = f"recomputed ({'older' if reentrant else 'newer'} kind), cleared {'last' if last else 'first'}"
            yield text, loop(functools.partial(Recomputed, reentrant), vectors(), cleared_last=last)
    yield "tables kept between calls", loop(Keeps, vectors())
    yield "tables kept, inputs ahead", loop(Keeps, vectors(), ahead=True)
    yield "random numbers", loop(Draws, vectors())
    yield "random numbers, inputs ahead", loop(Draws, vectors(), ahead=True)
    yield "own autograd function", loop(Own, vectors())
    for cell in (nn.LSTM, nn.GRU, nn.RNN):
        yield cell.__name__, loop(functools.partial(Recurrent, cell), sequences)
    yield "LSTM, packed", loop(functools.partial(Recurrent, nn.LSTM, True), sequences)
    yield (
        "sparse embedding",
        loop(functools.partial(Bag, True), tokens(), optimizer=functools.partial(optim.SGD, lr=0.1)),
    )
    yield "dense embedding", loop(functools.partial(Bag, False), tokens())
    yield "lazy layers", loop(Lazy, vectors(), prepare=lambda model: model(torch.zeros(2, 8)))
    yield "second derivative", loop(Residual, vectors(2))
    yield "hooks", loop(Hooked, vectors())
    norms = nn.utils.parametrizations
    yield "spectral norm", loop(functools.partial(parametrized, norms.spectral_norm), vectors())
    yield "weight norm", loop(functools.partial(parametrized, norms.weight_norm), vectors())
    yield "orthogonal", loop(functools.partial(parametrized, norms.orthogonal), vectors())
    yield "scripted", loop(lambda: torch.jit.script(mlp()), vectors())
    yield "own loss", loop(mlp, vectors(), loss=lambda output, batch: (output - batch[:, :3]).square().mean())
    yield "SimpleNet", loop(functools.partial(reference, "simplenet", "SimpleNet", width=0.1), images(32))
    yield "AlexNet", loop(functools.partial(reference, "alexnet", "AlexNet"), images(32))
    for name in TEXT:
        yield f"{name}, shrunk", loop(functools.partial(transformer, name), text_batches(name))
    for name in IMAGE:
        yield (
            f"{name}, shrunk",
            loop(functools.partial(transformer, name), lambda: [{"pixel_values": one} for one in images(32)()]),
        )
    yield "Trainer", transformers_trainer()
    yield "Trainer, accumulated", transformers_trainer(gradient_accumulation_steps=2)
    yield "Trainer, bfloat16", transformers_trainer(bf16=True)
    yield "Trainer, recomputed", transformers_trainer(gradient_checkpointing=True)
    yield "Trainer, evaluated", transformers_trainer(eval_strategy="steps", eval_steps=2, logging_steps=1)
    yield "Lightning", lightning_trainer("plain")
    yield "Lightning, dictionary", lightning_trainer("dictionary")
    yield "Lightning, validations", lightning_trainer("validation")
    yield "Lightning, bfloat16", lightning_trainer("plain", precision="bf16-mixed")
    yield "Lightning, accumulated", lightning_trainer("plain", accumulate_grad_batches=2, gradient_clip_val=0.5)
    yield "Lightning, adversarial", lightning_trainer("adversarial")
    for kind in ("plain", "norm", "dropout"):
        yield f"Keras, {kind}", keras_fit(kind)
    for text, inputs in CASES.items() if cases else ():
        folder, model = text.split()
        rows = 8 if folder == "53-grouped-product" else 2
        yield f"case {folder}", case(cases / folder, model, inputs, rows)
