"""What was fitted on published trainings of language models: factors of their software, links, and errors.

`benchmarks/distributed.py --fit` writes datasets/stacks.json. The factors belong to the population model, on whose
parameters they were fitted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from ..base.errors import ProfileError
from .software import OVERLAPPED_TENSORS, TRAINING_STACKS, VENDOR_TUNED, WRITTEN_SCORES

SCHEMA = "joulecast.stacks/1"


@dataclass(frozen=True, slots=True)
class Links:
    """How links and devices work together.

    `link_share` and `network_share` are the usable shares of a rate for large messages, `overlap` the share of the
    gradients' and weights' communication that can run while a device computes, `other_overlap` that of software which
    is not a stack for language models (chosen on half of the GPUs of NVIDIA's examples), `tensor_overlap` the share of
    tensor-parallel communication that runs while Megatron-Core computes. Megatron-LM with sequence parallelism hides as
    much of the backward pass's, behind gradients of weights (`backward_overlap`). A step takes `straggling` longer for
    each doubling of the nodes: the slowest node decides. `gradients_as_weights`: gradients are exchanged in the
    weights' precision, which autocast leaves at float32; training stacks and MLPerf submissions exchange 16 bits.
    `expert_share` is the usable share of rates in exchanges of experts (0: that of other exchanges).
    """

    link_share: float
    network_share: float
    node_latency_s: float
    network_latency_s: float
    overlap: float
    straggling: float
    tensor_overlap: float = 0.0
    other_overlap: float = 0.3
    backward_overlap: float = 0.0
    gradients_as_weights: bool = False
    expert_share: float = 0.0

    def of(self, software: str) -> Links:
        """The links as `software` uses them."""
        return replace(
            self,
            overlap=self.overlap if software in TRAINING_STACKS else self.other_overlap,
            tensor_overlap=self.tensor_overlap if software == OVERLAPPED_TENSORS else 0.0,
            backward_overlap=self.tensor_overlap if software == WRITTEN_SCORES else 0.0,
            gradients_as_weights=software not in (*TRAINING_STACKS, VENDOR_TUNED),
        )


@dataclass(frozen=True, slots=True)
class Stacks:
    """`factors` by "software:part" (population.FACTORS), and bounds of measured over predicted on what was left out.

    `assumed_time_error` are the bounds where the software is not stated. Published trainings of more than a day took
    `long_runs` more than their fastest steps, relative to those. NVIDIA GPUs before Ampere have bounds
    of their own, and published trainings on several of their nodes took `older_slowdown` times the prediction.
    """

    factors: Mapping[str, float]
    links: Links
    time_error: tuple[float, float]
    assumed_time_error: tuple[float, float]
    long_runs: float
    older_slowdown: float
    older_time_error: tuple[float, float]
    fitted_on: str


@cache
def load_stacks() -> Stacks:
    """The shipped values. Raises ProfileError for a file of another schema."""
    text = resources.files("joulecast.datasets").joinpath("stacks.json").read_text(encoding="utf-8")
    document = json.loads(text)
    if document.get("schema") != SCHEMA:
        raise ProfileError(f"stacks.json has schema {document.get('schema')!r}, expected {SCHEMA!r}; reinstall")
    return Stacks(
        factors=document["factors"],
        links=Links(**document["links"]),
        time_error=tuple(document["time_error"]),
        assumed_time_error=tuple(document["assumed_time_error"]),
        long_runs=float(document["long_runs"]),
        older_slowdown=float(document["older_slowdown"]),
        older_time_error=tuple(document["older_time_error"]),
        fitted_on=str(document["fitted_on"]),
    )
