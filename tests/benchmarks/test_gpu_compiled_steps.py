"""Networks that compile at once and are measured alone, with small programs in their place."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# A process that writes until there is a file "end", as a compiler's own process.
BUSY = """
import os, subprocess, sys
write = '''
import os, time
with open("written", "ab", buffering=0) as file:
    while not os.path.exists("end"):
        file.write(b"x")
        time.sleep(0.001)
'''
subprocess.run([sys.executable, "-c", write], check=True)
"""
AFTER = """
import os, time
while not os.path.exists("written") or os.path.getsize("written") < {size}:
    time.sleep(0.01)
print("ready", flush=True)
input()
before = os.path.getsize("written")
time.sleep(0.3)
{then}
print(os.path.getsize("written") - before, flush=True)
"""


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_compiled_steps")


def run(module: ModuleType, *programs: str, at_once: int = 3, limit_s: float = 60.0) -> dict[int, str]:
    found: dict[int, str] = {}
    commands = [[sys.executable, "-c", program] for program in programs]
    module.Turns(commands, found.__setitem__, at_once, limit_s).run()
    return found


def test_a_network_is_measured_while_the_others_are_stopped(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of another one writes nothing in the meantime, and goes on afterwards."""
    monkeypatch.chdir(tmp_path)
    first, second = AFTER.format(size=20, then=""), AFTER.format(size=400, then="open('end', 'w').close()")
    assert run(module, BUSY, first, second) == {0: "", 1: "0", 2: "0"}


def test_networks_wait_for_their_place_and_one_that_fails_has_no_result(module: ModuleType) -> None:
    programs = ["raise SystemExit(1)", "print('ready', flush=True); input(); print(7)", "print('no')"]
    assert run(module, *programs, at_once=1) == {0: "", 1: "7", 2: ""}


def test_the_limit_ends_networks_that_still_compile(module: ModuleType) -> None:
    assert run(module, "import time; time.sleep(600)", limit_s=0.5) == {}


def test_compiled_settings_are_all_different(module: ModuleType) -> None:
    settings = [*module.settings(), *module.language_settings("compiled")]
    assert len(set(settings)) == len(settings)
    assert {one.software for one in settings} == {"compiled"}
    assert {one.model for one in settings} == set(module.BY_NAME)
    assert {one.software for one in module.float8_settings()} == {"compiled-float8"}
