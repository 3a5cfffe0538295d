"""Mutation testing of one folder of the code: how many small faults its own tests detect.

    pip install cosmic-ray
    python benchmarks/mutation.py estimator/cost --sample 60 --seed 1 --state cost.json

cosmic-ray changes one operator, number, comparison, keyword or exception at a time in a copy of the checkout, and
pytest runs the folder's tests until the first failure. Every place that can be changed has the same chance to be drawn.
The tests run once without a change, to see which of them call which function. A mutant then runs only those that call
the changed one (in a file with cached functions, those that call any of them), the fastest first, or all if the line
runs at import, in a fork of a process that has already imported PyTorch.
Left out: what is not valid Python, decorators, `TYPE_CHECKING`, `|` (mostly annotations, which never run), `is` for
`==`, numbers from 10,000 up (they change by 1), `strict=True` of zips, the `*` of keyword-only parameters, and the
fakes in `testing.py`. `mutation_equivalent.toml` lists the mutants that change no behaviour, each with the reason.
Prints each mutant that survives as a diff, then the share that was killed. Exit status 1 below `--least`.
With `--state FILE`, a mutant that was killed before is not tried again: run the same command after an interrupt, or
after you added tests.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib
import inspect
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import tomllib
import types
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
PACKAGES = ("estimator", "measure", "trainers", "check", "report", "sweeps", "service", "cli", "models", "datasets")
OTHER = ("tests", "docs", "benchmarks", "pyproject.toml", "README.md", "CITATION.cff")
LEFT_OUT = ("BitOr", "_Is", "_IsNot")
PRELOADED = ("torch", "scipy.optimize", "scipy.stats", "hypothesis", "pytest")
PYTEST_OPTIONS = (
    *("-q", "-n", "0", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # hypothesis, imported before
)
AT_IMPORT = "import"
_CACHED = re.compile(r"@(functools\.)?(lru_)?cache")  # only the first of the tests calls what is cached
MEMORY_BYTES = 12 * 2**30  # a mutant that allocates without end fails its test instead of stopping the machine


@dataclass(frozen=True, slots=True)
class Mutant:
    path: str  # relative to the copy, such as src/joulecast/estimator/cost/curves.py
    operator: str
    line: int
    source: str  # the whole changed file
    diff: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.path} {hashlib.sha256(self.source.encode()).hexdigest()}"

    def listed_in(self, known: dict[tuple[str, str], str]) -> str:
        """Why the mutant changes no behaviour; "" if it is not listed."""
        added = (line[1:].strip() for line in self.diff if line.startswith("+"))
        return next((known[self.path, line] for line in added if (self.path, line) in known), "")


@dataclass(slots=True)
class Tests:
    """What pytest runs, and what the run without a change showed."""

    paths: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[str, list[str]]] = field(default_factory=dict)  # path -> function -> tests
    failed: set[str] = field(default_factory=set)

    def reaching(self, mutant: Mutant) -> set[str] | None:
        """The tests that call the innermost function with the changed line; None if it also runs at import."""
        around = [code for code in _functions(mutant.source) if code.co_firstlineno <= mutant.line <= _last_line(code)]
        if not around:
            return None
        innermost = min(around, key=lambda code: _last_line(code) - code.co_firstlineno)
        reached = self.reached.get(mutant.path, {})
        callers = set(reached.get(_key(innermost), ()))
        if AT_IMPORT in callers:
            return None
        cached = callers and _CACHED.search(mutant.source)
        return set().union(*reached.values()) - {AT_IMPORT} if cached else callers


def _functions(source: str) -> Iterator[types.CodeType]:
    """Every function, lambda and comprehension."""
    waiting = [compile(source, "mutant", "exec", dont_inherit=True)]
    while waiting:
        code = waiting.pop()
        waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
        if code.co_flags & inspect.CO_OPTIMIZED:  # neither a module nor a class body
            yield code


def _last_line(code: types.CodeType) -> int:
    return max(line for _, _, line in code.co_lines() if line is not None)


def _key(code: types.CodeType) -> str:
    return f"{code.co_firstlineno} {code.co_qualname}"


class _Recorder:
    """A pytest plugin: which test calls which function of the package, for how long it runs, and whether it fails.

    A tracer of calls alone: coverage's tracer of lines takes a lock, on which tests of time limits never end.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self.uncollected: list[str] = []
        self.reached: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._called: dict[int, types.CodeType] = {}

    def trace(self, frame: types.FrameType, _event: str, _value: Any) -> None:
        self._called[id(frame.f_code)] = frame.f_code

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.uncollected.append(report.nodeid)

    def pytest_collection(self) -> None:
        sys.settrace(self.trace)

    def pytest_collection_finish(self) -> None:
        self._note(AT_IMPORT)

    def pytest_runtest_logstart(self) -> None:
        self._called = {}
        sys.settrace(self.trace)
        threading.settrace(self.trace)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._note(nodeid)

    def _note(self, caller: str) -> None:
        sys.settrace(None)
        for code in self._called.values():
            if code.co_filename.startswith(self.package):
                self.reached[code.co_filename][_key(code)].append(caller)


