"""Wrong options, arguments and commands: one line that names what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("estimate net.py", "estimate: give the model as an option: estimate --model net.py"),
        ("estimate --epochs 3", "estimate: Missing option '--model'; `estimate --help` shows an example"),
        ("estimate --model net.py --epoch 3", "estimate: No such option '--epoch'; did you mean --epochs?"),
        ("estimate --model net.py --gpu t4", "estimate: No such option '--gpu'; did you mean --hardware?"),
        ("estimate --model net.py --bs 8", "estimate: No such option '--bs'; did you mean --batch-size?"),
        (
            "estimate --model net.py --batch_size 8",
            "estimate: No such option '--batch_size'; did you mean --batch-size?",
        ),
        (
            "estimate --model net.py --tp 8",
            "estimate: No such option '--tp'; did you mean --parallel, as in --parallel tp=8,pp=2?",
        ),
        ("estimate --model net.py --xyzzy", "estimate: No such option '--xyzzy'; `estimate --help` lists them"),
        ("estimate --model net.py --pue 158%", "estimate: Invalid value for '--pue': '158%' is not a number."),
        ("estimate --model net.py --zero two", "estimate: Invalid value for '--zero': 'two' is not a whole number."),
        ("joulecast explain --gpu t4", "joulecast: No such option '--gpu'; `joulecast explain --help` lists them"),
        ("joulecast estimat", "joulecast: No such command 'estimat'; did you mean estimate?"),
        ("joulecast train", "joulecast: No such command 'train'; did you mean `joulecast measure train`?"),
        ("measure fit", "measure: No such command 'fit'; did you mean `joulecast fit`?"),
        ("measure --quik", "measure: No such option '--quik'; did you mean --quick or --quiet?"),
        ("measure --budget-s soon", "measure: Invalid value for '--budget-s': 'soon' is not a number."),
        (
            "measure train",
            "measure: Missing argument '{simplenet|alexnet}'. Choose from: simplenet, alexnet; "
            "`measure train --help` shows an example",
        ),
    ],
)
def test_a_mistake_is_one_line_with_what_was_meant(call: Run, line: str, message: str) -> None:
    done = call(*line.split())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{message}\n")


def test_an_unknown_command_lists_those_that_there_are(call: Run) -> None:
    said = call("joulecast", "frobnicate").stderr
    assert said.startswith("joulecast: No such command 'frobnicate'; they are estimate, check, sweep, ")


def test_without_a_command_the_help_is_shown(call: Run) -> None:
    done = call("joulecast")
    assert done.returncode == 2
    assert "Commands:\n  estimate  Predict energy" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--samples 50k", "--samples 50k cannot be used: give a number above 0, such as 50e3"),
        ("--samples 50,000", "--samples 50,000 cannot be used: give a number above 0, such as 50000"),
        ("--samples -5", "--samples -5 cannot be used: give a number above 0"),
        ("--hardware cuda:0", "unknown hardware 'cuda:0': name the part, as in rtx-4090 or epyc-7763 ("),
        ("--profile net.json", "profile net.json is not a profile of joulecast; `joulecast profiles` lists"),
        ("--budget 2kg", "budget '2kg' has the unknown unit 'kg' (did you mean 2kgCO2e?): give kWh"),
        ("--budget 2kw", "budget '2kw' has the unknown unit 'kw' (did you mean 2kwh?): give kWh"),
        ("--budget 2foo", "budget '2foo' has the unknown unit 'foo': give kWh"),
        ("--report page.pdf", "--report page.pdf has the suffix '.pdf': a report is HTML, as in page.html; --figure"),
        ("--model net.py::Net", "'net.py::Net' is not FILE.py:name; did you mean net.py:Net?"),
        ("--model net.py:Net()", "'Net()' in net.py:Net() is not a name in a Python file; give net.py:Net"),
        ("--model net.py:Net(width=8)", " is not a name in a Python file; give net.py:Net and --model-arg width=8"),
        ("--model some/model-7B", "there is no file some/model-7B; if it is a model of the hub, give hf:some/model-7B"),
        ("--model x/net.yaml", "'x/net.yaml' is neither a file nor package.module:callable; give FILE.py"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_with_the_fix(
    call: Run, tmp_path: Path, options: str, message: str
) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\n\n\ndef build_model():\n    return nn.Linear(4, 2)\n")
    (tmp_path / "net.json").write_text("{}")
    usual = {"--model": "net.py", "--input": "4", "--hardware": "t4", "--epochs": "1", "--samples": "10"}
    name, value = options.split()
    usual.pop("--hardware" if name == "--profile" else name, None)
    done = call("estimate", *[text for pair in {**usual, name: value}.items() for text in pair])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
