"""Names as people type them and drivers print them, each with its expected row."""

from __future__ import annotations

import pytest

from joulecast.estimator.base.errors import HardwareError
from joulecast.estimator.base.tables import read_table
from joulecast.estimator.cost import machines, names
from joulecast.estimator.cost.hardware import load_hardware
from joulecast.estimator.cost.names import find_hardware, look_up

FOUND = {
    # short names and families
    "a100": "a100-sxm4-80gb", "v100": "v100-sxm2-16gb", "h100": "h100-sxm", "p100": "p100-pcie", "4090": "rtx-4090",
    "3090 ti": "rtx-3090-ti", "2080ti": "rtx-2080-ti", "1080 Ti": "gtx-1080-ti", "A6000": "rtx-a6000",
    "7900 XTX": "rx-7900-xtx", "5950X": "ryzen-9-5950x", "13900K": "i9-13900k", "M1 Pro": "apple-m1-pro",
    "m2 ultra": "apple-m2-ultra", "A10G": "a10g", "K80": "k80", "gaudi2": "gaudi2", "TPU v4": "tpu-v4",
    "Trainium": "trainium1", "GH200": "gh200", "A100 40GB": "a100-sxm4-40gb", "V100 32GB": "v100-sxm2-32gb",
    "A100 PCIe": "a100-pcie-80gb", "TITAN X": "titan-x-pascal", "Vega 64": "rx-vega-64", "DGX Spark": "gb10",
    # as drivers and the OS print them
    "NVIDIA A10G": "a10g", "Tesla K80": "k80", "NVIDIA GeForce RTX 4080 Laptop GPU": "rtx-4080-laptop",
    "NVIDIA GeForce RTX 3060 Laptop GPU": "rtx-3060-laptop",
    "NVIDIA GeForce RTX 2070 with Max-Q Design": "rtx-2070-max-q",
    "NVIDIA RTX A2000": "rtx-a2000", "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000-blackwell-server",
    "NVIDIA GH200 480GB": "gh200", "NVIDIA B200": "b200", "AMD Radeon RX 6800 XT": "rx-6800-xt",
    "AMD Instinct MI210": "mi210", "Intel Arc A770": "arc-a770", "AMD EPYC 7R32": "epyc-7r32",
    "AMD EPYC 9454 48-Core Processor": "epyc-9454", "12th Gen Intel(R) Core(TM) i7-12700K": "i7-12700k",
    "Intel(R) Xeon(R) Platinum 8275CL CPU @ 3.00GHz": "xeon-platinum-8275cl",
    "Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz": "xeon-e5-2686-v4",
    "Intel(R) Xeon(R) Gold 5120 CPU @ 2.20GHz": "xeon-gold-5120",
    # CPU models of cpus.csv
    "13th Gen Intel(R) Core(TM) i5-1335U": "core-i5-1335u", "Intel(R) Core(TM) i5-2400 CPU @ 3.10GHz": "core-i5-2400",
    "Intel Core i9-14900HX": "core-i9-14900hx", "Intel(R) Xeon(R) Gold 6330N CPU @ 2.20GHz": "xeon-gold-6330n",
    # cloud machine types
    "p4d.24xlarge": "a100-sxm4-40gb", "p4de.24xlarge": "a100-sxm4-80gb", "p3.2xlarge": "v100-sxm2-16gb",
    "p3dn.24xlarge": "v100-sxm2-32gb", "p2.xlarge": "k80", "p5.48xlarge": "h100-sxm", "g4dn.xlarge": "t4",
    "g5.xlarge": "a10g", "g6.12xlarge": "l4", "g6e.xlarge": "l40s", "ml.p3.16xlarge": "v100-sxm2-16gb",
    "trn1.32xlarge": "trainium1", "inf2.xlarge": "inferentia2", "dl1.24xlarge": "gaudi",
    "a2-highgpu-8g": "a100-sxm4-40gb",
    "a2-ultragpu-1g": "a100-sxm4-80gb", "a3-highgpu-8g": "h100-sxm", "g2-standard-4": "l4",
    "n1-standard-8 + T4": "t4",
    "n1-highmem-4+nvidia-tesla-v100": "v100-sxm2-16gb", "v3-8": "tpu-v3", "TPU v4-8": "tpu-v4",
    "v5litepod-8": "tpu-v5e",
    "Standard_ND96asr_v4": "a100-sxm4-40gb", "ND96amsr_A100_v4": "a100-sxm4-80gb",
    "Standard_NC6s_v3": "v100-pcie-16gb",
    "NC24ads A100 v4": "a100-pcie-80gb", "Standard_NC4as_T4_v3": "t4", "Standard_NV36ads_A10_v5": "a10",
    "Standard_ND96isr_H100_v5": "h100-sxm", "Standard_ND40rs_v2": "v100-sxm2-32gb",
    # counts
    "8x A100": "a100-sxm4-80gb", "4 x RTX 3090": "rtx-3090", "T4 x 2": "t4", "a100:4": "a100-sxm4-80gb",
    "gpu:h100:8": "h100-sxm", "gpu_8x_h100_sxm5": "h100-sxm", "gpu_1x_a10": "a10", "gpu_8x_b200_sxm6": "b200",
    "b200-8x": "b200", "1x H100 80GB SXM5": "h100-sxm", "2x4090": "rtx-4090",
    # of 2025 and 2026
    "B300": "b300", "GB300 NVL72": "gb300", "RTX 5090 Laptop": "rtx-5090-laptop", "rtx 5090 mobile": "rtx-5090-laptop",
    "RTX PRO 6000": "rtx-pro-6000-blackwell", "rtx pro 6000 max-q": "rtx-pro-6000-blackwell-max-q", "MI355X": "mi355x",
    "9070xt": "rx-9070-xt", "b580": "arc-b580", "w7900": "pro-w7900", "gaudi 3": "gaudi3", "Trn3": "trainium3",
    "v6e": "tpu-v6e", "Trillium": "tpu-v6e", "Ironwood": "tpu-v7", "TPU7x": "tpu-v7", "M4 Max": "apple-m4-max",
    "m5": "apple-m5", "M5 Pro": "apple-m5-pro", "m5 max": "apple-m5-max", "Strix Halo": "radeon-8060s",
    "Ryzen AI Max 395": "radeon-8060s", "910b": "ascend-910b", "Core Ultra 7 258V": "core-ultra-7-258v",
    # with the provider's name
    "lambda h100": "h100-sxm", "RunPod A100": "a100-sxm4-80gb", "Colab T4": "t4", "azure nd96asr_v4": "a100-sxm4-40gb",
    "BM.GPU.H100.8": "h100-sxm", "VM.GPU.A10.1": "a10", "gd-8xh100ib-i128": "h100-sxm",
    "BM.GPU.H200.8": "h200", "BM.GPU.B4.8": "a100-sxm4-40gb", "BM.GPU.GB300.4": "gb300",
    "a4x-maxgpu-4g-metal": "gb300",
    # labels of Kubernetes, architectures of ROCm, and drivers' names of small and mobile boards
    "nvidia-h100-mega-80gb": "h100-sxm", "tpu-v5-lite-podslice": "tpu-v5e", "tpu-v6e-slice": "tpu-v6e",
    "gfx942": "mi300x", "gfx90a": "mi250x", "AMD Instinct MI300X VF": "mi300x", "AMD Instinct MI250X / MI250": "mi250x",
    "NVIDIA RTX A500 Laptop GPU": "rtx-a500-laptop", "NVIDIA GeForce MX450": "mx450", "Quadro P2200": "quadro-p2200",
    "Quadro T2000 with Max-Q Design": "quadro-t2000-laptop", "Tesla V100S-PCIE-32GB": "v100s-pcie-32gb",
    "NVIDIA RTX PRO 4000 Blackwell SFF Edition": "rtx-pro-4000-blackwell-sff", "NVIDIA T500": "t500-laptop",
    "AMD Radeon PRO V710": "pro-v710", "AMD Radeon RX 7600S": "rx-7600s", "Intel(R) Arc(TM) A380 Graphics": "arc-a380",
    "NVIDIA GeForce RTX 3050 4GB Laptop GPU": "rtx-3050-laptop", "AMD Instinct MI300A Accelerator": "mi300a",
    # families of machines and vendors' nodes
    "p5": "h100-sxm", "p5en": "h200", "p6-b200": "b200", "p6e-gb200": "gb200", "g6e": "l40s", "g7e.12xlarge":
    "rtx-pro-6000-blackwell-server", "g7.2xlarge": "rtx-pro-4500-blackwell", "a3-highgpu": "h100-sxm", "a4x": "gb200",
    "a3-ultragpu": "h200", "a4-highgpu": "b200", "g2-standard": "l4", "ct5p-hightpu-4t": "tpu-v5p",
    "ND H200 v5": "h200", "ND GB200 v6": "gb200", "NCasT4_v3": "t4", "NDm A100 v4": "a100-sxm4-80gb",
    "DGX B200": "b200", "HGX H100": "h100-sxm",
}  # fmt: skip