class _Order:
    """A pytest plugin: only the tests that call the changed function, or all; the fastest first."""

    def __init__(self, tests: Tests, reaching: set[str] | None) -> None:
        self.tests, self.reaching = tests, reaching

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        wanted = self.tests.seconds.keys() if self.reaching is None else self.reaching
        items[:] = [item for item in items if item.nodeid in wanted - self.tests.failed]
        items.sort(key=lambda item: self.tests.seconds.get(item.nodeid, 0.0))


def copy_of_checkout(folder: Path) -> Path:
    """The package in the ordinary `src` layout, so that PYTHONPATH alone selects it, with its tests."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / "src", folder / "src", ignore=ignored)
    for package in PACKAGES:
        shutil.copytree(TOP / package, folder / "src/joulecast" / package, ignore=ignored)
        (folder / package).symlink_to(folder / "src/joulecast" / package)  # tests read data files by these paths
    for name in OTHER:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, folder / name, ignore=ignored)
        else:
            shutil.copy(TOP / name, folder / name)
    return folder


def places(folder: Path, target: str) -> list[list[Any]]:
    """All mutations of the folder or file; those of one place and one kind are a group, of which one is drawn."""
    from cosmic_ray.commands.init import _all_work_items

    top = folder / "src/joulecast" / target
    files = [top] if top.is_file() else [path for path in sorted(top.rglob("*.py")) if path.name != "testing.py"]
    lines = {path: path.read_text().splitlines() for path in files}
    groups: dict[Any, list[Any]] = {}
    for item in _all_work_items(files, {}):
        mutation = item.mutations[0]
        line = lines[mutation.module_path][mutation.start_pos[0] - 1]
        changed = line[mutation.start_pos[1] : mutation.end_pos[1]]
        large_number = "Number" in mutation.operator_name and abs(ast.literal_eval(changed)) >= 10_000
        if (
            line.lstrip().startswith("@")
            or "TYPE_CHECKING" in line
            or "strict=True" in line[: mutation.end_pos[1]][-11:]
            or large_number
            or (changed == "*" and line[mutation.end_pos[1] :].startswith(","))  # of keyword-only parameters
            or any(part in mutation.operator_name for part in LEFT_OUT)
        ):
            continue
        kind = mutation.operator_name.rpartition("_")[0] or mutation.operator_name
        groups.setdefault((mutation.module_path, mutation.start_pos, kind), []).append(mutation)
    return list(groups.values())


def mutant_of(folder: Path, mutation: Any) -> Mutant | None:
    """The changed file, or None if it is not valid Python or cosmic-ray cannot make it (`except module.Error`)."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    before = mutation.module_path.read_text()
    try:
        after = mutate_code(before, plugins.get_operator(mutation.operator_name)(), mutation.occurrence)
        compile(after, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, AttributeError):
        return None
    changes = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    diff = tuple(line for line in changes if line[:1] in "+-" and line[:3] not in ("+++", "---"))
    path = str(mutation.module_path.relative_to(folder))
    return Mutant(path, mutation.operator_name.removeprefix("core/"), mutation.start_pos[0], after, diff)


def drawn(folder: Path, groups: list[list[Any]], count: int, seed: int) -> Iterator[Mutant]:
    draw = random.Random(seed)
    found = 0
    for group in draw.sample(groups, len(groups)):
        mutant = mutant_of(folder, draw.choice(group))
        if mutant is not None:
            found += 1
            yield mutant
        if found == count > 0:
            return


def pytest_in(tree: Path, paths: list[str], plugin: Any, *options: str) -> int:
    """pytest's exit status; only for a fork, since it changes the process."""
    import pytest

    os.setsid()  # what a test starts ends with it
    output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree / "src")
    sys.path.insert(0, str(tree / "src"))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return int(pytest.main([*PYTEST_OPTIONS, *options, *paths], plugins=[plugin]))


def _without_change(tree: Path, tests: Tests, result: Path) -> None:
    recorder = _Recorder(str(tree / "src/joulecast"))
    pytest_in(tree, tests.paths, recorder)
    if not recorder.uncollected:
        reached = {str(Path(path).relative_to(tree)): lines for path, lines in recorder.reached.items()}
        result.write_text(json.dumps({"seconds": recorder.seconds, "failed": [*recorder.failed], "reached": reached}))


def _with_change(tree: Path, tests: Tests, mutant: Mutant) -> None:
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    reaching = tests.reaching(mutant)
    files = sorted({name.partition("::")[0] for name in reaching}) if reaching else tests.paths
    os._exit(pytest_in(tree, files, _Order(tests, reaching), "-x"))


@dataclass(slots=True)
class _Trial:
    mutant: Mutant
    original: str
    mtime: float
    process: Any
    ends: float


