"""Error of this machine's profile on networks that are not in the calibration suite.

    python benchmarks/this_machine.py [--measure quick|full|no] [--store DIR] [--only TEXT] [--json FILE]
    python benchmarks/this_machine.py --again DIR --profile FILE    # score the records of --keep DIR

Calibrates the machine with `measure`, times real training steps of networks of timm, pytorchcv and transformers
(and two of its own), and compares. Step times need no energy counter. Exit status 1 when the mean error is above
10 % or the median above 6 %.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from architectures import Architecture, image_networks, text_networks
from torch import nn

from joulecast.estimator.cost.host import detect_host
from joulecast.estimator.cost.library import newest_calibration
from joulecast.estimator.cost.profile import Profile, read_profile
from joulecast.measure.meters.contamination import SystemCounters
from joulecast.measure.meters.selection import select_meter
from joulecast.measure.records.records import Record, describe_host, same_machine
from joulecast.measure.records.store import Store
from joulecast.measure.suite.calibrate import chosen_records
from joulecast.measure.suite.cases import Case
from joulecast.measure.suite.op_timing import stopwatch_overhead_s
from joulecast.measure.suite.rounds import Bench, CasePlan, measure_case, prepare

MEAN_LIMIT, MEDIAN_LIMIT = 0.10, 0.06

# Names from architectures.py, with the batch size for which a step takes about a second on two cores.
_FIRST = {
    "alexnet": 32,
    "vgg11": 2,
    "squeezenet_v1_1": 8,
    "resnet18": 8,
    "resnet50": 4,
    "preresnet18": 8,
    "resnext50_32x4d": 4,
    "densenet121": 4,
    "dla46_c": 8,
    "darknet_tiny": 16,
    "inception_v3": 2,
    "mobilenet_w1": 8,
    "mobilenetv2_100": 8,
    "mnasnet_small": 16,
    "mobilenetv3_small_100": 16,
    "efficientnet_b0": 4,
    "shufflenetv2_w1": 16,
    "ghostnet_100": 8,
    "regnetx_002": 16,
    "regnety_002": 16,
    "repvgg_a0": 8,
    "ese_vovnet19b_dw": 8,
    "convnext_atto": 8,
    "vit_tiny_patch16_224": 8,
    "deit_tiny_patch16_224": 16,
    "swin_tiny_patch4_window7_224": 2,
    "mixer_s32_224": 16,
    "gmlp_s16_224": 2,
    "resmlp_12_224": 4,
    "poolformer_s12": 4,
    "mobilevit_xxs": 8,
    "pvt_v2_b0": 8,
    "levit_128s": 16,
}
_TEXT_BATCH = 16

# Left out while features and forms were first chosen; used since.
_HELD_BACK = {
    "cspresnet50": 4,
    "hrnet_w18_small": 4,
    "legacy_xception": 2,
    "lcnet_050": 16,
    "mobilenetv4_conv_small": 16,
    "tinynet_e": 16,
    "shufflenet_g3_w1": 8,
    "rexnet_100": 8,
    "convnextv2_atto": 8,
    "convmixer_768_32": 1,
    "nf_regnet_b0": 8,
    "cait_xxs24_224": 4,
    "crossvit_tiny_240": 8,
    "xcit_nano_12_p16_224": 8,
    "pit_ti_224": 8,
    "twins_svt_small": 2,
    "edgenext_xx_small": 8,
    "efficientformer_l1": 4,
    "coatnet_nano_rw_224": 2,
    "focalnet_tiny_srf": 2,
}

# Chosen before any of them was built, after the feature of spilled multiply-adds was added.
_THIRD = {
    "selecsls42b": 8,
    "fbnetc_100": 8,
    "mobileone_s0": 4,
    "fastvit_t8": 4,
    "gernet_s": 8,
    "lambda_resnet26t": 2,
    "resnest14d": 4,
    "starnet_s1": 8,
    "repvit_m0_9": 4,
    "efficientvit_b0": 16,
    "mambaout_femto": 4,
    "inception_next_atto": 4,
    "visformer_tiny": 8,
    "convit_tiny": 8,
    "coat_lite_tiny": 4,
    "davit_tiny": 2,
    "hiera_tiny_224": 2,
    "peleenet": 16,
    "igcv3_w1": 8,
    "bam_resnet18": 8,
}
# Chosen, with their batch sizes, before any was built, after the feature of wide depthwise windows was added.
_FOURTH = {
    "tnt_s_patch16_224": 2,
    "volo_d1_224": 2,
    "sequencer2d_s": 2,
    "gcvit_xxtiny": 4,
    "maxvit_rmlp_pico_rw_256": 2,
    "nest_tiny": 2,
    "nextvit_small": 2,
    "tiny_vit_5m_224": 4,
    "hgnet_tiny": 4,
    "mixnet_s": 8,
    "mvitv2_tiny": 2,
    "shvit_s1": 16,
    "fasternet_t0": 16,
    "swiftformer_xs": 8,
    "hardcorenas_a": 8,
    "rdnet_tiny": 2,
    "diracnet18v2": 8,
    "hardnet39ds": 8,
    "menet108_8x1_g3": 16,
    "bninception": 4,
}


class _Tagger(nn.Module):
    """A bidirectional LSTM over words, as taggers are."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(12_000, 100)
        self.cell = nn.LSTM(100, 200, num_layers=2, batch_first=True, bidirectional=True, dropout=0.3)
        self.tags = nn.Linear(400, 45)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.tags(self.cell(self.words(x))[0])
        return result


