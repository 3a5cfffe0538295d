"""Nodes of devices and the links between them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from ...base.errors import HardwareError, RequestError
from ...base.suggest import near
from ...base.tables import read_table
from ..cpu_machines import cpu_machine
from ..hardware import Hardware
from ..machines import Machine, machine, near_machines
from ..names import counted_part, find_hardware
from ..stacks import Links, load_stacks

_PCIE_GB_PER_S = 32.0  # PCIe 4.0 x16, one direction, where the table has no figure
_BRIDGED = 2  # devices that an NVLink bridge joins
_WITH_BRIDGE = re.compile("pcie|nvl|rtx|titan|quadro|^a30$|^a40$")  # NVIDIA's boards for PCIe, by their keys
NO_PEERS, BRIDGED = "no-p2p", "nvlink"
# Devices without access to each other exchange through the host's memory: GeForce cards, and all with
# NCCL_P2P_DISABLE=1. GB/s of one device and of all in a node, by the maker of the host's CPUs ("": not stated):
# geometric means over Lambda's machines of that kind with two and with eight devices (docs/benchmarks.md).
_HOST_GB_PER_S: Mapping[str, tuple[float, float]] = {
    "": (4.6, 21.0),
    "amd-host": (4.5, 13.0),
    "intel-host": (5.0, 39.0),
}
_USUAL_DEVICES, _USUAL_GBIT = 8, 100  # of a node that clusters.csv does not have
_NETWORK = re.compile(r"(?P<rate>\d+(?:\.\d+)?)(?P<unit>[gt])b(?:ps|it|its|it/s|/s)?(?:-[a-z0-9]+)?", re.IGNORECASE)
_TEXT = re.compile(r"^(?:(?P<nodes>\d+)x)?(?P<name>[^:]+?)(?::(?P<network>[^:]*))?$", re.IGNORECASE)
EXAMPLES = "dgx-h100, 8xa100-sxm4-80gb or 64x8xh100-sxm:400gb-ib"


@dataclass(frozen=True, slots=True)
class Cluster:
    """`nodes` nodes of `devices_per_node` devices. Rates are of one device in one direction.

    `network_gb_per_s` is None where no figure is known; a cluster of one node needs none. `rated_w` and `typical_w` are
    the power of a whole node, None where unknown.
    """

    name: str
    hardware: str
    nodes: int
    devices_per_node: int
    link_gb_per_s: float
    network_gb_per_s: float | None
    rated_w: float | None = None
    typical_w: float | None = None
    source: str = ""
    is_known_node: bool = False
    """Whether a table has the node; otherwise the number of devices in one is the user's."""
    links: Links = field(default_factory=lambda: load_stacks().links)

    @property
    def devices(self) -> int:
        return self.nodes * self.devices_per_node

    def rate_bytes_per_s(self, size: int, stride: int) -> float:
        """Usable bytes per second of one device in a group of `size` devices that are `stride` apart.

        A group inside a node uses the node's links. A larger one is limited by the network: its members in one node
        share their network adapters. Raises RequestError for a network without a figure.
        """
        if size * stride <= self.devices_per_node:
            return self.links.link_share * self.link_gb_per_s * 1e9
        if self.network_gb_per_s is None:
            raise RequestError(
                f"cluster {self.name!r} has no network figure for {self.nodes} nodes; "
                f"add it, as in {self.name}:400gb-ib"
            )
        members = max(1, self.devices_per_node // stride)
        links = self.links.link_share * self.link_gb_per_s, self.links.network_share * members * self.network_gb_per_s
        return min(links) * 1e9

    def latency_s(self, size: int, stride: int) -> float:
        inside = size * stride <= self.devices_per_node
        return self.links.node_latency_s if inside else self.links.network_latency_s

    @property
    def slowdown(self) -> float:
        """Seconds of a step over those that it takes without stragglers."""
        return 1.0 + self.links.straggling * math.log2(self.nodes)


def parse_cluster(text: str) -> Cluster:
    """The cluster that `text` names.

    "dgx-h100" and "4xdgx-h100" are nodes of `datasets/clusters.csv`, "4xp5.48xlarge" machines of
    `datasets/instances.csv`; "8xa100-sxm4-80gb" is one node and "64x8xh100-sxm:400gb-ib" 64 nodes of eight with 400
    Gbit/s of network for each device. ":no-p2p" at the end says that devices of a node exchange through the host,
    ":nvlink" that bridges join pairs of cards, ":amd-host" or ":intel-host" who made the host's CPUs.
    """
    base, path, host = _without_links(text)
    match = _TEXT.match(base)
    if not match:
        raise RequestError(
            f"`cluster` {text!r} is not a cluster; give dgx-h100, 8xa100-sxm4-80gb or 64x8xh100-sxm:400gb-ib"
        )
    return _on_links(_named(text, match), path, host)


def _without_links(text: str) -> tuple[str, str, str]:
    """`text` without what it states of the links in a node; the path between devices, and the host ("": not stated)."""
    base, path, host = text.strip(), "", ""
    while True:
        rest, _, last = base.rpartition(":")
        last = last.casefold()
        if not path and last in (NO_PEERS, BRIDGED):
            path = last
        elif last and not host and last in _HOST_GB_PER_S:
            host = last
        else:
            return base, path, host
        base = rest


def _named(text: str, match: re.Match[str]) -> Cluster:
    gbit = _gbit(text, match["network"])
    nodes, name = match["nodes"], match["name"]
    known = clusters()
    if name.casefold() in known:
        found = replace(known[name.casefold()], name=text, nodes=int(nodes or 1))
        return found if gbit is None else replace(found, network_gb_per_s=gbit / 8)
    if (cloud := machine(name)) is not None:
        return _of_machines(text, int(nodes or 1), cloud, gbit)
    if cpu_machine(name) is not None:
        return _of_parts(text, int(nodes or 1), 1, name, gbit)
    inner = re.match(r"^(?P<devices>\d+)x(?P<hardware>.+)$", name)
    if inner:
        return _of_parts(text, int(nodes or 1), int(inner["devices"]), inner["hardware"], gbit)
    if (counted := counted_part(name)) is not None:
        return _of_parts(text, int(nodes or 1), counted.devices, counted.part, gbit)
    if nodes:
        return _of_parts(text, 1, int(nodes), name, gbit)
    close = near(name, list(dict.fromkeys((*(one.name for one in known.values()), *near_machines(name)))))
    raise RequestError(
        f"unknown cluster {text!r}{close or ';'} or give NODESxDEVICESxHARDWARE:GBITgb, as in 64x8xh100-sxm:400gb"
    )


def _gbit(text: str, network: str | None) -> float | None:
    """Gbit/s of "400gb-ib", "400gbps" or "3.2tb"; None where nothing is given."""
    if network is None:
        return None
    found = _NETWORK.fullmatch(network.strip())
    rate = float(found["rate"]) * (1000 if found["unit"] in "tT" else 1) if found else 0.0
    if not found or not rate or network.rstrip().endswith("B/s"):
        base = text.strip().partition(":")[0]
        raise RequestError(
            f"`cluster` {text!r}: {network!r} is not the Gbit/s of a device's network; give it as in {base}:400gb"
        )
    return rate


def crowded(cluster: Cluster) -> str | None:
    """The text of the cluster with as many devices in usual nodes, where a user's node has more than those have."""
    if cluster.is_known_node:
        return None
    usual = max((one.devices_per_node for one in clusters().values() if one.hardware == cluster.hardware), default=None)
    if usual is None or cluster.devices_per_node <= usual:
        return None
    return usual_cluster(cluster.hardware, cluster.devices)


def usual_cluster(hardware: str, devices: int) -> str:
    """The text of a cluster of `devices` parts, in the nodes of `datasets/clusters.csv` that have them, all equal.

    Other parts are in nodes of up to eight, with 100 Gbit/s of network for each node.
    """
    node = next((one for one in clusters().values() if one.hardware == hardware), None)
    most = node.devices_per_node if node else _USUAL_DEVICES
    members = max(size for size in range(1, most + 1) if devices % size == 0)
    if node and members == most:
        return f"{devices // members}x{node.name}"
    rate = node.network_gb_per_s if node and node.network_gb_per_s else _USUAL_GBIT / 8 / members
    text = f"{devices // members}x{members}x{hardware}"
    return text if devices == members else f"{text}:{8 * rate:g}gb"


def with_nodes(cluster: Cluster, nodes: int) -> Cluster:
    """`nodes` of the cluster's nodes, under the name that gives them; a network that is not known is a usual one."""
    base, *links = _without_links(cluster.name)
    match = _TEXT.match(base)
    name = match["name"] if match else base
    node = name if _names_a_node(name) else f"{cluster.devices_per_node}x{name}"
    endings = [text for text in (match["network"] if match else "", *links) if text]
    network = cluster.network_gb_per_s
    if network is None:
        usual = next((one.network_gb_per_s for one in clusters().values() if one.hardware == cluster.hardware), None)
        network = usual or _USUAL_GBIT / 8 / cluster.devices_per_node
        endings.insert(0, f"{8 * network:g}gb")
    return replace(cluster, name=":".join((f"{nodes}x{node}", *endings)), nodes=nodes, network_gb_per_s=network)


def _names_a_node(name: str) -> bool:
    known = name.casefold() in clusters() or machine(name) is not None or cpu_machine(name) is not None
    return known or re.match(r"\d+x", name) is not None or counted_part(name) is not None


@cache
def clusters() -> Mapping[str, Cluster]:
    """The nodes of `datasets/clusters.csv` by key and alias, in lower case."""
    found: dict[str, Cluster] = {}
    for row in read_table("clusters.csv"):
        cluster = Cluster(
            name=row["key"],
            hardware=row["hardware"],
            nodes=1,
            devices_per_node=int(row["devices"]),
            link_gb_per_s=float(row["link_gb_per_s"]),
            network_gb_per_s=_figure(row["network_gb_per_s"]),
            rated_w=_figure(row["rated_w"]),
            typical_w=_figure(row["typical_w"]),
            source=row["source"],
            is_known_node=True,
        )
        for name in (row["key"], *filter(None, row["aliases"].split(";"))):
            found[name.strip().casefold()] = cluster
    return found


def _of_machines(text: str, nodes: int, cloud: Machine, gbit: float | None) -> Cluster:
    devices = int(cloud.count)
    if devices != cloud.count:
        raise RequestError(f"`cluster` {text!r}: {cloud.name} has {cloud.count:g} of a device; give it as `hardware`")
    if gbit is None and cloud.network_gbit:
        gbit = cloud.network_gbit / devices
    return replace(_of_parts(text, nodes, devices, cloud.part, gbit), is_known_node=True)


def _of_parts(text: str, nodes: int, devices: int, hardware: str, gbit: float | None) -> Cluster:
    if nodes < 1 or devices < 1:
        raise RequestError(f"`cluster` {text!r} has {nodes} nodes of {devices} devices; give 1 or more of each")
    if machine(hardware) is not None:
        raise RequestError(
            f"`cluster` {text!r}: {hardware.strip()} is a whole machine; give the number of them alone, as in "
            f"{nodes}x{hardware.strip()}"
        )
    try:
        part = find_hardware(hardware)
    except HardwareError as error:
        raise RequestError(f"`cluster` {text!r}: {error}") from None
    alike = next((one for one in clusters().values() if one.hardware == part.key), None)
    return Cluster(
        name=text,
        hardware=part.key,
        nodes=nodes,
        devices_per_node=devices,
        link_gb_per_s=_link_gb_per_s(part, devices),
        network_gb_per_s=gbit / 8 if gbit else None,
        rated_w=alike.rated_w if alike and alike.devices_per_node == devices else None,
        typical_w=alike.typical_w if alike and alike.devices_per_node == devices else None,
        source=part.source,
    )


def _on_links(cluster: Cluster, path: str, host: str) -> Cluster:
    """`cluster` with the stated path between the devices of a node, and the stated host."""
    part, devices = find_hardware(cluster.hardware), cluster.devices_per_node
    if path == NO_PEERS or (not path and _has_no_peers(part)):
        return replace(cluster, link_gb_per_s=_through_host(part, devices, host))
    if not path:
        return cluster
    if not part.link_gb_per_s:
        raise RequestError(f"`cluster` {cluster.name!r}: {part.key} has no NVLink; leave out :{BRIDGED}")
    if not _bridged(part):
        return cluster
    if devices <= _BRIDGED:
        return replace(cluster, link_gb_per_s=part.link_gb_per_s / 2)
    if _has_no_peers(part):  # every second transfer of a ring is between two that a bridge joins
        return replace(cluster, link_gb_per_s=_through_host(part, devices / 2, host))
    return cluster


def _link_gb_per_s(part: Hardware, devices: int) -> float:
    """Of one of `devices` with access to each other in a node, in one direction: its links to all, otherwise PCIe."""
    if part.link_gb_per_s and (not _bridged(part) or devices <= _BRIDGED):
        return part.link_gb_per_s / 2
    return _pcie(part)


def _bridged(part: Hardware) -> bool:
    """Whether NVLink bridges, sold apart, join two of it."""
    return part.vendor == "NVIDIA" and bool(_WITH_BRIDGE.search(part.key))


def _has_no_peers(part: Hardware) -> bool:
    return "GeForce" in part.name


def _through_host(part: Hardware, crossing: float, host: str) -> float:
    """Of one device, where `crossing` of a node copy through the host's memory at once."""
    each, together = _HOST_GB_PER_S[host]
    return min(_pcie(part) / 2, each, together / crossing)


def _pcie(part: Hardware) -> float:
    return part.pcie_gb_per_s / 2 if part.pcie_gb_per_s else _PCIE_GB_PER_S


def _figure(text: str) -> float | None:
    return float(text) if text else None
