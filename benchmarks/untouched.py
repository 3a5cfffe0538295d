"""Does a budget change a training? Short trainings with and without one, compared bit for bit.

    python benchmarks/untouched.py [--cases FOLDER] [--only TEXT ...] [--part 1/4]

Each training runs twice, each time in a process of its own, forked from one that has the libraries loaded: plain, and
under `joulecast.Budget`. Parameters, buffers, gradients, the optimizer's state, losses, attributes, modes, hooks and
random states must be the same to the last bit. Exit status 1 when one differs or a training fails.
"""

from __future__ import annotations

import argparse
import os
import pickle
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that started threads must not be forked
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")

LIMIT_S = 300


def trained(train: Any, watched: bool) -> Mapping[str, Any]:
    """What `train` leaves, run in a process of its own; {"failed": ...} where it ends otherwise."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LIMIT_S)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        warnings.simplefilter("ignore")
        try:
            left: Mapping[str, Any] = train(watched)
        except Exception as error:
            left = {"failed": f"{type(error).__name__}: {error} ({traceback.format_exc().splitlines()[-4].strip()})"}
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(left, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    found: Mapping[str, Any] = pickle.loads(content) if content else {"failed": f"process ended with status {status}"}
    return found


def different(plain: Mapping[str, Any], watched: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**plain, **watched} if name != "predicted"]
    return [name for name in names if plain.get(name, "missing") != watched.get(name, "missing")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, help="the folder of the cases, for those that train")
    parser.add_argument("--only", nargs="+", default=[""], help="trainings whose name contains one of these texts")
    parser.add_argument("--part", default="1/1", help="K/N: every Nth training, from the Kth on")
    options = parser.parse_args()
    # Before the processes are forked, so that all of them run the same code.
    from trainings import trainings

    import joulecast.estimator.model.load
    import joulecast.trainers.lightning
    import joulecast.trainers.loop
    import joulecast.trainers.transformers  # noqa: F401

    first, parts = map(int, options.part.split("/"))
    every = [(name, train) for name, train in trainings(options.cases) if any(text in name for text in options.only)]
    wrong = total = 0
    print("| training | same | predicted | s |\n|---|---|---|---|")
    for name, train in every[first - 1 :: parts]:
        start = time.perf_counter()
        plain, watched = trained(train, False), trained(train, True)
        names = different(plain, watched)
        failed = plain.get("failed") or watched.get("failed")
        verdict = f"FAILS: {failed}" if failed else f"DIFFERS: {', '.join(names[:8])}" if names else "yes"
        total += 1
        wrong += verdict != "yes"
        predicted = {True: "yes", False: "no"}.get(watched.get("predicted"), "")
        print(f"| {name} | {verdict[:300]} | {predicted} | {time.perf_counter() - start:.0f} |", flush=True)
    print(f"\n{wrong} of {total} trainings changed or failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