@pytest.mark.parametrize(("name", "key"), FOUND.items())
def test_names_people_use_are_found(name: str, key: str) -> None:
    assert find_hardware(name).key == key


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("p4d.24xlarge", "has 8 x A100 SXM4 40GB; the figures are for 1, unless another number"),
        ("g5.xlarge", "g5.xlarge has one A10G"),
        ("Standard_NV6ads_A10_v5", "has a share (0.167) of one A10; the figures are those of the whole"),
        ("T4 x 2", "T4 x 2 has 2 x Tesla T4"),
        ("a100:4", "a100:4 has 4 x A100 SXM4 80GB"),
        ("DGX B200", "DGX B200 has 8 x B200 SXM 180GB"),
        ("p5", "p5 is a family of machines with 1 or 8 x H100 SXM5 80GB (h100-sxm); the figures are for 1"),
        ("g2-standard", "with 1, 2, 4 or 8 x L4 (l4); the figures are for 1"),
        ("a3", "(h100-sxm); the figures are for 1; others of the family have h200"),
    ],
)  # fmt: skip
def test_what_a_machine_type_has_is_said(name: str, note: str) -> None:
    assert note in look_up(name).note


def test_a_machine_type_with_a_typing_error_lists_the_near_ones() -> None:
    with pytest.raises(HardwareError, match=r"near names are p5\.4xlarge, p5\.48xlarge"):
        look_up("p5.46xlarge")
    with pytest.raises(HardwareError, match=r"near names are .*a3-highgpu-8g"):
        look_up("a3-highgpu-6g")


