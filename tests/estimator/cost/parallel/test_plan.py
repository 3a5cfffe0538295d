from __future__ import annotations

import re
from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import RequestError
from joulecast.estimator.cost.parallel.anatomy import dissect
from joulecast.estimator.cost.parallel.cluster import clusters, crowded, parse_cluster, with_nodes
from joulecast.estimator.cost.parallel.plan import Plan, check_plan, parse_plan, stated_sizes

from .decoder import BLOCKS, BOUNDARY_BYTES, HEADS, HIDDEN, TOKENS, VOCABULARY, decoder, nodes


def test_a_plan_is_read_and_named():
    plan = parse_plan("dp=8, tp=4,pp=2")
    assert (plan.dp, plan.tp, plan.pp, plan.cp, plan.devices) == (8, 4, 2, 1, 64)
    assert str(plan) == "dp=8, tp=4, pp=2"
    assert str(Plan(zero=3, checkpointing="full", accumulate=4)) == "dp=1, zero=3, full checkpointing, 4 micro-batches"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dp=8,tp", "'tp' is not SIZE=N"),
        ("tensor=4", "'tensor=4' is not SIZE=N; give dp=N, tp=N, pp=N, cp=N, ep=N"),
        ("tp=2,tp=4", "names tp twice"),
        ("tp=0", "tp is 0; give 1 or more"),
    ],
)
def test_plans_that_cannot_be_read(text: str, message: str):
    with pytest.raises(RequestError, match=message):
        parse_plan(text)


@pytest.mark.parametrize(
    ("plan", "devices", "message"),
    [
        (Plan(dp=2, tp=4), 16, "uses 8 devices, and there are 16; use dp=4"),
        (Plan(tp=8, pp=4), 16, "tp x pp x cp must divide 16: use tp=8, pp=2 and dp=1"),
        (Plan(tp=3), 16, "tp x pp x cp must divide 16: use tp=4 and dp=4"),
        (Plan(tp=16), 16, "8 attention heads are not divisible by tp=16; use tp=8"),
        (Plan(pp=5), 5, "4 blocks are fewer than pp=5; use pp=1 and dp=5"),
        (Plan(dp=8, ep=3), 8, "dp=8 is not divisible by ep=3; use ep=4"),
    ],
)
def test_a_split_that_does_not_fit_names_the_nearest_that_does(plan: Plan, devices: int, message: str):
    with pytest.raises(RequestError, match=message):
        check_plan(plan, dissect(decoder()), devices)


ODD_SPLITS = (
    "tp=16",
    "tp=5",
    "pp=16",
    "pp=3",
    "cp=3",
    "tp=4,pp=16",
    "tp=3,pp=5,cp=2",
    "dp=7",
    "dp=4,ep=5",
    "dp=5,tp=2",
)


@pytest.mark.parametrize("devices", [6, 8, 12, 16])
@pytest.mark.parametrize("text", ODD_SPLITS)
@pytest.mark.parametrize("passes", [None, 5, 12])
def test_the_split_that_an_error_names_fits(devices: int, text: str, passes: int | None):
    anatomy, plan = dissect(decoder()), parse_plan(text)
    with pytest.raises(RequestError) as error:
        check_plan(plan, anatomy, devices, passes)
    advice = re.findall(r"\b(?:dp|tp|pp|cp|ep)=\d+", str(error.value).rpartition("use ")[2])
    check_plan(parse_plan(",".join(advice), plan), anatomy, devices, passes)


def test_a_batch_that_the_replicas_do_not_share_names_the_next_that_they_do():
    with pytest.raises(RequestError, match=r"4 micro-batches .* by dp=8; use `global_batch` 16, or tp=2 and dp=4"):
        check_plan(Plan(dp=8), dissect(decoder()), 8, passes=4, samples_per_pass=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dp=8, zero=1", "`parallel` 'zero=1' is a setting of its own: give `zero` 1"),
        ("dp=8, full checkpointing", "give `activation_checkpointing full`"),
    ],
)
def test_parts_of_a_split_that_are_settings_of_their_own(text: str, message: str):
    with pytest.raises(RequestError, match=message):
        parse_plan(text)


