"""What a Budget accepts and rejects, and how it acts as each framework's own callback."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from joulecast.estimator.base.errors import JoulecastError
from joulecast.trainers.budget import Budget
from joulecast.trainers.run import Length, Run
from joulecast.trainers.terms import BudgetExceeded

from .bench import step_of

needs_lightning = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="needs lightning")
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="needs accelerate")


@pytest.mark.parametrize(
    ("limits", "options", "message"),
    [
        (("2 parsecs",), {}, r"budget '2 parsecs' has the unknown unit 'parsecs': give kWh"),
        (("0 kWh",), {}, r"budget '0 kWh' cannot be used: give a number above 0"),
        (("2 kWh", "-1 h"), {}, r"'-1 h' cannot be used"),
        ((), {}, r"a budget without a limit: give one or more"),
        (("2 kWh",), {"on_exceed": "shout"}, r"on_exceed is 'shout'; choose one of raise, warn, ask"),
        (("2 kWh",), {"at": "low"}, r"at is 'low'; choose one of high, expected"),
        (("2 kWh",), {"log_every": 0}, r"log_every is 0; give 1 or more"),
        (("2 kWh",), {"pue": 0.5}, r"PUE 0.5 cannot be used"),
        (("2 kWh",), {"region": "Atlantis"}, r"unknown region 'Atlantis'"),
        (("3 EUR",), {}, r"is in EUR, the price in USD"),
        (("2 kWh",), {"hardware": "rtx-9999"}, r"unknown hardware 'rtx-9999'"),
        (("2 kWh",), {"hardware": "no/such.json"}, r"no/such.json does not exist"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    limits: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(JoulecastError, match=message) as caught:
        Budget(*limits, **options)
    assert "\n" not in str(caught.value)


def test_it_says_what_it_is() -> None:
    assert repr(Budget("2 kWh", "10 h")) == "Budget('2 kWh', '10 h')"
    assert not hasattr(Budget("2 kWh"), "no_hook_of_anyone")


def test_it_loads_no_framework() -> None:
    code = (
        "import sys; from joulecast.trainers.budget import Budget; b = Budget('2 kWh', hardware='rtx-3090');"
        "isinstance(b, int); assert not {'torch', 'keras', 'lightning', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_it_travels_to_other_processes(copied: Callable[[Any], Any]) -> None:
    budget = Budget("2 kWh", "10 h", region="FR", on_exceed="warn", log_every=7)
    assert copied(budget).terms == budget.terms


# -- standing in for callbacks -------------------------------------------------------------------


@needs_lightning
@needs_transformers
def test_whoever_asks_gets_an_answer_in_turn() -> None:
    from lightning.pytorch import Callback
    from transformers import TrainerCallback, TrainerControl

    budget = Budget("2 kWh")
    assert isinstance(budget, Callback)
    assert isinstance(budget, Budget)
    assert budget.state_key == "LightningBudget"
    budget.on_init_end(None, None, TrainerControl())
    assert isinstance(budget._callback, TrainerCallback)
    budget.setup(None, None, "fit")
    assert isinstance(budget._callback, Callback)


@needs_lightning
def test_it_travels_beside_lightning_too() -> None:
    import lightning.pytorch  # noqa: F401

    budget = Budget("2 kWh")
    assert pickle.loads(pickle.dumps(budget)).terms == copy.copy(budget).terms == budget.terms


# -- asking --------------------------------------------------------------------------------------


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> Iterator[Callable[[], str]]:
    """A real terminal at which `answer` is typed; returns what it shows."""
    person, process = pty.openpty()
    with os.fdopen(process, "r+b", buffering=0) as device:
        monkeypatch.setattr(sys, "stdin", open(os.dup(device.fileno()), encoding="utf-8"))  # noqa: SIM115
        monkeypatch.setattr(sys, "stderr", open(os.dup(device.fileno()), "w", encoding="utf-8"))  # noqa: SIM115
        os.write(person, answer.encode())
        yield lambda: _read_until(person, "[y/N]")
    sys.stdin.close()
    sys.stderr.close()
    os.close(person)


def _read_until(descriptor: int, ending: str) -> str:
    text = ""
    while ending not in text and select.select([descriptor], [], [], 10)[0]:
        text += os.read(descriptor, 10_000).decode()
    return text


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("Yes\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_asks(
    machine: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch, answer: str, goes_on: bool
) -> None:
    budget = Budget("10 s", on_exceed="ask", hardware=machine(0.1), meter="none")
    run = Run(budget.terms, Length(100))
    with terminal(monkeypatch, answer) as shown:
        try:
            run.predict(step_of)
            went_on = True
        except BudgetExceeded:
            went_on = False
        text = shown()
    assert went_on is goes_on
    assert "over budget: " in text
    assert "Train anyway? [y/N]" in text