class _Segmenter(nn.Module):
    """A U-Net of four levels with transposed convolutions (Ronneberger et al. 2015), 16 channels wide."""

    def __init__(self) -> None:
        super().__init__()
        widths = (16, 32, 64, 128)
        self.down = nn.ModuleList(self._level(a, b) for a, b in zip((3, *widths), widths, strict=False))
        pairs = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(self._level(2 * b, b) for _, b in pairs)
        self.classes = nn.Conv2d(widths[0], 21, 1)

    @staticmethod
    def _level(c_in: int, c_out: int) -> nn.Module:
        layers = [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level in self.down:
            x = level(x if not skips else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], dim=1))
        result: torch.Tensor = self.classes(x)
        return result


def networks(which: str) -> list[tuple[Architecture, int]]:
    """The networks of a set ("first", "held-back", "third", "fourth" or "all"), each with its batch size."""
    sets = {"first": _FIRST, "held-back": _HELD_BACK, "third": _THIRD, "fourth": _FOURTH}
    sets["all"] = {name: batch for chosen in sets.values() for name, batch in chosen.items()}
    batches = sets[which]
    chosen = [(one, batches[one.name]) for one in image_networks() if one.name in batches]
    if which not in ("first", "all"):
        return chosen
    chosen += [(one, _TEXT_BATCH) for one in text_networks()]
    own = [
        Architecture("LSTM", "tagger", "own", _Tagger, lambda batch: torch.randint(12_000, (batch, 40))),
        Architecture("U-Net", "segmenter", "own", _Segmenter, lambda batch: torch.randn(batch, 3, 128, 128)),
    ]
    return [*chosen, (own[0], 32), (own[1], 4)]


@dataclass(frozen=True, slots=True)
class Row:
    """One network: seconds of a step, measured and predicted with its 90 % interval."""

    family: str
    name: str
    batch_size: int
    optimizer: str
    measured_s: float
    predicted_s: float
    low_s: float
    high_s: float
    spread: float  # of the measured windows: largest over smallest, less one
    macs: int
    flags: tuple[str, ...]

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1

    @property
    def inside(self) -> bool:
        return self.low_s <= self.measured_s <= self.high_s


def _lively(example: torch.Tensor) -> torch.Tensor:
    """Noise or random words instead of an example's zeros, so that a step sees many pixels or words."""
    if bool(example.any()):
        return example
    return torch.randn_like(example) if example.is_floating_point() else torch.randint_like(example, 2, 8000)