@pytest.mark.parametrize("text", ["TP=2,PP=4", "tp=2 pp=4", "tp = 2, pp = 4", "tp=2,pp=4,"])
def test_case_and_spaces_of_a_split(text: str):
    assert parse_plan(text) == Plan(tp=2, pp=4)
    assert stated_sizes(text) == {"tp", "pp"}


def test_anatomy_of_a_decoder():
    anatomy = dissect(decoder())
    assert len(anatomy.blocks) == BLOCKS
    assert {len(block) for block in anatomy.blocks} == {15}
    assert anatomy.heads == HEADS
    assert anatomy.sharded == {"attn", "mlp"}
    assert anatomy.boundary_bytes == BOUNDARY_BYTES
    assert {op.layer for op in anatomy.before} == {"model.embed"}
    assert {op.layer for op in anatomy.after} == {"head"}
    assert anatomy.tokens == TOKENS


def test_accumulated_passes_are_taken_apart():
    assert dissect(decoder(passes=4), accumulation=4).ops == dissect(decoder()).ops


def test_clusters_by_name_and_by_parts():
    assert parse_cluster("dgx-h100").devices == 8
    assert parse_cluster("4xDGX-H100").devices == 32
    one = parse_cluster("8xa100-sxm4-80gb")
    assert (one.nodes, one.devices_per_node, one.link_gb_per_s, one.network_gb_per_s) == (1, 8, 300.0, None)
    many = parse_cluster("64x8xh100-sxm:400gb-ib")
    assert (many.nodes, many.devices, many.network_gb_per_s, many.rated_w) == (64, 512, 50.0, 10_200.0)
    assert parse_cluster("dgx-h100:100gb").network_gb_per_s == 12.5
    assert parse_cluster("dgx-h100").nodes == 1
    assert parse_cluster("1x1xh100-sxm").devices == 1
    assert parse_cluster("2x8xh100-sxm").network_gb_per_s is None
    assert parse_cluster("8xh100-sxm").nodes == 1


@pytest.mark.parametrize(
    ("text", "larger"),
    [
        ("dgx-h100", "3xdgx-h100"),
        ("2xdgx-h100:200gb", "3xdgx-h100:200gb"),
        ("8xh100-sxm", "3x8xh100-sxm:400gb"),  # the network of the DGX H100
        ("64x8xh100-sxm:400gb-ib", "3x8xh100-sxm:400gb-ib"),
        ("4xp5.48xlarge", "3xp5.48xlarge"),
        ("a3-edgegpu-8g", "3xa3-edgegpu-8g:400gb"),
        ("gpu_8x_h100_sxm5", "3xgpu_8x_h100_sxm5:400gb"),
        ("4xrtx-3090:nvlink", "3x4xrtx-3090:25gb:nvlink"),  # 100 Gbit/s of four cards
        ("8xrtx-3090:100gb:amd-host:no-p2p", "3x8xrtx-3090:100gb:no-p2p:amd-host"),
        ("8xrtx-3090:intel-host", "3x8xrtx-3090:12.5gb:intel-host"),
        ("2xc7i.16xlarge:50gb", "3xc7i.16xlarge:50gb"),
    ],
)
def test_more_nodes_of_a_cluster_have_a_name_that_gives_them(text, larger):
    cluster = parse_cluster(text)
    found = with_nodes(cluster, 3)
    assert (found.name, found.nodes, found.devices_per_node) == (larger, 3, cluster.devices_per_node)
    again = parse_cluster(larger)
    assert (again.nodes, again.devices_per_node) == (3, cluster.devices_per_node)
    assert again.network_gb_per_s == pytest.approx(found.network_gb_per_s)
    assert again.link_gb_per_s == found.link_gb_per_s
    assert again.link_gb_per_s == cluster.link_gb_per_s


def test_cloud_machines_are_nodes():
    one = parse_cluster("p4d.24xlarge")
    assert (one.hardware, one.nodes, one.devices_per_node) == ("a100-sxm4-40gb", 1, 8)
    assert one.network_gb_per_s == 6.25  # 400 Gbit/s of eight devices
    four = parse_cluster("4xStandard_ND96asr_v4:200gb")
    assert (four.hardware, four.nodes, four.devices, four.network_gb_per_s) == ("a100-sxm4-40gb", 4, 32, 25.0)
    assert parse_cluster("g4dn.xlarge").devices == 1
    assert parse_cluster("2xa3-highgpu-8g").network_gb_per_s == 100 / 8  # 800 Gbit/s of eight devices
    assert parse_cluster("2xa3-edgegpu-8g").network_gb_per_s is None
    assert parse_cluster("2xp5.48xlarge:100gb").network_gb_per_s == 12.5
    with pytest.raises(RequestError, match=r"g6f\.xlarge has 0\.125 of a device; give it as `hardware`"):
        parse_cluster("g6f.xlarge")


