"""Does joulecast give the right value for small inputs taken from public bug reports?

    python benchmarks/cases.py --cases FOLDER [NUMBER ...]

Each case is a folder with a model file; its number begins the folder's name. The right values below were worked out by
hand. Each command runs as a process of its own; a row is printed for each value. Exit status 1 when one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIMPLENET = shlex.quote(str(Path(__file__).parents[1] / "models" / "simplenet.py"))
RTX = "--hardware rtx-3090 --steps 1000"
HARDWARE = ("a100", "v100", "NVIDIA A10G", "h100", "4090", "M1 Pro", "K80", "p4d.24xlarge", "a2-highgpu-8g")
REGIONS = ("USA", "DEU", "UK", "aws:us-east-1", "CA-QC")
OPTIMIZERS = ("rmsprop", "adagrad", "adafactor", "lion", "lamb", "adamw_8bit", "SGD", "nadam")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command printed, its seconds of the processor and peak memory. `answer` is its JSON, empty without."""

    status: int
    answer: Mapping[str, Any]
    stdout: str
    stderr: str
    seconds: float
    memory_gb: float

    @property
    def work(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.answer["workload"]
        return found

    @property
    def forward(self) -> int:
        return round(self.per_sample * self.work["batch_size"])

    @property
    def per_sample(self) -> float:
        return float(self.work["forward_flops_per_sample"])

    @property
    def step(self) -> int:
        return int(self.work["step_flops"])

    @property
    def run_s(self) -> float:
        return float(self.answer["seconds"]["value"])

    @property
    def notes(self) -> str:
        return "; ".join(self.answer["warnings"])


Get = Callable[[Sequence[Outcome]], Any]


@dataclass(frozen=True, slots=True)
class Check:
    """A value of a case: equal to `low`, or between `low` and `high`."""

    what: str
    get: Get
    low: Any
    high: Any = None

    @property
    def expected(self) -> str:
        return shown(self.low) if self.high is None else f"{shown(self.low)} to {shown(self.high)}"

    def holds(self, got: Any) -> bool:
        return bool(got == self.low if self.high is None else self.low <= got <= self.high)


@dataclass(frozen=True, slots=True)
class Case:
    """Commands of one case: options of `estimate`, or a script that starts with "python"; and what they must give."""

    number: str
    commands: Sequence[str]
    checks: Sequence[Check]
    environments: Sequence[Mapping[str, str]] = field(default=({},))


def forward(value: int, index: int = 0) -> Check:
    return Check("forward", lambda outcomes: outcomes[index].forward, value)


def sample(value: int, index: int = 0) -> Check:
    return Check("forward of a sample", lambda outcomes: outcomes[index].per_sample, value)


def step(value: int, index: int = 0) -> Check:
    return Check("step", lambda outcomes: outcomes[index].step, value)


def parameters(value: int, index: int = 0) -> Check:
    return Check("parameters", lambda outcomes: outcomes[index].work["parameters"], value)


def ratio(what: str, low: float, high: float) -> Check:
    return Check(what, lambda outcomes: outcomes[0].run_s / outcomes[1].run_s, low, high)


def answered(count: int) -> Check:
    return Check("commands answered", lambda outcomes: sum(outcome.status == 0 for outcome in outcomes), count)


def says(text: str) -> Check:
    return Check(f"says {text!r}", lambda outcomes: text in outcomes[0].stdout + outcomes[0].stderr, True)


def quiet(index: int = 0) -> Check:
    return Check("stderr", lambda outcomes: outcomes[index].stderr, "")


def bounded(seconds: float, gigabytes: float, index: int = 0) -> Sequence[Check]:
    return (
        Check("CPU seconds", lambda outcomes: outcomes[index].seconds, 0, seconds),
        Check("GB", lambda outcomes: outcomes[index].memory_gb, 0, gigabytes),
    )


BILINEAR = 32 * 512 * 256 * 256
GROUPED = 2_147_483_648
FFTS = 4 * 64 * 2  # layers, channels, there and back: each 2.5 N log2 N / 2 multiply-adds
CASES = (
    Case(
        "01",
        [f"--model model.py --input 256,64 --batch-size 8 --optimizer adamw {RTX}"],
        [
            step(127561490432),
            step(156615434240, 1),
            step(169500336128, 2),
            Check("note about gradients", lambda outcomes: "gradient" in outcomes[1].notes, False),
        ],
        [{"CKPT": kind} for kind in ("none", "new", "old")],
    ),
    Case(
        "03",
        [f"--model model.py --input 3,320,320 --batch-size 8 {RTX}"],
        [forward(16_915_660_800), step(50_393_088_000)],
    ),
    Case("04", [f"--model model.py --input 3,128,128 --batch-size 8 {RTX}"], [step(16_452_157_440)]),
    Case(
        "05",
        [f"--model {name} --batch-size 8 {RTX}" for name in ("model.py", "fixed.py")],
        [forward(198_185_984), forward(198_185_984, 1)],
    ),
    Case(
        "07",
        [f"--model model.py --batch-size 16 {RTX}"],
        [forward(10_368_000_000), Check("batch size", lambda outcomes: outcomes[0].work["batch_size"], 16)],
    ),
    Case(
        "08",
        [f"--model {name} --batch-size 16 {RTX}" for name in ("model.py", "unpacked.py")],
        [forward(764_805_120), ratio("seconds over those of unpacked.py", 1 / 1.2, 1.2)],
    ),
    Case(
        "09",
        [f"--model model.py --batch-size 128 {RTX}"],
        [ratio("seconds of dense over sparse", 5, 1000)],
        [{"SPARSE": "0"}, {"SPARSE": "1"}],
    ),
    # The inputs need no gradient, so that autograd computes one product in the backward pass, that of the weight.
    Case(
        "10",
        [f"--model model.py --input 256 --input 256 {RTX}"],
        [
            Check("forward", lambda outcomes: outcomes[0].forward, BILINEAR * 0.99, (BILINEAR + 32 * 512 * 256) * 1.01),
            Check("backward", lambda outcomes: outcomes[0].step - outcomes[0].forward, BILINEAR, BILINEAR * 1.01),
        ],
    ),
    Case(
        "11",
        [f"--model model.py --input 1,64,64 --batch-size 20 {RTX}"],
        [forward(20 * (84_410_368 + FFTS * 5 * 64 * 64 * 12 // 4))],
    ),
    Case("13", [f"--model model.py:Routed --input 128,32 --batch-size 16 {RTX}"], [forward(8_623_529_984)]),
    Case(
        "14",
        [f"--model model.py --input 128,512 {RTX}", f"--model model.py --input 128,512 --inference {RTX}"],
        [sample(2_520_519_680), sample(2_520_519_680, 1)],
    ),
    Case(
        "15",
        [f"--model {name} --input 1000 {RTX}" for name in ("model.py", "inside.py")],
        [forward(32_320_000), forward(32_320_000, 1), quiet(), quiet(1)],
    ),
    Case(
        "16",
        [f"--model model.py --input 4096 {RTX}"],
        [
            forward(538_181_632),
            Check("unsupported", lambda outcomes: [*outcomes[0].work["unsupported"]], ["bugs::fused_mm_backward"]),
        ],
    ),
    Case(
        "17",
        [f"--model {name} --input 3,32,32 {RTX}" for name in ("model.py", "todevice.py")],
        [forward(56_643_584), forward(56_643_584, 1)],
    ),
    Case(
        "19",
        [f"--model model.py:Net --input 128,1024 --optimizer adamw {RTX}"],
        [
            forward(34_896_609_280),
            step(34_896_609_280 + 31_104_958_464),
            Check("trainable", lambda outcomes: outcomes[0].work["trainable_parameters"], 131_072),
        ],
    ),
    Case(
        "20",
        [f"--model model.py --input int64:128 --optimizer adam {RTX}"],
        [parameters(16_646_656), forward(68_182_605_824), step(204_547_817_472)],
    ),
    # Attention's backward computes the scores again, as fused kernels do: 12 products beyond three times the forward.
    Case(
        "21",
        [f"--model model.py --input 128,768 {RTX}"],
        [
            sample(11_185_423_872),
            parameters(7_089_410),
            step(3 * 32 * 11_185_423_872 + 12 * 32 * 12 * 128 * 128 * 64),
        ],
    ),
    Case("22", [f"--model model.py --input 2 --batch-size 1000 {RTX}"], [step(3_154_432_000)]),
    Case("23", [f"--model model.py --input 3,32,32 {RTX}"], [answered(1)]),
    Case(
        "24",
        [f"--model {name} --input 3,32,32 {RTX}" for name in ("src/models/net.py", "src.models.net:Net")],
        [forward(632_311_808), forward(632_311_808, 1)],
    ),
    Case("25", [f"--model net.ipynb --input 784 {RTX}"], [answered(1)]),
    Case(
        "26",
        [f"--model ../20-tied-weights/model.py --input int64:128 {RTX} --optimizer {name}" for name in OPTIMIZERS],
        [answered(len(OPTIMIZERS))],
    ),
    Case(
        "27",
        [f"--model {SIMPLENET} --hardware {shlex.quote(name)} --steps 10" for name in HARDWARE],
        [Check("found, or choices", lambda outcomes: sum(found_or_choices(one) for one in outcomes), len(HARDWARE))],
    ),
    Case(
        "28",
        [f"--model {SIMPLENET} --region {name} {RTX}" for name in REGIONS],
        [answered(len(REGIONS))],
    ),
    Case("29", [f"--model model.py --batch-size 4 {RTX}"], [forward(1_642_332_160)]),
    Case(
        "30",
        [
            "--model model.py --input 4096 --batch-size 16384 --hardware h100-sxm --steps 1000",
            "--model halved.py --input 4096 --batch-size 16384 --hardware h100-sxm --steps 1000 --precision bf16",
        ],
        [
            ratio("seconds over those of halved.py", 0.75, 1.25),
            Check("precision", lambda outcomes: outcomes[0].work["precision"], "bfloat16"),
        ],
    ),
    Case("32", [f"--model model.py --input 784 {RTX}"], [step(8_028_160)]),
    Case(
        "36",
        [f"--model model.py --input int64:64 {RTX}", f"--model model.py --input int64:64 --model-arg width=512 {RTX}"],
        [parameters(776_168), Check("wider", lambda outcomes: outcomes[1].work["parameters"] > 776_168, True)],
    ),
    Case(
        "47",
        [f"--model {name} --batch-size 8 {RTX}" for name in ("model.py", "noloss.py")],
        [forward(3_270_246_400), ratio("seconds over those of noloss.py", 3 / 4, 4 / 3)],
    ),
    Case(
        "48", [f"--model model.py:Net --input int64:512 --batch-size 4 {RTX}"], [sample(693_108_736), *bounded(30, 4)]
    ),
    Case("49", [f"--model model.py --input 3,64,64 {RTX}"], [forward(660_612_224)]),
    Case("52", [f"--model model.py:Net --input 256 {RTX}"], [forward(6_373_376), quiet()]),
    # The input needs no gradient: of the first product only the weight's gradient is computed.
    Case(
        "53",
        [f"--model model.py --input 512 --batch-size 1024 {RTX}"],
        [
            forward(GROUPED),
            step(GROUPED * 5 // 2),
            Check("precision", lambda outcomes: outcomes[0].work["precision"], "bfloat16"),
        ],
    ),
    Case("56", [f"--model model.py --input 784 {RTX}"], [forward(32 * 2 * (784 * 512 + 512 * 32))]),
    Case(
        "57",
        ["--model model.py --input 100 --samples 512 --epochs 2 --batch-size 64"],
        [answered(1), Check("trained", lambda outcomes: "epoch 0 loss" in outcomes[0].stdout, False)],
    ),
    Case("59", [f"--model model.py --input int64:64 {RTX}"], [sample(31_064_064)]),
    Case(
        "60",
        [
            *(f"--model {name} {RTX}" for name in ("model.py", "two_inputs.py")),
            f"--model subclassed.py --input 32,32,3 {RTX}",
        ],
        [sample(1_659_040), sample(1_107_520, 1), sample(388_960, 2)],
    ),
    Case(
        "62",
        [f"--model {name} {RTX}" for name in ("model.py", "tupled.py")],
        [forward(54_525_952), forward(54_525_952, 1)],
    ),
    Case(
        "63",
        [f"--model {name} --input int64:1024 --batch-size 16 {RTX}" for name in ("model.py:Dropped", "recomputed.py")],
        [
            forward(16 * 1024 * (24 * 12_582_912 + 32_768_000) + 24 * 16 * 16 * 1024**2 * 128),
            *bounded(20, 4),
            *bounded(20, 4, 1),
        ],
    ),
    Case("65", ["--model config.json --batch-size 1 --hardware rtx-3090 --tokens 1e9 --precision bf16"], [says("fit")]),
    Case(
        "66",
        [
            "--model config.json --batch-size 1 --sequence-length 2048 --tokens 300e9 --devices 1000"
            " --hardware v100-sxm2-32gb --precision fp16 --pue 1.1 --carbon-intensity 429"
        ],
        [
            Check(
                "1,287 MWh inside", lambda outcomes: inside(outcomes[0].answer["facility_energy_kwh"], 1_287_000), True
            )
        ],
    ),
    Case("67", [f"--model model.py --batch-size 8 {RTX}"], [step(13_388_218_368)]),
    Case(
        "73",
        ["python attribute.py trace", "python attribute.py watch"],
        [Check("trained", lambda outcomes: [one.stdout.split()[-1:] for one in outcomes], [["trained"]] * 2)],
    ),
    Case(
        "74",
        ["python compare.py old", "python compare.py new"],
        [Check("same", lambda outcomes: [one.stdout.count("same") for one in outcomes], [16, 16])],
    ),
)


def found_or_choices(outcome: Outcome) -> bool:
    return outcome.status == 0 or "did you mean" in outcome.stderr or "choose" in outcome.stderr


def inside(interval: Mapping[str, float], value: float) -> bool:
    return interval["low"] <= value <= interval["high"]


def run(command: str, folder: Path, environment: Mapping[str, str]) -> Outcome:
    words = shlex.split(command)
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    else:
        words = [str(Path(sys.executable).with_name("estimate")), *words, "--json"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(words, cwd=folder, env={**os.environ, **environment}, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        stdout, stderr = out.read(), err.read()
    answer = json.loads(stdout) if stdout.startswith("{") else {}
    return Outcome(process.returncode, answer, stdout, stderr, seconds, usage.ru_maxrss / 2**20)


def values(case: Case, folder: Path) -> Iterator[tuple[Check, Any]]:
    outcomes = [run(command, folder, environment) for command in case.commands for environment in case.environments]
    for check in case.checks:
        try:
            yield check, check.get(outcomes)
        except (KeyError, IndexError):
            yield check, next((one.stderr.strip() for one in outcomes if one.status), "no answer")


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True, help="the folder of the cases")
    parser.add_argument("numbers", nargs="*")
    options = parser.parse_args()
    wrong = 0
    print("| case | value | expected | got | |\n|---|---|---|---|---|")
    for case in CASES:
        if options.numbers and case.number not in options.numbers:
            continue
        folder = next(options.cases.glob(f"{case.number}-*"))
        for check, got in values(case, folder):
            right = check.holds(got)
            wrong += not right
            verdict = "right" if right else "WRONG"
            print(f"| {folder.name} | {check.what} | {check.expected} | {shown(got)[:200]} | {verdict} |", flush=True)
    print(f"\n{wrong} values differ" if wrong else "\nevery value is right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
