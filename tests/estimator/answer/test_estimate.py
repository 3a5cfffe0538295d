"""`jc.estimate`: figures worked out by hand, the same document as the command line prints, errors that name fields."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import joulecast as jc
from joulecast.cli.estimate import estimate as command
from joulecast.estimator.answer.estimate import answers
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.curves import Curves, Term
from joulecast.estimator.cost.profile import PowerModel, Provenance

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.first = nn.Linear(16, width)
        self.second = nn.Linear(width, 4)

    def forward(self, x):
        return self.second(self.first(x))
"""


@pytest.fixture(scope="module")
def machine() -> jc.Profile:
    """1 ms per multiply-add at 50 W; bounds of 4/5 to 5/4."""
    return jc.Profile(
        name="made-up",
        hardware="A Machine",
        device="gpu",
        framework="pytorch",
        time=Curves((Term("dense", "*", "macs", 1e-3),)),
        power=PowerModel({"compute": 0.0, "memory": 0.0, "launch": 0.0}, static_w=50.0),
        time_error=ErrorModel(low=0.8, high=1.25),
        energy_error=ErrorModel(low=0.8, high=1.25),
        provenance=Provenance(time="measured", power="modelled", sources=("a source",), boundary="the machine"),
    )


@pytest.fixture
def ask(machine: jc.Profile) -> Callable[..., jc.Answer]:
    """30 steps of a linear layer of 16 x 10, 8 samples each: forward and weight gradient are 1280 each."""

    def estimate(**options: Any) -> jc.Answer:
        model, inputs = nn.Linear(16, 10, bias=False), torch.zeros(8, 16)
        return jc.estimate(model, inputs, **{"epochs": 3, "samples": 80, "hardware": machine, **options})

    return estimate


SECONDS = 30 * 2560 * 1e-3
JOULES = SECONDS * 50


def test_every_figure_by_hand(ask: Callable[..., jc.Answer]) -> None:
    answer = ask(pue=1.5, carbon_intensity=400, price=0.2, currency="EUR")
    kwh = JOULES / 3.6e6
    for figure, value in (
        (answer.seconds, SECONDS),
        (answer.energy_kwh, kwh),
        (answer.facility_energy_kwh, 1.5 * kwh),
        (answer.co2e_kg, 1.5 * kwh * 0.4),
        (answer.cost, 1.5 * kwh * 0.2),
    ):
        assert isinstance(figure, jc.Interval)
        assert (figure.value, figure.low, figure.high) == pytest.approx((value, value * 0.8, value * 1.25))
    assert (answer.schedule.steps, answer.workload.batch_size, answer.site.currency) == (30, 8, "EUR")
    assert repr(answer).startswith("<Answer: Linear on made-up, 1.07 Wh (0.853 to 1.33 Wh), 640 mg CO2e")
    assert answer.model == answer.workload.name == "Linear"
    assert (answer.time_basis, answer.power_basis) == (
        "predicted; profile measured on A Machine",
        "predicted; profile modelled for A Machine",
    )


def test_a_time_from_the_datasheet_and_measured_watts_are_told_apart(ask: Callable[..., jc.Answer]) -> None:
    """The rtx-3090 profile was measured with TensorFlow in float32 at batch 256: its time does not apply here."""
    answer = ask(hardware="rtx-3090", precision="bfloat16")
    assert (answer.estimate.time_source, answer.estimate.power_source) == ("datasheet", "measured")
    assert answer.time_basis == "predicted; datasheet of RTX 3090, not its measured profile"
    assert answer.energy_bases[0] == "that time x the profile's watts (measured)"
    assert answer.power_basis == "predicted; profile measured on RTX 3090"
    assert not ask().time_replaced


