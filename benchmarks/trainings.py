"""Short trainings of many kinds, each run with or without a budget; see untouched.py."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training_frameworks import keras_fit, lightning_trainer, transformers_trainer
from training_loop import STEPS, Train, images, loop, sequences, tokens, vectors
from training_networks import (
    IMAGE,
    TEXT,
    Bag,
    Draws,
    Hooked,
    Keeps,
    Lazy,
    Own,
    Recomputed,
    Recurrent,
    Residual,
    convolutions,
    encoder,
    frozen,
    mlp,
    parametrized,
    reference,
    text_batches,
    transformer,
)

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


def trainings(cases: Path | None) -> Iterator[tuple[str, Train]]:
    """Every training, by name; those of `cases` where the folder is given."""
    yield from _ways_to_train()
    yield from _special_networks()
    yield from _published_networks()
    yield from _under_frameworks()
    for text, inputs in CASES.items() if cases else ():
        folder, model = text.split()
        rows = 8 if folder == "53-grouped-product" else 2
        yield f"case {folder}", case(cases / folder, model, inputs, rows)


def _ways_to_train() -> Iterator[tuple[str, Train]]:
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


def _special_networks() -> Iterator[tuple[str, Train]]:
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
        loop(functools.partial(Bag, True), tokens(), optimizer=functools.partial(torch.optim.SGD, lr=0.1)),
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


def _published_networks() -> Iterator[tuple[str, Train]]:
    yield "SimpleNet", loop(functools.partial(reference, "simplenet", "SimpleNet", width=0.1), images(32))
    yield "AlexNet", loop(functools.partial(reference, "alexnet", "AlexNet"), images(32))
    for name in TEXT:
        yield f"{name}, shrunk", loop(functools.partial(transformer, name), text_batches(name))
    for name in IMAGE:
        yield (
            f"{name}, shrunk",
            loop(functools.partial(transformer, name), lambda: [{"pixel_values": one} for one in images(32)()]),
        )


def _under_frameworks() -> Iterator[tuple[str, Train]]:
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
