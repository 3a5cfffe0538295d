"""How many of transformers' model types trace, with their default configs?

    python benchmarks/breadth.py [TYPE ...] [--part 1/8] [--batch-size N] [--seconds 30] [--gigabytes 4] [--jsonl FILE]

One row a model type: outcome, seconds of the processor, peak memory, and the error where there is one. Each type runs
in a process of its own, forked from one that has the libraries loaded, on one core, and is stopped at the limits of
time and memory. Processor time is what an idle machine takes; other work on it does not count.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that started threads must not be forked
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from torchvision_stub import import_timm

if TYPE_CHECKING:
    from joulecast.estimator.trace.workload import Workload

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one model type.

    `outcome` is "traced", "text" (traced on its text alone), "config" (transformers cannot build the class from its
    default config, or run it without joulecast), "library" (one that the class needs is missing), "no forward" (the
    class has no forward pass), "session" (it takes an object in place of tensors), "error", "traceback", "crashed",
    "too slow" or "too large".
    """

    model_type: str
    model_class: str
    outcome: str
    seconds: float
    memory_gb: float
    tracer: str = ""
    forward_gmacs: float = 0.0
    unsupported: tuple[str, ...] = ()
    reason: str = ""


def model_classes() -> dict[str, str]:
    """Model type -> its class: the bare model's, else the first that an Auto class has for it."""
    from transformers.models.auto import configuration_auto, modeling_auto

    tables = [modeling_auto.MODEL_MAPPING_NAMES]
    tables += [
        value
        for name, value in vars(modeling_auto).items()
        if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES")
    ]
    found: dict[str, str] = {}
    for table in tables:
        for model_type, names in table.items():
            if model_type in configuration_auto.CONFIG_MAPPING_NAMES:
                found.setdefault(model_type, names if isinstance(names, str) else names[0])
    return dict(sorted(found.items()))


def trace_one(class_name: str, batch_size: int) -> dict[str, Any]:
    from joulecast.estimator.base.errors import JoulecastError
    from joulecast.estimator.model.read_model import TraceOptions, read_model

    options = TraceOptions(batch_size=batch_size, time_limit_s=600.0)
    try:
        return described(read_model(f"transformers:{class_name}", options))
    except JoulecastError as error:
        in_building = any(frame.name == "load_model" for frame in traceback.extract_tb(error.__traceback__))
        return {"outcome": kind_of(str(error), class_name, in_building), "reason": str(error)}
    except Exception:
        return {"outcome": "traceback", "reason": traceback.format_exc().splitlines()[-1]}


# Of classes that do not take a text: checked by a run of transformers alone on the CPU.
CONTRADICTORY = {
    "PPOCRV6SmallDetModel": "the backbone gives 384 channels and the neck takes 12",
    "EdgeTamVisionModel": "the backbone gives 1,024 channels and the neck takes 384",
    "EdgeTamModel": "as EdgeTamVisionModel, which is a part of it",
    "UVDocModel": "the backbone gives 128 channels and the bridge takes 768",
    "LwDetrModel": "projector_scale_factors is empty, and with it the list of feature maps",
    "PPDocLayoutV2ForObjectDetection": "class_thresholds is None, and the model makes a tensor of them",
    "TvpModel": "it has the positions of one video: a batch of two fails",
}
_KINDS = {
    "requires the": "library",
    "has no forward pass of its own": "no forward",
    "an object and not a tensor": "session",
    "of its config is None": "config",
    "does not fit together": "config",
}


def kind_of(reason: str, class_name: str, in_building: bool) -> str:
    for text, kind in _KINDS.items():
        if text in reason:
            return kind
    return "config" if in_building or class_name in CONTRADICTORY or fails_alone(class_name, reason) else "error"


def fails_alone(class_name: str, reason: str) -> bool:
    """Whether transformers alone, in evaluation mode, fails on a short text in the same place and with the same words.

    Words that contain the sizes of the inputs differ, and do not count: they may be the fault of the inputs.
    """
    import torch
    import transformers

    from joulecast.estimator.sandbox.user_code import model_error

    model_class = getattr(transformers, class_name)
    with torch.device("meta"):
        model = model_class(model_class.config_class()).eval()
    if model.main_input_name != "input_ids":
        return False
    try:
        model(input_ids=torch.ones(2, 16, dtype=torch.int64, device="meta"))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        words = str(model_error(error, what=class_name)).partition(": ")[2].rstrip(".")
        return any(reason.startswith(f"{Path(at.filename).name}:{at.lineno} in {at.name}: {words}") for at in frames)
    return False


