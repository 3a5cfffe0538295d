"""Cloud machine types, their families and vendors' nodes, by the names that people type."""

from __future__ import annotations

import pytest

from joulecast.estimator.cost.machines import Machine, family, machine, near_machines


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("p5.48xlarge", Machine("p5.48xlarge", "h100-sxm", 8, 3200)),
        ("ml.p5.48xlarge", Machine("p5.48xlarge", "h100-sxm", 8, 3200)),
        ("AWS P5.48XLARGE", Machine("p5.48xlarge", "h100-sxm", 8, 3200)),
        ("g6f.xlarge", Machine("g6f.xlarge", "l4", 0.125)),
        ("nd96isr h200 v5", Machine("Standard_ND96isr_H200_v5", "h200", 8, 3200)),
        ("TPU v4-8", Machine("v4-8", "tpu-v4", 4)),
        ("DGX A100", Machine("dgx-a100", "a100-sxm4-80gb", 8)),
        ("hgx-b200", Machine("hgx-b200", "b200", 8)),
        ("p5", None),
        ("", None),
    ],
)
def test_a_machine_by_its_name(name: str, expected: Machine | None) -> None:
    assert machine(name) == expected


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("p5", {("h100-sxm", 1), ("h100-sxm", 8)}),
        ("p4d", {("a100-sxm4-40gb", 8)}),
        ("a3-ultragpu", {("h200", 8)}),
        ("g4-standard", {("rtx-pro-6000-blackwell-server", count) for count in (1, 2, 4, 8)}),
        ("NC A100 v4", {("a100-pcie-80gb", count) for count in (1, 2, 4)}),
        ("NCadsA100_v4", {("a100-pcie-80gb", count) for count in (1, 2, 4)}),
        ("ND GB300 v6", {("gb300", 4)}),
        ("NDm A100 v4", {("a100-sxm4-80gb", 8)}),
        ("p5.48xlarge", set()),
        ("", set()),
    ],
)
def test_a_family_has_the_machines_of_its_name(name: str, parts: set[tuple[str, float]]) -> None:
    assert {(one.part, one.count) for one in family(name)} == parts


def test_near_machines_are_spelt_almost_alike() -> None:
    assert near_machines("p5.46xlarge")[:2] == ["p5.4xlarge", "p5.48xlarge"]
    assert len(near_machines("p5.46xlarge")) == 3
    assert near_machines("nonsense") == []