def judge(network: Architecture, batch: int, optimizer: str, bench: Bench) -> Record:
    """Times training steps of one network."""

    def build() -> tuple[nn.Module, Any]:
        return network.build(), ((_lively(network.inputs(batch)),), {})

    ready = prepare(Case(network.name, network.family, build, optimizer), str(bench.host["device"]))
    record, _ = measure_case(ready, bench, network.name)
    return record


def score(record: Record, profile: Profile) -> Row:
    assert record.workload is not None
    interval = profile.predict(record.workload).seconds
    steps = [window.seconds / window.steps for window in record.windows]
    return Row(
        family=record.family,
        name=record.name,
        batch_size=record.workload.batch_size,
        optimizer=str(record.workload.optimizer),
        measured_s=record.seconds / record.steps,
        predicted_s=interval.value,
        low_s=interval.low,
        high_s=interval.high,
        spread=max(steps) / min(steps) - 1,
        macs=record.workload.flops,
        flags=record.flags,
    )


def by_flops(records: Sequence[Record], rows: Sequence[Row]) -> float:
    """The mean error of seconds = a x FLOPs + b, fitted on the same records."""
    pairs = [(one.workload.flops, one.seconds / one.steps) for one in records if one.workload is not None and one.steps]
    macs, seconds = np.array(pairs, dtype=float).T
    columns = np.stack([macs, np.ones_like(macs)], axis=1) / seconds[:, None]
    slope, start = np.linalg.lstsq(columns, np.ones_like(macs), rcond=None)[0]
    return mean(abs((slope * row.macs + start) / row.measured_s - 1) for row in rows)


