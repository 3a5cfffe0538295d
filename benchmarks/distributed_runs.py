"""Published trainings on many GPUs, each as what joulecast would be asked: a decoder, a split, a cluster, software.

Each reader takes one folder of measurements (its SOURCE.md says what was measured) and yields `Run`s. What a source
does not state is filled in here, with a comment.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.parallel.anatomy import Anatomy, dissect
from joulecast.estimator.cost.parallel.plan import Plan
from joulecast.estimator.cost.software import OVERLAPPED_TENSORS
from joulecast.estimator.trace.fp8 import FP8, as_fp8
from joulecast.estimator.trace.trace import trace
from joulecast.estimator.trace.workload import Workload


@dataclass(frozen=True, slots=True)
class Net:
    """A decoder by its sizes. `kind` is "gpt" (layer norms, GELU, learned positions) or "llama" (RMS norms, SwiGLU)."""

    kind: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    inner: int = 0  # 0: four times the hidden size
    kv_heads: int = 0  # 0: as many as heads
    dropout: float = 0.0

    @property
    def parameters(self) -> int:
        inner, kv = self.inner or 4 * self.hidden, self.kv_heads or self.heads
        attention = self.hidden**2 * (2 + 2 * kv / self.heads)
        products = 2 if self.kind == "gpt" else 3
        ends = self.vocabulary * self.hidden * (1 if self.kind == "gpt" else 2)
        return int(self.layers * (attention + products * self.hidden * inner) + ends)


@dataclass(frozen=True, slots=True)
class Run:
    """`seconds` of one optimizer step of all devices. `plan` is None where joulecast chooses the split.

    `group` is what the halves of a fit are divided by: networks or sizes.
    """

    source: str
    net: Net
    group: str
    gpu: str
    cluster: str
    sequence: int
    micro_batch: int
    plan: Plan | None
    samples: int  # of a step, all devices
    seconds: float
    software: str
    half: str = "bfloat16"
    label: str = ""
    reference_s: float | None = None

    @property
    def devices(self) -> int:
        return self.plan.devices if self.plan else int(self.label or 0)


# Labels of runs that are in no fit.
SPLIT_UNSURE = "split unsure"
PADDED = "padded"


# -- Networks -------------------------------------------------------------------------------------------------


def _model(net: Net, sequence: int) -> torch.nn.Module:
    import transformers

    if net.kind == "gpt":
        config = transformers.GPT2Config(
            n_embd=net.hidden,
            n_layer=2,
            n_head=net.heads,
            n_positions=sequence,
            vocab_size=net.vocabulary,
            n_inner=net.inner or None,
            resid_pdrop=net.dropout,
            embd_pdrop=net.dropout,
            attn_pdrop=net.dropout,
            activation_function="gelu",
            use_cache=False,
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        hidden_size=net.hidden,
        num_hidden_layers=2,
        num_attention_heads=net.heads,
        num_key_value_heads=net.kv_heads or net.heads,
        intermediate_size=net.inner or 4 * net.hidden,
        vocab_size=net.vocabulary,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


_TRACED = 2  # blocks that are traced; the others are equal


def work_of(net: Net, sequence: int, batch: int, half: str, cache: Path) -> Workload:
    """One pass of a two-block network, from the cache where the tracer has not changed. `half` may be FP8."""
    if half == FP8:
        return as_fp8(work_of(net, sequence, batch, "bfloat16", cache))
    key = repr((replace(net, layers=_TRACED), sequence, batch, half, tracer_version()))
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if path.exists():
        return Workload.from_json(json.loads(path.read_text()))
    with torch.device("meta"):
        model = _model(net, sequence).to(getattr(torch, half))
        ids = torch.zeros(batch, sequence, dtype=torch.long)
    work = trace(model, {"input_ids": ids, "labels": ids}, train=True, optimizer="adam", layers=False)
    cache.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(work.to_json()))
    return work


@lru_cache(maxsize=1)
def tracer_version() -> str:
    folder = Path(__file__).resolve().parent.parent / "estimator" / "trace"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def anatomy_of(run: Run, cache: Path, batch: int | None = None) -> tuple[Workload, Anatomy]:
    """The run's network in all its blocks."""
    return _anatomy(run.net, run.sequence, batch or run.micro_batch, run.half, cache)


