"""Training steps of the networks of `gpu_networks.py` on an NVIDIA GPU: seconds, watts and peak memory, as CSV.

    python benchmarks/gpu_steps.py --out FILE.csv [--language] [--limit-s 600] [--skip N]

Watts are the slope of NVML's energy counter over the end of each window; peak memory is what PyTorch allocated. A
network that fails is printed and left out.
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_networks import BY_NAME, OPTIMIZERS, Setting, language_settings, settings
from torch import Tensor
from torch.nn import functional

COLUMNS = (
    *("model", "batch", "precision", "software", "optimizer", "steps", "seconds_per_step", "watts"),
    "peak_memory_bytes",
)
WINDOW_S, CHUNK_S, LEAST_CHUNKS = 1.2, 0.1, 5
_SETTLED = 0.3  # the first part of a window, in which the watts still rise


def training_step(setting: Setting) -> Callable[[], None]:
    """One step of the network on the GPU: forward, loss, backward, optimizer."""
    network = BY_NAME[setting.model]
    with torch.device("cuda"):
        model = network.build().train()
        inputs: Any = network.inputs(setting.batch)
    if setting.precision == "pure-bfloat16":
        model = model.bfloat16()
    if setting.software == "channels-last":
        model, inputs = model.to(memory_format=torch.channels_last), inputs.to(memory_format=torch.channels_last)
    if setting.software == "compiled-float8":
        from torchao.float8 import convert_to_float8_training

        convert_to_float8_training(model, module_filter_fn=lambda module, name: "lm_head" not in name)
    if setting.software.startswith("compiled"):
        model.compile()
    optimizer = OPTIMIZERS[setting.optimizer]([one for one in model.parameters() if one.requires_grad])

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=setting.precision == "bfloat16"):
            loss = loss_of(model(**inputs) if isinstance(inputs, dict) else model(inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def loss_of(output: Any) -> Tensor:
    """The model's own loss, or cross-entropy of its scores with class 0."""
    if getattr(output, "loss", None) is not None:
        result: Tensor = output.loss
        return result
    scores = getattr(output, "logits", output)
    classes = scores.movedim(1, -1).flatten(0, -2) if scores.ndim == 4 else scores.flatten(0, -2)
    return functional.cross_entropy(classes, torch.zeros(len(classes), dtype=torch.long, device=classes.device))


def measured(
    step: Callable[[], Any], joules: Callable[[], float], window_s: float = WINDOW_S
) -> tuple[int, float, float]:
    """Steps, the median of seconds per step, and watts."""
    for _ in range(2):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    once_s = time.perf_counter() - began
    chunk = max(1, int(CHUNK_S / once_s))
    seconds, marks, began = [], [(0.0, joules())], time.perf_counter()
    while marks[-1][0] < window_s or len(seconds) < LEAST_CHUNKS:
        before = time.perf_counter()
        for _ in range(chunk):
            step()
        torch.cuda.synchronize()
        seconds.append((time.perf_counter() - before) / chunk)
        marks.append((time.perf_counter() - began, joules()))
    settled = [mark for mark in marks if mark[0] > _SETTLED * marks[-1][0]]
    watts = (settled[-1][1] - settled[0][1]) / (settled[-1][0] - settled[0][0])
    return chunk * len(seconds), median(seconds), watts


def energy_counter() -> Callable[[], float]:
    """Reads the joules that NVML has counted for the first GPU (its counter has millijoules)."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--limit-s", type=float, default=600.0, help="start no network after so many seconds")
    parser.add_argument("--language", action="store_true", help="layers of large language models instead")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first settings")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU is visible to torch; run this on a machine with an NVIDIA GPU", file=sys.stderr)
        return 2
    joules, ends = energy_counter(), time.monotonic() + options.limit_s
    chosen = language_settings() if options.language else settings()
    with options.out.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for setting in islice(chosen, options.skip, None):
            if time.monotonic() > ends:
                break
            torch.cuda.reset_peak_memory_stats()
            try:
                steps, step_s, watts = measured(training_step(setting), joules)
            except Exception as error:  # a network that fails must not end the others
                print(f"failed: {setting}: {type(error).__name__}: {error}".splitlines()[0], flush=True)
                continue
            finally:
                gc.collect()
                torch.cuda.empty_cache()
            peak = torch.cuda.max_memory_allocated()
            names = (setting.model, setting.batch, setting.precision, setting.software, setting.optimizer)
            table.writerow((*names, steps, f"{step_s:.6g}", f"{watts:.1f}", peak))
            file.flush()
            print(f"{setting.model} {setting.batch} {setting.precision}: {1e3 * step_s:.2f} ms, {watts:.0f} W")
    return 0


if __name__ == "__main__":
    sys.exit(main())
