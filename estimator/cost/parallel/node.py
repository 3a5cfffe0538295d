"""The power of a whole node: its accelerators, and CPUs, memory, network, fans and power supplies around them."""

from __future__ import annotations

from .cluster import Cluster

# Of the part of a node's rated power that its accelerators do not use: what the rest of it draws. From the node power
# of MLPerf Training 4.0 (8 x H100: 6.6 to 7.1 kW AC of 10.2 kW rated) with boards near 650 W.
REST_SHARE = 0.37
# The least that is left of a rating, as a share of the accelerators' limits. All nodes of clusters.csv leave 0.78 to
# 1.03 except the DGX-1's 3,500 W (0.46), while servers of its time drew 271 and 296 W for each P100 of 300 W (Patterson
# et al. 2021, table 4: memory, network, fans and CPUs included).
_LEAST_SHARE = 0.75
# Where no rated power is known: rated watts above the accelerators' limits, as a share of these (DGX H100's).
_RATED_SHARE = 4600 / 5600
# Desktops with one or two GPUs: watts without the boards, and the loss of the power supply (80 PLUS Gold: 10 to 13 %).
_DESKTOP_W = 80.0
_DESKTOP_LOSS = 0.12
_DESKTOP_DEVICES = 2


def rest_w(cluster: Cluster, board_w: float, limit_w: float) -> float:
    """Watts of a node without its accelerators, which draw `board_w` each of at most `limit_w`."""
    devices = cluster.devices_per_node
    if cluster.rated_w is None and devices <= _DESKTOP_DEVICES:
        return _DESKTOP_W + _DESKTOP_LOSS * board_w * devices
    limits = devices * limit_w
    rated = cluster.rated_w if cluster.rated_w is not None else limits * (1 + _RATED_SHARE)
    return REST_SHARE * max(rated - limits, _LEAST_SHARE * limits)
