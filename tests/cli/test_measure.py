"""`measure` and its commands: which cases run, what is rejected before any of them runs, and the final output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from joulecast.cli import measure as command
from joulecast.estimator.cost.library import load_profile
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.store import Store
from joulecast.measure.suite import rounds, suite
from joulecast.measure.suite.rounds import CasePlan

from .conftest import Run

pytestmark = pytest.mark.usefixtures("only_new_objects")  # garbage is collected after each case
QUICK = ("measure", "--quick", "--quiet", "--meter", "none")
NETS = (
    "import torch\nfrom torch import nn\n\ndef example_inputs(batch_size=4):\n    return torch.zeros(batch_size, 6)\n"
)


@pytest.fixture
def nets(tmp_path: Path) -> Callable[[int], list[str]]:
    """`nets(3)`: three --model options, of networks that train in a moment."""

    def options(count: int) -> list[str]:
        bodies = [
            f"def net{index}():\n    return nn.Sequential({'nn.ReLU(), ' * index}nn.Linear(6, 3))\n"
            for index in range(count)
        ]
        path = tmp_path / "nets.py"
        path.write_text(NETS + "\n".join(bodies))
        return [part for index in range(count) for part in ("--model", f"{path}:net{index}")]

    return options


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many cases of the suite each `measure` requested; only those of --model are measured, one round each."""
    counts: list[int] = []
    real = suite.run_suite

    def run_suite(cases: Any, *arguments: Any, **options: Any) -> Any:
        counts.append(len(cases))
        return real([], *arguments, **options)

    monkeypatch.setattr(suite, "run_suite", run_suite)
    monkeypatch.setattr(rounds, "QUICK", CasePlan(window_s=0.0, case_s=0.0, rounds=1))
    monkeypatch.setattr(command, "_fit_and_tell", lambda store, records, options: 0)
    return counts


# -- which cases ---------------------------------------------------------------------------------


def test_the_suite_follows_a_model_until_a_fit_has_networks_enough(call: Run, nets: Any, asked: list[int]) -> None:
    four = nets(4)
    first, two, last = four[:2], four[2:6], four[6:]
    for models in (first, first, two, last):
        done = call(*QUICK, *models)
        assert done.returncode == 0, done.stderr
    alone, again, third, enough = asked
    assert alone >= 200
    assert again == alone, "the same network again is no other one"
    assert third == alone, "one network and two are three"
    assert enough == 0, "four different networks are a fit"
    call(*QUICK, "--fresh", *first)
    assert asked[-1] == alone, "what is forgotten does not count"


def test_models_alone_are_measured_where_four_are_given_or_nothing_is_fitted(
    call: Run, nets: Any, asked: list[int]
) -> None:
    call(*QUICK, *nets(4))
    call(*QUICK, "--no-fit", "--fresh", *nets(1))
    call(*QUICK, "--only", "alexnet", *nets(1))
    assert asked[:2] == [0, 0]
    assert asked[2] > 0


def test_the_fit_gets_the_idle_record_too(call: Run, nets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = (MeasuredWindow("w", 1, 1.0),)
    idle, case = (Record(kind, kind, kind, "now", "complete", {}, windows) for kind in ("idle", "case"))
    fitted: list[str] = []
    monkeypatch.setattr(suite, "run_suite", lambda *_, **__: suite.Summary(idle=idle, measured=[case]))
    monkeypatch.setattr(command, "_fit_and_tell", lambda store, records, options: fitted.extend(r.id for r in records))
    call(*QUICK, *nets(1))
    assert fitted == ["idle", "case"]


# -- refused before anything runs ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--hardware", "no-such-part"], 1, "unknown hardware 'no-such-part'"),
        (["--power-w", "nan"], 2, "nan is not a finite number"),
        (["--budget-s", "inf"], 2, "inf is not a finite number"),
        (["train", "alexnet", "--checkpoint-minutes", "inf"], 2, "inf is not a finite number"),
        (["train", "alexnet", "--width", "nan"], 2, "nan is not a finite number"),
        (["watch", "--interval", "nan"], 2, "nan is not a finite number"),
    ],
)
def test_figures_and_names_of_no_use_are_one_line(
    call: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], status: int, words: str
) -> None:
    monkeypatch.setattr(suite, "run_suite", lambda *_, **__: pytest.fail("the suite ran"))
    done = call("measure", *options)
    assert done.returncode == status
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--meter", "rapl", "watch"],
        ["--quiet", "train", "alexnet"],
        ["--quick", "list"],
        ["--store", "x", "watch"],
        ["--store", "x", "thesis"],
    ],
)
def test_options_before_a_command_are_not_ignored(call: Run, arguments: list[str]) -> None:
    done = call("measure", *arguments)
    assert done.returncode == 2
    assert f"{arguments[0]} before `" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_groups_store_goes_before_the_environments(
    call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = (MeasuredWindow("w", 1, 1.0),)
    for name in ("group", "own"):
        Store(tmp_path / name).write(Record(f"of-{name}", "case", "c", "now", "complete", {}, windows))
    assert "of-group" in call("measure", "--store", tmp_path / "group", "list").stdout
    assert "of-own" in call("measure", "--store", tmp_path / "group", "list", "--store", tmp_path / "own").stdout
    stores: list[Path] = []
    monkeypatch.setattr("joulecast.measure.training.training.earlier_run", lambda store, _: stores.append(store.folder))
    call("measure", "--store", tmp_path / "group", "train", "alexnet", "--data", tmp_path / "nowhere")
    assert stores == [tmp_path / "group"]


def test_a_store_in_the_home_folder_is_the_one_that_estimate_looks_in(
    call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JOULECAST_STORE", "~/mine")
    done = call("measure", "list")
    assert f"no records in {tmp_path / 'mine' / 'records'}" in done.stderr


# -- what is said --------------------------------------------------------------------------------


def test_the_way_to_a_profile_in_another_store_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULECAST_STORE", str(tmp_path / "usual"))
    profile = load_profile("t4")
    usual = command._what_estimate_says(profile, tmp_path / "usual" / "profiles" / "p.json")
    assert usual.startswith("`estimate` now predicts for SimpleNet, 100 epochs")
    other = tmp_path / "my store" / "profiles" / "p.json"
    asked = command._what_estimate_says(profile, other)
    assert asked == usual.replace("`estimate`", f"`estimate --hardware '{other}'`")


def test_square_brackets_in_flags_and_domains_are_no_markup(capfd: pytest.CaptureFixture[str]) -> None:
    from joulecast.cli import train

    record = Record("id", "training", "net", "now", "failed", {}, (), flags=("failed: index [3] of [bold]x",))
    train._print_epochs(record)
    train._print_comparison([], 60.0, ["SimpleNet: [red] and [0, 1]"])
    printed = capfd.readouterr().out
    assert "failed: index [3] of [bold]x" in printed
    assert "SimpleNet: [red] and [0, 1]" in printed


# -- other systems -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command_line", [("measure", "--quick"), ("measure", "train", "simplenet"), ("measure", "watch")]
)
def test_measuring_elsewhere_than_on_posix_is_one_line(
    call: Run, monkeypatch: pytest.MonkeyPatch, command_line: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    done = call(*command_line)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "needs a POSIX system" in done.stderr
    assert "WSL 2" in done.stderr


def test_records_are_read_on_any_system(call: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    done = call("measure", "list", "--store", str(tmp_path))
    assert done.returncode == 0
    assert "no records" in done.stderr
