"""Cloud machines without accelerators: the cores of a size, and their share of a CPU."""

from __future__ import annotations

import pytest

from joulecast.estimator.base.errors import UnknownHardwareError
from joulecast.estimator.base.tables import read_table
from joulecast.estimator.cost.cpu_machines import cpu_machine
from joulecast.estimator.cost.names import find_hardware, look_up
from joulecast.estimator.cost.parallel.cluster import parse_cluster


@pytest.mark.parametrize(
    ("name", "part", "cores"),
    [
        ("c7i.16xlarge", "xeon-platinum-8488c", 32),  # 64 virtual CPUs, two a core
        ("ml.m5.xlarge", "xeon-platinum-8175m", 2),
        ("M7I.LARGE", "xeon-platinum-8488c", 1),
        ("c7g.16xlarge", "graviton3", 64),  # Graviton has one thread a core
        ("c7g.medium", "graviton3", 1),
        ("c7a.2xlarge", "epyc-9r14", 8),
        ("c6g.metal", "graviton2", 64),
        ("c7i.metal-48xl", "xeon-platinum-8488c", 96),  # two CPUs
        ("n2-standard-64", "xeon-platinum-8373c", 32),
        ("c3-highcpu-176", "xeon-platinum-8480plus", 88),
        ("c3-standard-8-lssd", "xeon-platinum-8480plus", 4),
        ("t2d-standard-16", "epyc-7b13", 16),
        ("Standard_F64s_v2", "xeon-platinum-8272cl", 32),
        ("D96ads_v5", "epyc-7763", 48),
        ("Standard_E8s_v5", "xeon-platinum-8370c", 4),
    ],
)
def test_the_cores_of_a_size(name: str, part: str, cores: int) -> None:
    found = cpu_machine(name)
    assert found is not None
    assert (found.part, found.cores) == (part, cores)


@pytest.mark.parametrize(
    "name",
    [
        "c7i.96xlarge",
        "c9i.xlarge",
        "c7i",
        "c7i.",
        "n2-standard-0",
        "n2-standard",
        "Standard_D64ps_v6",
        "p5.48xlarge",
        "",
    ],
)
def test_no_such_machine(name: str) -> None:
    assert cpu_machine(name) is None


def test_rates_and_watts_are_in_proportion_to_the_cores() -> None:
    whole, part = find_hardware("xeon-platinum-8488c"), find_hardware("c7i.16xlarge")
    assert (whole.cores, part.cores, part.kind) == (48, 32, "cpu")
    for name in ("fp32_tflops", "bf16_tflops", "fp64_tflops", "bandwidth_gb_per_s", "power_w"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name) * 2 / 3), name
    assert find_hardware(part.key) == part
    (note,) = part.notes
    assert note == (
        "c7i.16xlarge has 32 of the cores of Xeon Platinum 8488C CPUs; its rates and watts are 0.667 times those of "
        "one CPU, in proportion to the cores"
    )


def test_a_cpu_without_a_row_is_costed_as_another_and_says_so() -> None:
    (note,) = find_hardware("c3-standard-88").notes
    assert "Xeon Platinum 8481C, costed as Xeon Platinum 8480+ of its generation" in note


def test_every_family_has_a_part_and_a_source() -> None:
    rows = read_table("cpu_machines.csv")
    assert len({row["family"].casefold() for row in rows}) == len(rows) > 80
    for row in rows:
        assert find_hardware(row["part"]).key == row["part"], row
        assert find_hardware(row["part"]).kind == "cpu", row
        assert row["source"], row
        assert row["threads_per_core"] in ("1", "2"), row


@pytest.mark.parametrize("name", ["c9i.16xlarge", "n9-standard-64", "Standard_K64s_v2"])
def test_near_names_of_a_cpu_machine_are_no_gpu_machines(name: str) -> None:
    with pytest.raises(UnknownHardwareError) as error:
        look_up(name)
    assert "near names" not in str(error.value)


def test_machines_of_a_cluster_are_nodes() -> None:
    cluster = parse_cluster("4xc7i.16xlarge:50gb")
    assert (cluster.nodes, cluster.devices_per_node, cluster.network_gb_per_s) == (4, 1, 6.25)
    assert parse_cluster("c7i.16xlarge").devices == 1
