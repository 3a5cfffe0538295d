"""Peak memory of a long-lived process: the last 100 of 300 traced networks compared with the first 100.

    python benchmarks/leak.py [--models 300] [--no-layers]

Builds timm's convolutional networks on the meta device in rounds of 50 and traces each with its layer table
(fvcore runs it for real), so that every window of 100 contains the same networks. Linux only: the kernel's
high-water mark is reset between windows. Exit status 1 when the last peak is 10 % over the first.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from architectures import Architecture, image_networks

from joulecast.estimator.trace.trace import trace

WINDOW = 100
ROUND = 50  # networks that are traced in turn; two rounds make a window
TOLERANCE = 0.10
SIDE = 96
# These accept images of one size only, or larger ones.
_ONE_SIZE = {"AlexNet", "SqueezeNet", "ViT", "Swin", "XCiT", "PiT", "Twins", "PVT", "LeViT", "MLP-Mixer"}
_ONE_SIZE |= {"MobileViT", "EfficientFormer", "CoAtNet", "FocalNet"}
_MB = 1024.0  # of the kernel's kB


def memory_mb(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest since the last reset) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / _MB
    raise OSError(f"/proc/self/status has no {field}; this benchmark needs Linux")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets VmHWM to VmRSS


def trace_anew(network: Architecture, layers: bool) -> None:
    with torch.device("meta"):
        model = network.build()
    trace(model, torch.zeros(2, 3, SIDE, SIDE), layers=layers)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=3 * WINDOW)
    parser.add_argument("--no-layers", action="store_true", help="leave fvcore out")
    options = parser.parse_args()
    networks = [item for item in image_networks() if item.library == "timm" and item.family not in _ONE_SIZE]
    networks = (networks * ROUND)[:ROUND]
    print(f"{len({network.name for network in networks})} networks in turn, images of {SIDE} x {SIDE}\n")
    print(f"| {'traced':>7} | {'peak MB':>8} | {'at the end MB':>13} | {'s':>6} |")
    print(f"|{'-' * 8}:|{'-' * 9}:|{'-' * 14}:|{'-' * 7}:|")
    peaks, start = [], time.perf_counter()
    for index in range(options.models):
        if index % WINDOW == 0:
            reset_peak()
        trace_anew(networks[index % ROUND], not options.no_layers)
        if index % WINDOW == WINDOW - 1:
            peaks.append(memory_mb("VmHWM"))
            seconds = time.perf_counter() - start
            print(f"| {index + 1:7} | {peaks[-1]:8.0f} | {memory_mb('VmRSS'):13.0f} | {seconds:6.0f} |", flush=True)
    growth = peaks[-1] / peaks[0] - 1
    print(f"\nlast peak against the first: {growth:+.1%} (floor {TOLERANCE:+.0%})")
    return 0 if growth <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
