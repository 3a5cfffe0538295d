"""What is not a step of a language model's training: scaling of other networks, MLPerf, node power, whole runs."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from distributed_runs import PUBLISHED, Net, Run, anatomy_of, tracer_version
from population_networks import WorkKey, build_work
from population_runs import Step, gpu_key, lambda_steps, mlperf_steps, ngc_mode, nvidia_dle_network

from joulecast.estimator.base.errors import JoulecastError, RequestError
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.anatomy import Anatomy, dissect
from joulecast.estimator.cost.parallel.cluster import Cluster, parse_cluster
from joulecast.estimator.cost.parallel.node import rest_w
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.parallel.predict import is_tuned
from joulecast.estimator.cost.parallel.search import choose_plan
from joulecast.estimator.cost.parallel.shard import Stage, slowest_stage
from joulecast.estimator.cost.parallel.step import Prices, StepCost, cost_at, prices_of, step_cost
from joulecast.estimator.cost.piece_time import SOFTWARE_YEAR
from joulecast.estimator.cost.population import PopulationTime
from joulecast.estimator.cost.profile import Profile
from joulecast.estimator.cost.software import OVERLAPPED_TENSORS
from joulecast.estimator.cost.stacks import load_stacks
from joulecast.estimator.cost.waiting import LOST_HOURS, OVERHEAD, PER_DEVICE_HOUR, overhead
from joulecast.estimator.trace.fp8 import FP8, as_fp8
from joulecast.estimator.trace.workload import Workload

Array = np.ndarray[Any, np.dtype[np.float64]]
Found = tuple[str, Array, Array | None, str, tuple[float, float] | None]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1024)
def anatomy_of_network(key: WorkKey, cache: Path, fp8: bool = False) -> Anatomy:
    path = cache / f"{hashlib.sha256(repr((key, tracer_version())).encode()).hexdigest()[:24]}.json"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(build_work(key).to_json()))
    work = Workload.from_json(json.loads(path.read_text()))
    if key.mode == "amp" and key.network.startswith(_HALF_WEIGHTS):
        work = replace(work, parameter_bytes=2 * work.parameters)
    return dissect(as_fp8(work) if fp8 else work)


_HALF_WEIGHTS = ("bert", "gnmt")  # NVIDIA's examples cast these to 16 bits (Apex, O2); the others' weights are float32


def _cost(step: Step, devices: int, per_node: int, cache: Path, path: str = "") -> StepCost:
    gbit = 400 if "h100" in step.gpu or "h200" in step.gpu else 200 if "a100" in step.gpu else 100
    nodes = max(1, devices // per_node)
    cluster = parse_cluster(f"{nodes}x{min(devices, per_node)}x{step.gpu}:{gbit}gb{path}")
    profile, anatomy, stage, prices = _priced(step.gpu, step.software, step.year, step.key, step.fp8, cache)
    return cost_at(prices, profile, anatomy, Plan(dp=devices), cluster, stage)


@lru_cache(maxsize=2048)
def _priced(
    gpu: str, software: str, year: int, key: WorkKey, fp8: bool, cache: Path
) -> tuple[Profile, Anatomy, Stage, Prices]:
    """The step on one device, whose prices do not depend on the number of replicas."""
    profile = of_year(datasheet_profile(find_hardware(gpu)).for_software(software), year)
    profile = profile.for_precision("float16" if key.mode != "fp32" else "float32")
    anatomy = anatomy_of_network(key, cache, fp8)
    stage = slowest_stage(anatomy, Plan(), profile.software)
    return profile, anatomy, stage, prices_of(profile, stage)


def of_year(profile: Profile, year: int) -> Profile:
    """`profile` with software of `year`, as hardware_transfer.py predicts published steps: not of today."""
    time = profile.time
    assert isinstance(time, PopulationTime)
    share = (year - _YEAR_OF_ONE) / (SOFTWARE_YEAR - _YEAR_OF_ONE)
    trends = {name: value**share for name, value in time.parameters.items() if name.startswith("yearly_")}
    return replace(profile, time=replace(time, parameters={**time.parameters, **trends}))


_YEAR_OF_ONE = 2021.0  # piece_time.py counts the trends from it


# -- Scaling on one node --------------------------------------------------------------------------------------


_COUNT = re.compile(r"(?:^|(?<=_))\d+x|NVlink|_trt2?$|(?<=^p3\.)\d*xlarge$")


def _kind(step: Step) -> tuple[str, ...]:
    """Equal for steps of a network on one kind of machine: "8xA100_SXM4" and "A100_SXM4", but not "A100_SXM4_v1"."""
    return (_COUNT.sub("", step.machine), step.gpu, repr(step.key), step.label)


@dataclass(frozen=True, slots=True)
class Pair:
    """A step on one GPU, and how many times as fast `devices` were together.

    `path` is what a user would state of the links (`parse_cluster`). `alone`: each GPU trained a network of its own.
    `loader_s` is what a step of several waits for batches.
    """

    step: Step
    devices: int
    factor: float
    path: str = ""
    alone: bool = False
    loader_s: float = 0.0


def _lambda_pairs(measured: Path) -> Iterator[Pair]:
    """In one kind of machine."""
    hosts = {row["system"]: row["host"] for row in _rows(measured / "lambda" / "train.csv")}
    alone = {_kind(step): step for step in lambda_steps(measured)}
    for devices in (2, 4, 8, 16):
        for step in lambda_steps(measured, devices):
            one = alone.get(_kind(step))
            if one is not None:
                factor = devices * one.seconds / step.seconds
                path = _lambda_path(step) + _lambda_host(hosts[step.machine])
                # Its logs say `multi_gpu : None`: no gradients are exchanged.
                yield Pair(one, devices, factor, path, "Transformer-XL" in step.label, _loader_s(step, devices))


_PEERS_OFF_IN_2023 = ("2xAdaA6000_v1",)  # of 12 January; the other machines of that kind are of 22 March
_CLOUDS = ("LambdaCloud", "Linode")


def _lambda_path(step: Step) -> str:
    """As Lambda's scripts, the machines' names and the sources of NCCL say.

    pytorch/scripts/benchmark_pytorch.sh set NCCL_P2P_DISABLE=1 from 16 October 2022 (0a684b6) to 6 February 2023
    (aad0d1c). The results of 2022 with PyTorch 1.13, "_v1", are of October to December; all H100's are later.
    NCCL 2.5 (assumed in the containers of January 2020) does not let devices reach each other through the host bridge
    of a virtual machine with one NUMA node (src/transport/p2p.cc: paths have to be shorter than PATH_PHB).
    """
    if step.machine in _PEERS_OFF_IN_2023 or (step.machine.endswith("_v1") and step.year == 2022):
        return ":no-p2p"
    if step.machine.startswith(_CLOUDS) and step.year == 2020 and "quadro" in step.gpu:
        return ":no-p2p"
    return ":nvlink" if "NVlink" in step.machine else ""


def _lambda_host(cpu: str) -> str:
    return ":intel-host" if "intel" in cpu.lower() else ":amd-host" if "AMD" in cpu else ""


_LOADER_S = 0.35
_LATEST_OF = {2: 0.564, 4: 1.029, 8: 1.424, 16: 1.766}  # mean of the latest of so many normal values


def _loader_s(step: Step, devices: int) -> float:
    """By how much a printed step is longer on several GPUs, because batches are not ready at the same time.

    An epoch of Lambda's Tacotron 2 has few steps (`iters_per_epoch` of its logs: one on eight H100s). NVIDIA's train.py
    starts the clock of a step when the process has its own batch, and sums the loss of all processes inside it. One
    worker reads the clips of each process, so the step also has the wait for the latest. `_LOADER_S` is the spread of
    that moment.
    """
    return _LOADER_S * _LATEST_OF[devices] if "Tacotron 2" in step.label else 0.0


def _dle_pairs(measured: Path) -> Iterator[Pair]:
    rates: dict[tuple[str, ...], dict[int, float]] = {}
    first: dict[tuple[str, ...], dict[str, str]] = {}
    for row in _rows(measured / "nvidia-dle" / "train.csv"):
        if not row["batch_per_gpu"].isdigit() or not row["n_gpus"] or nvidia_dle_network(row) is None:
            continue
        key = tuple(row[name] for name in ("gpu_key", "path", "input", "precision", "batch_per_gpu", "framework"))
        rates.setdefault(key, {})[int(row["n_gpus"])] = float(row["samples_per_s"])
        first.setdefault(key, row)
    for key, found in rates.items():
        row, one = first[key], found.get(1)
        network = nvidia_dle_network(row)
        batch = int(row["batch_per_gpu"])
        if one is None or network is None or not 0 < batch <= 2048 or not gpu_key(row):
            continue
        mode, _ = ngc_mode(row["precision"])
        work = WorkKey(network[0], batch, mode, True, "momentum" if "timm" in network[0] else "adam")
        step = Step("nvidia-dle", gpu_key(row), work, "ngc", 1.0, int(row["year"] or 2020))
        yield from (Pair(step, devices, rate / one) for devices, rate in found.items() if 1 < devices <= 16)


def scaling(measured: Path, cache: Path) -> Iterator[Found]:
    for name, pairs in (("lambda", _lambda_pairs(measured)), ("nvidia-dle", _dle_pairs(measured))):
        # Below 1.15 times one GPU's rate the example printed the rate of one of its processes (SSD300, some of BERT).
        rows = [pair for pair in pairs if 1.15 < pair.factor <= 1.1 * pair.devices]
        found = [(pair, ratio) for pair in rows if (ratio := _scaling_ratio(pair, cache)) is not None]
        parts = {f"{name}: 2-16 GPUs over one (scaling; 6ND: linear)": found}
        if any(pair.alone for pair, _ in found):
            parts["  of trainings that exchange gradients"] = [(pair, ratio) for pair, ratio in found if not pair.alone]
            parts["  every tenth row"] = found[::10]
        for what, part in parts.items():
            if part:
                ratios = np.array([ratio for _, ratio in part])
                yield what, ratios, np.array([pair.devices / pair.factor for pair, _ in part]), "8 %", None


def _scaling_ratio(pair: Pair, cache: Path) -> float | None:
    """Predicted over measured; None where the step cannot be predicted."""
    try:
        one, many = (_cost(pair.step, count, 16, cache, pair.path).seconds for count in (1, pair.devices))
    except (JoulecastError, KeyError):
        return None
    return (pair.devices if pair.alone else pair.devices * one / (many + pair.loader_s)) / pair.factor


# -- MLPerf ---------------------------------------------------------------------------------------------------


def runs_of_mlperf(measured: Path, cache: Path) -> Iterator[Found]:
    """Hours of closed submissions on 8 to 512 accelerators; as many samples as the run took."""
    steps = [step for step in mlperf_steps(measured, 512) if step.devices >= 8]
    for label in sorted({step.label for step in steps}):
        own = [step for step in steps if step.label == label]
        ratios = []
        for step in own[:: max(1, len(own) // 40)]:
            try:
                ratios.append(_cost(step, step.devices, 8, cache).seconds / step.seconds)
            except (JoulecastError, KeyError):
                continue
        if ratios:
            yield f"mlperf hours: {label[:28]}", np.array(ratios), None, "25 %", None
    if ratios := list(_gpt3_hours(measured, cache)):
        yield "mlperf hours: GPT-3 175B", np.array(ratios), None, "25 %", None


def _gpt3_hours(measured: Path, cache: Path) -> Iterator[float]:
    """NVIDIA's H100s. Submissions of the same run count once."""
    seen = set()
    for row in _rows(measured / "mlperf-training" / "results.csv"):
        if row["benchmark"] != "gpt3" or row["gpu_key"] != "h100-sxm" or row["division"] != "closed":
            continue
        devices, batch, passes = (int(float(row[name] or 0)) for name in ("n_gpus", "global_batch", "grad_accum"))
        replicas, key = devices // _GPT3_DEVICES, (row["round"], row["run_s"])
        if not 8 <= devices <= 512 or devices % _GPT3_DEVICES or row["suspect"] or key in seen:
            continue
        if not passes or batch % (replicas * passes):
            continue
        seen.add(key)
        micro = batch // replicas // passes
        cost = _gpt3(devices, batch, micro, parse_cluster(f"{devices // 8}xdgx-h100"), cache)
        yield cost.seconds * float(row["samples_per_s"]) / batch


