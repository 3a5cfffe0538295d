"""A compiled model is costed as such, by `--compile` or because its file compiles it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from joulecast.cli.estimate import estimate as command
from joulecast.estimator.answer.estimate import estimate
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload


def net() -> nn.Module:
    return nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.GELU(), nn.LayerNorm(64))])


def seconds(model: nn.Module, **options: str) -> float:
    answer = estimate(model, torch.zeros(8, 64), steps=100_000, hardware="rtx-4090", **options)
    return answer.seconds.value


def test_a_compiled_model_is_costed_as_one_and_lists_the_same_ops() -> None:
    stated = seconds(net(), software="compiled")
    by_method = net()
    by_method.compile()
    for model in (torch.compile(net()), by_method):
        answer = estimate(model, torch.zeros(8, 64), steps=100_000, hardware="rtx-4090")
        assert answer.workload.compiled
        assert [op.name for op in answer.workload.ops] == [op.name for op in trace(net(), torch.zeros(8, 64)).ops]
        assert answer.seconds.value == pytest.approx(stated)
        assert any("costed as `software` compiled" in note for note in answer.estimate.warnings)
    assert stated < 0.6 * seconds(net(), software="eager")


def test_software_that_is_stated_comes_first() -> None:
    assert seconds(torch.compile(net()), software="eager") == pytest.approx(seconds(net(), software="eager"))


def test_documents_of_before_are_of_models_that_are_not_compiled() -> None:
    document = trace(net(), torch.zeros(8, 64)).to_json()
    assert document.pop("compiled") is False
    assert not Workload.from_json(document).compiled


def test_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("from torch import nn\nmodel = nn.Sequential(nn.Linear(64, 64), nn.GELU())\n")
    common = ["--model", "net.py", "--input", "64", "--steps", "1000", "--hardware", "rtx-4090", "--json"]

    def run(*options: str) -> float:
        result = CliRunner().invoke(command, [*common, *options], catch_exceptions=False)
        return float(json.loads(result.stdout)["seconds"]["value"])

    assert run("--compile") == run("--software", "compiled")
    contradicts = CliRunner().invoke(command, [*common, "--compile", "--software", "eager"])
    assert contradicts.exit_code == 2
    assert "--compile and --software eager contradict: give one of them" in contradicts.output