def test_the_order_of_words_counts_only_where_it_tells_parts_apart() -> None:
    assert find_hardware("80GB A100 PCIe").key == "a100-pcie-80gb"
    assert find_hardware("PCIe 40GB A100").key == "a100-pcie-40gb"


@pytest.mark.parametrize(
    ("name", "sms", "bandwidth", "watts", "idle"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 40, 777.5, 200.0, True),  # 3/8 of 108, half of 1,555 GB/s
        ("NVIDIA A100-SXM4-40GB MIG 1g.10gb+me", 14, 388.75, 100.0, True),
        ("NVIDIA A100-SXM4-40GB MIG 7g.40gb", 108, 1555.0, 400.0, True),
        ("NVIDIA A30 MIG 2g.12gb", 28, 466.5, 82.5, True),
    ],
)
def test_instances_of_multi_instance_gpus_have_their_share(
    name: str, sms: int, bandwidth: float, watts: float, idle: bool
) -> None:
    part = look_up(name).part
    assert (part.sms, part.bandwidth_gb_per_s, part.power_w) == (sms, bandwidth, watts)
    assert (part.power_label, part.power_spread) == ("assumed", 1.5)
    assert part.fp32_tflops == pytest.approx(
        look_up(name.partition(" MIG")[0]).part.fp32_tflops * sms / _sms(name), rel=0.04
    )
    assert find_hardware(part.name).key == part.key
    assert "power is assumed" in part.notes[-1]