@pytest.mark.parametrize(
    ("text", "gbit"),
    [("400gb", 400), ("400gbps", 400), ("400Gbit/s", 400), ("400gb-efa", 400), ("3.2tb", 3200), ("400Gb/s", 400)],
)
def test_units_of_a_network(text: str, gbit: float):
    assert parse_cluster(f"2x8xh100-sxm:{text}").network_gb_per_s == gbit / 8


@pytest.mark.parametrize("network", ["400", "0gb", "50GB/s", "fast", ""])
def test_a_network_without_gbit_per_s(network: str):
    with pytest.raises(RequestError, match=r"is not the Gbit/s .*; give it as in 2x8xh100-sxm:400gb"):
        parse_cluster(f"2x8xh100-sxm:{network}")


@pytest.mark.parametrize(
    ("text", "nodes", "devices"),
    [
        ("gpu_8x_h100_sxm5", 1, 8),
        ("2xgpu_8x_h100_sxm5", 2, 16),
        ("2xStandard_ND96isr_H100_v5", 2, 16),
        ("8x H100", 1, 8),
    ],
)
def test_machines_that_name_their_count_are_nodes(text: str, nodes: int, devices: int):
    found = parse_cluster(text)
    assert (found.hardware, found.nodes, found.devices) == ("h100-sxm", nodes, devices)


def test_a_machine_is_no_part_of_a_node():
    with pytest.raises(RequestError, match=r"p5\.48xlarge is a whole machine; give .* as in 4xp5\.48xlarge"):
        parse_cluster("4x8xp5.48xlarge")


def test_nodes_with_more_devices_than_usual_ones():
    assert crowded(parse_cluster("16xh100-sxm")) == "2xdgx-h100"
    assert crowded(parse_cluster("8xh100-sxm")) is None
    assert crowded(parse_cluster("v5p-128")) is None  # a slice of 64 chips
    assert crowded(parse_cluster("16xl4")) is None  # no node of the table has it


def test_racks_of_72_gpus():
    rack = parse_cluster("2xgb200-nvl72")
    assert (rack.hardware, rack.devices, rack.link_gb_per_s, rack.network_gb_per_s) == ("gb200", 144, 900, 50)
    assert parse_cluster("gb300-nvl72").network_gb_per_s == 100
    assert crowded(rack) is None
    assert crowded(parse_cluster("72xgb200")) is None


def test_near_clusters_are_named_once():
    with pytest.raises(RequestError, match=r"did you mean dgx-h100 or dgx-[^h]"):
        parse_cluster("dgx-h10")


def test_a_cluster_of_parts_takes_the_nodes_watts_of_a_known_node_of_its_size():
    known = clusters()["dgx-h100"]
    assert (known.rated_w, known.typical_w) == (10_200.0, 6_900.0)
    assert all(one.nodes == 1 for one in clusters().values())
    same, smaller = parse_cluster("2x8xh100-sxm"), parse_cluster("2x4xh100-sxm")
    assert (same.rated_w, same.typical_w) == (known.rated_w, known.typical_w)
    assert (smaller.rated_w, smaller.typical_w) == (None, None)
    lone = parse_cluster("4xt4")  # no node of the table has it, and PCIe 3.0 carries 16 GB/s
    assert (lone.rated_w, lone.typical_w, lone.link_gb_per_s) == (None, None, 16.0)


@pytest.mark.parametrize("text", ["0x8xh100-sxm", "2x0xh100-sxm"])
def test_a_cluster_has_at_least_one_node_and_one_device(text: str):
    with pytest.raises(RequestError, match="give 1 or more of each"):
        parse_cluster(text)


