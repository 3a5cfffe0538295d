"""Models of a check that end badly, next to others: each has its outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulecast.check.reading import Failure, read_all
from joulecast.estimator.model.inputs import InputSpec
from joulecast.estimator.model.read_model import TraceOptions
from joulecast.estimator.model.reader import Reading, ReadRequest

OPTIONS = TraceOptions(specs=(InputSpec((16,)),), batch_size=4)
GOOD = "from torch import nn\nmodel = nn.Linear(16, {size})\n"


def asked(folder: Path, name: str, source: str) -> ReadRequest:
    (folder / f"{name}.py").write_text(source)
    return ReadRequest(f"{name}.py", OPTIONS, folder, folder)


@pytest.mark.usefixtures("environment")
def test_a_model_that_ends_its_process_takes_no_other_along(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    requests = [
        asked(tmp_path, "leaves", "import os\nprint('bye')\nos._exit(7)\n"),
        asked(tmp_path, "fails", "raise ValueError('my own words')\n"),
        asked(tmp_path, "first", GOOD.format(size=2)),
        asked(tmp_path, "second", GOOD.format(size=3)),
    ]
    leaves, fails, first, second = read_all(requests, 2)
    assert read_all([]) == []
    for found, size in ((first, 2), (second, 3)):
        assert isinstance(found, Reading), found
        assert found.work.parameters == 17 * size
        assert [Path(path).suffix for path in found.sources] == [".py"]
    assert isinstance(leaves, Failure)
    assert leaves.message.startswith("leaves.py ended its process with status 7; ")
    assert isinstance(fails, Failure)
    assert fails.message == "fails.py:1 in <module>: ValueError: my own words"
    assert "bye" not in "".join(capfd.readouterr())
