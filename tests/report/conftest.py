"""A headless Chromium for a module's tests of the page, which skip where there is none.

Not for the whole session: playwright keeps an event loop running in this thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from .pages import write_nets

_QUIET = ("gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on the path")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in _QUIET)]
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def browser(chromium: Any) -> Any:
    return chromium.new_context()


@pytest.fixture(scope="module")
def scriptless(chromium: Any) -> Any:
    return chromium.new_context(java_script_enabled=False)


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two network files by name, small.py and large.py."""
    return write_nets(tmp_path_factory.mktemp("nets"), small=8, large=512)
