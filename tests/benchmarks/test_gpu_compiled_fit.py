"""The fit of what `torch.compile` changes, on steps whose factors are known."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from joulecast.estimator.cost.pieces import pieces
from joulecast.estimator.trace.workload import Op

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_compiled_fit")


def moving(elements: int, count: int):
    """Element-wise ops of one size: the device's time is their traffic where they are large, the host's where not."""
    dims = {"elements_in": elements, "elements_out": elements}
    ops = [
        Op("relu", "activation", phase, "", 0, 4 * elements, 4 * elements, "float32", dims, count)
        for phase in ("forward", "backward")
    ]
    return pieces(ops, "compiled")


def test_factors_of_large_and_of_small_ops(module: ModuleType) -> None:
    """Seconds made with a traffic of 0.4 and a host of 0.3 give them back; without convolutions, the guess stays."""
    works = [moving(2**28, 10), moving(2**27, 20), moving(64, 2000), moving(256, 4000)]
    truth = np.array([1.0, 0.4, 0.3, 0.5])
    seconds = np.exp(module.log_errors(works, np.ones(4), truth))
    assert module.log_errors(works, seconds, truth) == pytest.approx(0.0)
    conv, traffic, host, _ = module.fitted(works, seconds)
    assert conv == pytest.approx(1.0)
    assert traffic == pytest.approx(0.4, rel=0.15)
    assert host == pytest.approx(0.3, rel=0.1)
    assert module.log_errors(works[:1], seconds[:1], np.array([1.0, 0.8, 0.3, 0.5]))[0] == pytest.approx(
        np.log(2), rel=0.02
    )
