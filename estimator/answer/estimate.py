"""From requests to answers: read the model, predict, apply the site, compare with budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.digits import counted
from ..base.errors import RequestError
from ..base.notes import Note, Topic, Weight
from ..cost.estimate import Estimate
from ..cost.library import load_profile
from ..cost.parallel.predict import Split
from ..cost.profile import Profile
from ..model.reader import ReadRequest, free_reader
from ..place.budget import BudgetVerdict, End, epochs_that_fit, regions_that_fit, verdicts_of_run
from ..place.footprint import Embodied, Rent, embodied_kg, list_price
from ..place.regions import compare_regions
from ..place.schedule import Number, Schedule
from ..place.site import load_regions
from ..trace.fp8 import FP8
from ..trace.workload import Workload
from .answer import Answer
from .forecast import forecast
from .on_cluster import board_profile, needed_cluster, predict_on_cluster
from .parallel_config import config_notes, with_config
from .request import Request
from .where import Where, read_where

if TYPE_CHECKING:
    from torch import nn

_COMPILED = "compiled"


def estimate(
    model: str | Path | nn.Module | Workload,
    inputs: Any = None,
    *,
    epochs: Number | None = None,
    steps: Number | None = None,
    samples: Number | None = None,
    tokens: Number | None = None,
    val_samples: Number | None = None,
    batch_size: Number | None = None,
    devices: Number | None = None,
    hardware: str | Path | Profile | None = None,
    cluster: str | None = None,
    parallel: str | None = None,
    zero: int | None = None,
    activation_checkpointing: str | None = None,
    global_batch: Number | None = None,
    parallel_config: str | Path | None = None,
    software: str | None = None,
    input_bound: Number | None = None,
    overhead: float | None = None,
    restart_hours: float | None = None,
    idle_hosts: Number | None = None,
    storage_w: float | None = None,
    region: str | None = None,
    regions: str | Sequence[str] = (),
    live: bool = False,
    carbon_intensity: float | None = None,
    pue: float | None = None,
    price: float | None = None,
    currency: str = "USD",
    device_hour: float | None = None,
    embodied: bool = False,
    budget: str | Sequence[str] = (),
    budget_at: End = "high",
    train: bool | None = None,
    optimizer: str | None = None,
    precision: str | None = None,
    accumulate: Number | None = None,
    clip_gradients: bool = False,
    ema: bool = False,
    lora: str | None = None,
    freeze: str | Sequence[str] = (),
    loss: Callable[..., Any] | str | None = None,
    dataset: str | None = None,
    sequence_length: int | None = None,
    model_args: Mapping[str, str] | None = None,
    layers: bool = True,
    time_limit_s: float = 60.0,
) -> Answer:
    """What a training run will cost, before its first step: energy, CO2e, time and money, and how budgets compare.

    >>> answer = jc.estimate(model, torch.zeros(32, 3, 32, 32), epochs=100, samples=50_000,
    ...                      hardware="rtx-4090", region="FR", budget="2 kWh")
    >>> answer.co2e_kg.value, answer.exceeded, answer.to_frame()

    Every option is that of the command `estimate`, as a field: `--val-samples` is `val_samples`.

    Parameters
    ----------
    model:
        A `torch.nn.Module`, a `Workload`, or the text that `--model` takes ("net.py:Net").
    inputs:
        For a module: one batch of tensors (a tensor, a tuple or a dict), batch dimension first. For a text: shapes of
        one sample, "3,224,224" or a list of such texts.
    epochs, steps, samples, tokens:
        The length of the run: one of `epochs`, `steps` and `tokens`; `samples` is the size of the training set.
    val_samples:
        Samples of the validation after each epoch.
    batch_size:
        Samples per pass and device. For a text, 32 by default; a module's inputs give it.
    devices:
        Accelerators that train together, data parallel. Their communication is not modelled; `cluster` models it.
    hardware:
        Hardware, a profile's name or file, or a `Profile`. None: this machine.
    cluster, parallel, zero, activation_checkpointing:
        Devices that share the model: "64x8xh100-sxm:400gb-ib" (64 nodes of 8 H100 with 400 Gbit/s of network a device)
        or a name of `datasets/clusters.csv`; the split ("dp=8,tp=4,pp=2", by default the fastest that fits); the ZeRO
        stage (3 is FSDP); "full" or "selective" recomputation of activations. What is not given is chosen.
    global_batch:
        Samples of one optimizer step on all devices of a cluster, instead of `accumulate`.
    parallel_config:
        A file that states the split and the batch: a DeepSpeed JSON, an Accelerate YAML, a TrainingArguments JSON, a
        torchtitan TOML or a file of Megatron-LM arguments.
    software:
        What runs the network: "eager" PyTorch, "channels-last", "compiled", "fused" (stacks for language models with
        flash attention: llm-foundry, torchtitan), "megatron" (Megatron-LM without flash attention), "megatron-core"
        (with Transformer Engine: NeMo), "ngc" (NVIDIA's containers), "vendor-tuned" (MLPerf) or "tensorflow". None: not
        known; the interval is wider.
    input_bound:
        Samples that one node can load in a second: a faster step waits for its data. Without a cluster, the node of all
        `devices`.
    overhead:
        What a run on a cluster adds to its steps, as a share of them: 0.1 is 10 %. By default what published runs of
        more than a day added: up to 53 % on training stacks where `parallel` states no tp and pp, otherwise 11 %.
    restart_hours:
        Hours that an interruption of a run on a cluster costs: the work since the last checkpoint, and the restart.
        0.31 by default; 0 leaves interruptions out.
    idle_hosts, storage_w:
        Nodes of a cluster that are kept ready for failures, and the watts of storage and other shared machines.
    region, regions, live, carbon_intensity, pue, price, currency:
        Where it runs: a region ("FR"), others to compare with it, this hour's carbon intensity, or figures of your own.
    device_hour, embodied:
        The rent of one device for an hour, in `currency`: budgets in money then compare with the bill. `embodied` adds
        the footprint of making the hardware, which is never part of `co2e_kg`.
    budget, budget_at:
        One budget or several ("2 kWh", "5 kgCO2e", "10 h", "3 USD"), compared with the interval's upper end ("high")
        or the "expected" value.
    train, optimizer, precision, accumulate, loss:
        How a step runs; see `trace`. `train=False` is inference. For a text, `loss` is the name of a function,
        "package.module:function", and the default optimizer is that of a training that the file starts or of
        `configure_optimizers`, otherwise "sgd".
    clip_gradients, ema:
        Gradients are clipped by their norm; a moving average of the parameters is kept.
    lora, freeze:
        For a text: adapters through PEFT ("r=16,targets=q_proj+v_proj"), and patterns of parameters that are not
        trained ("encoder.*").
    dataset, sequence_length, model_args:
        A dataset's shape and size ("cifar10"); for a text, the length of a language model's input, and arguments of
        the model.
    layers:
        False leaves out the pass over one sample that checks the FLOPs of each layer.
    time_limit_s:
        Seconds that the code of a model given as text may take.

    Raises
    ------
    JoulecastError
        A value that cannot be used, or fields that contradict each other (RequestError).
    ModelError
        The model's own code failed.
    """
    given = dict(locals())
    return answer(Request(**{**given, "model_args": model_args or {}}))


def answer(request: Request) -> Answer:
    """The answer to one request."""
    return answers([request])[0]


def answers(requests: Sequence[Request]) -> list[Answer]:
    """One answer per request, in order.

    Profiles and places are looked up before any model is traced, so that their errors come first. Whatever requests
    share is looked up once.
    """
    notes = [config_notes(request) for request in requests]
    requests = [with_config(request) for request in requests]
    if any(isinstance(request.model, str | Path) for request in requests):
        with free_reader() as reader:
            reader.start()  # takes seconds: meanwhile the rest is looked up
    profiles: dict[Any, Profile] = {}
    places: dict[Any, Where] = {}
    for request in requests:
        if request.hardware_key not in profiles:
            profiles[request.hardware_key] = find_profile(request)
        if request.place_key not in places:
            places[request.place_key] = read_where(request)
    found = [
        priced(request, read(request), profiles[request.hardware_key], where=places[request.place_key])
        for request in requests
    ]
    return [answer.noting(own) for answer, own in zip(found, notes, strict=True)]


def find_profile(request: Request) -> Profile:
    """The profile of the request's hardware. Raises JoulecastError for unknown hardware."""
    cluster = request.split_devices
    if request.hardware is None and cluster is not None:
        return load_profile(cluster.hardware)
    return request.hardware if isinstance(request.hardware, Profile) else load_profile(request.hardware)


def read(request: Request) -> Workload:
    """One step of the request's model. Raises what `load_model` and `trace` raise."""
    model = request.model
    if isinstance(model, Workload):
        return model
    if isinstance(model, str | Path):
        with free_reader() as reader:
            return reader.read(ReadRequest(str(model), request.trace_options)).work
    if model is None:
        raise RequestError("`model` missing: give a torch.nn.Module, a Workload or a text")
    return _traced(model, request)


def priced(
    request: Request, work: Workload, profile: Profile, *, where: Where | None = None, schedule: Schedule | None = None
) -> Answer:
    """What `work`, read from the request's model, costs on the profile's hardware.

    `where` is the request's own place by default, `schedule` its own length. Nothing is traced.
    """
    where, schedule = where or read_where(request), schedule or request.schedule(work)
    if work.precision == FP8 and not profile.runs_fp8:
        raise RequestError(
            f"`precision` fp8: {profile.hardware} has no FP8 units (NVIDIA has them since Hopper and Ada, AMD since "
            "MI300): use bf16"
        )
    needed = needed_cluster(request, work, profile, schedule)
    if needed is None:
        return _priced(request, work, profile, where, schedule)
    try:
        shared = _priced(replace(request, cluster=needed, devices=None), work, profile, where, schedule)
    except RequestError as error:
        note = f"as {needed}: {error}"
        return _priced(request, work, profile, where, schedule).noting((Note(note, Topic.SCHEDULE, Weight.ACT),))
    note = (
        f"one device cannot hold this training: {needed} is assumed for the {schedule.devices:,} devices, with a "
        "split; `cluster` states others"
    )
    return shared.noting((Note(note, Topic.SCHEDULE, Weight.ACT),))


def _priced(request: Request, work: Workload, profile: Profile, where: Where, schedule: Schedule) -> Answer:
    """The same for the request as it is: on its cluster, or with the whole model on each device."""
    profile, notes = _with_software(request, work, profile)
    estimate, split = _predicted(request, work, profile, schedule)
    warnings = (*estimate.warnings, *notes, *_assumptions(request, work), *where.notes_on(estimate.seconds))
    estimate = replace(estimate, warnings=warnings)
    answer = Answer(request.name, work, profile, schedule, estimate, where.site, split=split, rent=_rent(request))
    if request.embodied:
        answer = replace(answer, embodied=_embodied(answer))
    return _compared(answer, request, where)


def _with_software(request: Request, work: Workload, profile: Profile) -> tuple[Profile, tuple[Note, ...]]:
    """The profile under the request's software, or under what the model's own code states, with a note on that."""
    if request.split_devices is not None:
        return board_profile(profile, work, request.software).for_software(request.software), ()
    if request.software is not None or not work.compiled:
        return profile.for_software(request.software), ()
    note = Note(f"the model runs through torch.compile: costed as `software` {_COMPILED}", Topic.SCHEDULE)
    return profile.for_software(_COMPILED), (note,)


def _predicted(request: Request, work: Workload, profile: Profile, schedule: Schedule) -> tuple[Estimate, Split | None]:
    """Time and energy of the run; on a cluster also how its devices share the model."""
    cluster, data_s = request.split_devices, 0.0
    if request.input_per_s is not None:
        data_s = schedule.samples_per_step / (request.input_per_s * (cluster.nodes if cluster else 1))
    if cluster is None:
        return forecast(profile, work, schedule, data_s=data_s), None
    return predict_on_cluster(request, cluster, work, profile, schedule, data_s)


def _compared(answer: Answer, request: Request, where: Where) -> Answer:
    """The answer with the verdicts of the request's budgets and the regions to compare."""
    verdicts = verdicts_of_run(
        request.limits,
        where.site,
        seconds=answer.seconds,
        energy_kwh=answer.machine_kwh,
        at=request.budget_at,
        rent=answer.bill if answer.rent and answer.rent.given else None,
    )
    return replace(
        answer,
        verdicts=verdicts,
        fits=tuple(line for verdict in verdicts if verdict.exceeded for line in _what_fits(answer, verdict)),
        places=compare_regions(answer.facility_energy_kwh, where.regions, request.limits, request.budget_at),
    )


def _rent(request: Request) -> Rent | None:
    """As given; on a cluster without it the list price of its hardware, in USD."""
    if request.device_hour is not None:
        return Rent(request.device_hour, request.currency, "given", given=True)
    cluster = request.split_devices
    return list_price(cluster.hardware) if cluster and request.currency == "USD" else None


def _embodied(answer: Answer) -> Embodied:
    cluster = answer.split.cluster if answer.split else None
    hardware = cluster.hardware if cluster else answer.profile.name
    return embodied_kg(hardware, answer.seconds, answer.estimate.devices, cluster.nodes if cluster else 0)


def _assumptions(request: Request, work: Workload) -> list[Note]:
    notes, preset = [], request.assumed_preset
    if preset is not None and (own := work.samples_per_epoch):
        text = f"an epoch has {own:,} samples, as the training's own data; `samples` states another number"
        notes.append(Note(text, Topic.SCHEDULE))
    elif preset is not None:
        text = (
            f"the size of the training set is not given: an epoch has {preset.name}'s {preset.train_samples:,} "
            "samples; `samples` states yours"
        )
        notes.append(Note(text, Topic.SCHEDULE, Weight.ACT))
    read_here = request.train is not False and not isinstance(request.model, Workload)
    if read_here and request.batch_size is None and request.default_batch == work.batch_size // request.passes == 1:
        text = "the batch is not given: one sequence for each device and pass (`batch_size`)"
        notes.append(Note(text, Topic.SCHEDULE, Weight.ACT))
    assumed = request.default_optimizer
    if read_here and request.optimizer is None and work.optimizer == assumed != "sgd":
        text = f"the optimizer is not given: {assumed} is assumed (`optimizer`)"
        notes.append(Note(text, Topic.SCHEDULE, Weight.ACT))
    return notes


def _what_fits(answer: Answer, verdict: BudgetVerdict) -> list[str]:
    """What would stay within the budget of `verdict`: a shorter run, or other regions."""
    text, length, unit = verdict.limit.text, answer.schedule.epochs, "epoch"
    if length is None:
        length, unit = float(answer.schedule.steps), "step"
    lines = [f"{text}: {counted(epochs_that_fit(verdict, length), unit)} would fit"]
    own = answer.site.region
    basis = "life cycle" if own is None else own.basis
    if regions := regions_that_fit(verdict, answer.facility_energy_kwh, load_regions(), basis):
        names = ", ".join(f"{region.name} ({region.code})" for region in regions[:3])
        lines.append(f"{text}: would fit in {len(regions)} regions ({basis} figures), the cleanest {names}")
    return lines


def _traced(model: nn.Module, request: Request) -> Workload:
    """A live module's step, from one batch of its inputs."""
    from ..trace.trace import trace

    work = trace(
        model,
        request.inputs,
        train=request.train is not False,
        optimizer=request.optimizer or request.default_optimizer,
        precision=request.precision,
        loss=request.loss if callable(request.loss) else None,
        accumulate=request.passes,
        clip_gradients=request.clip_gradients,
        ema=request.ema,
        layers=request.layers,
    )
    own = work.batch_size // request.passes
    if request.batch_size is not None and float(request.batch_size) != own:
        raise RequestError(f"`batch_size` {request.batch_size} and `inputs` of {own} samples contradict: give one")
    return work
