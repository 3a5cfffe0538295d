"""Training under a meter: the record, and what remains of it after kills, signals, NaN and full disks."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joulecast.cli import main as commands
from joulecast.cli.train import train as train_command
from joulecast.measure.meters.reading import PowerTrace, TracePoint
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.records.records import MeasuredWindow, Record
from joulecast.measure.records.store import Store
from joulecast.measure.training.cifar10 import Images, synthetic_images
from joulecast.measure.training.errors import TrainingError
from joulecast.measure.training.recipe import Recipe
from joulecast.measure.training.stretches import epochs_of
from joulecast.measure.training.trainer_torch import TorchTrainer
from joulecast.measure.training.training import TrainingPlan, train

TINY = TrainingPlan("alexnet", "pytorch", Recipe("adam", 1e-3, batch_size=20), epochs=2, width=0.05)
TINY_COMMAND = [
    "train",
    "alexnet",
    "--framework=pytorch",
    "--width=0.05",
    "--batch-size=20",
    "--synthetic=500",
    "--meter=none",
]
STEPS = 25  # of an epoch of TINY_COMMAND
PROCESS = [sys.executable, "-m", "joulecast.cli.train", *TINY_COMMAND]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def constant_power(path: Path, watts: dict[str, float], seconds: float = 600.0) -> str:
    """A meter that replays a recorded trace of constant power."""
    points = [
        TracePoint(at, tuple(round(power * at * 1e6) for power in watts.values())) for at in (0.0, seconds / 2, seconds)
    ]
    with path.open("w", encoding="utf-8") as file:
        PowerTrace(tuple(watts), tuple(name for name in watts if "core" not in name), tuple(points)).write_csv(file)
    return f"replay:{path}"


def run_here(plan: TrainingPlan, images: Images, store: Path, meter: str = "none", **options: Any) -> Record:
    with select_meter(meter) as selected:
        return train(plan, images, selected, Store(store), **options)


# -- what the record says ------------------------------------------------------------------------


def test_epochs_carry_the_energy_of_every_domain(tmp_path: Path) -> None:
    watts = {"package-0": 40.0, "package-0/core": 30.0, "package-0/dram": 3.0}
    meter = constant_power(tmp_path / "trace.csv", watts)
    record = run_here(replace(TINY, evaluate_every=7), synthetic_images(300, 60), tmp_path, meter)
    epochs = epochs_of(record.windows)
    assert [epoch.steps for epoch in epochs] == [15, 15]
    assert [epoch.tested for epoch in epochs] == [60, 60]
    for epoch in epochs:
        assert epoch.reading is not None
        assert epoch.seconds == pytest.approx(epoch.reading.seconds)
        assert epoch.loss == pytest.approx(math.log(10), abs=0.5), "random labels of ten classes"
        energies = {domain.domain: domain.energy_uj for domain in epoch.reading.domains}
        for name, power_w in watts.items():
            assert energies[name] == pytest.approx(power_w * epoch.seconds * 1e6, abs=20)
        total_w = watts["package-0"] + watts["package-0/dram"]
        assert epoch.reading.energy_j == pytest.approx(total_w * epoch.seconds, abs=1e-4)
    assert record.status == "complete"
    assert record.label == "measured"
    assert record.workload is not None
    assert record.workload.batch_size == 20
    assert any("synthetic" in flag for flag in record.flags)
    kept = Store(tmp_path).read(record.id)
    assert (kept.windows, kept.flags, kept.host) == (record.windows, record.flags, record.host)


def test_without_a_counter_the_energy_is_missing_and_never_zero(tmp_path: Path) -> None:
    record = run_here(replace(TINY, epochs=1), synthetic_images(60, 20), tmp_path)
    assert record.label == "missing"
    assert record.energy_j is None
    (epoch,) = epochs_of(record.windows)
    assert epoch.seconds > 0
    assert epoch.reading is not None
    assert epoch.reading.energy_uj is None
    assert all("test_energy_j" not in window.figures for window in record.windows)
    assert Store(tmp_path).trace_path(record) is None


def test_it_learns_and_ends_at_the_target(tmp_path: Path) -> None:
    """Images are dark or bright as their label is 0 or 1: the target is reached long before the last epoch."""
    images = synthetic_images(200, 100)
    for pixels, labels in (
        (images.train_images, images.train_labels),
        (images.test_images, images.test_labels),
    ):
        labels %= 2
        pixels[:] = 200 * labels[:, None, None, None]
    plan = replace(
        TINY, network="simplenet", recipe=Recipe("adam", 1e-2, batch_size=20, augment=False), epochs=40,
        target=0.9, evaluate_every=10, evaluate_images=50,
    )  # fmt: skip
    record = run_here(plan, images, tmp_path, run_id="learns")
    last = record.windows[-1].figures
    assert last["accuracy"] >= 0.9
    assert last["tested"] == 100, "the drawn images alone decide nothing"
    assert last["step"] < 40 * 10
    assert record.status == "complete"
    again = run_here(plan, images, tmp_path, run_id="learns")
    assert again == Store(tmp_path).read("learns"), "a finished run is not repeated"
    assert len(again.windows) == len(record.windows)


def test_a_run_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    images = synthetic_images(200, 40)
    plan = replace(TINY, epochs=3, recipe=replace(TINY.recipe, augment=True), evaluate_every=4)
    whole = run_here(plan, images, tmp_path, run_id="whole")
    run_here(replace(plan, epochs=1), images, tmp_path, run_id="parts")
    parts = run_here(plan, images, tmp_path, run_id="parts")
    assert [one.figures["loss"] for one in parts.windows] == [one.figures["loss"] for one in whole.windows]
    assert parts.steps == whole.steps == 30
    names = [path.name for path in (tmp_path / "checkpoints" / "parts").iterdir()]
    assert sorted(names) == ["000030.state", "lock"], "earlier checkpoints are gone"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0.1}, "has width 0.05, now 0.1"),
        ({"seed": 4}, "has seed 0, now 4"),
        ({"recipe": Recipe("adam", 2e-3, batch_size=20)}, r"has recipe learning_rate 0\.001, now learning_rate"),
    ],
)
def test_a_run_goes_on_only_as_what_it_was(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    images = synthetic_images(40, 10)
    run_here(replace(TINY, epochs=1), images, tmp_path, run_id="one")
    with pytest.raises(TrainingError, match=message):
        run_here(replace(TINY, **change), images, tmp_path, run_id="one")
    with pytest.raises(TrainingError, match="has images train 40, now 60"):
        run_here(TINY, synthetic_images(60, 10), tmp_path, run_id="one")


@pytest.mark.parametrize("now", [{"gpu-1": 300.0}, {"gpu-0": 300.0, "gpu-1": 300.0}])
def test_a_run_goes_on_only_with_the_same_gpus_visible(tmp_path: Path, now: dict[str, float]) -> None:
    images, watts = synthetic_images(40, 10), {"package-0": 40.0}
    then = constant_power(tmp_path / "then.csv", {**watts, "gpu-0": 300.0})
    run_here(replace(TINY, epochs=1), images, tmp_path, then, run_id="one")
    with pytest.raises(TrainingError) as caught:
        run_here(TINY, images, tmp_path, constant_power(tmp_path / "now.csv", {**watts, **now}), run_id="one")
    assert str(caught.value) == (
        f"run one has metered domains package-0, gpu-0, now {', '.join([*watts, *now])}; start a new run"
    )
    assert run_here(TINY, images, tmp_path, then, run_id="one").status == "complete"


def test_a_run_that_went_on_elsewhere_says_so(tmp_path: Path) -> None:
    images = synthetic_images(40, 10)
    first = run_here(replace(TINY, epochs=1), images, tmp_path, run_id="one")
    Store(tmp_path).write(replace(first, host={**first.host, "cpu_name": "Another CPU", "threads": 64}))
    (flag,) = [flag for flag in run_here(TINY, images, tmp_path, run_id="one").flags if "continued on" in flag]
    assert flag.startswith("started on Another CPU, 64 threads, continued on ")


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    images = synthetic_images(40, 10)
    run_here(replace(TINY, epochs=1), images, tmp_path, run_id="one")
    path = tmp_path / "checkpoints" / "one" / "000002.state"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="checkpoint does not fit the network") as caught:
        run_here(TINY, images, tmp_path, run_id="one")
    assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(TrainingError, match=r"000002\.state cannot be read \(No such file"):
        run_here(TINY, images, tmp_path, run_id="one")


@pytest.mark.parametrize("change", [{"epochs": 0}, {"target": 1.5}, {"evaluate_every": 0}])
def test_plans_that_mean_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="; give 1"):
        replace(TINY, **change)


# -- what survives the end of its process --------------------------------------------------------


@contextmanager
def started(store: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, without an end."""
    arguments = [*PROCESS, "--run=run", "--store", str(store), "--epochs=100000", *options]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


