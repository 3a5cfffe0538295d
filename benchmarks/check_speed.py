"""Run time of `joulecast check` on 20 models, compared with tracing them in one process, and of a second check.

    python benchmarks/check_speed.py [--repeats 5] [--jobs N]

Times whole processes. Runs are interleaved, so that other load on the machine affects all of them, and medians are
compared. Run it on an idle machine. CPU seconds (user and system, of all processes) are printed too; divided by the
number of jobs they give the best time of an idle machine. Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
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

MODELS = Path(__file__).resolve().parent.parent / "models"
COLD_RATIO, WARM_S = 1.5, 2.0
IMAGES = (
    *("residual_cnn", "mobile_cnn", "inverted_residual_cnn", "grouped_cnn", "dense_cnn"),
    *("convnext", "mlp", "mlp_mixer", "vision_transformer"),
)
WIDE = ("residual_cnn", "inverted_residual_cnn", "dense_cnn", "convnext", "vision_transformer", "mlp")
OTHERS = {
    "bert": "int64:64",
    "gpt": "int64:64",
    "recurrent_language_model": "int64:64",
    "conv1d": "1,4000",
    "conv3d": "3,8,32,32",
}
DEFAULTS = 'hardware = "rtx-3090"\nepochs = 90\nsamples = 50_000\nbudget = "100 kWh"\n'
# The work of any check, in one process and without a cache.
IN_ONE_PROCESS = """
import sys
from pathlib import Path
from joulecast.check.config import read_config
from joulecast.estimator.model.read_model import read_model
for entry in read_config(Path(sys.argv[1])).entries:
    read_model(entry.model, entry.request.trace_options)
"""


def write_project(folder: Path) -> Path:
    """The reference networks and a configuration of 20 models."""
    shutil.copy(MODELS / "reference.py", folder)
    entries = [
        *(f'name = "{name}"\nmodel = "reference.py:{name}"\ninput = "3,32,32"\n' for name in IMAGES),
        *(
            f'name = "wide {name}"\nmodel = "reference.py:{name}"\ninput = "3,32,32"\nmodel_arg = {{ width = 2 }}\n'
            for name in WIDE
        ),
        *(f'name = "{name}"\nmodel = "reference.py:{name}"\ninput = "{shape}"\n' for name, shape in OTHERS.items()),
    ]
    config = folder / "joulecast.toml"
    config.write_text(DEFAULTS + "".join(f"[[models]]\n{entry}" for entry in entries))
    assert len(entries) == 20
    return config


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one command, and of all processes that it started."""

    wall_s: float
    cpu_s: float


def run(command: Sequence[str], folder: Path) -> Run:
    """Raises CalledProcessError with the command's output when it fails."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    wall_s, after = time.perf_counter() - start, os.times()
    children = (after.children_user - before.children_user, after.children_system - before.children_system)
    return Run(wall_s, sum(children))


def median(runs: Sequence[Run]) -> Run:
    return Run(statistics.median(item.wall_s for item in runs), statistics.median(item.cpu_s for item in runs))


def check_command(cache: Path, jobs: int) -> list[str]:
    program = Path(sys.executable).with_name("joulecast")
    return [str(program), "check", "--cache-dir", str(cache), "--jobs", str(jobs)]


def measure(repeats: int, jobs: int) -> dict[str, list[Run]]:
    """The runs of each kind. One extra round runs first and is dropped, to fill the file cache."""
    taken: dict[str, list[Run]] = {"one process": [], "cold": [], "warm": []}
    with tempfile.TemporaryDirectory(prefix="joulecast-check-speed-") as name:
        folder = Path(name)
        config = write_project(folder)
        for repeat in range(repeats + 1):
            check = check_command(folder / f"cache-{repeat}", jobs)
            commands = {
                "one process": [sys.executable, "-c", IN_ONE_PROCESS, str(config)],
                "cold": check,
                "warm": check,
            }
            for kind, command in commands.items():
                measured = run(command, folder)
                if repeat:
                    taken[kind].append(measured)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    taken = measure(options.repeats, options.jobs)
    one, cold, warm = (median(taken[kind]) for kind in ("one process", "cold", "warm"))
    pairs = zip(taken["cold"], taken["one process"], strict=True)
    ratio = statistics.median(a.wall_s / b.wall_s for a, b in pairs)
    print(f"20 models, {options.jobs} jobs, medians of {options.repeats} interleaved runs\n")
    print("| what                           | wall s |  CPU s | floor |")
    print("|--------------------------------|-------:|-------:|------:|")
    print(f"| traced in one process          | {one.wall_s:6.2f} | {one.cpu_s:6.2f} |       |")
    print(f"| joulecast check, nothing kept  | {cold.wall_s:6.2f} | {cold.cpu_s:6.2f} |       |")
    shared = cold.cpu_s / options.jobs / one.cpu_s
    print(f"| ratio (CPU: shared by the jobs)| {ratio:6.2f} | {shared:6.2f} | {COLD_RATIO:5.1f} |")
    print(f"| joulecast check, a second time | {warm.wall_s:6.2f} | {warm.cpu_s:6.2f} | {WARM_S:5.1f} |")
    return 0 if ratio <= COLD_RATIO and warm.wall_s < WARM_S else 1


if __name__ == "__main__":
    sys.exit(main())
