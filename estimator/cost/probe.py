"""How fast this machine's CPU multiplies matrices and moves memory: a probe of about two seconds, cached."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ..base.files import read_text, write_json
from ..base.folders import cache_folder

SCHEMA = "joulecast.probe/1"
_PRODUCT_S = 0.004  # a product that takes this long hides the cost of starting it
_LARGEST = 2048
_SECONDS_EACH = 0.5
_BUFFER_BYTES = 2**28  # larger than the caches of nearly all CPUs


@dataclass(frozen=True, slots=True)
class CpuProbe:
    """Rates that a large product and a copy reached. One multiply-add is two operations, as vendors count."""

    fp32_tflops: float
    bandwidth_gb_per_s: float
    threads: int


def probe_cpu(cpu_name: str, cores: int, measure: Callable[[], CpuProbe] | None = None) -> CpuProbe:
    """The cached probe of this CPU with this many cores and threads; `measure` runs where there is none."""
    path = _cache_file(cpu_name, cores)
    known = _cached(path)
    if known is not None:
        return known
    probe = (measure or measure_cpu)()
    with suppress(OSError):  # a folder that cannot be written costs the next run two seconds
        write_json(path, {"schema": SCHEMA, "cpu_name": cpu_name, "cores": cores, **asdict(probe)})
    return probe


def _cache_file(cpu_name: str, cores: int) -> Path:
    key = json.dumps([SCHEMA, cpu_name, cores, os.environ.get("OMP_NUM_THREADS", "")])
    return cache_folder() / "probes" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _cached(path: Path) -> CpuProbe | None:
    """None for a file that is missing, corrupt or of another schema."""
    try:
        document = json.loads(read_text(path, 2**16))
        if document["schema"] != SCHEMA:
            return None
        probe = CpuProbe(
            float(document["fp32_tflops"]), float(document["bandwidth_gb_per_s"]), int(document["threads"])
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return probe if probe.fp32_tflops > 0 and probe.bandwidth_gb_per_s > 0 else None


def measure_cpu() -> CpuProbe:
    """Float32 products and copies, the best of repeats.

    One thread is timed by its own CPU time, which other processes do not stretch, and the rate
    counted for each thread that torch computes with. Copies on all threads are timed by the clock.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        size, seconds = 128, 0.0
        while seconds < _PRODUCT_S and size < _LARGEST:
            size *= 2
            left, right, out = torch.rand(size, size), torch.rand(size, size), torch.empty(size, size)
            product = partial(torch.mm, left, right, out=out)
            product()
            seconds = _best(product, 0.0, time.thread_time)
        product_s = _best(product, _SECONDS_EACH, time.thread_time)
        source, target = torch.ones(_BUFFER_BYTES // 4), torch.empty(_BUFFER_BYTES // 4)
        target.copy_(source)
        alone_s = _best(partial(target.copy_, source), _SECONDS_EACH, time.thread_time)
    finally:
        torch.set_num_threads(threads)
    together_s = _best(partial(target.copy_, source), _SECONDS_EACH, time.perf_counter)
    return CpuProbe(
        fp32_tflops=threads * 2 * size**3 / product_s / 1e12,
        bandwidth_gb_per_s=2 * _BUFFER_BYTES / min(alone_s, together_s) / 1e9,
        threads=threads,
    )


def _best(action: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """The shortest time by `clock` of the calls that fit into `seconds`, at least one."""
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        begin = clock()
        action()
        best = min(best, clock() - begin)
        if time.perf_counter() >= end:
            return max(best, 1e-9)