def test_stragglers_slow_every_doubling_of_nodes():
    cluster = nodes(count=4, devices=8)
    slow = replace(cluster, links=replace(cluster.links, straggling=0.01))
    assert slow.slowdown == pytest.approx(1.02)
    assert replace(slow, nodes=1).slowdown == 1.0


def test_latency_of_a_group_within_a_node_and_of_a_larger_one():
    cluster = nodes(count=4, devices=8)
    assert [cluster.latency_s(size, stride) for size, stride in ((8, 1), (9, 1), (4, 2), (5, 2))] == [
        10e-6,
        20e-6,
        10e-6,
        20e-6,
    ]


@pytest.mark.parametrize("text", ["nonsense", "8xnonsense", "0x8xh100-sxm", ""])
def test_unknown_clusters_are_one_line(text: str):
    with pytest.raises(RequestError) as caught:
        parse_cluster(text)
    assert "\n" not in str(caught.value)


def test_groups_use_the_slowest_link_between_them():
    cluster = nodes(count=4, devices=8, gb_per_s=100.0, network=2.0)
    assert cluster.rate_bytes_per_s(8, 1) == pytest.approx(100e9)
    assert cluster.rate_bytes_per_s(4, 8) == pytest.approx(2e9)  # one member in each node
    assert cluster.rate_bytes_per_s(8, 4) == pytest.approx(4e9)  # two members in a node share its adapters
    assert cluster.rate_bytes_per_s(32, 1) == pytest.approx(16e9)
    with pytest.raises(RequestError, match="has no network figure for 4 nodes; add it, as in made-up:400gb-ib"):
        nodes(count=4, network=None).rate_bytes_per_s(32, 1)


def test_every_cluster_has_a_source_and_known_hardware():
    from joulecast.estimator.cost.names import find_hardware

    for cluster in clusters().values():
        assert cluster.source
        part = find_hardware(cluster.hardware)
        assert part.link_gb_per_s is not None
        assert cluster.link_gb_per_s == part.link_gb_per_s / 2
        assert cluster.rated_w is not None
        assert cluster.rated_w > cluster.devices_per_node * part.power_w
        assert cluster.typical_w is None or cluster.typical_w < cluster.rated_w


def test_sizes_of_the_decoder():
    assert HIDDEN % HEADS == 0
    assert VOCABULARY > TOKENS


def test_sizes_that_are_not_of_devices():
    plan = parse_plan("pp=2,vp=3,sp=0", Plan(tp=4))
    assert (plan.interleave, plan.sequence_parallel, plan.devices) == (3, False, 8)
    assert parse_plan("sp=1", Plan(sequence_parallel=False)).sequence_parallel is True
    assert parse_plan("tp=2").sequence_parallel is True
    assert [parse_plan(text).expert_overlap for text in ("ep=2", "ep=2,eo=0", "ep=2,eo=1")] == [False, False, True]
    assert [parse_plan(text).plain_all_to_all for text in ("ep=2", "ep=2,a2a=0", "ep=2,a2a=1")] == [False, False, True]


def test_sizes_that_a_text_states():
    assert stated_sizes(None) == stated_sizes("") == frozenset()
    assert stated_sizes("dp=8, tp = 4,,") == {"dp", "tp"}


