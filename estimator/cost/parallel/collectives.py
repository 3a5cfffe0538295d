"""What devices exchange, and how long that takes: latency and bandwidth, ring algorithms.

Thakur, Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 2005.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cluster import Cluster

ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER = "all_reduce", "all_gather", "reduce_scatter"
ALL_TO_ALL, SEND = "all_to_all", "send"


EXPERT_SHARE = 0.9
"""The usable share of a rate in exchanges of experts by kernels for Hopper GPUs and later: DeepEP's README has 0.90 and
0.92 of a 400 Gbit/s network on two and four nodes of H800 or H100, and 0.96 of an H800's NVLink (its V1)."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """`count` equal messages of `message_bytes` in a group of `size` devices that are `stride` apart.

    `message_bytes` is the size of the whole tensor: the reduced or gathered one, or what one device sends in all.
    """

    kind: str
    message_bytes: float
    size: int
    stride: int
    count: int = 1


def seconds(exchange: Exchange, cluster: Cluster) -> float:
    """Seconds of all messages of `exchange`; 0 in a group of one."""
    size = exchange.size
    if size <= 1 or exchange.message_bytes <= 0 or exchange.count <= 0:
        return 0.0
    rate = cluster.rate_bytes_per_s(size, exchange.stride)
    latency_s = cluster.latency_s(size, exchange.stride)
    rounds, traffic = _ring(exchange.kind, size)
    return exchange.count * (rounds * latency_s + traffic * exchange.message_bytes / rate)


def _ring(kind: str, size: int) -> tuple[float, float]:
    """Messages one after another, and the share of the tensor that each device sends."""
    share = (size - 1) / size
    if kind == SEND:
        return 1, 1.0
    if kind == ALL_REDUCE:
        return _steps(size) * 2, 2 * share
    return _steps(size), share


def _steps(size: int) -> int:
    """Latencies of a tree, which libraries use for small messages: the logarithm of the size, rounded up."""
    return max(1, (size - 1).bit_length())
