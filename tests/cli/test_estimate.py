"""`estimate` in real processes with real model files; figures worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from joulecast.cli.main import load_command

from .conftest import Run

MODELS = Path(__file__).parents[2] / "models"
SIMPLENET = MODELS / "simplenet.py"
INTERVALS = ("seconds", "energy_kwh", "facility_energy_kwh", "co2e_kg", "cost")

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.first = nn.Linear(16, width)
        self.second = nn.Linear(width, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "mynet.py"
    path.write_text(NET)
    return path


def estimated(run: Run, *arguments: str | Path) -> dict:
    result = run("estimate", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_document_of_an_estimate(call: Run) -> None:
    options = ("--epochs", "100", "--dataset", "cifar10", "--hardware", "rtx-3090")
    document = estimated(call, "--model", SIMPLENET, *options)
    assert document["model"] == str(SIMPLENET)
    assert document["profile"] == document["profile"].strip() == "rtx-3090"
    assert document["steps"] == 100 * 1563
    assert document["workload"]["parameters"] == 5_498_378
    assert document["workload"]["forward_flops_per_sample"] == pytest.approx(632.8e6, rel=1e-3)
    assert document["power_source"] in ("measured", "modelled", "datasheet")
    for name in INTERVALS:
        assert 0 < document[name]["low"] <= document[name]["value"] <= document[name]["high"]
    # Eqs. 3.5.2 and 3.5.3, and the default price.
    energy = document["energy_kwh"]["value"]
    assert document["facility_energy_kwh"]["value"] == pytest.approx(1.58 * energy)
    assert document["co2e_kg"]["value"] == pytest.approx(1.58 * energy * 0.954 * 0.45359237)
    assert document["cost"]["value"] == pytest.approx(1.58 * energy * 0.1249)
    assert sum(part["share"] for part in document["breakdown"]) == pytest.approx(1)


def test_energy_is_proportional_to_epochs_and_pue(call: Run, net: Path) -> None:
    base = ("--model", net, "--input", "16", "--samples", "320", "--hardware", "t4")
    one, ten = estimated(call, *base, "--epochs", "1"), estimated(call, *base, "--epochs", "10", "--pue", "1.2")
    assert ten["energy_kwh"]["value"] == pytest.approx(10 * one["energy_kwh"]["value"])
    assert ten["facility_energy_kwh"]["value"] == pytest.approx(1.2 * ten["energy_kwh"]["value"])
    assert one["steps"] == 10


def test_site_options(call: Run, net: Path) -> None:
    base = ("--model", net, "--input", "16", "--steps", "5", "--hardware", "t4", "--pue", "1")
    given = estimated(call, *base, "--carbon-intensity", "100", "--price", "2", "--currency", "EUR")
    assert given["co2e_kg"]["value"] == pytest.approx(0.1 * given["energy_kwh"]["value"])
    assert given["cost"]["value"] == pytest.approx(2 * given["energy_kwh"]["value"])
    assert given["currency"] == "EUR"
    france = estimated(call, *base, "--region", "fr")
    assert "FR" in france["site"]["carbon_source"]
    assert france["site"]["carbon_g_per_kwh"] < 200


def test_validation_adds_forward_passes(call: Run, net: Path) -> None:
    base = ("--model", net, "--input", "16", "--samples", "3200", "--epochs", "2", "--hardware", "t4")
    alone, validated = estimated(call, *base), estimated(call, *base, "--val-samples", "3200")
    ratio = validated["energy_kwh"]["value"] / alone["energy_kwh"]["value"]
    assert 1.1 < ratio < 1.5  # a forward pass is about a third of a step


def test_several_models_are_one_list_and_one_table(call: Run, net: Path) -> None:
    arguments = ("--model", net, "--model", f"{net}:Net", "--input", "16", "--steps", "5", "--hardware", "t4")
    documents = estimated(call, *arguments)
    assert [document["model"] for document in documents] == [str(net), f"{net}:Net"]
    assert documents[0]["energy_kwh"] == documents[1]["energy_kwh"]
    table = call("estimate", *arguments)
    assert "2 models on Tesla T4" in table.stdout


def test_layers(call: Run, net: Path) -> None:
    document = estimated(call, "--model", net, "--input", "16", "--steps", "5", "--hardware", "t4", "--layers")
    rows = {row["path"]: row for row in document["layers"]}
    assert rows["first"]["forward_flops"] == 32 * 16 * 8
    assert rows["first"]["source"] == "fvcore"
    assert rows["first"]["parameters"] == 136
    assert rows["second"]["output_shape"] == [32, 4]
    assert 0 < rows["first"]["energy_share"] < 1


def test_model_arguments_reach_the_model(call: Run, net: Path) -> None:
    base = ("--model", net, "--input", "16", "--steps", "1", "--hardware", "t4")
    wide = estimated(call, *base, "--model-arg", "width=64")
    assert wide["workload"]["parameters"] == 16 * 64 + 64 + 64 * 4 + 4


def test_csv_and_layer_csv(call: Run, net: Path) -> None:
    base = ("--model", net, "--input", "16", "--steps", "5", "--hardware", "t4", "--csv")
    (row,) = csv.DictReader(io.StringIO(call("estimate", *base).stdout))
    assert float(row["energy_kwh_low"]) < float(row["energy_kwh"]) < float(row["energy_kwh_high"])
    assert row["profile"] == "t4"
    layers = list(csv.DictReader(io.StringIO(call("estimate", *base, "--layers").stdout)))
    assert [layer["path"] for layer in layers] == ["", "first", "second"]


def test_the_table_is_plain_in_a_pipe_and_says_where_figures_come_from(call: Run, net: Path) -> None:
    result = call("estimate", "--model", net, "--input", "16", "--epochs", "3", "--hardware", "t4")
    assert result.returncode == 0
    assert "\x1b[" not in result.stdout
    for text in ("90 % interval", "datasheet", "x 1.58", "EPA 2018", "CIFAR-10's 50,000 samples"):
        assert text in result.stdout
    assert "NVIDIA T4" not in result.stdout
    verbose = call("estimate", "--model", net, "--input", "16", "--epochs", "3", "--hardware", "t4", "--verbose")
    assert "  sources\n  - NVIDIA" in verbose.stdout


def test_no_color_on_a_terminal(call: Run, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ("--model", net, "--input", "16", "--steps", "3", "--hardware", "t4")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    coloured = call("estimate", *base)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = call("estimate", *base)
    assert "\x1b[36m" in coloured.stdout or "\x1b[1;36m" in coloured.stdout
    assert "36m" not in plain.stdout


def test_a_reader_that_leaves_early_is_no_error(run: Run, net: Path) -> None:
    script = f"estimate --model {net} --input 16 --steps 3 --hardware t4 --layers | head -n 1"
    result = run("estimate", "--help")  # proves that the command is on the path
    assert result.returncode == 0
    piped = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in piped.stderr


@pytest.mark.parametrize(
    ("budget", "status", "words"),
    [
        (["--budget", "1GWh"], 0, "within budget: "),
        (["--budget", "1J"], 3, "epochs would fit"),
        (["--budget", "1GWh", "--budget", "0.000001gCO2e"], 3, "over budget: "),
        (["--budget", "0.0001s"], 3, "of 0.0001 s at"),
        (["--budget", "0.0000001USD"], 3, "cost"),
    ],
)
def test_budgets(call: Run, net: Path, budget: list[str], status: int, words: str) -> None:
    base = ("--model", net, "--input", "16", "--epochs", "3", "--hardware", "t4")
    result = call("estimate", *base, *budget)
    assert result.returncode == status, result.stderr
    assert words in result.stdout
    documents = json.loads(call("estimate", *base, *budget, "--json").stdout)["budget"]
    assert any(verdict["exceeded"] for verdict in documents) == (status == 3)


def test_a_budget_is_compared_with_the_upper_end_unless_asked_otherwise(call: Run, net: Path) -> None:
    base = ("--model", net, "--input", "16", "--epochs", "3", "--hardware", "t4")
    energy = estimated(call, *base)["facility_energy_kwh"]
    between = f"{(energy['value'] + energy['high']) / 2 * 1000:.9f}Wh"
    assert call("estimate", *base, "--budget", between).returncode == 3
    assert call("estimate", *base, "--budget", between, "--budget-at", "expected").returncode == 0


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--epochs", "nan"], 1, "--epochs nan cannot be used"),
        (["--epochs", "0"], 1, "--epochs 0 cannot be used"),
        (["--epochs", "-1"], 1, "--epochs -1 cannot be used"),
        (["--epochs", "1", "--batch-size", "0"], 1, "--batch-size 0"),
        (["--epochs", "1", "--batch-size", "1.5"], 1, "--batch-size 1.5"),
        (["--epochs", "1", "--steps", "2"], 1, "contradict"),
        ([], 1, "give --epochs, --steps, --samples or --tokens"),
        (["--steps", "1", "--region", "Atlantis"], 1, "unknown region 'Atlantis'"),
        (["--steps", "1", "--dataset", "cifar11"], 1, "cifar10"),
        (["--steps", "1", "--hardware", "rtx-3091"], 1, "rtx-3090"),
        (["--steps", "1", "--budget", "3 parsecs"], 1, "unknown unit 'parsecs'"),
        (["--steps", "1", "--budget", "0kWh"], 1, "above 0"),
        (["--steps", "1", "--pue", "0.5"], 1, "PUE 0.5"),
        (["--steps", "1", "--carbon-intensity", "nan"], 1, "carbon intensity nan"),
        (["--steps", "1", "--currency", "EUR"], 1, "give the price per kWh in EUR"),
        (["--steps", "1", "--input", "3,x"], 1, "3,x"),
        (["--steps", "1", "--hardware", "t4", "--model-arg", "widht=3"], 1, "width"),
        (["--steps", "1", "--hardware", "t4", "--input", "17"], 1, "mynet.py:"),
        (["--steps", "1", "--json", "--csv"], 2, "contradict"),
        (["--steps", "1", "--optimizer", "adamm"], 1, "did you mean adam"),
        (["--steps", "1", "--no-such-option"], 2, "no-such-option"),
        (["--steps", "1", "--model-arg", "width"], 2, "KEY=VALUE"),
    ],
)
def test_bad_options_are_one_line(call: Run, net: Path, options: list[str], status: int, words: str) -> None:
    given = [] if any(option == "--input" for option in options) else ["--input", "16"]
    hardware = [] if "--hardware" in options else ["--hardware", "t4"]
    result = call("estimate", "--model", net, *given, *hardware, *options)
    assert result.returncode == status
    assert words in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


BAD_MODELS = {
    "syntax": ("def f(:\n    pass\n", "SyntaxError"),
    "empty": ("x = 1\n", "no model"),
    "two": (NET + NET.replace("class Net", "class Other"), "Other"),
    "needs": ("from torch import nn\nclass Net(nn.Module):\n    def __init__(self, size):\n        pass\n", "size"),
    "no parameters": ("from torch import nn\nmodel = nn.ReLU()\n", "has no parameters"),
    "import": ("import not_there_at_all\n", "not_there_at_all"),
    "exit": ("import sys\nsys.exit(5)\n", "calls sys.exit(5)"),
    "batch norm": (
        "from torch import nn\nmodel = nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4))\n",
        "batch size of 2 or more",
    ),
    "raises": ("raise ValueError('my own words')\n", "my own words"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_one_line(call: Run, tmp_path: Path, case: str) -> None:
    source, words = BAD_MODELS[case]
    path = tmp_path / "bad.py"
    path.write_text(source)
    batch = ["--batch-size", "1"] if case == "batch norm" else []
    result = call("estimate", "--model", path, "--input", "16", "--steps", "1", "--hardware", "t4", *batch)
    assert result.returncode == 1, result.stdout
    assert words in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing.py", "nothing.py"),
        ("not.a.module:thing", "not"),
        (".", "."),
        ("joulecast.models.simplenet:Nope", "Nope"),
    ],
)
def test_models_that_are_not_there(call: Run, spec: str, words: str) -> None:
    result = call("estimate", "--model", spec, "--input", "16", "--steps", "1", "--hardware", "t4")
    assert result.returncode == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_endless_model_is_cut_at_the_time_limit(call: Run, tmp_path: Path) -> None:
    path = tmp_path / "endless.py"
    path.write_text("while True:\n    pass\n")
    result = call("estimate", "--model", path, "--steps", "1", "--hardware", "t4", "--time-limit", "0.5")
    assert result.returncode == 1
    assert "--time-limit" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_models_prints_do_not_spoil_the_json(call: Run, tmp_path: Path) -> None:
    path = tmp_path / "chatty.py"
    path.write_text(
        "print('hello from the file')\n" + NET.replace("return self.second", "print('hi'); return self.second")
    )
    document = estimated(call, "--model", path, "--input", "16", "--steps", "1", "--hardware", "t4")
    assert document["steps"] == 1


def test_the_traceback_of_the_models_own_frames(call: Run, net: Path) -> None:
    result = call("estimate", "--model", net, "--input", "17", "--steps", "1", "--hardware", "t4", "--traceback")
    assert "in forward" in result.stderr
    assert "joulecast" not in result.stderr.rsplit("\n", 2)[0]


def test_a_corrupt_and_a_newer_profile(call: Run, net: Path, tmp_path: Path) -> None:
    for text, words in (("{", "cannot be read"), ('{"schema": "joulecast.profile/99"}', "this version reads")):
        path = tmp_path / "p.json"
        path.write_text(text)
        result = call("estimate", "--model", net, "--input", "16", "--steps", "1", "--profile", path)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert words in result.stderr


def test_interrupting_is_one_line_and_130(run: Run, tmp_path: Path) -> None:
    import shutil
    import sys

    path = tmp_path / "slow.py"
    path.write_text(f"import pathlib, time\npathlib.Path({str(tmp_path / 'started')!r}).touch()\ntime.sleep(60)\n")
    executable = shutil.which("estimate", path=str(Path(sys.executable).parent))
    process = subprocess.Popen(
        [str(executable), "--model", str(path), "--steps", "1", "--hardware", "t4"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "\nestimate: interrupted\n"  # click steps off the line of a terminal's ^C


@pytest.mark.parametrize("program", ["estimate", "measure", "joulecast"])
def test_the_three_commands_have_help(run: Run, program: str) -> None:
    result = run(program, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def test_the_umbrella_has_the_same_subcommands(call: Run, net: Path) -> None:
    arguments = ("--model", net, "--input", "16", "--steps", "5", "--hardware", "t4", "--json")
    assert call("joulecast", "estimate", *arguments).stdout == call("estimate", *arguments).stdout != ""
    assert call("joulecast", "--version").stdout.startswith("joulecast ")
    listed = call("joulecast", "profiles").stdout
    assert "h100-sxm" in listed
    assert "quadro-rtx-6000" in listed


def test_help_imports_nothing_heavy(run: Run) -> None:
    import sys

    code = (
        "import sys; sys.argv = ['estimate', '--help']\n"
        "from joulecast.cli.main import estimate\n"
        "try:\n    estimate()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'pandas', 'sklearn', 'keras', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["estimate", "sweep"])
def test_the_help_has_each_option_once_in_a_section(call: Run, command: str) -> None:
    shown = call("joulecast", command, "--help").stdout
    headings = re.findall(r"^([A-Z][\w ]+):$", shown, re.MULTILINE)
    assert headings[-2:] == ["Output" if command == "estimate" else "Site and prices", "Other"]
    assert len(headings) == len(set(headings)) > 7
    listed = re.findall(r"^  (?:-h, )?(--[\w-]+)", shown, re.MULTILINE)
    names = [parameter.opts[0] for parameter in load_command(command).params]
    assert sorted(listed) == sorted([*names, "--help"])


def test_the_batch_of_one_device_is_called_micro_batch_too(call: Run) -> None:
    model = (
        "estimate",
        "--model",
        "torch.nn:Identity",
        "--input",
        "4",
        "--inference",
        "--steps",
        "1",
        "--hardware",
        "t4",
    )
    by_name = [call(*model, option, "8", "--json") for option in ("--batch-size", "--micro-batch")]
    assert by_name[0].returncode == 0, by_name[0].stderr
    assert by_name[0].stdout == by_name[1].stdout
    assert json.loads(by_name[1].stdout)["workload"]["batch_size"] == 8


def test_explain_shows_the_watts_of_the_equation(call: Run) -> None:
    shown = call("joulecast", "explain", "t4")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "hardware  name       Tesla T4"
    assert max(map(len, (line for line in lines if "http" not in line))) <= 110
    price, speed = (next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("price", "speed"))
    assert all(line.endswith(("J/GFLOP", "J/GB")) for line in lines[price:speed])
    facts = {
        (fact["section"], fact["name"]): fact
        for fact in json.loads(call("joulecast", "explain", "t4", "--json").stdout)
    }
    assert 0 < facts["power", "P_s"]["value"] < 0.25 * 70
    assert facts["power", "P_s"]["unit"] == "W"
    assert facts["evidence", "power"]["value"] == "datasheet"


def test_profiles_names_each_one_with_its_source(call: Run) -> None:
    rows = json.loads(call("joulecast", "profiles", "--json").stdout)
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)) > 60
    assert all(row["sources"][0] for row in rows)
    one = call("joulecast", "profiles", "h100-sxm").stdout
    assert "boundary: the GPU board, without its host" in one