def by_kind(records: Sequence[Record], profile: Profile) -> list[tuple[str, float, float]]:
    """(kind and phase, seconds measured, seconds predicted) over one step of every network."""
    totals: dict[str, list[float]] = {}
    for record in records:
        assert record.workload is not None
        assert record.op_seconds is not None
        predicted = profile.time.seconds(record.workload.ops).sum(axis=1)
        for op, truth, ours in zip(record.workload.ops, record.op_seconds, predicted, strict=True):
            if truth is not None:
                total = totals.setdefault(f"{op.kind} {op.phase}", [0.0, 0.0])
                total[0], total[1] = total[0] + truth, total[1] + float(ours)
    return sorted(((name, *total) for name, total in totals.items()), key=lambda item: -item[1])  # type: ignore[misc]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=["quick", "full", "no"], default="full")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--profile", type=Path, help="judge this profile instead of the machine's newest")
    parser.add_argument("--only", default="", help="networks or families with this in their name")
    parser.add_argument(
        "--networks", choices=["first", "held-back", "third", "fourth", "all"], default="all", help="which set"
    )
    parser.add_argument("--json", type=Path, help="also write all figures here")
    parser.add_argument("--case-s", type=float, default=6.0, help="seconds for each network")
    parser.add_argument("--again", type=Path, help="measure nothing: score the records in this store")
    parser.add_argument("--keep", type=Path, help="store the record of each network judged here")
    options = parser.parse_args()
    store = Store(options.store)
    if options.measure != "no" and options.again is None:
        mode = ["--quick"] if options.measure == "quick" else []
        program = "from joulecast.cli.main import measure; measure()"
        subprocess.run([sys.executable, "-c", program, *mode, "--store", str(store.folder)], check=True)
    profile = read_profile(options.profile) if options.profile else newest_profile(store)
    print(f"profile {profile.name}: {profile.provenance.fitted_on}", flush=True)
    if options.again:
        records = [one for one in Store(options.again).records() if options.only.lower() in one.name.lower()]
    else:
        keep = Store(options.keep) if options.keep else None
        wanted = [
            (network, batch)
            for network, batch in networks(options.networks)
            if options.only.lower() in f"{network.family} {network.name}".lower()
        ]
        records = _judge_all(wanted, profile, options.case_s, keep)
    rows = [score(record, profile) for record in records]
    suite = [one for one in store.records() if same_machine(one.host, profile.host)]
    if not rows:
        print(f"no network has {options.only!r} in its name or family", file=sys.stderr)
        return 2
    passed = _report(rows, records, profile, chosen_records(suite))
    if options.json:
        figures = {"profile": profile.name, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if passed else 1


def newest_profile(store: Store) -> Profile:
    import os

    os.environ["JOULECAST_STORE"] = str(store.folder)
    profile = newest_calibration(detect_host(), "pytorch")
    if profile is None:
        sys.exit(f"no profile of this machine in {store.profiles_folder}; run with --measure quick or full")
    return profile


def _judge_all(
    wanted: Sequence[tuple[Architecture, int]], profile: Profile, case_s: float, keep: Store | None
) -> list[Record]:
    records = []
    optimizers = ("sgd", "adamw", "momentum", "adam")
    with select_meter("none") as meter:
        host = describe_host(torch.get_num_threads(), "gpu" if torch.cuda.is_available() else "cpu")
        plan = CasePlan(window_s=0.5, case_s=case_s, rounds=3)
        bench = Bench(meter, SystemCounters(), host, plan, stopwatch_overhead_s(str(host["device"])), "this-machine")
        for index, (network, batch) in enumerate(wanted):
            record = judge(network, batch, optimizers[index % 4], bench)
            records.append(record)
            if keep is not None:
                keep.write(record)
            print(_line(score(record, profile)), flush=True)
            gc.collect()
    return records


def _line(row: Row) -> str:
    doubt = f"  [{'; '.join(row.flags)}]" if row.flags else ""
    return (
        f"{row.family:14.14} {row.name:30.30} {row.batch_size:4d} {row.optimizer:8}"
        f"  measured {row.measured_s * 1e3:8.1f} ms"
        f"  predicted {row.predicted_s * 1e3:8.1f} ms  {row.error:+7.1%}  {'in ' if row.inside else 'OUT'}"
        f"  spread {row.spread:.1%}{doubt}"
    )


def _report(rows: Sequence[Row], records: Sequence[Record], profile: Profile, suite: Sequence[Record]) -> bool:
    errors = [abs(row.error) for row in rows]
    print(f"\n{len(rows)} networks of {len({row.family for row in rows})} families, none of them in the suite")
    print(f"mean error    {mean(errors):6.1%}  (to reach: {MEAN_LIMIT:.0%})")
    print(f"median error  {median(errors):6.1%}  (to reach: {MEDIAN_LIMIT:.0%})")
    for name, names in (("held back", _HELD_BACK), ("third set", _THIRD)):
        some = [abs(row.error) for row in rows if row.name in names]
        if some:
            print(f"{name}     {mean(some):6.1%}  mean, {median(some):.1%} median of its {len(some)} networks")
    print(f"worst         {max(errors):6.1%}  ({max(rows, key=lambda row: abs(row.error)).name})")
    print(f"inside 90 %   {mean(row.inside for row in rows):6.1%}  of the intervals hold")
    print(f"noise         {median(row.spread for row in rows):6.1%}  median spread of a network's own windows")
    print(f"disturbed     {sum(bool(row.flags) for row in rows)} of {len(rows)} networks")
    if len(suite) >= 2:
        print(f"FLOPs alone   {by_flops(suite, rows):6.1%}  mean error, fitted on the same {len(suite)} records")
    print("\nwhere the time goes and how it was predicted, one step of each:")
    for name, truth, ours in by_kind(records, profile)[:16]:
        print(f"  {name:24} measured {truth * 1e3:9.1f} ms  predicted {ours * 1e3:9.1f} ms  {ours / truth - 1:+.1%}")
    return mean(errors) <= MEAN_LIMIT and median(errors) <= MEDIAN_LIMIT


if __name__ == "__main__":
    sys.exit(main())