def test_the_length_is_that_of_the_command_line(ask: Callable[..., jc.Answer]) -> None:
    assert ask(epochs=None, steps=7).schedule.steps == 7
    assert ask(epochs=None, samples=81).schedule.steps == 11  # one epoch, the last step not full
    assert ask(samples=None, dataset="cifar10", epochs=1).schedule.steps == 6250
    assert ask(devices=2).schedule.steps == 15
    assert ask(accumulate=5).schedule.steps == 6
    assert ask(accumulate=5).schedule.batch_size == 8
    assumed = ask(samples=None)
    assert assumed.schedule.samples == 50_000
    assert any("size of the training set is not given" in note for note in assumed.warnings)


def test_inference_is_the_forward_pass(ask: Callable[..., jc.Answer]) -> None:
    assert ask(train=False).seconds.value == pytest.approx(SECONDS / 2)


def test_a_validation_pass_is_one_batch_however_many_make_a_step(ask: Callable[..., jc.Answer]) -> None:
    # Twice 40 samples are 2 x 5 passes of 1280 multiply-adds.
    for passes in (1, 5):
        whole = ask(accumulate=passes, epochs=2, val_samples=40)
        training = ask(accumulate=passes, epochs=2)
        assert whole.seconds.value - training.seconds.value == pytest.approx(10 * 1280 * 1e-3)
        assert whole.schedule.validation_steps == 10


def test_a_workload_gives_the_same_answer_as_its_module(
    ask: Callable[..., jc.Answer], machine: jc.Profile, tmp_path: Path
) -> None:
    model = nn.Linear(16, 10, bias=False)
    work = jc.trace(model, torch.zeros(8, 16))
    length = {"epochs": 3, "samples": 80, "budget": "1 Wh"}
    same = jc.estimate(work, hardware=machine, **length)
    assert same.to_json() == ask(budget="1 Wh").to_json()
    path = machine.save(tmp_path / "machine.json")
    assert jc.estimate(work, hardware=path, **length).co2e_kg == same.co2e_kg
    assert jc.estimate(work, hardware=str(path), batch_size=8, optimizer="SGD", precision="fp32", **length) is not None


def test_budgets(ask: Callable[..., jc.Answer]) -> None:
    # 76.8 s expected, 96 s at the upper end.
    (fits,) = ask(budget="97 s").verdicts
    (breaks,) = ask(budget="95 s").verdicts
    (lenient,) = ask(budget="95 s", budget_at="expected").verdicts
    assert (fits.exceeded, breaks.exceeded, lenient.exceeded) == (False, True, False)
    assert breaks.figure == pytest.approx(96)
    answer = ask(budget=["95 s", "1 kWh"], region="FR")
    assert [verdict.exceeded for verdict in answer.verdicts] == [True, False]
    assert answer.exceeded
    assert answer.fits == ("95 s: 2 epochs would fit",)  # 96 s are three epochs
    assert ask(budget="33 s").fits == ("33 s: 1 epoch would fit",)
    assert ask(budget="31 s").fits == ("31 s: 0 epochs would fit",)
    assert not ask().exceeded


def test_regions_are_compared(ask: Callable[..., jc.Answer]) -> None:
    answer = ask(region="FR", regions=["PL", "SE"])
    assert [place.region.code for place in answer.places] == ["PL", "SE"]
    assert answer.to_frame()["region"].tolist() == ["PL", "SE"]
    assert ask(regions="PL, SE").places == answer.places


