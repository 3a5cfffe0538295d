"""Training steps with `torch.compile` on an NVIDIA GPU: seconds, watts and peak memory, as rows of `gpu_steps.py`.

    python benchmarks/gpu_compiled_steps.py --out FILE.csv [--language] [--limit-s 600] [--at-once 8] [--skip N]

Compiling takes most of the time and little of the GPU, so several networks compile at once, one process each. One that
has compiled measures its steps while all others are stopped (SIGSTOP), so that nothing else runs. A network that does
not fit in memory beside the others is tried once more at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gpu_networks import BY_NAME, NETWORKS, Setting, language_settings, optimizer_of
from gpu_steps import COLUMNS, energy_counter, measured, training_step

READY = "ready"
_SETTLE_S = 0.05  # in which the kernels that stopped processes launched come to their end
_SMALL = ("resnet50", "vit_base_patch16_224", "bert-base-128", "efficientnet_b0", "densenet121")
_FULL = (
    *("resnet50", "bert-base-128", "vit_base_patch16_224", "efficientnet_b0", "convnext_tiny", "gpt2-small-1024"),
    *("swin_tiny_patch4_window7_224", "mobilenetv3_large_100", "unet-256", "cifar-resnet"),
)
_SLOW_TO_COMPILE = ("hrnet_w18", "mamba2-small-1024", "maxvit_tiny_tf_224", "ghostnet_100")


def settings() -> Iterator[Setting]:
    """What is measured: networks in 16 bits first, then small batches, which wait for the host, then float32."""
    optimizers = {one.name: optimizer_of(index, one.name) for index, one in enumerate(NETWORKS)}
    half = [Setting(one.name, one.half, "bfloat16", "compiled", optimizers[one.name]) for one in NETWORKS]
    small = [Setting(name, 4, "bfloat16", "compiled", optimizers[name]) for name in _SMALL]
    full = [Setting(name, BY_NAME[name].full, "float32", "compiled", optimizers[name]) for name in _FULL]
    slow = [one for one in half if one.model in _SLOW_TO_COMPILE]
    yield from chain((one for one in half if one.model not in _SLOW_TO_COMPILE), small, full, slow)


def float8_settings() -> Iterator[Setting]:
    """Language models whose linear layers multiply in FP8, all but the last one."""
    for name in ("llama3-8b-4of32-8192", "llama3-70b-2of80-4096", "olmo2-7b-4of32-4096"):
        yield Setting(name, BY_NAME[name].half, "pure-bfloat16", "compiled-float8")


@dataclass
class _Running:
    job: int
    process: subprocess.Popen[str]

    def send(self, signal_number: int) -> None:
        """To the process and to the compilers that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal_number)

    def end(self) -> None:
        self.send(signal.SIGKILL)
        with self.process:  # closes its pipes and waits
            pass


@dataclass
class Turns:
    """Runs commands, some at once; each prints "ready", waits for a line, and prints a result while it runs alone.

    `done(job, line)` gets the result of the command at `job`, and "" from one that ended without a result.
    """

    commands: Sequence[Sequence[str]]
    done: Callable[[int, str], None]
    at_once: int
    limit_s: float
    _running: list[_Running] = field(default_factory=list)

    def run(self) -> None:
        ends, waiting = time.monotonic() + self.limit_s, list(range(len(self.commands)))
        try:
            while (waiting or self._running) and time.monotonic() < ends:
                while waiting and len(self._running) < self.at_once:
                    self._start(waiting.pop(0))
                for running in self._printed(ends - time.monotonic()):
                    self._turn(running)
        finally:
            for running in self._running:
                running.end()

    def _start(self, job: int) -> None:
        pipe: Any = subprocess.PIPE
        process = subprocess.Popen(self.commands[job], stdin=pipe, stdout=pipe, text=True, start_new_session=True)
        self._running.append(_Running(job, process))

    def _printed(self, wait_s: float) -> list[_Running]:
        with selectors.DefaultSelector() as selector:
            for running in self._running:
                assert running.process.stdout is not None
                selector.register(running.process.stdout, selectors.EVENT_READ, running)
            return [key.data for key, _ in selector.select(max(wait_s, 0.0))]

    def _turn(self, running: _Running) -> None:
        stdin, stdout = running.process.stdin, running.process.stdout
        assert stdin is not None
        assert stdout is not None
        result = ""
        if stdout.readline().strip() == READY:
            others = [one for one in self._running if one is not running]
            for other in others:
                other.send(signal.SIGSTOP)
            time.sleep(_SETTLE_S)
            stdin.write("go\n")
            stdin.flush()
            result = stdout.readline().strip()
            for other in others:
                other.send(signal.SIGCONT)
        self._running.remove(running)
        running.end()
        self.done(running.job, result)


def compiled_and_measured(setting: Setting) -> None:
    """What one process does: compiles, says that it is ready, and measures when it may."""
    import torch

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what compilers print is no answer
    joules = energy_counter()
    step = training_step(setting)
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    print(READY, file=answers)
    sys.stdin.readline()
    torch.cuda.reset_peak_memory_stats()
    steps, step_s, watts = measured(step, joules)
    print(json.dumps([steps, f"{step_s:.6g}", f"{watts:.1f}", torch.cuda.max_memory_allocated()]), file=answers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="CSV file to write")
    parser.add_argument("--limit-s", type=float, default=600.0, help="seconds for all networks")
    parser.add_argument("--at-once", type=int, default=8, help="networks that compile at once")
    parser.add_argument("--language", action="store_true", help="layers of large language models instead")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first settings")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a setting as JSON, in a process of its own
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 2
    if options.one:
        compiled_and_measured(Setting(**json.loads(options.one)))
        return 0
    if options.out is None:
        parser.error("--out is missing: the CSV file to write")
    chosen = [*language_settings("compiled"), *float8_settings()] if options.language else settings()
    todo, failed = list(islice(chosen, options.skip, None)), []
    began = time.monotonic()
    with options.out.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)

        def note(setting: Setting, result: str, again: list[Setting]) -> None:
            if not result:
                again.append(setting)
                print(f"failed: {setting}", flush=True)
                return
            table.writerow((*asdict(setting).values(), *json.loads(result)))
            file.flush()
            print(f"{time.monotonic() - began:.0f} s: {setting.model} {setting.batch}: {result}", flush=True)

        command = [sys.executable, __file__, "--one"]
        for settings_now, again, at_once in ((todo, failed, options.at_once), (failed, [], 2)):
            Turns(
                [[*command, json.dumps(asdict(one))] for one in settings_now],
                lambda job, result, now=settings_now, again=again: note(now[job], result, again),  # type: ignore[misc]
                at_once,
                options.limit_s - (time.monotonic() - began),
            ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
