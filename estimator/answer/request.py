"""A request about a run, which the command line, checks, trainers and Python build."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..base.errors import JoulecastError, RequestError
from ..base.interval import Interval
from ..base.suggest import near
from ..cost.parallel.cluster import EXAMPLES as CLUSTER_EXAMPLES
from ..cost.parallel.cluster import Cluster, parse_cluster
from ..cost.parallel.plan import (
    CHECKPOINTING,
    SETTINGS,
    Plan,
    nearest_divisor,
    parse_plan,
    stated_sizes,
    with_devices,
)
from ..cost.software import SOFTWARE, TRAINING_STACKS
from ..model.adapt import parse_lora
from ..model.inputs import parse_input
from ..model.loss import check_loss
from ..model.presets import DatasetPreset, dataset_preset
from ..model.read_model import TraceOptions
from ..place.budget import End, Limit, parse_limit, verdicts_of_run
from ..place.schedule import Number, Schedule, make_schedule, positive_number, whole_number
from ..place.site import Site
from ..trace.optimizers import optimizer_name
from ..trace.workload import Workload
from .where import read_where

if TYPE_CHECKING:
    from torch import nn

    from ..cost.profile import Profile

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8"}
DEFAULT_BATCH_SIZE = 32
_ASSUMED_DATASET = "cifar10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model and how one step of it is read, how long it trains, on what, where, and within which budgets.

    None means "not given". A request without a `model` is a template: `dataclasses.replace` completes it.

    `model` is the text that `--model` takes, a live `nn.Module`, or a `Workload`. With a text, `inputs` are shapes of
    one sample ("3,224,224"); with a module they are one batch of tensors, which gives the batch size. A workload has
    its inputs, batch size, optimizer and precision; giving others is an error.

    Raises JoulecastError for a value that cannot be used, RequestError for fields that contradict each other. Both
    name the field. Nothing is loaded, traced or downloaded.
    """

    # The model, and how one step of it is read.
    model: str | Path | nn.Module | Workload | None = None
    inputs: Any = None
    model_args: Mapping[str, str] = field(default_factory=dict)
    dataset: str | None = None
    sequence_length: int | None = None
    batch_size: Number | None = None
    train: bool | None = None
    optimizer: str | None = None
    precision: str | None = None
    accumulate: Number | None = None
    clip_gradients: bool = False
    ema: bool = False
    lora: str | None = None
    freeze: str | Sequence[str] = ()
    loss: Callable[..., Any] | str | None = None
    layers: bool = False
    time_limit_s: float = 60.0
    # How long it runs, and on what.
    epochs: Number | None = None
    steps: Number | None = None
    samples: Number | None = None
    tokens: Number | None = None
    val_samples: Number | None = None
    devices: Number | None = None
    hardware: str | Path | Profile | None = None
    cluster: str | None = None
    parallel: str | None = None
    zero: int | None = None
    activation_checkpointing: str | None = None
    global_batch: Number | None = None
    parallel_config: str | Path | None = None
    software: str | None = None
    input_bound: Number | None = None
    overhead: float | None = None
    restart_hours: float | None = None
    idle_hosts: Number | None = None
    storage_w: float | None = None
    # Where it runs.
    region: str | None = None
    regions: str | Sequence[str] = ()
    live: bool = False
    carbon_intensity: float | None = None
    pue: float | None = None
    price: float | None = None
    currency: str = "USD"
    device_hour: float | None = None
    embodied: bool = False
    # What it may take.
    budget: str | Sequence[str] = ()
    budget_at: End = "high"

    def __post_init__(self) -> None:
        if self.optimizer is not None:
            optimizer_name(self.optimizer)
        _check_choice("precision", self.precision, (*PRECISIONS, *PRECISIONS.values()))
        _check_choice("software", self.software, SOFTWARE)
        for name, (meaning, most) in _FIGURES.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 <= value <= most):
                raise JoulecastError(f"`{name}` {value} cannot be used: give {meaning}")
        _ = self.input_per_s, self.spare_nodes
        _check_choice("budget_at", self.budget_at, get_args(End))
        _check_choice("activation_checkpointing", self.activation_checkpointing, CHECKPOINTING)
        _ = self.split_devices, self.plan, self.step_passes
        nothing = Interval.exact(0.0)
        verdicts_of_run(self.limits, self.site, seconds=nothing, energy_kwh=nothing)
        if self.loss is not None and self.train is False:
            raise RequestError("`loss` has no use without training: leave it out")
        if self.model is not None:
            self._check_model()
            self.schedule()

    # -- the parts, each read from the fields ------------------------------------------------------

    @property
    def name(self) -> str:
        """The model as it was given: its text, or the name of the module or workload."""
        if isinstance(self.model, str | Path):
            return str(self.model)
        return self.model.name if isinstance(self.model, Workload) else type(self.model).__name__

    @property
    def split_devices(self) -> Cluster | None:
        """The devices that share the model; None where each device trains all of it."""
        if self.cluster is None:
            asked = [name for name in _SPLITS if getattr(self, name) is not None]
            if self.activation_checkpointing != "selective":  # the others are read from the model itself
                asked = [name for name in asked if name != "activation_checkpointing"]
            if asked:
                raise RequestError(f"`{asked[0]}` needs `cluster`: give the devices, as in {CLUSTER_EXAMPLES}")
            return None
        cluster = parse_cluster(self.cluster)
        if self.devices is not None and float(self.devices) != cluster.devices:
            raise RequestError(
                f"`devices` {self.devices} and `cluster` {self.cluster} of {cluster.devices} devices contradict: "
                "leave out `devices`"
            )
        return cluster

    @property
    def device_count(self) -> Number:
        cluster = self.split_devices
        return cluster.devices if cluster else _given(self.devices, 1)

    @property
    def base_plan(self) -> Plan:
        """What every split has: the ZeRO stage, the checkpointing, and what `parallel` states in addition to sizes."""
        plan = Plan(zero=self.zero or 0, checkpointing=self.activation_checkpointing or "none")
        return parse_plan(self.parallel, plan) if self.parallel is not None and self._sizes_open else plan

    @property
    def _sizes_open(self) -> bool:
        """Whether `parallel` leaves all sizes to the search, as "eo=1" does."""
        return stated_sizes(self.parallel) <= SETTINGS

    @property
    def plan(self) -> Plan | None:
        """The split that was asked for, its data parallel size filled in; None: joulecast chooses one."""
        if self.parallel is None or self._sizes_open:
            return None
        plan, cluster = parse_plan(self.parallel, self.base_plan), self.split_devices
        return with_devices(plan, cluster.devices) if cluster and "dp" not in stated_sizes(self.parallel) else plan

    @property
    def step_passes(self) -> int | None:
        """Micro-batches of one step on all devices, from the global batch; None where it is not given."""
        if self.global_batch is None:
            return None
        whole, micro = whole_number("global_batch", self.global_batch), _given(self.batch_size, self.default_batch)
        if self.accumulate is not None:
            raise RequestError("`global_batch` and `accumulate` contradict: give one of them")
        if self.cluster is None:
            raise RequestError(f"`global_batch` needs `cluster`: give the devices, as in {CLUSTER_EXAMPLES}")
        size = whole_number("batch_size", micro)
        if whole % size:
            raise RequestError(
                f"`global_batch` {whole} is not divisible by `batch_size` {size}; use {nearest_divisor(whole, size)}"
            )
        return whole // size

    @property
    def input_per_s(self) -> float | None:
        """Samples that a node can load in a second; None where that is not the limit."""
        if self.input_bound is None:
            return None
        return positive_number("input_bound", self.input_bound)

    @property
    def spare_nodes(self) -> int:
        """Nodes of the cluster that are kept ready for failures and train nothing."""
        if self.idle_hosts is None or float(self.idle_hosts) == 0:
            return 0
        if float(self.idle_hosts) < 0:
            raise JoulecastError(f"`idle_hosts` {self.idle_hosts} cannot be used: give the number of nodes, 0 or more")
        return whole_number("idle_hosts", self.idle_hosts)

    @property
    def limits(self) -> tuple[Limit, ...]:
        return tuple(parse_limit(text) for text in _texts("budget", self.budget))

    @property
    def site(self) -> Site:
        """Where it runs, with the yearly carbon intensity; `where` looks up that of this hour."""
        return read_where(self, live=False).site

    @property
    def hardware_key(self) -> object:
        """Equal for requests about the same hardware."""
        own = self.hardware if self.hardware is None or isinstance(self.hardware, str | Path) else id(self.hardware)
        return self.cluster if own is None else own

    @property
    def trace_key(self) -> object:
        """Equal for requests that read the same step of the same model."""
        own = str(self.model) if isinstance(self.model, str | Path) else id(self.model)
        return own, repr(self.trace_options)

    @property
    def place_key(self) -> tuple[object, ...]:
        """Equal for requests about the same place."""
        regions = self.regions if isinstance(self.regions, str) else tuple(self.regions)
        figures = (self.carbon_intensity, self.pue, self.price, self.currency, self.device_hour)
        return (self.region, regions, self.live, *figures)

    @property
    def preset(self) -> DatasetPreset | None:
        return None if self.dataset is None else dataset_preset(self.dataset)

    @property
    def assumed_preset(self) -> DatasetPreset | None:
        """CIFAR-10 where epochs are given without the size of the training set; the answer has a note then."""
        unknown = self.epochs is not None and self.samples is None and self.dataset is None
        return dataset_preset(_ASSUMED_DATASET) if unknown else None

    @property
    def trace_options(self) -> TraceOptions:
        """How a model that is given as text is read."""
        return TraceOptions(
            args=self.model_args,
            specs=tuple(parse_input(text) for text in _texts("inputs", self.inputs)),
            preset=self.preset,
            sequence_length=self.sequence_length,
            batch_size=whole_number("batch_size", _given(self.batch_size, self.default_batch)),
            own_batch=self.batch_size is None and self.cluster is None and self.global_batch is None,
            train=_given(self.train, True),
            optimizer=_given(self.optimizer, self.default_optimizer),
            own_optimizer=self.optimizer is None,
            loss=None if self.loss is None else check_loss(str(self.loss)),
            precision=self.precision,
            half_weights=self._has_half_weights,
            accumulate=self.passes,
            layers=self.layers,
            time_limit_s=self.time_limit_s,
            lora=None if self.lora is None else parse_lora(self.lora),
            freeze=tuple(_texts("freeze", self.freeze)),
            checkpointing=self.cluster is None and self.activation_checkpointing not in (None, "none"),
            clip_gradients=self.clip_gradients,
            ema=self.ema,
        )

    @property
    def default_batch(self) -> int:
        """Samples of a pass where none are given: one sequence on several devices where the run is given in tokens."""
        return 1 if self._reads_tokens_on_several else DEFAULT_BATCH_SIZE

    @property
    def default_optimizer(self) -> str:
        """The optimizer where none is given: AdamW on several devices where the run is given in tokens."""
        return "adamw" if self._reads_tokens_on_several else "sgd"

    @property
    def _reads_tokens_on_several(self) -> bool:
        several = self.cluster is not None or _given(self.devices, 1) not in (1, 1.0, "1")
        return several and self.tokens is not None

    @property
    def _has_half_weights(self) -> bool:
        """Whether the software keeps the weights in 16 bits: training stacks, which language models on a cluster have.

        Autocast keeps them in 32: residual sums and experts then run in 32 bits too.
        """
        reads_sequences = self.tokens is not None or self.sequence_length is not None
        stack = reads_sequences if self.software is None else self.software in TRAINING_STACKS
        return self.cluster is not None and stack

    @property
    def passes(self) -> int:
        """Passes over a batch for each optimizer step."""
        return whole_number("accumulate", _given(self.accumulate, 1))

    def schedule(self, work: Workload | None = None) -> Schedule:
        """How long `work`, read from the model, runs; without it, any model. Raises JoulecastError where unknown."""
        preset = self.preset or self.assumed_preset
        own = work.samples_per_epoch if work and self.dataset is None else None
        return make_schedule(
            batch_size=self._batch_size(work),
            epochs=self.epochs,
            steps=self.steps,
            samples=self.samples,
            tokens=self.tokens,
            val_samples=self.val_samples,
            dataset_samples=own or (preset.train_samples if preset else None),
            tokens_per_sample=work.tokens_per_sample if work else 2,  # 2 stands for a sequence of any length
            accumulation=self.passes,
            devices=self.device_count,
            global_batch=None if self.global_batch is None else whole_number("global_batch", self.global_batch),
        )

    def _batch_size(self, work: Workload | None) -> Number:
        """Samples of one pass on one device: as given, otherwise those of the step that was read."""
        if self.batch_size is not None:
            return self.batch_size
        if work is None:
            return self.default_batch
        return work.batch_size // self.passes

    # -- which fields go together -----------------------------------------------------------------

    def _check_model(self) -> None:
        if isinstance(self.model, str | Path):
            if callable(self.loss):
                raise RequestError(
                    "`loss` is a function: give its name, package.module:function, for a model given as text"
                )
            _ = self.trace_options
        elif isinstance(self.model, Workload):
            self._check_unused("a Workload", *_FIXED_BY_WORKLOAD)
            self._check_same("train", self.model.train)
            self._check_same("optimizer", self.model.optimizer)
            self._check_same("batch_size", self.model.batch_size)
            self._check_same("precision", self.model.precision)
        elif _is_module(self.model):
            self._check_unused("a module", "model_args", "sequence_length", "lora")
            if self.freeze:
                raise RequestError("`freeze` has no use with a module: set requires_grad on its parameters")
            if isinstance(self.loss, str):
                raise RequestError(f"`loss` {self.loss!r} is a text: give the function itself for a module")
            if self.inputs is None:
                raise RequestError("`inputs` missing: give one batch of tensors for the module, batch dimension first")
            if _is_texts(self.inputs):
                raise RequestError(f"`inputs` {self.inputs!r} is a shape: give one batch of tensors for the module")
        else:
            raise JoulecastError(
                f'`model` is a {type(self.model).__name__}: give a torch.nn.Module, a Workload or a text ("net.py:Net")'
            )

    def _check_unused(self, what: str, *names: str) -> None:
        for name in names:
            if (value := getattr(self, name)) is not None and value != {}:
                raise RequestError(f"`{name}` has no use with {what}: leave it out")

    def _check_same(self, name: str, own: object) -> None:
        value = getattr(self, name)
        known = optimizer_name(value) if name == "optimizer" and value else PRECISIONS.get(str(value), value)
        if value is not None and known != own:
            raise RequestError(f"`{name}` {value} and the workload's {own} contradict: leave out `{name}`")