def test_frames(ask: Callable[..., jc.Answer]) -> None:
    answer = ask()
    frame = answer.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 1
    assert frame.loc[0, "energy_kwh_high"] == pytest.approx(JOULES / 3.6e6 * 1.25)
    assert frame.loc[0, "model"] == "Linear"
    layers = answer.layers_frame()
    assert layers["forward_flops"].tolist() == [1280]
    assert layers["parameters"].tolist() == [160]
    parts = answer.breakdown_frame()
    assert parts["share"].sum() == pytest.approx(1)
    assert parts["energy_kwh"].sum() == pytest.approx(JOULES / 3.6e6)
    ops = answer.workload.ops_frame()
    assert ops.groupby("phase")["flops"].sum().to_dict() == {"forward": 1280, "backward": 1280, "optimizer": 0}
    assert answer.workload.layers_frame()["flops"].tolist() == [1280]
    assert list(parts["energy_kwh"]) == sorted(parts["energy_kwh"], reverse=True)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--input", "16", "--epochs", "3"], {"inputs": "16", "epochs": 3}),
        (
            ["--input", "16", "--steps", "1000", "--region", "FR", "--regions", "SE,PL", "--budget", "1 J"],
            {"inputs": ["16"], "steps": 1000, "region": "FR", "regions": ["SE", "PL"], "budget": ["1 J"]},
        ),
        (
            [
                *("--input", "x:float32:16", "--model-arg", "width=32", "--samples", "321", "--epochs", "2.5"),
                *("--val-samples", "100", "--batch-size", "64", "--optimizer", "adam", "--precision", "bf16"),
                *("--accumulate", "2", "--devices", "4", "--pue", "1.1", "--price", "0.3", "--currency", "EUR"),
                *("--carbon-intensity", "55", "--budget", "1 EUR", "--budget-at", "expected"),
            ],
            {
                "inputs": "x:float32:16",
                "model_args": {"width": "32"},
                "samples": 321,
                "epochs": 2.5,
                "val_samples": 100,
                "batch_size": 64,
                "optimizer": "adam",
                "precision": "bf16",
                "accumulate": 2,
                "devices": 4,
                "pue": 1.1,
                "price": 0.3,
                "currency": "EUR",
                "carbon_intensity": 55,
                "budget": "1 EUR",
                "budget_at": "expected",
            },
        ),
        (["--input", "16", "--samples", "64", "--inference"], {"inputs": "16", "samples": 64, "train": False}),
    ],
)
def test_the_document_is_the_command_lines(
    net: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fields: dict[str, Any]
) -> None:
    command.main(["--model", str(net), "--hardware", "t4", *arguments, "--json"], standalone_mode=False)
    printed = json.loads(capsys.readouterr().out)
    answer = jc.estimate(net, hardware="t4", **fields)
    assert json.loads(json.dumps(answer.to_json())) == printed


def test_a_frame_has_the_columns_of_csv(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(net), "--input", "16", "--steps", "10", "--hardware", "t4", "--regions", "FR,SE"]
    command.main([*options, "--csv"], standalone_mode=False)
    header = capsys.readouterr().out.splitlines()[0].split(",")
    answer = jc.estimate(str(net), "16", steps=10, hardware="t4", regions="FR,SE")
    assert list(answer.to_frame().columns) == header


MODULE, BATCH = nn.Linear(16, 10), torch.zeros(8, 16)


