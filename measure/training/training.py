"""Training under a meter: from a plan and images to a record, however the run ends.

A run is a sequence of stretches of steps and of tests. After each stretch the trainer's state and then the record are
written, each whole or not at all, and the record names its state. A run that is killed loses the stretch or the test in
progress. It continues from the record, in another process, with the same images.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...estimator.base.errors import JoulecastError
from ...estimator.sandbox.user_code import one_line
from ...estimator.trace.workload import Workload
from ..meters.contamination import SystemCounters, disturbances
from ..meters.meter import Meter
from ..meters.replay import read_trace
from ..records.records import MODELLED_FLAG, Record, describe_host, describe_meter, hardware_name, now_utc, same_machine
from ..records.store import Store
from ..signals import StopSignals
from .checkpoint import Checkpoints
from .cifar10 import Images
from .errors import TrainingError
from .progress import Silent, TrainingListener
from .recipe import Recipe
from .stretches import Position, Stretches, joined_traces
from .trainer import Trainer, make_trainer

SYNTHETIC_FLAG = "synthetic images: times are real, accuracy has no meaning"
DIVERGED = "diverged"


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What to train, how, and when to stop.

    The run ends after `epochs`, or when the whole test set is classified with `target` accuracy (a share). It is tested
    after every epoch. With `evaluate_every` it is also tested after that many steps of an epoch, on `evaluate_images`
    test images drawn once, and on all of them when those reach the target. A checkpoint is written with every test and
    at least every `checkpoint_s`.
    """

    network: str
    framework: str
    recipe: Recipe
    epochs: int
    width: float = 1.0
    seed: int = 0
    device: str = "auto"
    target: float | None = None
    evaluate_every: int | None = None
    evaluate_images: int = 2000
    checkpoint_s: float = 300.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise TrainingError(f"`epochs` is {self.epochs}, which trains nothing; give 1 or more")
        if self.target is not None and not 0 < self.target <= 1:
            raise TrainingError(f"target accuracy {self.target:.0%} cannot be reached; give 1 to 100 %")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise TrainingError(f"`evaluate_every` is {self.evaluate_every} steps, which is never; give 1 or more")

    @property
    def identity(self) -> dict[str, Any]:
        """What must be unchanged when a run continues."""
        parts = ("network", "framework", "recipe", "width", "seed")
        return {name: value for name, value in asdict(self).items() if name in parts}


def train(
    plan: TrainingPlan,
    images: Images,
    meter: Meter,
    store: Store,
    *,
    run_id: str | None = None,
    progress: TrainingListener | None = None,
) -> Record:
    """Trains as planned and returns the record, which is in the store from the first stretch on.

    With the id of an earlier run it continues that run; a finished one is returned unchanged. SIGINT and SIGTERM (in
    the main thread) end the run after the step in progress; the record then has the status "interrupted". Raises
    TrainingError, and keeps and flags the record, when the loss is not finite, when a step fails, and when a checkpoint
    cannot be written.
    """
    run_id = run_id or store.new_id(f"{plan.network}-{plan.framework}")
    checkpoints = Checkpoints(store.folder / "checkpoints" / run_id)
    with checkpoints.lock():
        before = earlier_run(store, run_id)
        if before is not None:
            _check_same(before, plan, images, meter)
        stretches = Stretches(plan, images)
        if before is not None and stretches.finished(before.windows):
            return before if before.status == "complete" else _written(store, replace(before, status="complete"))
        trainer = make_trainer(
            plan.network, plan.framework, plan.recipe, width=plan.width, seed=plan.seed, device=plan.device
        )
        if before is None:
            record = _new_record(run_id, plan, images, meter, trainer)
        else:
            record = _continued(before, plan, _host(trainer))
            if name := record.settings["checkpoint"]:
                trainer.restore(checkpoints.read(str(name)))
        run = _Run(record, stretches, trainer, meter, store, checkpoints)
        with progress or Silent() as shown, StopSignals() as stop:
            return run.go(shown, stop)