def _sms(name: str) -> int:
    return look_up(name.partition(" MIG")[0]).part.sms or 0


@pytest.mark.parametrize(
    ("name", "board", "memory_gb"),
    [("GRID A100D-80C", "A100 SXM4 80GB", 80), ("NVIDIA A40-48Q", "A40", 48), ("GRID T4-8Q", "Tesla T4", 8)],
)
def test_virtual_gpus_are_a_share_of_a_board(name: str, board: str, memory_gb: float) -> None:
    match = look_up(name)
    assert (match.part.name, match.part.memory_gb) == (board, memory_gb)
    assert f"{name} is a share of {board}" in match.note


def test_cores_of_arm_are_named_in_a_note() -> None:
    match = look_up("Neoverse-V2")
    assert match.part.key == "graviton4"
    assert "others are nvidia-grace" in match.note
    assert "ampere-altra" in look_up("Neoverse-N1").note
    assert look_up("Neoverse-V1").part.key == "graviton3"


@pytest.mark.parametrize(
    ("name", "kind", "vendor"),
    [
        ("NVIDIA GeForce RTX 4095", "gpu", "NVIDIA"),
        ("Intel(R) Xeon(R) Platinum 8573C", "cpu", "Intel"),
        ("AMD EPYC 9V84 96-Core Processor", "cpu", "AMD"),
        ("Tesla M10", "gpu", "NVIDIA"),
    ],
)
def test_near_names_are_of_the_same_kind(name: str, kind: str, vendor: str) -> None:
    keys = {part.key: part for part in load_hardware()}
    near = names.near_names(name)
    assert near
    assert {(keys[key].kind, keys[key].vendor) for key in near} == {(kind, vendor)}


@pytest.mark.parametrize("name", ["Azure Cobalt 100", "Kunpeng-920", "QEMU Virtual CPU version 2.5+"])
def test_a_name_like_no_other_has_no_near_ones(name: str) -> None:
    assert names.near_names(name) == []


def test_an_exact_name_has_no_note() -> None:
    for name in ("rtx-4090", "NVIDIA A100-SXM4-80GB", "Tesla T4", "EPYC 7763"):
        assert look_up(name).note == ""


def test_every_instance_is_found_and_points_at_a_part() -> None:
    rows = read_table("instances.csv")
    keys = {part.key for part in load_hardware()}
    assert len({row["instance"].casefold() for row in rows}) == len(rows) > 200
    for row in rows:
        assert row["part"] in keys, row
        assert row["source"], row
        assert 0 < float(row["count"]) <= 512, row
        assert find_hardware(row["instance"]).key == row["part"], row


def test_every_cpu_model_has_plausible_figures() -> None:
    rows = read_table("cpus.csv")
    assert len(rows) > 3000
    for row in rows:
        assert 1 <= int(row["cores"]) <= 288, row
        assert 0.5 <= float(row["base_ghz"]) <= 6, row
        assert int(row["flop_per_cycle"]) in (8, 16, 24, 32, 64), row
        assert 4 <= float(row["bandwidth_gb_per_s"]) <= 900, row
        assert 1 <= float(row["power_w"]) <= 600, row
        assert row["source"], row


def test_a_cpu_models_rate_is_that_of_its_generation() -> None:
    part = find_hardware("Intel(R) Core(TM) i5-2400 CPU @ 3.10GHz")  # 4 cores x 3.1 GHz x 16 (AVX)
    assert (part.kind, part.cores, part.power_w) == ("cpu", 4, 95)
    assert part.fp32_tflops == pytest.approx(0.1984)