@pytest.mark.parametrize(
    ("model", "inputs", "options", "message"),
    [
        (MODULE, BATCH, {"samples": 0}, "`samples` 0 cannot be used"),
        (MODULE, BATCH, {"steps": 1.5}, "`steps` 1.5 cannot be used: give a whole number"),
        (MODULE, BATCH, {}, "run length missing: give `epochs`, `steps`, `samples` or `tokens`"),
        (MODULE, BATCH, {"steps": 1, "epochs": 2}, "`epochs` 2 and `steps` 1 contradict"),
        (MODULE, BATCH, {"steps": 1, "batch_size": 9}, "`batch_size` 9 and `inputs` of 8 samples contradict"),
        (MODULE, BATCH, {"steps": 1, "batch_size": 0}, "`batch_size` 0 cannot be used"),
        (MODULE, BATCH, {"steps": 1, "devices": 0}, "`devices` 0 cannot be used"),
        (MODULE, BATCH, {"steps": 1, "accumulate": 0}, "`accumulate` 0 cannot be used"),
        (MODULE, BATCH, {"steps": 1, "optimizer": "xyz"}, "`optimizer` 'xyz' is not known; choose one of sgd"),
        (MODULE, BATCH, {"steps": 1, "precision": "bf8"}, "`precision` 'bf8' is not one of fp32, bf16, fp16"),
        (MODULE, BATCH, {"steps": 1, "budget_at": "low"}, "`budget_at` 'low' is not one of high, expected"),
        (MODULE, BATCH, {"steps": 1, "budget": "2 parsecs"}, "unknown unit 'parsecs'"),
        (MODULE, BATCH, {"steps": 1, "budget": 2}, "`budget` is a int: give a text"),
        (MODULE, BATCH, {"steps": 1, "budget": "3 EUR"}, "'3 EUR' is in EUR, the price in USD"),
        (MODULE, BATCH, {"steps": 1, "region": "Atlantis"}, "unknown region 'Atlantis'"),
        (MODULE, BATCH, {"steps": 1, "region": "FR", "carbon_intensity": 5}, "contradict"),
        (MODULE, BATCH, {"steps": 1, "live": True}, "`live` needs a place"),
        (MODULE, BATCH, {"steps": 1, "model_args": {"width": "3"}}, "`model_args` has no use with a module"),
        (MODULE, BATCH, {"steps": 1, "sequence_length": 3}, "`sequence_length` has no use with a module"),
        (MODULE, BATCH, {"steps": 1, "hardware": "rtx-3091"}, "rtx-3090"),
        (MODULE, BATCH, {"tokens": 10}, "`tokens` 10 needs a model that reads sequences"),
        (MODULE, None, {"steps": 1}, "`inputs` missing: give one batch of tensors"),
        (MODULE, "16", {"steps": 1}, "`inputs` '16' is a shape: give one batch of tensors"),
        ("net.py", BATCH, {"steps": 1}, "`inputs` is a Tensor: give a text or a list of texts"),
        ("net.py", "3,y", {"steps": 1}, "`inputs` '3,y': 'y' is not a size"),
        ("net.py", "16", {"steps": 1, "dataset": "cifer10"}, "did you mean cifar10"),
        (3, None, {"steps": 1}, "`model` is a int: give a torch.nn.Module, a Workload or a text"),
        (None, None, {"steps": 1}, "`model` missing"),
    ],
)
def test_mistakes_name_the_field(model: Any, inputs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(jc.JoulecastError, match=message) as caught:
        jc.estimate(model, inputs, **{"hardware": "t4", **options})
    assert "--" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": BATCH}, "`inputs` has no use with a Workload"),
        ({"accumulate": 2}, "`accumulate` has no use with a Workload"),
        ({"batch_size": 9}, "`batch_size` 9 and the workload's 8 contradict"),
        ({"optimizer": "adam"}, "`optimizer` adam and the workload's sgd contradict"),
        ({"precision": "bf16"}, "`precision` bf16 and the workload's float32 contradict"),
        ({"train": False}, "`train` False and the workload's True contradict"),
    ],
)
def test_what_contradicts_a_workload(options: dict[str, Any], message: str) -> None:
    work = jc.trace(MODULE, BATCH, layers=False)
    with pytest.raises(jc.RequestError, match=message):
        jc.Request(model=work, steps=1, **options)


def test_mistakes_show_before_the_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "never.py"
    path.write_text("raise SystemExit('was loaded')")
    with pytest.raises(jc.JoulecastError, match="unknown region"):
        jc.Request(model=path, steps=1, region="Atlantis")
    good = jc.Request(model=path, steps=1, hardware="t4")
    with pytest.raises(jc.HardwareError, match="rtx-3090"):
        answers([good, replace(good, hardware="rtx-3091")])


def test_requests_without_a_model_are_templates(machine: jc.Profile) -> None:
    template = jc.Request(hardware=machine, budget="97 s", region="FR")
    work = jc.trace(nn.Linear(16, 10, bias=False), torch.zeros(8, 16))
    (first, second) = answers([replace(template, model=work, steps=steps) for steps in (30, 31)])
    assert first.seconds.value == pytest.approx(SECONDS)
    assert (first.exceeded, second.exceeded) == (False, True)


def test_requests_import_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, joulecast as jc; jc.Request(model='net.py', inputs='3,8,8', steps=1, budget='2 kWh'); jc.estimate;"
        "assert not {'torch', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
