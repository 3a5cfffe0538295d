"""For all tests: one core per process, and `datasets` is the package of Hugging Face."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before torch is imported. Processes that tests start inherit it. More threads than cores only slow each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `python -m pytest` puts this checkout on the path, where transformers would take our `datasets/` for a package.
_TOP = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _TOP]

# Folders whose tests start processes or train. Their files run first, so that no worker is left with one of them.
_LONGEST = ("benchmarks", "check", "cli", "measure", "models", "service", "sweeps", "trainers")

# A busy machine is no defect of a test.
settings.register_profile("joulecast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("joulecast")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What imports make stays: looking for garbage in it takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(_TOP).parts[1] not in _LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _interrupts_arrive() -> Iterator[None]:
    """Shells start background jobs with SIGINT ignored, which the processes that tests start would inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """The garbage collector visits only objects of this test: with all modules of the suite, it takes half a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """For processes that may not write: coverage could not save its data, and would print that."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