@lru_cache(maxsize=4096)
def _anatomy(net: Net, sequence: int, batch: int, half: str, cache: Path) -> tuple[Workload, Anatomy]:
    work = work_of(net, sequence, batch, half, cache)
    anatomy = dissect(work)
    logits = batch * sequence * net.vocabulary * anatomy.element_bytes
    per_block = max(work.activation_bytes - logits, 0) / _TRACED
    work = replace(work, activation_bytes=int(logits + per_block * net.layers))
    return work, replace(anatomy, blocks=(anatomy.blocks[-1],) * net.layers)


# -- Sources --------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _whole(text: str) -> int:
    return int(float(text)) if text else 0


def vtrain(measured: Path) -> Iterator[Run]:
    """Megatron-DeepSpeed on one node of A100s, FP16. Dropout as Megatron's defaults."""
    for row in _rows(measured / "vtrain" / "iterations.csv"):
        layers, hidden, heads = (_whole(row[name]) for name in ("layers", "hidden", "heads"))
        dp, tp, pp = (_whole(row[name]) for name in ("dp", "tp", "pp"))
        batch, micro = _whole(row["global_batch"]), _whole(row["micro_batch"])
        nodes = max(1, dp * tp * pp // 8)
        yield Run(
            source="vtrain",
            net=Net("gpt", layers, hidden, heads, 51200, dropout=0.1),
            group=f"L{layers} h{hidden}",
            gpu=row["gpu_key"],
            cluster=f"{nodes}x8x{row['gpu_key']}:100gb",
            sequence=_whole(row["seq_len"]),
            micro_batch=micro,
            plan=Plan(dp=dp, tp=tp, pp=pp, accumulate=max(1, batch // (micro * dp)), sequence_parallel=False),
            samples=batch,
            seconds=float(row["step_s"]),
            software="megatron",
            half="float16",
        )


_MPT = {
    "125m": (12, 768, 12),
    "350m": (24, 1024, 16),
    "760m": (24, 1536, 12),
    "1b": (24, 2048, 16),
    "3b": (32, 2560, 20),
    "7b": (32, 4096, 32),
    "13b": (40, 5120, 40),
    "30b": (48, 7168, 56),
    "70b": (80, 8192, 64),
}


def llm_foundry(measured: Path) -> Iterator[Run]:
    """MPT under FSDP. Rows with weights on the host are left out; those in FP8 are a source of their own."""
    for row in _rows(measured / "llm-foundry" / "train.csv"):
        size = row["network"].lower().removeprefix("mpt-")
        fp8 = "fp8" in row["precision"]
        if "cpu offload True" in row["notes"] or size not in _MPT:
            continue
        layers, hidden, heads = _MPT[size]
        devices, micro, sequence = (_whole(row[name]) for name in ("n_gpus", "micro_batch", "seq_len"))
        found = re.search(r"grad accum (\d+)", row["notes"])
        passes = int(found[1]) if found else 1
        gbit = 400 if "h100" in row["gpu_key"] else 200
        samples = micro * passes * devices
        yield Run(
            source="llm-foundry fp8" if fp8 else "llm-foundry",
            net=Net("gpt", layers, hidden, heads, 50368),
            group=size,
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // 8)}x8x{row['gpu_key']}:{gbit}gb",
            sequence=sequence,
            micro_batch=micro,
            plan=Plan(
                dp=devices,
                zero=3 if row["dp_or_sharding"] == "FULL_SHARD" else 2,
                accumulate=passes,
                checkpointing="full" if row["act_checkpoint"] == "True" else "none",
            ),
            samples=samples,
            seconds=samples * sequence / (float(row["tokens_per_s_per_gpu"]) * devices),
            software="fused",
            half=FP8 if fp8 else "bfloat16",
        )


_BIGSCIENCE = {"52": (64, 8192, 32), "18": (40, 6144, 48), "39": (48, 8192, 64), "22": (48, 6144, 64)}
# The width of the sizes tried for BLOOM, and, by section of the page and size, widths and heads in the order of its
# rows (the last pair is that of all further rows). Other rows have 64 heads.
_TR11_WIDTH = {
    "176": 14336,
    "177": 12288,
    "178": 13312,
    "181": 14336,
    "182": 13824,
    "184": 12288,
    "187": 13824,
    "195": 12288,
    "196": 13824,
    "203": 13312,
}
_TR11_FIRST_WIDTH = 14400  # of the first section
_TR11_ROWS = {
    ("Final", "182"): ((13312, 64),) * 3 + ((13824, 64),),
    ("NHEADs", "177"): ((12288, 64), (12288, 96), (12288, 128)),
    ("NHEADs", "181"): tuple((14336, heads) for heads in (16, 32, 64, 112, 128, 256)),
    ("NHEADs", "182"): ((13824, 64), (13824, 96), (13824, 128), (13312, 64), (13312, 128)),
    ("Another", "181"): tuple((14336, heads) for heads in (64, 128, 128, 64, 128)),
    ("Another", "182"): (*((13824, heads) for heads in (64, 64, 96, 128, 64, 96, 128, 96, 128)), (13312, 64)),
    ("Batchsize", "182"): ((13824, 96),),
    ("Re-do", "182"): ((13824, 96),),
    ("Re-do", "195"): ((12288, 96), (12288, 64)),
    ("Rebalancing", "176"): tuple((14336, heads) for heads in (64, 64, 112, 128, 64)),
    ("Rebalancing", "178"): tuple((13312, heads) for heads in (64, 64, 104, 128, 64)),
    ("Rebalancing", "195"): tuple((12288, heads) for heads in (64, 96, 128, 96)),
    ("Rebalancing", "203"): ((13312, 128),),
}


def _tr11_sizes(row: dict[str, str], size: str, position: int) -> tuple[int, int, int]:
    """Layers, width and heads of the row at `position` of its section and size."""
    section = row["notes"].partition(": ")[2].split()[0]
    first = section in ("Choosing", "tile")
    sizes = _TR11_ROWS.get((section, size))
    if sizes:
        hidden, heads = sizes[min(position, len(sizes) - 1)]
    else:
        hidden, heads = _whole(row["hidden"]) or (_TR11_FIRST_WIDTH if first else _TR11_WIDTH[size]), 64
    layers = (float(size) * 1e9 - _TR11_VOCABULARY * hidden) / (12 * hidden**2)
    stages = _whole(row["pp"]) if first else 1  # there the layers were fitted to the stages
    return round(layers / stages) * stages, hidden, heads


_TR11_VOCABULARY = 250880


def bigscience(measured: Path) -> Iterator[Run]:
    """Megatron-DeepSpeed at Jean Zay, activations recomputed. Widths and heads are those of the page that `notes` name
    (bigscience-workshop/bigscience, train/tr11-176B-ml/chronicles-prequel.md)."""
    positions: Counter[tuple[str, str]] = Counter()
    for row in _rows(measured / "bigscience" / "iterations.csv"):
        if "HF + " in row["notes"] or "may hang" in row["notes"]:
            continue
        size = row["network"].removeprefix("GPT").strip().removesuffix("B")
        if not all(row[name] for name in ("tp", "pp", "micro_batch", "global_batch", "step_s")):
            continue
        a100 = "a100" in row["gpu_key"]
        vocabulary = _TR11_VOCABULARY if a100 else 51200
        if size in _BIGSCIENCE and not a100:
            layers, hidden, heads = _BIGSCIENCE[size]
        elif size and float(size) >= 170 and a100:
            place = (row["notes"].partition(": ")[2].split()[0], size)
            layers, hidden, heads = _tr11_sizes(row, size, positions[place])
            positions[place] += 1
        else:
            continue
        tp, pp, devices = _whole(row["tp"]), _whole(row["pp"]), _whole(row["n_gpus"])
        dp = _whole(row["dp"]) or devices // (tp * pp)
        micro, batch = _whole(row["micro_batch"]), _whole(row["global_batch"])
        if dp * tp * pp != devices or batch % (micro * dp):
            continue
        per_node = 8 if a100 else 4
        yield Run(
            source="bigscience",
            net=Net("gpt", layers, hidden, heads, vocabulary, dropout=0.1),
            group=size,
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // per_node)}x{per_node}x{row['gpu_key']}:{50 if a100 else 100}gb",
            sequence=_whole(row["seq_len"]),
            micro_batch=micro,
            plan=Plan(
                dp=dp,
                tp=tp,
                pp=pp,
                zero=1 if a100 else 0,
                checkpointing="full",
                accumulate=batch // (micro * dp),
                sequence_parallel=False,
            ),
            samples=batch,
            seconds=float(row["step_s"]),
            software="megatron",
            half="bfloat16" if "bf16" in row["precision"] else "float16",
            label=row["notes"],
        )


def internevo(measured: Path) -> Iterator[Run]:
    """InternLM 7B, ZeRO-1, flash attention; four adapters of 100 Gbit/s for eight GPUs."""
    for row in _rows(measured / "internevo" / "train.csv"):
        devices, micro, tp = (_whole(row[name]) for name in ("n_gpus", "micro_batch", "tp"))
        passes = _whole(row["grad_accum"]) or 1
        samples = micro * passes * devices // tp
        yield Run(
            source="internevo",
            net=Net("llama", 32, 4096, 32, 103168, 11008),
            group=f"tp{tp} {row['act_checkpoint']}",
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // 8)}x8x{row['gpu_key']}:50gb",
            sequence=2048,
            micro_batch=micro,
            plan=Plan(
                dp=devices // tp,
                tp=tp,
                zero=1,
                accumulate=passes,
                checkpointing="full" if row["act_checkpoint"].upper() == "TRUE" else "none",
            ),
            samples=samples,
            seconds=samples * 2048 / (float(row["tokens_per_s_per_gpu"]) * devices),
            software="fused",
        )


# With what each recomputes: paxml/contrib/gpu/scripts_gpu/configs.py saves the results of products of weights in its 5B
# model; its 175B one has no room for them, and the others are no repeated layers, which alone are recomputed.
_JAX = {
    "GPT 126M": (Net("gpt", 12, 768, 12, 50304), "none"),
    "GPT 5B": (Net("gpt", 24, 4096, 32, 50304), "selective"),
    "GPT 175B": (Net("gpt", 96, 12288, 96, 50257), "full"),
    "LLaMA2 7B": (Net("llama", 32, 4096, 32, 32000, 11008), "none"),
}
_NEW_JAX = 2025  # year of the README whose figures are those of release 24.04


def jax_toolbox(measured: Path) -> Iterator[Run]:
    """Paxml and MaxText, fully sharded; the newest of equal rows. "te" is Transformer Engine.

    As the READMEs say: all have flash attention since release 24.04, except GPT 126M, which diverged with it; none had
    it before. MaxText saves the results of products (`minimal_flash`). Fine-tuning reads BoolQ, whose 4,096 positions
    are padding behind one short passage: gradients are zero there, so that its products draw less power.
    """
    seen = set()
    for row in _rows(measured / "jax-toolbox" / "train.csv"):
        large = row["network"] != "GPT 126M"
        maxtext = "maxtext" in row["framework"]
        flash = large and (maxtext or int(row["year"]) >= _NEW_JAX)
        key = (*(row[name] for name in ("gpu_key", "n_gpus", "network", "micro_batch", "precision")), flash)
        fp8 = "fp8" in row["precision"]
        skipped = row["network"] not in _JAX or "LoRA" in row["notes"]
        if skipped or key in seen or not row["precision"] or not row["tokens_per_s_per_gpu"]:
            continue
        seen.add(key)
        devices, micro, sequence = (_whole(row[name]) for name in ("n_gpus", "micro_batch", "seq_len"))
        net, recomputed = _JAX[row["network"]]
        samples = micro * devices
        yield Run(
            source="jax-toolbox fp8" if fp8 else "jax-toolbox",
            net=net,
            group=row["network"],
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // 8)}x8x{row['gpu_key']}:{400 if 'h100' in row['gpu_key'] else 200}gb",
            sequence=sequence,
            micro_batch=micro,
            plan=Plan(
                dp=devices,
                zero=0 if net.layers == 12 else 3,
                checkpointing="selective" if maxtext else recomputed,
            ),
            samples=samples,
            seconds=samples * sequence / (float(row["tokens_per_s_per_gpu"]) * devices),
            software="fused" if flash else "megatron",
            half=FP8 if fp8 else "bfloat16",
            label=PADDED if "SFT" in row["notes"] else "",
        )


def seqsel(measured: Path) -> Iterator[Run]:
    """Korthikanti et al. 2022: full recomputation, and selective with sequence parallelism."""
    for row in _rows(measured / "megatron-seqsel" / "iterations.csv"):
        layers, hidden, heads = (_whole(row[name]) for name in ("layers", "hidden", "heads"))
        tp, pp, batch, micro = (_whole(row[name]) for name in ("tp", "pp", "global_batch", "micro_batch"))
        full = row["act_checkpoint"] == "full"
        devices = _whole(row["n_gpus"])
        yield Run(
            source="megatron-seqsel",
            net=Net("gpt", layers, hidden, heads, 51200, dropout=0.1),
            group=row["network"],
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // 8)}x8x{row['gpu_key']}:200gb",
            sequence=2048,
            micro_batch=micro,
            plan=Plan(
                dp=1,
                tp=tp,
                pp=pp,
                interleave=max(_whole(row["vp"]), 1),
                accumulate=batch // micro,
                checkpointing="full" if full else "selective",
                sequence_parallel=not full,
            ),
            samples=batch,
            seconds=float(row["step_s"]),
            software="megatron",
            half="float16",
        )


_GPT_5B = Net("gpt", 24, 4096, 32, 51200, dropout=0.1)
_GPT_175B = Net("gpt", 96, 12288, 96, 51200, dropout=0.1)
_NEMO = {
    "GPT-3 5B": (_GPT_5B, Plan(tp=1, zero=1), 4, 2160),
    "GPT-3 175B": (
        _GPT_175B,
        Plan(tp=8, pp=8, interleave=6, checkpointing="selective", zero=1),
        1,
        1536,
    ),
}


def nvidia_llm(measured: Path) -> Iterator[Run]:
    """NeMo 23.05 on DGX A100 SuperPODs, flash attention off. Splits and dropout are those of its configurations.

    The 175B rows are labelled and in no fit: what they recompute is not stated, and the page of release 22.08 has 138
    to 161 tokens/s for them, with selective recomputation and without interleaving.
    """
    for row in _rows(measured / "nvidia-llm" / "nemo-launcher.csv"):
        if row["network"] not in _NEMO or row["mode"] != "train":
            continue
        net, plan, micro, batch = _NEMO[row["network"]]
        devices = _whole(row["n_gpus"])
        dp = devices // (plan.tp * plan.pp)
        passes = max(1, batch // (micro * dp))
        samples = passes * micro * dp
        yield Run(
            source="nvidia-llm",
            net=net,
            group=row["network"],
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // 8)}x8x{row['gpu_key']}:200gb",
            sequence=2048,
            micro_batch=micro,
            plan=replace(plan, dp=dp, accumulate=passes),
            samples=samples,
            seconds=samples * 2048 / (float(row["tokens_per_s_per_gpu"]) * devices),
            software="megatron",
            label=SPLIT_UNSURE if plan.tp > 1 else "",
        )


_NEMO_FP8 = {
    "GPT3-5B": _GPT_5B,
    "GPT3-20B": Net("gpt", 44, 6144, 48, 51200, dropout=0.1),
    "GPT3-175B": _GPT_175B,
    "LLAMA2-7B": Net("llama", 32, 4096, 32, 32000, 11008),
    "LLAMA2-13B": Net("llama", 40, 5120, 40, 32000, 13824),
    "LLAMA2-70B": Net("llama", 80, 8192, 64, 32000, 28672, 8),
}


def nemo_fp8(measured: Path) -> Iterator[Run]:
    """NeMo 24.07 on DGX H100 in FP8 (Transformer Engine), no activations recomputed; the first of equal rows."""
    seen = set()
    for row in _rows(measured / "nvidia-llm" / "nemo-perf.csv"):
        names = ("network", "n_gpus", "global_batch", "micro_batch", "tp", "pp")
        key = tuple(row[name] for name in names)
        if row["network"] not in _NEMO_FP8 or row["gpu_key"] != "h100-sxm" or row["mode"] != "train" or key in seen:
            continue
        seen.add(key)
        devices, batch, micro, tp, pp = (_whole(row[name]) for name in names[1:])
        sequence, dp = _whole(row["seq_len"]), devices // (tp * pp)
        yield Run(
            source="nemo fp8",
            net=_NEMO_FP8[row["network"]],
            group=row["network"],
            gpu=row["gpu_key"],
            cluster=f"{max(1, devices // 8)}x8x{row['gpu_key']}:400gb",
            sequence=sequence,
            micro_batch=micro,
            plan=Plan(dp=dp, tp=tp, pp=pp, interleave=_whole(row["vp"]), zero=1, accumulate=batch // (micro * dp)),
            samples=batch,
            seconds=batch * sequence / (float(row["tokens_per_s_per_gpu"]) * devices),
            software="megatron-core",
            half=FP8,
        )


_FMS = {
    "Llama 2 7b": Net("llama", 32, 4096, 32, 32000, 11008),
    "Llama 2 13b": Net("llama", 40, 5120, 40, 32000, 13824),
    "Llama 2 34b": Net("llama", 48, 8192, 64, 32000, 22016, 8),
    "Llama 2 70b": Net("llama", 80, 8192, 64, 32000, 28672, 8),
}


def fms_fsdp(measured: Path) -> Iterator[Run]:
    """FSDP with torch.compile. "Selective AC" of the larger models recomputes whole blocks, of the 13B every third."""
    for row in _rows(measured / "fms-fsdp" / "train.csv"):
        devices, micro = _whole(row["n_gpus"]), _whole(row["micro_batch"])
        samples = micro * devices
        large = row["network"].endswith(("34b", "70b"))
        yield Run(
            source="fms-fsdp",
            net=_FMS[row["network"]],
            group=row["network"],
            gpu=row["gpu_key"],
            cluster=f"{devices // 8}x8x{row['gpu_key']}:{100 if 'h100' in row['gpu_key'] else 50}gb",
            sequence=4096,
            micro_batch=micro,
            plan=Plan(dp=devices, zero=3, checkpointing="full" if large else "none"),
            samples=samples,
            seconds=samples * 4096 / (float(row["tokens_per_s_per_gpu"]) * devices),
            software="fused",
        )


def maxtext(measured: Path) -> Iterator[Run]:
    """Llama 2 7B on A3 machines, whose eight GPUs share 800 Gbit/s: sharded in a node, replicas among nodes.

    Batch, length and recomputation (all but products and attention) are those of MaxText/configs/a3/llama_2_7b/*.sh.
    MaxText's TFLOP/s count six for each weight and token, without the embedding's, and half of the attention.
    """
    net, sequence, micro = _JAX["LLaMA2 7B"][0], 4096, 4
    per_token = 6 * (net.parameters - net.vocabulary * net.hidden) + 6 * net.layers * net.hidden * sequence
    for row in _rows(measured / "maxtext" / "train.csv"):
        if row["gpu_key"] != "h100-sxm":
            continue
        devices = _whole(row["n_gpus"])
        samples = micro * devices
        yield Run(
            source="maxtext",
            net=net,
            group=row["n_gpus"],
            gpu=row["gpu_key"],
            cluster=f"{devices // 8}x8x{row['gpu_key']}:100gb",
            sequence=sequence,
            micro_batch=micro,
            plan=Plan(dp=devices, zero=3 if devices == 8 else 1, checkpointing="selective"),
            samples=samples,
            seconds=micro * sequence * per_token / (float(row["tflops_per_gpu_reported"]) * 1e12),
            software="fused",
        )


PUBLISHED = Path(__file__).resolve().parent / "published"
_WHOLE = ("layers", "hidden", "heads", "vocabulary", "sequence", "micro_batch", "samples", "dp", "tp", "pp", "zero")
_RECOMPUTED = 96  # FLOPs of a block for each token and squared width, recomputation included (Narayanan et al. 2021)


def published_steps() -> Iterator[tuple[str, Run]]:
    """Whose cluster, and a step of Megatron-LM or Megatron-Core, from benchmarks/published/steps.csv."""
    for row in _rows(PUBLISHED / "steps.csv"):
        layers, hidden, heads, vocabulary, sequence, micro, samples, dp, tp, pp, zero = (
            int(row[one]) for one in _WHOLE
        )
        plan = Plan(
            dp=dp,
            tp=tp,
            pp=pp,
            zero=zero,
            checkpointing=row["checkpointing"],
            accumulate=samples // (micro * dp),
            interleave=int(row["interleave"]),
            sequence_parallel=row["software"] == OVERLAPPED_TENSORS,  # Megatron-LM had none before 2022
        )
        per_token = _RECOMPUTED * layers * hidden**2 * (1 + sequence / (6 * hidden))
        rate = float(row["hardware_tflops"] or 0) * 1e12 * plan.devices
        run = Run(
            source=row["source"],
            net=Net(
                row["kind"],
                layers,
                hidden,
                heads,
                vocabulary,
                inner=_whole(row["inner"]),
                kv_heads=_whole(row["kv_heads"]),
                dropout=float(row["dropout"]),
            ),
            group=f"h{hidden} {plan.devices}",
            gpu=row["gpu"],
            cluster=row["cluster"],
            sequence=sequence,
            micro_batch=micro,
            plan=plan,
            samples=samples,
            seconds=float(row["step_s"]) if row["step_s"] else samples * sequence * per_token / rate,
            software=row["software"],
            half=row["half"],
        )
        yield row["owner"], run


READERS = {
    "vtrain": vtrain,
    "llm-foundry": llm_foundry,
    "bigscience": bigscience,
    "internevo": internevo,
    "jax-toolbox": jax_toolbox,
    "megatron-seqsel": seqsel,
    "nvidia-llm": nvidia_llm,
    "nemo fp8": nemo_fp8,
    "fms-fsdp": fms_fsdp,
    "maxtext": maxtext,
}


def all_runs(measured: Path) -> list[Run]:
    """Without GPUs before Ampere, which distributed_older.py reads."""
    runs = [run for reader in READERS.values() for run in reader(measured)]
    runs += [run for _, run in published_steps()]
    return [run for run in runs if not find_hardware(run.gpu).before_ampere]
