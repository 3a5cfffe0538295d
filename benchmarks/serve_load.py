"""The latency and memory of `joulecast serve` under load, and malformed requests.

python benchmarks/serve_load.py [--rate 200] [--seconds 300] [--malformed 1000]

Requests arrive at a fixed rate (an open loop: a slow answer does not hold back the next request) and ask for one of
100 workloads that the server knows, with lengths and hardware that vary, so that some are priced and some are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from torch import nn

import joulecast as jc

GPUS = ("rtx-4090", "a100-sxm4-80gb", "t4", "rtx-3090", "l40s")


def workloads(number: int) -> list[dict[str, Any]]:
    """Small convolutional networks of about 60 ops a step."""
    found = []
    for index in range(number):
        width = 8 + index
        model = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 10),
        )
        found.append(jc.trace(model, torch.zeros(8, 3, 32, 32)).to_json())
    return found


async def load(address: str, names: list[str], rate: float, seconds: float, process: psutil.Process) -> None:
    times: list[float] = []
    statuses: dict[int, int] = {}
    sizes: list[int] = []
    chance = random.Random(0)
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=30) as client:

        async def ask() -> None:
            asked = {
                "workload_id": chance.choice(names),
                "hardware": chance.choice(GPUS),
                "epochs": chance.randint(1, 20),
            }
            start = time.perf_counter()
            status = (await client.post("/estimate", json={**asked, "samples": 50_000})).status_code
            times.append(time.perf_counter() - start)
            statuses[status] = statuses.get(status, 0) + 1

        start = time.perf_counter()
        tasks = set()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            task = asyncio.create_task(ask())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if number % int(rate) == 0:
                sizes.append(process.memory_info().rss)
        await asyncio.gather(*tasks)
    times.sort()
    tenth = max(1, len(sizes) // 10)
    warm, end = max(sizes[tenth : 2 * tenth]), max(sizes[-tenth:])
    print(f"{len(times):,} requests at {rate:g} a second: {statuses}")
    print(f"latency: median {1e3 * statistics.median(times):.1f} ms, p99 {1e3 * times[int(0.99 * len(times))]:.1f} ms")
    change = f"{end / warm - 1:+.1%}"
    print(f"memory: {warm / 2**20:,.0f} MiB in the second tenth, {end / 2**20:,.0f} MiB at the end ({change})")
    print(f"memory by tenths, MiB: {', '.join(f'{size / 2**20:.0f}' for size in sizes[::tenth])}")


def malformed(address: str, document: dict[str, Any], number: int) -> None:
    """Requests with one odd value each: 4xx with one line, or an answer where the value happens to be usable."""
    chance = random.Random(1)
    odd: list[Any] = [None, -1, 0, 1e308, 10**30, "x", [], {}, [[]], True, "9" * 300]
    counts: dict[int, int] = {}
    with httpx.Client(base_url=address, timeout=60) as client:
        for _ in range(number):
            asked = {"workload": {**document}, "hardware": "t4", "epochs": 1, "samples": 100}
            part = asked["workload"] if chance.random() < 0.7 else asked
            part[chance.choice(list(part))] = chance.choice(odd)
            response = client.post("/estimate", content=json.dumps(asked).encode())
            counts[response.status_code] = counts.get(response.status_code, 0) + 1
            if response.status_code != 200 and (list(response.json()) != ["error"] or "\n" in response.json()["error"]):
                sys.exit(f"not one line: {response.text}")
    print(f"{number:,} malformed requests: {counts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--malformed", type=int, default=1000)
    options = parser.parse_args()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([str(Path(sys.executable).parent / "joulecast"), "serve", "--port", str(port)])
    try:
        documents = workloads(100)
        with httpx.Client(base_url=address, timeout=60) as client:
            for _ in range(600):
                try:
                    client.get("/health")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            run = {"hardware": "t4", "epochs": 1, "samples": 100}
            names = [client.post("/estimate", json={"workload": one, **run}).json()["workload_id"] for one in documents]
        asyncio.run(load(address, names, options.rate, options.seconds, psutil.Process(server.pid)))
        malformed(address, documents[0], options.malformed)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