Finished = Callable[..., tuple[int, str, str]]


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Finished:
    """`finished(store, "--epochs=2")`: status, output and errors of the command, in this process, which is faster."""

    def call(store: Path, *options: str, run: str | None = "run") -> tuple[int, str, str]:
        named = [] if run is None else ["--run", run]
        monkeypatch.setattr(sys, "argv", [*TINY_COMMAND, *named, "--store", str(store), *options])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            commands.run(train_command, "measure")
        return (int(end.value.code or 0), *capfd.readouterr())

    return call


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, f"ended early: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def windows_of(store: Path, run: str = "run") -> int:
    path = store / "records" / f"{run}.json"
    return len(json.loads(path.read_text())["windows"]) if path.is_file() else 0


def uninterrupted(store: Path, epochs: int) -> Record:
    """The training of the command, in this process and without an interruption."""
    recipe = Recipe("adam", 1e-3, batch_size=20, augment=False)
    return run_here(replace(TINY, recipe=recipe, epochs=epochs), synthetic_images(500, 100), store)


def losses_by_epoch(record: Record) -> list[float | None]:
    return [epoch.loss for epoch in epochs_of(record.windows)]


def untested(window: MeasuredWindow) -> MeasuredWindow:
    """Without the figures of its test, which may run in another process."""
    return replace(window, figures={name: window.figures[name] for name in ("epoch", "step", "loss")})