_POWERED = {
    "bert": ("bert-large-512-fused", 0.5),
    "resnet": ("timm:resnet50", 1.0),
    "ssd": ("retinanet", 1.0),
}


def kilowatts(measured: Path, cache: Path) -> Iterator[Found]:
    """Watts of a node in MLPerf Training 4.0, AC side, and kWh of the run with the predicted time."""
    watts, energies = [], []
    for row in _rows(measured / "mlperf-training" / "power.csv"):
        if "AC" not in row["boundary"] or row["benchmark"] not in (*_POWERED, "gpt3"):
            continue
        devices, batch = int(row["n_gpus"]), int(float(row["global_batch"]))
        nodes = int(row["nodes"])
        cluster = parse_cluster(f"{nodes}xdgx-h100")
        if row["benchmark"] == "gpt3":
            cost, step_samples = _gpt3(devices, batch, 2, cluster, cache), batch
        else:
            network, share = _POWERED[row["benchmark"]]
            per_device = max(1, batch // devices)
            key = WorkKey(network, max(1, int(per_device * share)), "amp", True, "momentum")
            step = Step("mlperf", row["gpu_key"], key, "vendor-tuned", 1.0, 2024, fp8="bert" in network)
            cost, step_samples = _cost(step, devices, 8, cache), per_device * devices
        board_w = cost.joules / cost.seconds
        node_w = 8 * board_w + rest_w(cluster, board_w, find_hardware(row["gpu_key"]).power_w)
        watts.append(node_w / float(row["mean_w_per_node"]))
        run_s = float(row["samples_trained"]) / step_samples * cost.seconds + float(row["eval_s"] or 0)
        energies.append(node_w * nodes * run_s / 3.6e6 / float(row["energy_kwh_metered_nodes"]))
    if watts:
        yield "mlperf power: watts of a node", np.array(watts), None, "8 %", None
        yield "mlperf power: kWh of the run", np.array(energies), None, "15 %", None


_GPT3_DEVICES = 32  # of a replica: 4 tensor parallel, in 8 stages


def _gpt3(devices: int, batch: int, micro: int, cluster: Cluster, cache: Path) -> StepCost:
    """As NVIDIA's submissions configure NeMo (training_results_v4.0, NVIDIA/benchmarks/gpt3, config_DGXH100_64x8x...).

    Micro-batches of two with four chunks for each stage, of one until round 3.1; TP_COMM_OVERLAP is on, and FP8.
    """
    net, software = Net("gpt", 96, 12288, 96, 51200), OVERLAPPED_TENSORS
    run = Run("mlperf", net, "", "h100-sxm", cluster.name, 2048, micro, None, batch, 1.0, software, FP8)
    _, anatomy = anatomy_of(run, cache)
    replicas = devices // _GPT3_DEVICES
    chunks = 4 if micro == 2 else 6
    plan = Plan(dp=replicas, tp=4, pp=8, interleave=chunks, zero=1, accumulate=batch // replicas // micro)
    profile = datasheet_profile(find_hardware("h100-sxm")).for_software(software).for_precision("bfloat16")
    return step_cost(profile, anatomy, plan, cluster)


# -- Whole runs -----------------------------------------------------------------------------------------------

_ACCELERATORS = {"A100-80GB": "a100-sxm4-80gb", "A100-40GB": "a100-sxm4-40gb", "H100-80GB": "h100-sxm"}
_STEP_TOKENS = 4e6  # where the source does not state the batch; 2 million below 3 B parameters


@dataclass(frozen=True, slots=True)
class WholeRun:
    """A published run: predicted device seconds of its steps and interruptions, and published ones.

    `steps_s` are those of the stated split, where there is one, and `searched_s` those of the fastest split, None for
    pipelines of Megatron-Core. `tuned` where published steps are as predicted: splits that state tensor or pipeline
    parallelism, and pipelines of Megatron-Core. `of_steps` where the published hours are those of steps at a measured
    rate, without anything else that a run takes.
    """

    row: dict[str, str]
    devices: int
    steps_s: float
    published_s: float
    searched_s: float | None = None
    tuned: bool = False
    stated: bool = False
    of_steps: bool = False


def whole_runs(measured: Path, reference: Path, cache: Path) -> Iterator[Found]:
    """Device hours of published pre-trainings, the split chosen by joulecast, the software as the papers state it."""
    found: dict[bool, list[tuple[float, float]]] = {}
    for row, ratio in left_out_runs(published_runs(measured, reference, cache)):
        peak = (find_hardware(_ACCELERATORS[row["accelerator"]]).bf16_tflops or 1.0) * 1e12
        macs = 6 * float(row["params_b"]) * 1e9 * float(row["tokens_b"]) * 1e9
        simple = macs / (0.4 * peak) / 3600 / float(row["accelerator_hours"])
        found.setdefault("step_tokens" in row, []).append((ratio, simple))
    bounds = load_stacks().time_error
    for more, pairs in found.items():
        ratios, simple_ratios = np.array(pairs).T
        what = "more published runs: device hours" if more else "published runs: device hours"
        yield what, ratios, simple_ratios, "12 % median, 20 % mean", bounds


def paper_of(row: Mapping[str, str]) -> str:
    """Its number on arXiv, otherwise what comes before the details."""
    number = re.search(r"arXiv (\d{4}\.\d{5})", row["source"])
    return number[1] if number else row["source"].split(" (")[0]


def long_runs(runs: Sequence[WholeRun]) -> float:
    """Published hours over those of the steps of the fastest split, less 1: papers count as much."""
    papers: dict[str, list[float]] = {}
    for run in (run for run in runs if run.searched_s is not None):
        took_s = run.published_s * (1 + OVERHEAD if run.of_steps else 1)
        papers.setdefault(paper_of(run.row), []).append(np.log(took_s / run.searched_s))
    return float(np.exp(np.mean([np.median(logs) for logs in papers.values()]))) - 1


def left_out_runs(runs: Sequence[WholeRun]) -> Iterator[tuple[dict[str, str], float]]:
    """Rows with predicted over published device hours, the overhead of long runs from other papers."""
    for run in runs:
        others = [other for other in runs if paper_of(other.row) != paper_of(run.row)]
        most = OVERHEAD if run.tuned else long_runs(others)
        if run.of_steps:
            most = 0.0 if run.stated else (1 + most) / (1 + OVERHEAD) - 1
        share = overhead(run.steps_s / run.devices, most)
        yield run.row, run.steps_s * (1 + share) / run.published_s


def published_runs(measured: Path, reference: Path, cache: Path) -> list[WholeRun]:
    """Rows of benchmarks/published have `step_tokens`."""
    found = []
    for path in (reference / "llm_runs.csv", measured / "llm-runs" / "runs.csv", PUBLISHED / "runs.csv"):
        for row in _rows(path):
            if row["accelerator"] in _ACCELERATORS and row["accelerator_hours"]:
                found.append(_whole_run(row, cache))
    return found


def _whole_run(row: dict[str, str], cache: Path) -> WholeRun:
    searched_s, devices, tuned = searched_steps(row, cache)
    known = splits().get(row["model"], {})
    stated, of_steps = bool(known.get("dp")), bool(known.get("of_steps"))
    lost = 1 + (0.0 if of_steps else PER_DEVICE_HOUR * LOST_HOURS * devices)
    searched = None if tuned else searched_s * lost
    steps_s = searched_s
    if stated:
        steps_s, devices, tuned = stated_steps(row, known, cache)
    published_s = 3600 * float(row["accelerator_hours"])
    return WholeRun(row, devices, steps_s * lost, published_s, searched, tuned, stated, of_steps)


def software_of(row: dict[str, str]) -> str:
    """As its paper states it; the others have flash attention and fused kernels."""
    return row.get("software") or ("megatron" if "BLOOM" in row["model"] else "fused")


@lru_cache(maxsize=1)
def splits() -> dict[str, dict[str, str]]:
    """What sources state of runs, by model: their splits, and whether their hours are of steps alone."""
    return {row["model"]: row for row in _rows(PUBLISHED / "splits.csv")}


def _plan(stated: Mapping[str, str]) -> Plan:
    names = ("dp", "tp", "pp", "zero", "micro_batch", "samples")
    dp, tp, pp, zero, micro, samples = (int(stated[name]) for name in names)
    return Plan(
        dp=dp,
        tp=tp,
        pp=pp,
        zero=zero,
        checkpointing=stated["checkpointing"],
        sequence_parallel=stated["sequence_parallel"] == "yes",
        accumulate=samples // (micro * dp),
    )


def stated_steps(row: dict[str, str], stated: Mapping[str, str], cache: Path) -> tuple[float, int, bool]:
    """Predicted device seconds of a row's steps with its stated split, the devices, and whether the split is tuned."""
    plan, micro, samples = _plan(stated), int(stated["micro_batch"]), int(stated["samples"])
    profile, cluster = _on(row, plan.devices, int(stated["network_gbit"]))
    run = _asked(row, profile, cluster, micro, samples)
    step_s = step_cost(profile, anatomy_of(run, cache)[1], plan, cluster).seconds
    per_token_s = step_s * plan.devices / (samples * run.sequence)
    return per_token_s * float(row["tokens_b"]) * 1e9, plan.devices, is_tuned(profile, plan, stated=True)


def searched_steps(row: dict[str, str], cache: Path) -> tuple[float, int, bool]:
    """As `stated_steps`, with the split and the micro-batch that joulecast chooses."""
    large = float(row["params_b"]) > 3
    devices = int(row.get("n_accelerators") or 0) or (512 if large else 64)
    profile, cluster = _on(row, devices)
    sequence = int(row["sequence"])
    best, tuned = float("inf"), False
    step_tokens = float(row.get("step_tokens") or (_STEP_TOKENS if large else 2e6))
    for micro in (1, 2, 4, 8):
        samples = max(devices * micro, round(step_tokens / sequence / (devices * micro)) * devices * micro)
        if step_tokens % (sequence * micro) == 0:  # stated exactly
            samples = int(step_tokens / sequence)
        work, anatomy = anatomy_of(_asked(row, profile, cluster, micro, samples), cache)
        try:
            choice = choose_plan(replace(work, optimizer="adamw"), anatomy, profile, cluster, passes=samples // micro)
        except RequestError:
            continue
        per_token_s = choice.cost.seconds * devices / (samples * sequence)
        if per_token_s < best:
            best, tuned = per_token_s, is_tuned(profile, choice.plan, stated=False)
    return best * float(row["tokens_b"]) * 1e9, devices, tuned


def _on(row: dict[str, str], devices: int, gbit: int = 0) -> tuple[Profile, Cluster]:
    gpu = _ACCELERATORS[row["accelerator"]]
    profile = datasheet_profile(find_hardware(gpu)).for_software(software_of(row)).for_precision("bfloat16")
    return profile, parse_cluster(f"{devices // 8}x8x{gpu}:{gbit or (400 if 'h100' in gpu else 200)}gb")


def _asked(row: dict[str, str], profile: Profile, cluster: Cluster, micro: int, samples: int) -> Run:
    layers, hidden, heads, kv, inner = (int(row[name]) for name in ("layers", "hidden", "heads", "kv_heads", "ffn"))
    kind = row.get("kind") or ("gpt" if "BLOOM" in row["model"] or "Pythia" in row["model"] else "llama")
    net = Net(kind, layers, hidden, heads, int(row["vocab"]), inner, kv)
    gpu, sequence = _ACCELERATORS[row["accelerator"]], int(row["sequence"])
    return Run("whole", net, "", gpu, cluster.name, sequence, micro, None, samples, 1.0, profile.software)
