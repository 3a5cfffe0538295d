"""How fast `joulecast sweep` is, how much memory it takes, and what a kill costs it.

python benchmarks/sweep_speed.py [--candidates 10000] [--cnns 300] [--parts cnns,shared,engines,memory,kills]

- cnns: different CNNs of 20 to 60 layers, candidates a minute
- shared: candidates that share a trace and differ in length, hardware and region
- engines: the rate of a Dask cluster and a Ray instance over that of joblib, on the same cores
- memory: the largest resident memory of the sweep and its processes in the last tenth over that in the second tenth;
  shared pages count once
- kills: a sweep killed with SIGKILL at three random moments and started again, compared with one that ran through
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

# benchmarks/distributed.py is not Dask's package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

CORES = 2
NET = '''
from torch import nn


class Net(nn.Module):
    """`blocks` of convolution, batch norm and ReLU: three layers each, and three more at the ends."""

    def __init__(self, blocks=10, width=16):
        super().__init__()
        layers, channels = [nn.Conv2d(3, width, 3, padding=1)], width
        for block in range(blocks):
            out = width * (1 + block // 6)
            stride = 2 if out > channels else 1
            layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

    def forward(self, images):
        return self.body(images)


def cnns(number):
    return ({"blocks": 6 + index % 13, "width": 8 + index // 13} for index in range(number))


def shared(number):
    gpus = ["rtx-4090", "a100-sxm4-80gb", "t4", "rtx-3090", "l40s"]
    places = ["FR", "SE", "DE", "US-CA", "PL"]
    return (
        {"hardware": gpus[index % 5], "region": places[index // 5 % 5], "epochs": 1 + index // 25}
        for index in range(number)
    )
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000, help="of the parts shared, memory and kills")
    parser.add_argument("--cnns", type=int, default=300)
    parser.add_argument("--parts", default="cnns,shared,engines,memory,kills")
    options = parser.parse_args()
    parts = options.parts.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.py").write_text(NET)
        if "cnns" in parts:
            seconds = timed(folder, "cnns", options.cnns)
            print(
                f"{options.cnns} different CNNs: {60 * options.cnns / seconds:,.0f} a minute (start included)",
                flush=True,
            )
        if "shared" in parts:
            seconds = timed(folder, "shared", options.candidates)
            rate = 60 * options.candidates / seconds
            print(f"{options.candidates:,} that share a trace: {rate:,.0f} a minute (start included)", flush=True)
        if "engines" in parts:
            engines(folder, options.cnns)
        if "memory" in parts:
            memory(folder, options.candidates)
        if "kills" in parts:
            kills(folder, options.candidates)


def command(folder: Path, kind: str, number: int, *options: str, output: str = "out.csv") -> list[str]:
    """The sweep of `number` candidates that the function `kind` makes."""
    source = folder / f"{kind}{number}.py"
    source.write_text(f"import net\n\n\ndef candidates():\n    return net.{kind}({number})\n")
    return [
        *(str(Path(sys.executable).parent / "joulecast"), "sweep", "--model", "net.py:Net", "--dataset", "cifar10"),
        *("--epochs", "10", "--hardware", "rtx-4090", "--from", f"{source.name}:candidates"),
        *("--output", output, "--jobs", str(CORES), *options),
    ]


def timed(folder: Path, kind: str, number: int, *options: str) -> float:
    start = time.perf_counter()
    done = subprocess.run(command(folder, kind, number, *options), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


# -- engines -------------------------------------------------------------------------------------


def engines(folder: Path, number: int) -> None:
    """Workers are started before the clock; joblib's are started within it, as users start them."""
    import ray
    from distributed import LocalCluster

    own, dask, on_ray = [], [], []
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    address = ray.get_runtime_context().gcs_address
    with LocalCluster(n_workers=CORES, threads_per_worker=1, dashboard_address=None) as cluster:
        for _ in range(3):
            own.append(timed(folder, "cnns", number))
            dask.append(timed(folder, "cnns", number, "--engine", "dask", "--address", cluster.scheduler_address))
            on_ray.append(timed(folder, "cnns", number, "--engine", "ray", "--address", address))
    ray.shutdown()
    print(f"joblib, Dask, Ray: {[[round(one, 1) for one in times] for times in (own, dask, on_ray)]} s", flush=True)
    for name, times in (("Dask", dask), ("Ray", on_ray)):
        ratios = [mine / theirs for mine, theirs in zip(own, times, strict=True)]
        print(f"{name}: {statistics.median(ratios):.2f} of joblib's rate (median of 3)", flush=True)


# -- memory and kills ----------------------------------------------------------------------------


def memory(folder: Path, number: int) -> None:
    process = subprocess.Popen(command(folder, "cnns", number), cwd=folder, stderr=subprocess.DEVNULL)
    samples: list[tuple[float, float]] = []  # share of the candidates done, resident bytes
    watcher = threading.Thread(target=lambda: samples.extend(_watch(process, folder / "out.csv.partial", number)))
    watcher.start()
    process.wait()
    watcher.join()
    early = max(size for share, size in samples if 0.1 <= share < 0.2)
    late = max(size for share, size in samples if share >= 0.9)
    print(
        f"memory of {number:,} candidates: {early / 2**20:,.0f} MiB early, {late / early - 1:+.1%} at the end",
        flush=True,
    )


def _watch(process: subprocess.Popen[bytes], journal: Path, number: int) -> Iterator[tuple[float, float]]:
    while process.poll() is None:
        try:
            done = journal.read_bytes().count(b"\n") / number
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            yield done, sum(_resident(one) for one in family)
        except (OSError, psutil.Error):
            pass
        time.sleep(2)


def _resident(process: psutil.Process) -> int:
    """Resident bytes; on Linux the pages that processes share count once."""
    memory = process.memory_full_info()
    return int(getattr(memory, "pss", memory.rss))


def kills(folder: Path, number: int) -> None:
    """Each attempt is killed once a random share of what is left is done."""
    timed(folder, "shared", number)
    whole = (folder / "out.csv").read_bytes()
    journal = folder / "again.csv.partial"
    lost = []
    for share in sorted(random.Random(0).uniform(0.1, 0.9) for _ in range(3)):
        process = subprocess.Popen(
            command(folder, "shared", number, output="again.csv"),
            cwd=folder,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < share * number):
            time.sleep(0.05)
        before = journal.read_bytes().count(b"\n")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lost.append(before - journal.read_bytes().count(b"\n"))
    subprocess.run(command(folder, "shared", number, output="again.csv"), cwd=folder, check=True, capture_output=True)
    same = (folder / "again.csv").read_bytes() == whole
    print(f"killed three times: {'the same table' if same else 'ANOTHER TABLE'}, {max(lost)} written results lost")


if __name__ == "__main__":
    main()