class _Run:
    """The part of a run that one process trains."""

    def __init__(
        self,
        record: Record,
        stretches: Stretches,
        trainer: Trainer,
        meter: Meter,
        store: Store,
        checkpoints: Checkpoints,
    ) -> None:
        self.record = record
        self._stretches, self._trainer, self._meter = stretches, trainer, meter
        self._store, self._checkpoints = store, checkpoints
        path = store.trace_path(record)
        self._earlier_trace = None if path is None else read_trace(path)
        self._whole = meter.open(trace=True)

    def go(self, progress: TrainingListener, stop: StopSignals) -> Record:
        self._write()
        self._checkpoints.keep_only(self.record.settings["checkpoint"])
        try:
            while not self._stretches.finished(self.record.windows) and stop.received is None:
                if self._stretches.owes_test(self.record.windows):
                    self._test()
                else:
                    self._stretch(progress, stop)
                if not self._stretches.owes_test(self.record.windows):
                    progress.milestone(self._stretches.snapshot(self.record.windows))
        except KeyboardInterrupt:
            self._end("interrupted", "interrupted in the middle of a step")
            raise
        except JoulecastError as error:
            self._end_badly(str(error))
            raise
        except Exception as error:  # the record must be finished, whatever the framework raises
            where = self._position
            line = f"training failed in epoch {where.epoch}, step {where.step + 1}: " + one_line(
                f"{type(error).__name__}: {error}"
            )
            self._end_badly(line)
            raise TrainingError(f"{line}; run {self.record.id} can continue from step {where.step}") from error
        finally:
            self._whole.close()
        if stop.received is not None and not self._stretches.finished(self.record.windows):
            return self._end("interrupted", f"interrupted by {stop.received} after step {self._position.step}")
        return self._end("complete", None)

    @property
    def _position(self) -> Position:
        return self._stretches.position(self.record.windows)

    def _stretch(self, progress: TrainingListener, stop: StopSignals) -> None:
        """Trains up to the next test, checkpoint or signal, then writes everything to disk."""
        counters = SystemCounters()
        conditions = counters.read()
        done = self._stretches.train(self._trainer, self._meter, self.record.windows, progress, stop)
        flags = disturbances(conditions, counters.read())
        if not math.isfinite(done.last_loss):
            self.record = replace(self.record, windows=(*self.record.windows, done.window(flags)))
            where = self._position
            raise TrainingError(
                f"{DIVERGED}: the loss is {done.last_loss} in epoch {where.epoch}, step {where.step};"
                f" start a new run with a lower learning rate than {done.learning_rate:g}"
            )
        windows = (*self.record.windows, done.window(flags))
        name = self._checkpoints.write(self._stretches.position(windows).step, self._trainer.state())
        settings = {**self.record.settings, "checkpoint": name}
        self.record = replace(self.record, windows=windows, settings=settings)
        self._write()
        self._checkpoints.keep_only(name)

    def _test(self) -> None:
        """The test after the latest step; its figures go to the latest window."""
        *before, last = self.record.windows
        tested = self._stretches.test(self._trainer, self._meter, self._position.step)
        last = replace(last, figures={**last.figures, **tested.figures()})
        self.record = replace(self.record, windows=(*before, last))
        self._write()

    def _end(self, status: str, flag: str | None) -> Record:
        self.record = _ended(self.record, status, flag)
        return self._write()

    def _end_badly(self, line: str) -> None:
        with contextlib.suppress(JoulecastError):  # a full disk: the earlier record remains
            self._end("failed", line)

    def _write(self) -> Record:
        if self.record.label == "modelled" and MODELLED_FLAG not in self.record.flags:
            self.record = replace(self.record, flags=(*self.record.flags, MODELLED_FLAG))
        trace = joined_traces(self._earlier_trace, self._whole.trace())
        self._store.write(self.record, trace)
        return self.record


# -- records -------------------------------------------------------------------------------------


def _written(store: Store, record: Record) -> Record:
    store.write(record)
    return record


def earlier_run(store: Store, run_id: str) -> Record | None:
    """The record of that run, None if it has not started."""
    return store.read(run_id) if (store.records_folder / f"{run_id}.json").is_file() else None