@pytest.mark.parametrize("text", ["=2", "tp=", "tp=-1", "tp=two", "tp", ""])
def test_sizes_are_whole_numbers(text: str):
    with pytest.raises(RequestError, match="is not SIZE=N"):
        parse_plan(text)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(tp=3, cp=2), "tp x pp x cp must divide 16: use tp=4, cp=2 and dp=2"),
        (Plan(pp=3), "tp x pp x cp must divide 16: use pp=4 and dp=4"),
        (Plan(tp=2, pp=2, cp=3), "tp x pp x cp must divide 16: use tp=2, pp=2, cp=4 and dp=1"),
        (Plan(tp=32), "tp x pp x cp must divide 16: use tp=8 and dp=2"),
    ],
)
def test_the_nearest_sizes(plan: Plan, message: str):
    with pytest.raises(RequestError) as caught:
        check_plan(plan, dissect(decoder()), 16)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "gb_per_s"),
    [
        ("8xa100-sxm4-80gb", 300.0),  # NVLink to all of a node
        ("8xh200", 450.0),
        ("2xa100-pcie-80gb", 300.0),  # a bridge joins two
        ("4xa100-pcie-80gb", 32.0),  # PCIe 4.0
        ("4xrtx-a6000", 32.0),
        ("4xquadro-rtx-6000", 16.0),
        ("2xrtx-3090", 4.6),  # through the host: bridges are sold apart
        ("8xrtx-3090", 2.625),  # an eighth of what passes through the host
        ("2xrtx-2080-ti", 4.6),
        ("8xrtx-2080-ti", 2.625),
        ("2xrtx-4090", 4.6),
        ("2xgtx-750-ti", 4.6),
        ("2xrtx-3090:nvlink", 56.25),
        ("4xrtx-3090:nvlink", 4.6),  # two of four transfers cross the host: 10.5 GB/s for each, and 4.6 for a card
        ("16xrtx-2080-ti:NVLink", 2.625),
        ("4xrtx-a6000:nvlink", 32.0),  # pairs have bridges, and PCIe joins them
        ("8xa100-sxm4-80gb:nvlink", 300.0),
        ("2xa100-sxm4-80gb:no-p2p", 4.6),
        ("8xa100-sxm4-80gb:no-p2p", 2.625),
        ("dgx-a100:no-p2p", 2.625),
        ("p4d.24xlarge:no-p2p", 2.625),
        ("64x8xa100-sxm4-80gb:200gb-ib:no-p2p", 2.625),
        ("2xrtx-a4000:no-p2p", 4.6),
        ("2xrtx-3090:amd-host", 4.5),
        ("4xrtx-3090:amd-host", 3.25),  # a quarter of 13 GB/s
        ("8xrtx-3090:nvlink:amd-host", 3.25),  # every second of eight transfers
        ("8xa100-sxm4-80gb:no-p2p:amd-host", 1.625),
        ("8xa100-sxm4-80gb:AMD-host:no-P2P", 1.625),
        ("64x8xa100-sxm4-80gb:200gb-ib:no-p2p:amd-host", 1.625),
        ("2xrtx-3090:intel-host", 5.0),
        ("8xrtx-3090:intel-host", 4.875),  # an eighth of 39 GB/s
        ("8xh100-sxm:intel-host", 450.0),  # nothing crosses the host
        ("8xrtx-a6000:amd-host", 32.0),
    ],
)
def test_links_join_all_of_a_node_or_two_cards_and_the_rest_is_pcie(cluster: str, gb_per_s: float) -> None:
    assert parse_cluster(cluster).link_gb_per_s == gb_per_s


def test_a_stated_path_changes_nothing_else() -> None:
    text = "4x8xh100-sxm:400gb-ib"
    plain, stated = parse_cluster(text), parse_cluster(f"{text}:no-p2p")
    assert stated == replace(plain, name=f"{text}:no-p2p", link_gb_per_s=2.625)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8xrtx-3090:no-p2p:nvlink", "'no-p2p' is not the Gbit/s of a device's network"),
        ("8xrtx-3090:amd-host:intel-host", "'amd-host' is not the Gbit/s of a device's network"),
        ("8xrtx-3090:arm-host", "'arm-host' is not the Gbit/s of a device's network"),
        (":no-p2p", "':no-p2p' is not a cluster"),
        ("intel-host", "'intel-host' is not a cluster"),
        ("8xh100-sxm:", "'' is not the Gbit/s of a device's network"),
        ("", "'' is not a cluster"),
    ],
)
def test_links_that_contradict_each_other_or_nothing_else(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        parse_cluster(text)


def test_cards_without_nvlink_have_no_bridge() -> None:
    with pytest.raises(RequestError, match=r"'2xrtx-4090:nvlink': rtx-4090 has no NVLink; leave out :nvlink"):
        parse_cluster("2xrtx-4090:nvlink")


def test_without_peers_gradients_take_longer_in_every_size() -> None:
    """A path through the host is never faster than the devices' own links."""
    for devices in range(2, 17):
        for part in ("a100-sxm4-80gb", "a100-pcie-80gb", "rtx-3090", "rtx-a6000", "t4"):
            own, host = (parse_cluster(f"{devices}x{part}{path}").link_gb_per_s for path in ("", ":no-p2p"))
            assert host <= own
