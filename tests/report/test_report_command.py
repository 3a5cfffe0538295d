"""`estimate --report` and `--figure`: files are written completely, and mistakes are found before a model is read."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import stat
from pathlib import Path

import pytest

from ..cli.conftest import Run, call, run  # noqa: F401
from .pages import write_nets

RUN_ = ("--input", "16", "--steps", "5", "--hardware", "t4")


@pytest.fixture
def nets(tmp_path: Path) -> dict[str, str]:
    return write_nets(tmp_path, small=8, large=64)


def test_both_files_are_written_beside_the_table(run: Run, tmp_path: Path, nets: dict[str, str]) -> None:  # noqa: F811
    result = run("estimate", "--model", nets["small"], *RUN_, "--report", "out/page.html", "--figure", "chart.svg")
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines() == ["wrote out/page.html", "wrote chart.svg"]
    assert "energy by component: " in result.stdout
    page = (tmp_path / "out" / "page.html").read_text()
    command = re.search(r"<code>(.*)</code>", page)
    assert command
    entered = ["estimate", "--model", nets["small"], *RUN_, "--report", "out/page.html", "--figure", "chart.svg"]
    assert shlex.split(html.unescape(command.group(1))) == entered
    assert (tmp_path / "chart.svg").read_text().startswith("<?xml")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "chart.svg").stat().st_mode) == 0o666 & ~mask
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_command_is_quoted_for_a_shell(call: Run, tmp_path: Path, nets: dict[str, str]) -> None:  # noqa: F811
    model = tmp_path / "my net.py"
    Path(nets["small"]).rename(model)
    assert call("joulecast", "estimate", "--model", model, *RUN_, "--report", "page.html").returncode == 0
    assert f"joulecast estimate --model &#39;{model}&#39; --input 16" in (tmp_path / "page.html").read_text()


def test_json_stays_json_and_a_broken_budget_still_writes_the_page(
    call: Run,  # noqa: F811
    tmp_path: Path,
    nets: dict[str, str],
) -> None:
    result = call("estimate", "--model", nets["small"], *RUN_, "--json", "--budget", "0.001J", "--report", "page.html")
    assert result.returncode == 3
    assert json.loads(result.stdout)["budget"][0]["exceeded"]
    assert "Over budget" in (tmp_path / "page.html").read_text()


def test_accuracies_by_file_name(call: Run, tmp_path: Path, nets: dict[str, str]) -> None:  # noqa: F811
    models = ("--model", nets["small"], "--model", nets["large"])
    given = ("--accuracy", "large=76.5%", "--accuracy", f"{nets['small']}=70")
    result = call("estimate", *models, *RUN_, *given, "--report", "page.html")
    assert result.returncode == 0, result.stderr
    rows = re.findall(r'<td data-label="accuracy">([^<]*)</td>', (tmp_path / "page.html").read_text())
    assert rows == ["70", "76.5"]


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--report", "a-file/page.html"], 1, "a-file/page.html cannot be written"),
        (["--report", "a-folder"], 1, "a-folder cannot be written (Is a directory)"),
        (["--report", "/proc/page.html"], 1, "/proc/page.html cannot be written"),
        (["--figure", "a-file/page.png"], 1, "--figure a-file/page.png cannot be written"),
        (["--figure", "chart.gif"], 1, "give .png, .svg or .pdf"),
        (["--figure", "chart"], 1, "give .png, .svg or .pdf"),
        (["--report", "p.html", "--accuracy", "marked"], 2, "'marked' is not MODEL=VALUE"),
        (["--report", "p.html", "--accuracy", "marked=good"], 1, "give a number"),
        (["--report", "p.html", "--accuracy", "marked=nan"], 1, "give a number"),
        (["--report", "p.html", "--accuracy", "other=76"], 1, "the models are"),
        (["--report", "p.html", "--accuracy", "marked=1", "--accuracy", "marked=2"], 1, "1 already"),
        (["--accuracy", "marked=76"], 2, "add --report FILE or --figure FILE"),
    ],
)
def test_mistakes_are_one_line_before_the_model_is_read(
    call: Run,  # noqa: F811
    tmp_path: Path,
    options: list[str],
    status: int,
    words: str,
) -> None:
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder").mkdir()
    model = tmp_path / "marked.py"
    model.write_text("import pathlib\npathlib.Path('was-read').touch()\nraise ValueError\n")
    result = call("estimate", "--model", model, *RUN_, *options)
    assert (result.returncode, result.stderr.count("\n")) == (status, 1), result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "was-read").exists()


def test_every_model_needs_its_accuracy(call: Run, nets: dict[str, str]) -> None:  # noqa: F811
    models = ("--model", nets["small"], "--model", nets["large"])
    result = call("estimate", *models, *RUN_, "--accuracy", "small=1", "--report", "page.html")
    assert result.returncode == 1
    assert f"--accuracy lacks {nets['large']}" in result.stderr