def _new_record(run_id: str, plan: TrainingPlan, images: Images, meter: Meter, trainer: Trainer) -> Record:
    settings = {
        "plan": asdict(plan),
        "recipe": str(plan.recipe),
        "images": _described(images),
        "framework": trainer.framework,
        "device": trainer.device,
        "checkpoint": None,
    }
    return Record(
        id=run_id,
        kind="training",
        name=plan.network if plan.width == 1 else f"{plan.network} x{plan.width:g}",
        created=now_utc(),
        status="running",
        host=_host(trainer),
        windows=(),
        run=run_id,
        family=plan.network,
        meter=describe_meter(meter),
        settings=settings,
        workload=_workload(plan),
        figures={"interruptions": 0},
        flags=(SYNTHETIC_FLAG,) if images.synthetic else (),
    )


def _host(trainer: Trainer) -> dict[str, Any]:
    return describe_host(trainer.threads, "cpu" if trainer.device == "cpu" else "gpu")


def _described(images: Images) -> dict[str, Any]:
    return {
        "source": images.source,
        "synthetic": images.synthetic,
        "train": len(images.train_labels),
        "test": len(images.test_labels),
    }


def _workload(plan: TrainingPlan) -> Workload | None:
    """One step as the cost model sees it; None for TensorFlow, whose process does not import torch."""
    if plan.framework != "pytorch":
        return None
    import torch

    from ...estimator.trace.trace import trace
    from .trainer_torch import build_network

    inputs = torch.zeros(plan.recipe.batch_size, 3, 32, 32)
    optimizer = {"sgd": "momentum", "adam": "adamw"}[plan.recipe.optimizer]
    return trace(build_network(plan.network, plan.width, plan.seed), inputs, train=True, optimizer=optimizer)


def _check_same(record: Record, plan: TrainingPlan, images: Images, meter: Meter) -> None:
    """A run continues only with the same settings. Raises TrainingError, naming what differs."""
    if any(flag.startswith(DIVERGED) for flag in record.flags):
        raise TrainingError(f"run {record.id} {record.flags[-1]}")
    if record.kind != "training":
        raise TrainingError(f"record {record.id} is a {record.kind}, not a training; start a new run")
    old, new = dict(record.settings["plan"]), plan.identity
    old_images, new_images = record.settings["images"], _described(images)
    pairs = [(name, old[name], new[name]) for name in new]
    pairs += [(f"images {name}", old_images[name], new_images[name]) for name in ("synthetic", "train", "test")]
    pairs.append(("meter", record.meter.get("name"), meter.name))
    old_domains = ", ".join(domain["name"] for domain in record.meter.get("domains", ()))
    pairs.append(("metered domains", old_domains, ", ".join(domain.name for domain in meter.domains)))
    for name, was, now in pairs:
        if was != now:
            raise TrainingError(
                f"run {record.id} has {name} {_short(was, now)}, now {_short(now, was)}; start a new run"
            )


def _short(value: Any, other: Any) -> str:
    """A value as text; of two mappings, only what differs."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return ", ".join(f"{key} {value[key]}" for key in value if value[key] != other.get(key))
    return str(value)


def _continued(record: Record, plan: TrainingPlan, host: Mapping[str, Any]) -> Record:
    if record.status == "running":  # it was killed and could not write its end
        step = int(record.windows[-1].figures["step"]) if record.windows else 0
        record = _ended(record, "interrupted", f"killed after step {step}")
    if not same_machine(record.host, host):
        flag = f"started on {hardware_name(record.host)}, continued on {hardware_name(host)}"
        record = replace(record, flags=tuple(dict.fromkeys((*record.flags, flag))))
    return replace(record, status="running", settings={**record.settings, "plan": asdict(plan)})


def _ended(record: Record, status: str, flag: str | None) -> Record:
    if flag is None:
        return replace(record, status=status)
    figures = {**record.figures, "interruptions": record.figures["interruptions"] + 1}
    return replace(record, status=status, figures=figures, flags=(*record.flags, flag))