def described(work: Workload) -> dict[str, Any]:
    return {
        "outcome": "text" if any("costed on text alone" in note for note in work.warnings) else "traced",
        "tracer": work.tracer,
        "forward_gmacs": work.forward_flops / work.batch_size / 1e9,
        "unsupported": tuple(sorted(work.unsupported)),
        "reason": "; ".join(work.warnings),
    }


def run(label: str, model: str, traced: Callable[[], dict[str, Any]], limit_s: float, limit_gb: float) -> Row:
    """Calls `traced` in a forked process, watched from this one."""
    reading, writing = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        os.write(writing, json.dumps(traced()).encode())
        os._exit(0)
    os.close(writing)
    peak, stopped = 0.0, ""
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        peak = max(peak, resident_gb(child))
        if processor_seconds(child) > limit_s or time.monotonic() - start > 20 * limit_s:
            stopped = "too slow"
        elif peak > limit_gb:
            stopped = "too large"
        if stopped:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.02)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, _, usage = os.wait4(child, 0)
    result = {"outcome": stopped} if stopped else json.loads(answer or '{"outcome": "crashed"}')
    return Row(label, model, seconds=usage.ru_utime + usage.ru_stime, memory_gb=peak, **result)


def processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def resident_gb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e9
    except (OSError, IndexError):
        return 0.0


def with_timm() -> None:
    """timm counts as there, with a stand-in for torchvision where that has no build."""
    try:
        import_timm()
    except ImportError:
        return
    from transformers import utils

    utils.import_utils.BACKENDS_MAPPING["timm"] = (lambda: True, "")
    utils.import_utils.is_timm_available = utils.is_timm_available = lambda: True


def show(row: Row) -> None:
    tail = row.reason if row.outcome not in ("traced", "text") else ", ".join(row.unsupported)
    print(
        f"| {row.model_type:28} | {row.model_class:36} | {row.outcome:10} | {row.seconds:6.1f} | {row.memory_gb:5.2f} "
        f"| {row.tracer:4} | {row.forward_gmacs:12,.1f} | {tail[:160]} |",
        flush=True,
    )


def summary(rows: Sequence[Row]) -> str:
    traced = [row for row in rows if row.outcome in ("traced", "text")]
    if not traced:
        return f"0 of {len(rows)} traced"
    counts = Counter(row.outcome for row in rows)
    seconds = sorted(row.seconds for row in traced)
    settled = len(traced) + sum(counts[kind] for kind in ("config", "library", "no forward", "session"))
    return (
        f"{settled} of {len(rows)} types ({settled / len(rows):.1%}) end in a trace or in a reason of their own: "
        + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        + f"; median {statistics.median(seconds):.1f} s, worst {seconds[-1]:.1f} s; "
        f"largest {max(row.memory_gb for row in traced):.2f} GB"
    )


def chosen(types: Sequence[str], part: str) -> Iterator[tuple[str, str]]:
    number, _, parts = part.partition("/")
    for index, (model_type, class_name) in enumerate(model_classes().items()):
        if (model_type in types) if types else index % int(parts) == int(number) - 1:
            yield model_type, class_name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("types", nargs="*", help="model types; all without one")
    parser.add_argument("--part", default="1/1", help="K/N: every Nth type from the Kth on")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--jsonl", type=Path, help="rows are appended to this file, and types in it left out")
    options = parser.parse_args()
    rows = []
    if options.jsonl and options.jsonl.exists():
        rows = [Row(**json.loads(line)) for line in options.jsonl.read_text().splitlines()]
    known = {row.model_type for row in rows}

    import torch
    import transformers

    import joulecast.estimator.model.inputs
    import joulecast.estimator.model.read_model
    import joulecast.estimator.trace.trace  # noqa: F401

    torch.set_num_threads(1)
    with_timm()
    _ = transformers.BertModel, transformers.GenerationMixin, transformers.MixtralModel  # what all import: once, here
    for model_type, class_name in chosen(options.types, options.part):
        if model_type in known:
            continue
        traced = functools.partial(trace_one, class_name, options.batch_size)
        row = run(model_type, class_name, traced, options.seconds, options.gigabytes)
        rows.append(row)
        show(row)
        if options.jsonl:
            with options.jsonl.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
    print(f"\n{summary(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