@pytest.mark.parametrize("name", ["8x", "x 8", "0 x A100x", "n1-standard-8 + ", "p4d.99xlarge", "8x nonsense", "+"])
def test_odd_names_are_one_line(name: str) -> None:
    with pytest.raises(HardwareError, match="unknown hardware") as caught:
        look_up(name)
    assert "\n" not in str(caught.value)


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(HardwareError) as caught:
        look_up("x" * 100_000)
    assert len(str(caught.value)) < 500


@pytest.fixture
def fresh_tables() -> None:
    """The tables are read again."""
    for table in (names._cpu_models, names._in_any_order, names._shipped_names, machines._machines, machines._families):
        table.cache_clear()


@pytest.mark.usefixtures("fresh_tables")
def test_a_row_of_the_cpu_models() -> None:
    part = find_hardware("Intel(R) Core(TM) i5-2400 CPU @ 3.10GHz")
    assert (part.key, part.name, part.vendor, part.kind, part.year) == (
        "core-i5-2400",
        "Core i5-2400",
        "Intel",
        "cpu",
        2011,
    )
    assert part.fp32_tflops == pytest.approx(4 * 3.1 * 16 / 1000)
    assert part.bandwidth_gb_per_s == pytest.approx(21.3, abs=0.1)  # two channels of DDR3-1333
    assert (part.cores, part.power_w, part.idle_w, part.memory_gb, part.aliases) == (4, 95, None, None, ())


@pytest.mark.usefixtures("fresh_tables")
def test_names_of_the_tables_read_again() -> None:
    assert find_hardware("4090").key == "rtx-4090"
    assert find_hardware("A6000").key == "rtx-a6000"
    assert find_hardware("13900K").key == "i9-13900k"
    match = look_up("p4d.24xlarge")
    assert (match.part.key, match.note.split(";")[0]) == ("a100-sxm4-40gb", "p4d.24xlarge has 8 x A100 SXM4 40GB")


def test_one_device_and_several_of_a_machine_type() -> None:
    assert look_up("n1-standard-8 + T4").note == "n1-standard-8 + T4 has one Tesla T4"
    assert look_up("1x RTX 3090").note == "1x RTX 3090 has one GeForce RTX 3090"
    assert look_up("2x RTX 3090").note.startswith("2x RTX 3090 has 2 x GeForce RTX 3090; the figures are for 1")


def test_at_most_four_near_names() -> None:
    with pytest.raises(HardwareError) as caught:
        look_up("rtx 40")
    near = str(caught.value).partition("near names are ")[2].partition(";")[0].split(", ")
    assert len(near) == len(set(near)) == 4


def test_where_a_row_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "user_file", lambda: None)
    monkeypatch.setattr(names, "default_user_file", lambda: "the-default.csv")
    with pytest.raises(HardwareError, match=r"add its row to the-default\.csv \(columns"):
        look_up("nonsense")
    with pytest.raises(HardwareError, match=r"reports 5 GB of memory, .* add its row to the-default\.csv, or"):
        look_up("t4", memory_gb=5.0)
    monkeypatch.setattr(names, "user_file", lambda: "mine.csv")
    with pytest.raises(HardwareError, match=r"add its row to mine\.csv \(columns"):
        look_up("nonsense")
    with pytest.raises(HardwareError, match=r"add its row to mine\.csv, or"):
        look_up("t4", memory_gb=5.0)


@pytest.mark.parametrize(
    ("memory_gb", "fits"), [(14.5, True), (16.0, True), (17.7, True), (14.3, False), (17.9, False)]
)
def test_memory_within_a_tenth_is_the_same_board(memory_gb: float, fits: bool) -> None:
    if fits:
        assert look_up("t4", memory_gb=memory_gb).part.key == "t4"
        return
    with pytest.raises(HardwareError, match="another board under the same name"):
        look_up("t4", memory_gb=memory_gb)