def test_kill_9_loses_the_stretch_in_progress_and_nothing_else(tmp_path: Path, finished: Finished) -> None:
    with started(tmp_path) as process:
        wait_for(lambda: windows_of(tmp_path) >= 2, process)
        process.kill()
    left = Store(tmp_path).read("run")
    assert left.status == "running", "nobody was left to say more"
    epochs = len(left.windows) + 1
    status, output, errors = finished(tmp_path, f"--epochs={epochs}")
    assert status == 0, errors
    record = Store(tmp_path).read("run")
    assert record.status == "complete"
    assert record.figures["interruptions"] == 1
    assert f"killed after step {left.steps}" in record.flags
    assert f"killed after step {left.steps}" in output
    assert [untested(window) for window in record.windows[: len(left.windows)]] == list(map(untested, left.windows))
    assert losses_by_epoch(record) == pytest.approx(
        losses_by_epoch(uninterrupted(tmp_path / "other", epochs)), rel=1e-3
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_order(
    tmp_path: Path, finished: Finished, number: signal.Signals, status: int
) -> None:
    with started(tmp_path) as process:
        wait_for(lambda: windows_of(tmp_path) >= 1, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert "continue with the same command and --run run" in errors
    assert "Traceback" not in errors
    left = Store(tmp_path).read("run")
    assert left.status == "interrupted"
    assert left.flags[-1] == f"interrupted by {number.name} after step {left.steps}"
    assert left.settings["checkpoint"] == f"{left.steps:06d}.state"
    epochs = left.steps // STEPS + 1
    assert finished(tmp_path, f"--epochs={epochs}")[0] == 0
    record = Store(tmp_path).read("run")
    assert (record.status, record.steps) == ("complete", STEPS * epochs)
    assert record.figures["interruptions"] == 1
    whole = uninterrupted(tmp_path / "other", epochs)
    assert losses_by_epoch(record) == pytest.approx(losses_by_epoch(whole), rel=1e-3)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """`at_step(3, action)`: the next training calls `action` before its third step."""
    step, count = TorchTrainer.step, itertools.count(1)

    def plan(last: int, action: Callable[[], None]) -> None:
        def planned(self: TorchTrainer, *arguments: Any) -> Any:
            if next(count) == last:
                action()
            return step(self, *arguments)

        monkeypatch.setattr(TorchTrainer, "step", planned)

    return plan


@pytest.mark.parametrize("last", [STEPS, 2 * STEPS], ids=["of an epoch", "of the run"])
def test_a_test_that_a_signal_forestalls_is_made_when_the_run_goes_on(
    tmp_path: Path, finished: Finished, at_step: Any, last: int
) -> None:
    at_step(last, lambda: signal.raise_signal(signal.SIGINT))
    assert finished(tmp_path, "--epochs=2", "--quiet")[0] == 130
    left = Store(tmp_path).read("run")
    assert (left.status, left.steps) == ("interrupted", last)
    assert "accuracy" not in left.windows[-1].figures
    assert finished(tmp_path)[0] == 0
    record = Store(tmp_path).read("run")
    assert (record.status, record.steps) == ("complete", 2 * STEPS)
    assert [window.figures["step"] for window in record.windows] == [STEPS, 2 * STEPS]
    there, here = epochs_of(record.windows), epochs_of(uninterrupted(tmp_path / "other", 2).windows)
    assert [epoch.tested for epoch in there] == [100, 100]
    assert [epoch.accuracy for epoch in there] == pytest.approx([epoch.accuracy for epoch in here], abs=0.011)


def test_a_loss_that_is_no_number_ends_the_run_flagged(tmp_path: Path, finished: Finished) -> None:
    status, _, errors = finished(tmp_path, "--epochs=3", "--optimizer=sgd", "--learning-rate=1e30", "--quiet")
    assert status == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("measure:")]
    assert "diverged: the loss is nan in epoch 1, step" in line.replace("inf", "nan")
    record = Store(tmp_path).read("run")
    assert record.status == "failed"
    assert record.flags[-1].startswith("diverged: the loss is")
    assert record.windows
    assert "loss" not in record.windows[-1].figures
    status, _, errors = finished(tmp_path, "--epochs=3", "--optimizer=sgd", "--learning-rate=1e30", "--quiet")
    assert status == 1
    assert "start a new run with a lower learning rate" in errors


def test_a_training_that_raises_is_one_line_and_goes_on(tmp_path: Path, finished: Finished, at_step: Any) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory\nwhile trying to allocate 2 GiB")

    at_step(STEPS + 20, fail)
    status, _, errors = finished(tmp_path, "--epochs=2", "--quiet")
    assert status == 1
    (line,) = errors.strip().splitlines()
    assert f"training failed in epoch 1, step {STEPS + 1}: RuntimeError: out of memory while trying" in line
    left = Store(tmp_path).read("run")
    assert (left.status, left.steps) == ("failed", STEPS)
    assert "out of memory" in left.flags[-1]
    assert finished(tmp_path)[0] == 0, "with no word on epochs it trains the two it was begun with"
    record = Store(tmp_path).read("run")
    assert (record.status, record.steps, record.figures["interruptions"]) == ("complete", 2 * STEPS, 1)


def test_a_full_disk_is_one_line_and_leaves_what_was_written(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) to mount a small disk in a namespace")
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    small = tmp_path / "small"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=400k tmpfs {small}"
    if subprocess.run([*namespace, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount in a namespace")
    command = " ".join([*PROCESS, "--run=run", f"--store={small}", "--epochs=2", "--quiet"])
    fill = f"head -c 150000 /dev/zero > {small}/ballast"  # room for the first checkpoint, not for a second
    script = f"{mount} && {fill} && {command}; status=$?; ls {small}/checkpoints/run; "
    script += f"cp -r {small}/records {tmp_path}/records; exit $status"
    done = subprocess.run(
        [*namespace, "sh", "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "cannot be written (No space left on device); free space and continue this run" in line
    assert set(done.stdout.split()) <= {"lock", f"{STEPS:06d}.state"}, "nothing half written is left"
    record = Store(tmp_path).read("run")
    assert len(record.windows) == int(f"{STEPS:06d}.state" in done.stdout)


def test_two_processes_never_train_one_run(tmp_path: Path, finished: Finished) -> None:
    with started(tmp_path) as first:
        wait_for(lambda: windows_of(tmp_path) >= 1, first)
        status, _, errors = finished(tmp_path, "--epochs=1", "--quiet")
        assert status == 1
        assert errors.strip().splitlines() == [
            "measure: run run is being trained by another process; wait until it ends, or give another --run"
        ]
        status, _, errors = finished(tmp_path, "--epochs=1", run=None)
        assert status == 0, errors
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=120)
    statuses = sorted(record.status for record in Store(tmp_path).records())
    assert statuses == ["complete", "interrupted"]


KERAS = """
import sys
from dataclasses import replace
from pathlib import Path
from joulecast.measure.training.cifar10 import synthetic_images
from joulecast.measure.training.recipe import Recipe
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.records.store import Store
from joulecast.measure.training.training import TrainingPlan, train
assert "torch" not in sys.modules
store, images = Store(Path(sys.argv[1])), synthetic_images(100, 30)  # whole batches: TensorFlow compiles each size
for optimizer in ("adam", "sgd"):
    recipe = Recipe(optimizer, 1e-3, batch_size=20)
    plan = TrainingPlan("alexnet", "tensorflow", recipe, epochs=3, width=0.05, seed=2)
    with select_meter("none") as meter:
        train(plan, images, meter, store, run_id=f"whole-{optimizer}")
        train(replace(plan, epochs=1), images, meter, store, run_id=f"parts-{optimizer}")
        train(plan, images, meter, store, run_id=f"parts-{optimizer}")
assert "torch" not in sys.modules, "training with TensorFlow must not need torch"
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_tensorflow_goes_on_with_the_same_numbers_and_without_torch(tmp_path: Path) -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", KERAS, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for optimizer in ("adam", "sgd"):
        whole, parts = (Store(tmp_path).read(f"{name}-{optimizer}") for name in ("whole", "parts"))
        assert parts.steps == whole.steps == 15
        assert losses_by_epoch(parts) == pytest.approx(losses_by_epoch(whole), rel=1e-4)
        assert "tensorflow" in whole.settings["framework"]
