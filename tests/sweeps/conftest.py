"""A small model with two arguments, in a file of its own."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from joulecast.estimator.answer.request import Request

NET = """
    import os
    import psutil
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=8, ends=False, kills=False):
            super().__init__()
            if ends:
                os.kill(os.getpid(), 9)
            if kills:  # the process of the engine, which started the one that reads the model
                psutil.Process().parents()[1].kill()
            self.body = nn.Linear(16, width)

        def forward(self, x):
            return self.body(x)
"""


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("nets") / "net.py"
    path.write_text(textwrap.dedent(NET))
    return f"{path}:Net"


@pytest.fixture
def base(net: str) -> Request:
    """Two epochs of 100 samples on a GPU of the table."""
    return Request(model=net, inputs="16", samples=100, epochs=2, hardware="rtx-4090")


def parameters(width: int) -> int:
    """Of the model: weights and biases."""
    return 16 * width + width


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "candidates.jsonl"
    path.write_text('{"width": 4, "accuracy": 0.7}\n\n{"width": 8, "batch_size": 16, "accuracy": 0.9}\n')
    return path
