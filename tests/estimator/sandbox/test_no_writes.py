"""Nothing that code writes reaches a file."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from joulecast.estimator.model.read_model import TraceOptions, read_model
from joulecast.estimator.sandbox.no_writes import nothing_written


def in_text(path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("new")


def by_descriptor(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, b"new")
    os.close(descriptor)


def with_safetensors(path: Path) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"a": torch.zeros(3)}, path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": in_text,
    "appended": lambda path: path.open("a").close(),
    "updated": lambda path: path.open("r+b").close(),
    "pathlib": lambda path: path.write_bytes(b"new"),
    "descriptor": by_descriptor,
    "torch": lambda path: torch.save({"a": torch.zeros(3)}, path),
    "torch on meta": lambda path: torch.save(torch.zeros(3, device="meta"), path),
    "torch by name": lambda path: torch.save(obj=torch.zeros(3), f=str(path)),
    "torchscript": lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(str(path)),
    "numpy": lambda path: np.save(path, np.zeros(3)),
    "safetensors": with_safetensors,
    "removed": Path.unlink,
    "renamed": lambda path: path.rename(path.with_suffix(".old")),
    "replaced": lambda path: os.replace(path.parent / "other", path),
    "copied": lambda path: shutil.copyfile(path.parent / "other", path),
    "folder": lambda path: (path.parent / "made").mkdir(),
    "emptied": lambda path: os.truncate(path, 0),
    "links": lambda path: os.symlink(path, path.parent / "link"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_files_stay_as_they_are(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    path = tmp_path / "own.bin"
    path.write_text("own")
    (tmp_path / "other").write_text("other")
    with nothing_written():
        write(path)
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"own.bin": "own", "other": "other"}


def test_a_buffer_takes_a_copy() -> None:
    buffer = io.BytesIO()
    with nothing_written():
        torch.save(torch.arange(3), buffer)
        buffer.seek(0)
        assert torch.load(buffer).tolist() == [0, 1, 2]


def test_files_are_read_and_other_threads_write(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("own")
    with nothing_written():
        assert path.read_text() == "own"
        assert os.read(os.open(path, os.O_RDONLY), 3) == b"own"
        thread = threading.Thread(target=path.write_text, args=("of another thread",))
        thread.start()
        thread.join()
        assert path.read_text() == "of another thread"
    path.write_text("afterwards")
    assert path.read_text() == "afterwards"


GAN = """
import torch
from torch import nn
G, D = nn.Linear(16, 8), nn.Linear(8, 1)
of_g, of_d = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters())
for x in [torch.randn(4, 8) for _ in range(3)]:
    of_d.zero_grad()
    (D(x).mean() - D(G(torch.randn(4, 16)).detach()).mean()).backward()
    of_d.step()
    torch.save(D.state_dict(), {path!r})
    of_g.zero_grad()
    D(G(torch.randn(4, 16))).mean().backward()
    of_g.step()
    open({path!r}, "w").write("a sample")
"""


def test_a_script_that_is_read_replaces_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_text("trained for a week")
    (tmp_path / "gan.py").write_text(GAN.format(path=str(path)))
    work = read_model(str(tmp_path / "gan.py"), TraceOptions(own_batch=True))
    forward = [op.flops * op.count for op in work.ops if op.kind == "matmul" and op.phase == "forward"]
    assert sum(forward) == 4 * (3 * 8 * 1 + 2 * 16 * 8)  # D runs three times, G twice
    assert path.read_text() == "trained for a week"
