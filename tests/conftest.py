"""For all tests: one core per process, and `datasets` is the package of Hugging Face."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Set before torch is imported. Processes that tests start inherit it. More threads than cores only slow each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What the shell that starts the tests may have, and what would change their results.
_TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE")
_SETTINGS = ("JOULECAST_HARDWARE", "ELECTRICITYMAPS_API_TOKEN", "ELECTRICITYMAPS_API_URL", "HF_TOKEN", "KERAS_BACKEND")
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
for _name in (*_TERMINAL, *_SETTINGS, *_LAUNCHER, *_PROXIES):
    os.environ.pop(_name, None)

# The user's profiles and hardware are others. The workers of xdist inherit these folders.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _own = tempfile.mkdtemp(prefix="joulecast-tests-")
    os.chmod(_own, 0o755)  # tests without root's rights read it too
    os.environ |= {"JOULECAST_STORE": f"{_own}/store", "XDG_CONFIG_HOME": f"{_own}/config"}
    atexit.register(shutil.rmtree, _own, ignore_errors=True)

# `python -m pytest` puts this checkout on the path, where transformers would take our `datasets/` for a package.
_TOP = Path(__file__).resolve().parents[1]
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != _TOP]

# Folders whose tests start processes or train. Their files run first, so that no worker is left with one of them.
_LONGEST = ("benchmarks", "check", "cli", "measure", "models", "service", "sweeps", "trainers")

# A busy machine is no defect of a test, and neither is a checkout that cannot be written to: Hypothesis warns there.
_examples = {} if os.access(_TOP, os.W_OK) else {"database": None}
settings.register_profile("joulecast", deadline=None, suppress_health_check=[HealthCheck.too_slow], **_examples)
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
