"""The public names, and one complete example that uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import joulecast as jc


@pytest.mark.parametrize("name", jc.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(jc, name)
    assert name == "__version__" or value.__doc__


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'forecast'"):
        jc.forecast  # noqa: B018


def test_importing_joulecast_imports_nothing_heavy() -> None:
    code = "import sys, joulecast; assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def _network(width: int) -> nn.Module:
    stem = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3)]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def test_from_measurements_to_a_prediction(tmp_path: Path) -> None:
    # A machine that does 10 GFLOP/s and 5 GB/s and draws 150 W whatever it does.
    rows = []
    for width in (8, 16, 32, 64, 128, 256):
        work = jc.trace(_network(width), torch.zeros(16, 3, 16, 16), train=True, optimizer="sgd", name=f"n{width}")
        step_s = work.flops / 10e9 + work.bytes_moved / 5e9
        rows.append(jc.Observation(workload=work, steps=625, seconds=625 * step_s, energy_j=625 * step_s * 150))
    fitted = jc.fit(rows, name="my-gpu")
    fitted.save(tmp_path / "my-gpu.json")
    unseen = jc.trace(_network(96), torch.zeros(16, 3, 16, 16))
    estimate = jc.load_profile(tmp_path / "my-gpu.json").predict(unseen, steps=39_100)
    seconds = 39_100 * (unseen.flops / 10e9 + unseen.bytes_moved / 5e9)
    assert estimate.seconds.value == pytest.approx(seconds, rel=0.1)
    assert estimate.energy_kwh.value == pytest.approx(seconds * 150 / 3_600_000, rel=0.1)
    assert estimate.energy_kwh.low <= estimate.energy_kwh.value <= estimate.energy_kwh.high
    assert estimate.power_source == "measured"
