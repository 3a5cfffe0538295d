"""Mutation testing of one room: how many small faults its own tests detect.

    pip install cosmic-ray
    python benchmarks/mutation.py measure/meters --sample 60 --seed 1

cosmic-ray changes one operator, number, comparison, keyword or exception at a time in a copy of the checkout, and
pytest runs the room's tests until the first failure. Every place that can be changed has the same chance to be drawn.
Left out: decorators, `|` (mostly annotations, which never run), `is` for `==`, numbers of five or more digits (10 ms
and 1 ns more are the same limit), `strict=True` of zips, and the fakes in `testing.py`.
Prints each mutant that survives as a diff, then the share that was killed. Exit status 1 below `--least`.
"""

from __future__ import annotations

import argparse
import queue
import random
import re
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
ROOMS = ("estimator", "measure", "trainers", "check", "report", "cli", "models", "datasets")
OTHER = ("tests", "docs", "benchmarks", "pyproject.toml", "README.md", "CITATION.cff")
_PYTEST_OPTIONS = "-x -q -n 0 -p no:cacheprovider"
LEFT_OUT = ("BitOr", "_Is", "_IsNot")


def copy_of_checkout(folder: Path) -> Path:
    """The package in the ordinary `src` layout, so that PYTHONPATH alone selects it, with its tests."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / "src", folder / "src", ignore=ignored)
    for room in ROOMS:
        shutil.copytree(TOP / room, folder / "src/joulecast" / room, ignore=ignored)
        (folder / room).symlink_to(folder / "src/joulecast" / room)  # tests read data files by these paths
    for name in OTHER:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, folder / name, ignore=ignored)
        else:
            shutil.copy(TOP / name, folder / name)
    return folder


def places(folder: Path, room: str) -> list[list[Any]]:
    """All mutations of the room; those of one place and one kind are a group, of which one is drawn."""
    from cosmic_ray.commands.init import _all_work_items

    files = [path for path in sorted((folder / "src/joulecast" / room).rglob("*.py")) if path.name != "testing.py"]
    groups: dict[Any, list[Any]] = {}
    for item in _all_work_items(files, {}):
        mutation = item.mutations[0]
        line = mutation.module_path.read_text().splitlines()[mutation.start_pos[0] - 1]
        changed = line[mutation.start_pos[1] : mutation.end_pos[1]]
        long_number = len(re.sub(r"[_.]|0*e.*", "", changed)) >= 5 and "Number" in mutation.operator_name
        if (
            line.lstrip().startswith("@")
            or "strict=True" in line[: mutation.end_pos[1]][-11:]
            or long_number
            or any(part in mutation.operator_name for part in LEFT_OUT)
        ):
            continue
        kind = mutation.operator_name.rpartition("_")[0] or mutation.operator_name
        groups.setdefault((mutation.module_path, mutation.start_pos, kind), []).append(mutation)
    return list(groups.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="a folder with code, such as estimator/fit")
    parser.add_argument("--tests", nargs="*", help="what to run; default: tests/ROOM")
    parser.add_argument("--sample", type=int, default=60, help="how many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=300.0, help="tests that take longer count as failed")
    parser.add_argument("--least", type=float, default=0.9, help="share of mutants that must be killed")
    options = parser.parse_args()
    from attrs import evolve
    from cosmic_ray.mutating import mutate_and_test

    tests = " ".join(options.tests or [f"tests/{options.room}"])
    with tempfile.TemporaryDirectory(prefix="mutation-") as top:
        trees: queue.Queue[Path] = queue.Queue()
        for number in range(options.jobs):
            trees.put(copy_of_checkout(Path(top) / str(number)))
        draw = random.Random(options.seed)
        groups = places(Path(top) / "0", options.room)
        drawn = draw.sample(groups, options.sample) if 0 < options.sample < len(groups) else groups
        chosen = [draw.choice(group) for group in drawn]
        print(f"{options.room}: {len(chosen)} of {len(groups)} places, seed {options.seed}", flush=True)

        def tried(*mutations: Any) -> Any:
            tree = trees.get()
            moved = [evolve(one, module_path=tree / one.module_path.relative_to(Path(top) / "0")) for one in mutations]
            command = f"env -C {tree} PYTHONPATH={tree}/src {sys.executable} -m pytest {_PYTEST_OPTIONS} {tests}"
            try:
                return mutate_and_test(moved, command, options.timeout_s)
            finally:
                trees.put(tree)

        unchanged = tried()
        if unchanged.is_killed:
            print(f"the tests fail without any mutation:\n{unchanged.output}", file=sys.stderr)
            return 1
        survivors = 0
        with ThreadPoolExecutor(options.jobs) as pool:
            for number, (mutation, result) in enumerate(zip(chosen, pool.map(tried, chosen), strict=True), 1):
                where = f"{mutation.module_path.relative_to(Path(top) / '0/src/joulecast')}:{mutation.start_pos[0]}"
                print(f"{number} {result.test_outcome.value} {where} {mutation.operator_name}", flush=True)
                if not result.is_killed:
                    survivors += 1
                    print(*(line for line in result.diff.splitlines() if line[:1] in "+-"), sep="\n", flush=True)
    share = 1 - survivors / len(chosen)
    print(f"{options.room}: killed {len(chosen) - survivors} of {len(chosen)} ({share:.1%})")
    return 0 if share >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
