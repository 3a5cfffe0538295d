"""Run time of `estimate` as a whole process, compared with `import torch`, and on a 70-billion-parameter Llama.

Then the trace of that Llama with its equal blocks traced once, and in full.

    python benchmarks/speed.py [--repeats 7]

Runs are interleaved, so that other load on the machine affects all of them, and medians are compared. CPU seconds
(user and system) decide where they disagree with the wall clock on a busy machine. Exit status 1 when a target is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Dubey et al., "The Llama 3 Herd of Models", arXiv 2407.21783, table 3 (70B): 70.6 billion parameters.
LLAMA_3_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
LLAMA_SECONDS, LLAMA_GB = 12.0, 1.5
SIMPLENET_RATIO, HELP_RATIO = 2.0, 0.3


@dataclass(frozen=True, slots=True)
class Run:
    """One process: wall and CPU seconds, peak resident memory."""

    wall_s: float
    cpu_s: float
    peak_gb: float


def run(command: Sequence[str]) -> Run:
    """Runs the command to its end, output thrown away; raises CalledProcessError with it when it fails."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise subprocess.CalledProcessError(process.returncode, command, stderr=errors.read().decode())
    # Linux gives ru_maxrss in KiB
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9)


def medians(runs: Sequence[Run]) -> Run:
    def middle(name: str) -> float:
        return statistics.median(getattr(item, name) for item in runs)

    return Run(middle("wall_s"), middle("cpu_s"), middle("peak_gb"))


def interleaved(commands: dict[str, list[str]], repeats: int) -> dict[str, Run]:
    """Medians by name. One extra round runs first and is dropped, to fill the file cache."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):
        for name, command in commands.items():
            measured = run(command)
            if repeat:
                runs[name].append(measured)
    return {name: medians(items) for name, items in runs.items()}


def estimate_command(*arguments: str) -> list[str]:
    beside = Path(sys.executable).with_name("estimate")
    program = str(beside) if beside.exists() else shutil.which("estimate")
    if program is None:
        raise SystemExit("speed.py: no `estimate` beside this Python; install joulecast first")
    return [program, *arguments]


def starts(repeats: int) -> bool:
    simplenet = ("--model", "models/simplenet.py", "--epochs", "100", "--dataset", "cifar10")
    torch = "import torch"
    medians_ = interleaved(
        {
            torch: [sys.executable, "-c", "import torch"],
            "estimate SimpleNet": estimate_command(*simplenet, "--hardware", "rtx-3090"),
            "estimate --help": estimate_command("--help"),
        },
        repeats,
    )
    base = medians_[torch]
    print(f"Medians of {repeats} interleaved runs\n")
    print(f"| {'process':20} | {'wall s':>7} | {'ratio':>6} | {'CPU s':>6} | {'ratio':>6} | {'floor':>6} |")
    print(f"|{'-' * 22}|{'-' * 8}:|{'-' * 7}:|{'-' * 7}:|{'-' * 7}:|{'-' * 7}:|")
    met = True
    for name, floor in ((torch, None), ("estimate SimpleNet", SIMPLENET_RATIO), ("estimate --help", HELP_RATIO)):
        item = medians_[name]
        ratio = item.cpu_s / base.cpu_s
        met &= floor is None or ratio <= floor
        wall = item.wall_s / base.wall_s
        shown = "" if floor is None else f"{floor:g}"
        print(f"| {name:20} | {item.wall_s:7.2f} | {wall:6.2f} | {item.cpu_s:6.2f} | {ratio:6.2f} | {shown:>6} |")
    return met


def llama() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.json")
        config.write_text(json.dumps(LLAMA_3_70B))
        arguments = ("--model", str(config), "--tokens", "1e9", "--sequence-length", "4096", "--batch-size", "1")
        measured = run(estimate_command(*arguments, "--hardware", "a100-sxm4-80gb", "--devices", "8"))
    print("\nLlama 3 70B, one step of 4,096 tokens, from its config.json\n")
    print(f"wall {measured.wall_s:.1f} s, CPU {measured.cpu_s:.1f} s (floor {LLAMA_SECONDS:g} s)")
    print(f"peak memory {measured.peak_gb:.2f} GB (floor {LLAMA_GB:g} GB)")
    return min(measured.wall_s, measured.cpu_s) <= LLAMA_SECONDS and measured.peak_gb <= LLAMA_GB


def equal_blocks(repeats: int) -> None:
    """CPU seconds of the trace alone, in this process, with equal blocks traced once and in full."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from joulecast.estimator.trace import step
    from joulecast.estimator.trace.trace import trace

    options = {name: value for name, value in LLAMA_3_70B.items() if name != "architectures"}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**options))
    inputs = {"input_ids": torch.empty(1, 4096, dtype=torch.int64, device="meta")}
    once, seconds = step._listed, {"once": list[float](), "in full": list[float]()}
    for _ in range(repeats):
        for name, listed in (("once", once), ("in full", step._run)):
            step._listed = listed
            start = time.process_time()
            trace(model, inputs, precision="bfloat16", layers=False)
            seconds[name].append(time.process_time() - start)
    step._listed = once
    ratio = statistics.median(a / b for a, b in zip(seconds["in full"], seconds["once"], strict=True))
    print(f"\nTrace of that Llama under autocast, medians of {repeats} interleaved runs")
    print(
        ", ".join(
            f"equal blocks traced {name}: {statistics.median(found):.2f} CPU s" for name, found in seconds.items()
        )
    )
    print(f"median ratio {ratio:.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    met = starts(repeats)
    met &= llama()
    equal_blocks(repeats)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