def outcomes(trees: list[Path], mutants: list[Mutant], tests: Tests, timeout_s: float) -> Iterator[tuple[Mutant, str]]:
    """killed, survived or timeout for each mutant, in the order in which they end."""
    fork = multiprocessing.get_context("fork")
    free, waiting, running = list(trees), list(mutants), dict[Path, _Trial]()
    try:
        while waiting or running:
            while free and waiting:
                mutant = waiting.pop(0)
                if tests.reaching(mutant) == set():
                    yield mutant, "survived"
                    continue
                tree = free.pop()
                file = tree / mutant.path
                original, mtime = file.read_text(), file.stat().st_mtime
                file.write_text(mutant.source)
                os.utime(file, (mtime + 10, mtime + 10))  # bytecode is matched by size and whole seconds
                process = fork.Process(target=_with_change, args=(tree, tests, mutant))
                process.start()
                running[tree] = _Trial(mutant, original, mtime, process, time.monotonic() + timeout_s)
            wait([one.process.sentinel for one in running.values()], timeout=1)
            for tree, trial in list(running.items()):
                late = time.monotonic() > trial.ends
                if trial.process.is_alive() and not late:
                    continue
                outcome = "timeout" if trial.process.is_alive() else "killed" if trial.process.exitcode else "survived"
                _end(trial.process)
                file = tree / trial.mutant.path
                file.write_text(trial.original)
                os.utime(file, (trial.mtime, trial.mtime))
                free.append(tree)
                del running[tree]
                yield trial.mutant, outcome
    finally:
        for trial in running.values():
            _end(trial.process)


def _end(process: Any) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()
    process.join()


def test_without_change(tree: Path, tests: Tests) -> None:
    """Fills in what the tests reach, their seconds, and which of them fail."""
    result = tree / "reached.json"
    process = multiprocessing.get_context("fork").Process(target=_without_change, args=(tree, tests, result))
    process.start()
    process.join()
    if not result.exists():
        raise SystemExit(f"the tests cannot run:\n{(tree / 'output.txt').read_text()}")
    found = json.loads(result.read_text())
    tests.seconds, tests.failed, tests.reached = found["seconds"], set(found["failed"]), found["reached"]


def equivalents() -> dict[tuple[str, str], str]:
    listed = tomllib.loads((TOP / "benchmarks/mutation_equivalent.toml").read_text())["mutant"]
    return {("src/joulecast/" + one["file"], one["line"]): one["why"] for one in listed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="a folder with code, such as estimator/fit, or one file of it")
    parser.add_argument(
        "--tests", nargs="*", help="what to run; default: tests/FOLDER, or the tests of a file's folder"
    )
    parser.add_argument("--sample", type=int, default=60, help="how many mutants; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout-s", type=float, default=600.0, help="tests that take longer count as failed")
    parser.add_argument("--least", type=float, default=0.9, help="share of mutants that must be killed")
    parser.add_argument("--state", type=Path, help="a JSON file with what was killed, to go on from")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:] = [
        one for one in sys.path if Path(one).resolve() not in (TOP, TOP / "benchmarks")
    ]  # whose names may hide others'
    for name in PRELOADED:
        importlib.import_module(name)

    target = str(Path(options.target).parent) if options.target.endswith(".py") else options.target
    tests = Tests(options.tests or [f"tests/{target}"])
    before: dict[str, str] = json.loads(options.state.read_text()) if options.state and options.state.exists() else {}
    known = equivalents()
    counts: dict[str, int] = defaultdict(int)
    with tempfile.TemporaryDirectory(prefix="mutation-") as top:
        trees = [copy_of_checkout(Path(top).resolve() / str(number)) for number in range(options.jobs)]
        groups = places(trees[0], options.target)
        chosen = list(drawn(trees[0], groups, options.sample, options.seed))
        print(f"{options.target}: {len(chosen)} of {len(groups)} places, seed {options.seed}", flush=True)
        test_without_change(trees[0], tests)
        for name in sorted(tests.failed):
            print(f"left out, as it fails without a change: {name}", flush=True)
        if len(tests.failed) > len(tests.seconds) / 10:
            raise SystemExit(f"too many tests fail without a change:\n{(trees[0] / 'output.txt').read_text()}")

        def shown(mutant: Mutant, outcome: str) -> None:
            if outcome == "survived" and (why := mutant.listed_in(known)):
                outcome = f"equivalent ({why})"
            counts[outcome.split()[0]] += 1
            where = f"{mutant.path.removeprefix('src/joulecast/')}:{mutant.line}"
            print(f"{outcome}: {where} {mutant.operator}", flush=True)
            if outcome == "survived":
                print(*mutant.diff, sep="\n", flush=True)

        for mutant in chosen:
            if mutant.key in before:
                shown(mutant, before[mutant.key])
        waiting = [mutant for mutant in chosen if mutant.key not in before]
        for mutant, outcome in outcomes(trees, waiting, tests, options.timeout_s):
            shown(mutant, outcome)
            if outcome != "survived" and options.state:
                before[mutant.key] = outcome
                options.state.write_text(json.dumps(before, indent=0))
    tried = len(chosen) - counts["equivalent"]
    killed = counts["killed"] + counts["timeout"]
    print(f"{options.target}: killed {killed} of {tried} ({killed / tried:.1%}), {counts['timeout']} by the time limit")
    print(f"{counts['equivalent']} more are listed as equivalent")
    return 0 if killed / tried >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
