"""The hardware table is consistent with physics and datasheets; names that must or must not be found."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from joulecast.estimator.base.errors import HardwareError
from joulecast.estimator.cost.hardware import COLUMNS, SHIPPED, Hardware, load_hardware
from joulecast.estimator.cost.names import find_hardware, look_up, normalise


@pytest.fixture(autouse=True)
def _no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JOULECAST_HARDWARE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def table() -> dict[str, Hardware]:
    return {part.key: part for part in load_hardware()}


def test_rows_are_complete_and_sourced() -> None:
    parts = load_hardware()
    assert len(parts) >= 60
    assert len({part.key for part in parts}) == len(parts)
    for part in parts:
        assert part.origin == SHIPPED
        assert part.key == part.key.lower()
        assert len(part.source) > 20, part.key
        assert 2012 < part.year < 2027, part.key
        assert part.idle_w is None or part.idle_w < part.power_w, part.key


def test_rows_are_physically_plausible() -> None:
    for part in load_hardware():
        rates = (part.fp32_tflops, part.tf32_tflops, part.fp16_tflops or part.bf16_tflops, part.fp8_tflops)
        known = [rate for rate in rates if rate is not None]
        assert known == sorted(known), part.key
        assert part.fp64_tflops is None or part.fp64_tflops <= part.fp32_tflops, part.key
        assert 15 < part.bandwidth_gb_per_s < (9000 if part.vendor != "Graphcore" else 70000), part.key
        assert 10 <= part.power_w <= 1500, part.key
        assert part.process_nm is None or 2 <= part.process_nm <= 28, part.key
        assert part.pcie_gb_per_s is None or part.pcie_gb_per_s <= 900, part.key
        assert part.link_gb_per_s is None or 50 <= part.link_gb_per_s <= 2560, part.key
        assert part.l2_mb is None or 0.25 <= part.l2_mb <= 1200, part.key
        assert part.verified or "not verified" in part.source or "from memory" in part.source, part.key


def test_gpu_clocks_and_units_agree_with_the_fp32_rate() -> None:
    """Cores x 2 x boost clock; RDNA 3 and 4 issue two FP32 operations a cycle."""
    checked = 0
    for part in load_hardware():
        if part.kind != "gpu" or part.vendor not in ("NVIDIA", "AMD", "Apple") or part.boost_mhz is None:
            continue
        single = part.cores * 2 * part.boost_mhz / 1e6
        assert any(part.fp32_tflops == pytest.approx(single * issue, rel=0.05) for issue in (1, 2)), part.key
        assert part.sms is not None, part.key
        assert part.cores % part.sms == 0, part.key
        checked += 1
    assert checked > 60


def test_keys_and_names_mean_one_part_each() -> None:
    owners: dict[str, str] = {}
    for part in load_hardware():
        for name in (part.key, part.name):
            assert owners.setdefault(normalise(name), part.key) == part.key, name
    assert len(owners) > 500


# cores x 2 x boost clock (GHz) of the vendors' specifications, typed here by hand
BOOST_GHZ = {
    "gtx-750-ti": 1.085, "gtx-1080-ti": 1.582, "titan-xp": 1.582, "p100-pcie": 1.303, "p100-sxm2": 1.48,
    "v100-pcie-16gb": 1.38, "v100-sxm2-32gb": 1.53, "t4": 1.59, "rtx-2060": 1.68, "rtx-2080-ti": 1.545,
    "quadro-rtx-5000": 1.815, "quadro-rtx-6000": 1.77, "rtx-3060": 1.777, "rtx-3070": 1.725, "rtx-3080": 1.71,
    "rtx-3090": 1.695, "rtx-a6000": 1.8, "a10": 1.695, "a30": 1.44, "a40": 1.74, "a100-sxm4-80gb": 1.41,
    "l4": 2.04, "l40": 2.49, "l40s": 2.52, "rtx-6000-ada": 2.505, "rtx-4070": 2.475, "rtx-4080": 2.505,
    "rtx-4090": 2.52, "rtx-5080": 2.617, "rtx-5090": 2.407, "h100-pcie": 1.755, "h100-sxm": 1.98, "h200": 1.98,
    "b200": 1.98, "mi100": 1.502, "mi250x": 1.7, "apple-m1": 1.278, "apple-m2": 1.398,
}  # fmt: skip


@pytest.mark.parametrize("key", BOOST_GHZ)
def test_fp32_rate_is_cores_times_two_times_boost(key: str) -> None:
    part = table()[key]
    assert part.fp32_tflops == pytest.approx(part.cores * 2 * BOOST_GHZ[key] / 1000, rel=0.02)


# bus width (bit) x rate per pin (Gbit/s) / 8
MEMORY = {
    "gtx-750-ti": (128, 5.4), "gtx-1080-ti": (352, 11), "titan-xp": (384, 11.4), "t4": (256, 10),
    "quadro-rtx-6000": (384, 14), "rtx-3060": (192, 15), "rtx-3080": (320, 19), "rtx-3090": (384, 19.5),
    "a40": (384, 14.5), "rtx-4090": (384, 21), "rtx-5090": (512, 28), "l4": (192, 12.5), "i7-4770": (128, 1.6),
    "xeon-e5-2680-v4": (256, 2.4), "xeon-platinum-8480plus": (512, 4.8), "epyc-7763": (512, 3.2),
    "epyc-9654": (768, 4.8), "ryzen-9-7950x": (128, 5.2), "apple-m1": (128, 4.266), "apple-m4": (128, 7.5),
}  # fmt: skip


@pytest.mark.parametrize("key", MEMORY)
def test_bandwidth_is_bus_times_pin_rate(key: str) -> None:
    bits, gbit_per_s = MEMORY[key]
    assert table()[key].bandwidth_gb_per_s == pytest.approx(bits * gbit_per_s / 8, rel=0.01)


def test_tensor_rates_hold_the_ratios_of_their_architecture() -> None:
    for part in load_hardware():
        if part.vendor == "NVIDIA" and part.bf16_tflops is not None:
            assert part.bf16_tflops == part.fp16_tflops, part.key
            assert part.fp16_tflops is not None
            if part.tf32_tflops is not None:
                assert part.tf32_tflops == pytest.approx(part.fp16_tflops / 2, rel=0.02), part.key
    geforce = [part for part in load_hardware() if re.match(r"rtx-[345]0[5-9]0(-|$)", part.key)]
    assert len(geforce) >= 40
    for part in geforce:  # FP16 with FP32 accumulate runs at twice the FP32 rate
        assert part.fp16_tflops == pytest.approx(2 * part.fp32_tflops, rel=0.01), part.key


def test_cpu_rates_are_those_of_the_formula_in_their_source() -> None:
    for part in load_hardware():
        if part.kind == "cpu":
            terms = re.findall(r"(\d+) cores x ([\d.]+) GHz x (\d+) FLOP/cycle", part.source.partition("BF16")[0])
            tflops = sum(int(n) * float(ghz) * int(flop) for n, ghz, flop in terms) / 1000
            assert part.fp32_tflops == pytest.approx(tflops, rel=1e-4), part.key
            assert sum(int(n) for n, _, _ in terms) == part.cores, part.key


def test_figures_of_the_parts_behind_the_measurements() -> None:
    rtx = table()["quadro-rtx-6000"]
    assert (rtx.fp32_tflops, rtx.fp16_tflops, rtx.memory_gb, rtx.bandwidth_gb_per_s) == (16.3, 130.5, 24, 672)
    assert rtx.power_w == 260  # the driver's limit, the largest in the Zeus traces
    assert table()["i7-4770"].power_w == 84
    h200 = table()["h200"]
    assert (h200.bf16_tflops, h200.memory_gb, h200.bandwidth_gb_per_s, h200.power_w) == (989.5, 141, 4800, 700)


@pytest.mark.parametrize(
    ("printed", "key"),
    [
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("geforce rtx3090", "rtx-3090"),
        ("Quadro RTX 6000", "quadro-rtx-6000"),
        ("NVIDIA Quadro RTX 6000", "quadro-rtx-6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("Intel(R) Core(TM) i7-4770 CPU @ 3.40GHz", "i7-4770"),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "i9-13900k"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "xeon-e5-2680-v4"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-platinum-8480plus"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763"),
        ("AMD Ryzen 9 5950X 16-Core Processor", "ryzen-9-5950x"),
        ("Apple M1 Max", "apple-m1-max"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_names_as_drivers_print_them(printed: str, key: str) -> None:
    assert find_hardware(printed).key == key


def test_every_key_name_and_alias_finds_its_row() -> None:
    for part in load_hardware():
        for name in (part.key, part.name, part.name.upper()):
            assert find_hardware(name) == part
        for name in part.aliases:
            found = look_up(name)  # names that several parts share mean the first, and the note lists the others
            assert found.part == part or part.key in found.note, name


@pytest.mark.parametrize(
    "name",
    [
        "RTX 3095 Ti", "NVIDIA GeForce RTX 3090 Super", "NVIDIA GeForce RTX 6060 Laptop GPU", "RTX 6000", "A101",
        "NVIDIA A10X", "NVIDIA A101-SXM4-40GB MIG 1g.5gb", "Intel(R) Core(TM) i7-4770Z CPU @ 3.50GHz",
        "Intel(R) Xeon(R) Platinum 8380C", "AMD EPYC", "AMD EPYC-Milan Processor", "AMD EPYC 7763Z 64-Core Processor",
        "Intel Xeon Processor (Skylake, IBRS)", "Apple M1 Extreme", "NVIDIA", "GTX 580", "", "   ", "\n",
    ],
)  # fmt: skip
def test_a_part_is_never_taken_for_another(name: str) -> None:
    with pytest.raises(HardwareError) as caught:
        find_hardware(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "\n" not in message
    assert "`measure`" in message
    assert "hardware.csv" in message


def test_the_error_names_the_family_first_and_how_to_go_on() -> None:
    with pytest.raises(HardwareError, match=r"near names are quadro-rtx-6000, rtx-6000-ada.*`hardware` 'tflops="):
        find_hardware("RTX 6000")
    with pytest.raises(HardwareError, match=r"near names are epyc-7351"):
        find_hardware("AMD EPYC")


@pytest.mark.parametrize(
    ("name", "key", "others"),
    [
        ("a100", "a100-sxm4-80gb", ("a100-sxm4-40gb", "a100-pcie-80gb", "a100-pcie-40gb")),
        ("V100", "v100-sxm2-16gb", ("v100-sxm2-32gb", "v100-pcie-16gb", "v100-pcie-32gb")),
        ("NVIDIA H100", "h100-sxm", ("h100-pcie", "h100-nvl")),
        ("A100 40GB", "a100-sxm4-40gb", ("a100-pcie-40gb",)),
        ("RTX 3060", "rtx-3060", ("rtx-3060-8gb",)),
    ],
)
def test_a_family_means_its_first_member_and_names_the_others(name: str, key: str, others: tuple[str, ...]) -> None:
    found = look_up(name)
    assert found.part.key == key
    assert key in found.note
    for other in others:
        assert other in found.note


def test_memory_tells_boards_of_one_name_apart() -> None:
    assert find_hardware("NVIDIA GeForce RTX 3080", memory_gb=10.0).key == "rtx-3080"
    assert find_hardware("Tesla T4", memory_gb=15.0).key == "t4"  # 16 GB with error correction on
    assert find_hardware("NVIDIA GeForce RTX 3080", memory_gb=12.0).key == "rtx-3080-12gb"
    assert find_hardware("GeForce RTX 4060 Ti", memory_gb=16.0).key == "rtx-4060-ti-16gb"
    assert find_hardware("Tesla M40", memory_gb=22.4).key == "m40-24gb"
    with pytest.raises(HardwareError, match=r"reports 20 GB of memory, but rtx-3080 has 10 GB"):
        find_hardware("NVIDIA GeForce RTX 3080", memory_gb=20.0)


def write_rows(path: Path, *parts: Hardware, columns: tuple[str, ...] = COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(columns)
        for part in parts:
            values = {column: getattr(part, column) for column in columns}
            values["aliases"] = ";".join(part.aliases)
            writer.writerow("" if value is None else value for value in values.values())
    return path


def mine() -> Hardware:
    return replace(table()["rtx-3060"], key="rtx-3065-ti", name="GeForce RTX 3065 Ti", aliases=(), cores=4864)


def test_users_rows_are_found_and_labelled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.csv", mine())
    monkeypatch.setenv("JOULECAST_HARDWARE", str(path))
    found = find_hardware("NVIDIA GeForce RTX 3065 Ti")
    assert found == replace(mine(), origin=str(path))
    assert found.is_users
    assert not find_hardware("RTX 3060").is_users


def test_users_config_file_is_read(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "config/joulecast/hardware.csv", mine())
    assert find_hardware("rtx 3065 ti").origin == str(path)


def test_users_row_wins_over_the_shipped_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = replace(table()["rtx-3060"], power_w=120.0)
    monkeypatch.setenv("JOULECAST_HARDWARE", str(write_rows(tmp_path / "mine.csv", own)))
    assert find_hardware("NVIDIA GeForce RTX 3060").power_w == 120.0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("power_w", "nan", r"line 2: power_w is 'nan': give a number above 0"),
        ("power_w", "", r"line 2: power_w is '': give a number above 0"),
        ("power_w", "0", r"line 2: power_w is '0': give a number above 0"),
        ("fp16_tflops", "-3", r"line 2: fp16_tflops is '-3'"),
        ("kind", "tpu", r"line 2: kind is 'tpu': give gpu or cpu"),
        ("source", " ", r"line 2: source is empty"),
    ],
)
def test_broken_users_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, column: str, value: str, message: str
) -> None:
    path = write_rows(tmp_path / "mine.csv", mine())
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    rows[0][column] = value
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.setenv("JOULECAST_HARDWARE", str(path))
    with pytest.raises(HardwareError, match=message):
        load_hardware()


def test_users_file_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short = write_rows(tmp_path / "short.csv", mine(), columns=("key", "name"))
    twice = write_rows(tmp_path / "twice.csv", mine(), mine())
    monkeypatch.setenv("JOULECAST_HARDWARE", str(tmp_path / "none.csv"))
    with pytest.raises(HardwareError, match=r"cannot read the hardware table .*none\.csv"):
        load_hardware()
    monkeypatch.setenv("JOULECAST_HARDWARE", str(tmp_path))
    with pytest.raises(HardwareError, match=r"cannot read"):
        load_hardware()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    monkeypatch.setenv("JOULECAST_HARDWARE", str(tmp_path / "binary.csv"))
    with pytest.raises(HardwareError, match=r"cannot read"):
        load_hardware()
    monkeypatch.setenv("JOULECAST_HARDWARE", str(short))
    with pytest.raises(HardwareError, match=r"lacks the column 'vendor'"):
        load_hardware()
    monkeypatch.setenv("JOULECAST_HARDWARE", str(twice))
    with pytest.raises(HardwareError, match=r"the key 'rtx-3065-ti' twice"):
        load_hardware()