_SPLITS = ("parallel", "zero", "activation_checkpointing", "overhead", "restart_hours", "idle_hosts", "storage_w")
_FIGURES = {
    "device_hour": ("the rent of a device an hour", math.inf),
    "overhead": ("a share of the steps from 0 to 1; 0.1 is 10 %", 1.0),
    "restart_hours": ("the hours that an interruption costs, 0 or more", math.inf),
    "storage_w": ("the watts of storage, 0 or more", math.inf),
}
"""What each is, and the most that it can be."""
# What a Workload was read with; its values cannot change.
_FIXED_BY_WORKLOAD = ("inputs", "model_args", "sequence_length", "accumulate", "loss")


def _given(value: Any, default: Any) -> Any:
    return default if value is None else value


def _check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise JoulecastError(f"`{name}` {value!r} is not one of {', '.join(choices)}{near(str(value), choices)}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, Sequence) and bool(value) and all(isinstance(item, str) for item in value)
    )


def _texts(name: str, value: Any) -> tuple[str, ...]:
    """One text or several; JoulecastError for anything else."""
    if value is None or (isinstance(value, Sequence) and not value):
        return ()
    if not _is_texts(value):
        raise JoulecastError(f"`{name}` is a {type(value).__name__}: give a text or a list of texts")
    return (value,) if isinstance(value, str) else tuple(value)


def _is_module(value: Any) -> bool:
    """Without importing torch: a module exists only where torch has been imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
