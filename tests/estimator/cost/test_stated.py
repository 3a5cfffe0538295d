"""Hardware described by the user's figures: missing, odd or contradictory figures give one line with the fix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joulecast.estimator.base.errors import HardwareError
from joulecast.estimator.cost.hardware import load_hardware
from joulecast.estimator.cost.library import load_profile
from joulecast.estimator.cost.names import find_hardware
from joulecast.estimator.cost.stated import check_plausible, parse_stated, stated_part


def test_three_figures_are_a_gpu() -> None:
    part = stated_part(parse_stated("tflops=35, bandwidth=448,watts=150"), None)
    assert (part.kind, part.fp32_tflops, part.bandwidth_gb_per_s, part.power_w) == ("gpu", 35, 448, 150)
    assert (part.time_label, part.power_label, part.power_spread) == ("given", "given", 1.0)


def test_the_optional_figures_are_taken() -> None:
    text = "name=My card,tflops=35,fp16_tflops=70,bandwidth=448,watts=150,memory_gb=16,sms=40,idle_watts=9"
    part = stated_part(parse_stated(text), None)
    assert (part.name, part.key, part.fp16_tflops, part.bf16_tflops) == ("My card", "my-card", 70, 70)
    assert (part.memory_gb, part.sms, part.cores, part.idle_w) == (16, 40, 5120, 9)


def test_a_cpu_of_which_the_cores_are_known_gets_assumed_rates() -> None:
    part = stated_part(parse_stated("kind=cpu,cores=8,watts=65"), None)
    assert (part.kind, part.cores, part.power_w) == ("cpu", 8, 65)
    assert part.fp32_tflops == pytest.approx(0.64)  # 8 cores x 2.5 GHz x 32
    assert (part.time_label, part.power_label) == ("assumed", "given")
    assert "assumed for 8 cores" in part.notes[0]


def test_figures_replace_those_of_a_named_part() -> None:
    card, profile = find_hardware("rtx-3090"), load_profile("rtx-3090,watts=250")
    limited = stated_part(parse_stated("rtx-3090,watts=250"), card)
    assert (limited.power_w, limited.fp32_tflops) == (250, card.fp32_tflops)
    assert profile.name == "rtx-3090"
    assert (profile.provenance.time, profile.provenance.power) == ("datasheet", "given")


def test_cores_of_a_named_cpu_have_their_share() -> None:
    whole, one = find_hardware("xeon-gold-5120"), load_profile("Xeon Gold 5120, cores=1")
    part = stated_part(parse_stated("Xeon Gold 5120,cores=1"), whole)
    assert part.fp32_tflops == pytest.approx(whole.fp32_tflops / 14)
    assert part.power_w == pytest.approx(whole.power_w / 14)
    assert part.bandwidth_gb_per_s == 12  # more than a fourteenth of 115
    assert one.provenance.notes[-1] == "1 of the 14 cores of Xeon Gold 5120, with their share of its power"
    both = stated_part(parse_stated("xeon-gold-5120,cores=28"), whole)  # two sockets
    assert both.bandwidth_gb_per_s == pytest.approx(2 * whole.bandwidth_gb_per_s)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tflops=100,bandwidth=5,watts=300", r"100 TFLOPS and 5 GB/s contradict each other: 20,000 operations"),
        ("tflops=0.1,bandwidth=4000,watts=30", "contradict each other"),
        ("tflops=35,bandwidth=448,watts=15000", r"35 TFLOPS and 15000 W contradict each other"),
        ("tflops=35,bandwidth=448,watts=2", r"contradict each other"),
        ("tflops=35000,bandwidth=448000,watts=150", r"fp32_tflops of 35000 cannot be right"),
        ("tflops=-35,bandwidth=448,watts=150", r"tflops is '-35': give a number above 0"),
        ("tflops=nan,bandwidth=448,watts=150", r"tflops is 'nan'"),
        ("tflops=inf,bandwidth=448,watts=150", r"tflops is 'inf'"),
        ("tflops=35TF,bandwidth=448,watts=150", r"tflops is '35TF'"),
        ("tflops=35,watts=150", r"lack bandwidth \(GB/s\): write them as tflops=35,bandwidth=448,watts=150"),
        ("tflops=35", r"lack bandwidth \(GB/s\) and watts"),
        ("tflops=35,bandwidth=448,watts=150,fp16_tflops=70000", r"fp16_tflops of 70000 is 2,000 times"),
        ("tflops=35,bandwidth=448,watts=150,idle_watts=200", r"200 W idle and 150 W"),
        ("tflops=35,bandwith=448,watts=150", r"unknown key 'bandwith'; did you mean bandwidth"),
        ("tflops=35,tflops=36,bandwidth=448,watts=150", r"gives tflops twice"),
        ("tflops=35,fp32_tflops=36,bandwidth=448,watts=150", r"gives fp32_tflops twice"),
        ("tflops=35,,watts=150", r"is not KEY=NUMBER"),
        ("tflops=35,bandwidth=448,watts=150,kind=tpu", r"kind is 'tpu': give gpu or cpu"),
        ("kind=cpu,cores=1.5,watts=65", r"cores is '1.5': give a whole number"),
        ("a100,cores=4", r"cores=4 is for CPUs"),
        ("a100,kind=cpu", r"is a GPU, not a CPU"),
        ("nonsense 9000,watts=10", r"unknown hardware 'nonsense 9000'"),
    ],
)  # fmt: skip
def test_odd_figures_are_one_line(text: str, message: str) -> None:
    with pytest.raises(HardwareError, match=message) as caught:
        load_profile(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "tflops=35TFLOPS,bandwidth=448GB/s,watts=150W",
        "tflops=35 tflops, bandwidth=448 GB/s, watts=150 W",
        "TFLOPS=35;Bandwidth=0.448TB/s;Watts=0.15kW",
        "tflops=35000GFLOPS bandwidth=3584Gbit/s watts=150",
        "tflops=35 bandwidth=3584Gbps watts=150",
        "tflops=35 bandwidth=3584Gb/s watts=150",
        "tflops=35 bandwidth=448GBps watts=150",
        "gpu,fp32=35,bandwidth=448,power=150",
    ],
)
def test_units_and_separators(text: str) -> None:
    part = stated_part(parse_stated(text), None)
    assert (part.fp32_tflops, part.power_w) == (pytest.approx(35), 150)
    assert part.bandwidth_gb_per_s == pytest.approx(448)


def test_short_keys() -> None:
    text = "cpu,tflops=2,bandwidth=100GB/s,watts=150,vram=24GB,idle=20W,l2=32MB,boost=2.5GHz,fp16=4,bf16=5"
    part = stated_part(parse_stated(text), None)
    assert (part.kind, part.memory_gb, part.idle_w, part.l2_mb) == ("cpu", 24, 20, 32)
    assert (part.boost_mhz, part.fp16_tflops, part.bf16_tflops) == (2500, 4, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tflops=35W,bandwidth=448,watts=150", "tflops is '35W': give one of tflops, gflops, pflops, flops behind"),
        ("tflops=35,bandwidth=448,watts=150,sms=80x", "sms is '80x': give no unit behind the number"),
        ("tflops=35e12,bandwidth=448,watts=150", "if its unit is a smaller one, give tflops=35"),
        ("tflops=35,bandwidth=448000,watts=150", "if its unit is a smaller one, give bandwidth=448"),
        ("tflops=35,bandwidth=448,watts=150000", "if its unit is a smaller one, give watts=150"),
    ],
)
def test_a_wrong_unit_is_named_with_the_value_that_works(text: str, message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        stated_part(parse_stated(text), None)


@pytest.mark.parametrize("text", ["rtx-3090,watts=2500", "h100-sxm,tflops=500", "rtx-3090,bandwidth=93600"])
def test_figures_far_above_those_of_a_named_part_are_refused(text: str) -> None:
    stated = parse_stated(text)
    with pytest.raises(HardwareError, match=r"times the .* of .*: give all figures without the name"):
        stated_part(stated, find_hardware(stated.base))


def test_watts_that_are_not_given_are_assumed() -> None:
    part = stated_part(parse_stated("tflops=35,bandwidth=448"), None)
    assert (part.power_w, part.power_label, part.power_spread) == (350, "assumed", 2.0)
    assert part.notes == ("350 W are assumed, which boards with such rates take (give watts=N for yours)",)


def test_every_row_of_the_table_is_plausible() -> None:
    for part in load_hardware():
        check_plausible(part)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tflops=35,bandwidth=448,rtx-3090", "'rtx-3090' is not KEY=NUMBER"),  # the name comes first
        (",tflops=35", "'' is not KEY=NUMBER"),
        ("kind=cpu,tflops=1", r"lack bandwidth \(GB/s\) and watts"),  # no cores to assume them for
        ("kind=gpu,cores=8,tflops=35", r"lack bandwidth \(GB/s\) and watts"),
        ("cores=8,memory_gb=8", r"lack tflops \(FP32\) and bandwidth \(GB/s\) and watts"),  # a GPU has memory
        ("cores=8,sms=8", "lack tflops"),
        ("kind=cpu,cores=2000000", "cores is '2000000': give a whole number"),
        ("name=a,name=b", "gives name twice"),
    ],
)
def test_texts_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        stated_part(parse_stated(text), None)


def test_what_cores_alone_are_assumed_to_have() -> None:
    part = stated_part(parse_stated("cores=10"), None)
    assert (part.kind, part.name, part.key) == ("cpu", "CPU with the figures given", "given")
    assert (part.fp32_tflops, part.bandwidth_gb_per_s, part.power_w) == pytest.approx((0.8, 60, 80))
    assert (part.time_label, part.power_label, part.power_spread) == ("assumed", "assumed", 2.0)
    assert part.notes == ("0.8 TFLOPS and 60 GB/s and 80 W are assumed for 10 cores",)
    partly = stated_part(parse_stated("kind=CPU,cores=10,tflops=0.5,bandwidth=20,watts=50"), None)
    assert (partly.time_label, partly.power_label, partly.notes) == ("given", "given", ())
    assert parse_stated("kind=CPU").kind == "cpu"
    one = stated_part(parse_stated("tflops=35,bandwidth=448,watts=150"), None)
    assert (one.cores, one.sms, one.name) == (1, None, "GPU with the figures given")


@pytest.mark.parametrize(
    ("text", "spread", "time", "power"),
    [
        ("rtx-3090,watts=250", 1.0, "datasheet", "given"),
        ("rtx-3090,tflops=30", 1.5, "given", "datasheet"),
        ("rtx-3090,idle_watts=9,memory_gb=20", 1.5, "datasheet", "datasheet"),
        ("rtx-3090,name=Mine", 1.5, "datasheet", "datasheet"),
        ("rtx-3090,sms=80", 1.5, "given", "datasheet"),
    ],
)
def test_labels_of_changed_figures(text: str, spread: float, time: str, power: str) -> None:
    card = replace(find_hardware("rtx-3090"), power_spread=1.5)
    part = stated_part(parse_stated(text), card)
    assert (part.power_spread, part.time_label, part.power_label) == (spread, time, power)
    assert part.source.endswith("given by the user")
    assert stated_part(parse_stated("rtx-3090"), card) is card


def test_a_name_alone_is_told_in_the_source() -> None:
    card = find_hardware("rtx-3090")
    assert stated_part(parse_stated("rtx-3090,name=Mine"), card).source == f"{card.source}; name given by the user"
    both = stated_part(parse_stated("rtx-3090,watts=250,l2_mb=6"), card)
    assert both.source == f"{card.source}; l2_mb, power_w given by the user"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fp32_tflops": 10.0, "bandwidth_gb_per_s": 20.0}, ""),  # 500 operations a byte
        ({"fp32_tflops": 10.0, "bandwidth_gb_per_s": 19.9}, "contradict each other"),
        ({"fp32_tflops": 10.0, "bandwidth_gb_per_s": 33_000.0}, ""),  # 0.3
        ({"fp32_tflops": 10.0, "bandwidth_gb_per_s": 33_500.0}, "contradict each other"),
        ({"fp32_tflops": 10.0, "power_w": 10.0}, ""),  # 1 TFLOPS/W
        ({"fp32_tflops": 10.0, "power_w": 9.9}, "contradict each other"),
        ({"fp32_tflops": 10.0, "power_w": 1249.0}, ""),  # 0.008
        ({"fp32_tflops": 10.0, "power_w": 1260.0}, "contradict each other"),
        ({"fp16_tflops": 640.0}, ""),
        ({"bf16_tflops": 641.0}, "bf16_tflops of 641 is 64.1 times"),
        ({"tf32_tflops": 641.0}, "tf32_tflops of 641"),
        ({"idle_w": 99.0}, ""),
        ({"idle_w": 100.0}, "100 W idle and 100 W at work"),
        ({"memory_gb": 0.05}, "memory_gb of 0.05 cannot be right"),
        ({"memory_gb": 0.1}, ""),
        ({"memory_gb": None}, ""),
        ({"kind": "cpu", "fp32_tflops": 10.0, "power_w": 100.0}, ""),  # 0.1
        ({"kind": "cpu", "fp32_tflops": 11.0, "power_w": 100.0}, "a CPU has 0.0003 to 0.1"),
    ],
)
def test_figures_that_no_part_has_together(changes: dict[str, object], message: str) -> None:
    round_figures = {"fp32_tflops": 10.0, "bandwidth_gb_per_s": 500.0, "power_w": 100.0, "idle_w": None}
    nothing = dict.fromkeys(("fp16_tflops", "bf16_tflops", "tf32_tflops", "memory_gb"))
    part = replace(find_hardware("rtx-3090"), **{**round_figures, **nothing, **changes})  # type: ignore[arg-type]
    if not message:
        check_plausible(part)
        return
    with pytest.raises(HardwareError, match=message):
        check_plausible(part)


GIVEN = "tflops=10,bandwidth=500,watts=100"


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("fp32_tflops", "fp32_tflops"),
        ("tf32_tflops", "tf32_tflops"),
        ("fp16_tflops", "fp16_tflops"),
        ("bf16_tflops", "bf16_tflops"),
        ("fp8_tflops", "fp8_tflops"),
        ("fp64_tflops", "fp64_tflops"),
        ("bandwidth_gb_per_s", "bandwidth_gb_per_s"),
        ("power_w", "power_w"),
        ("tdp", "power_w"),
        ("idle_w", "idle_w"),
        ("idle-watts", "idle_w"),
        ("memory_gb", "memory_gb"),
        ("sms", "sms"),
        ("l2_mb", "l2_mb"),
        ("boost_mhz", "boost_mhz"),
        ("process_nm", "process_nm"),
        ("link_gb_per_s", "link_gb_per_s"),
        ("PCIe_GB_per_s", "pcie_gb_per_s"),
    ],
)
def test_every_key_sets_its_field(key: str, field: str) -> None:
    rest = {"fp32_tflops": "tflops=10", "bandwidth_gb_per_s": "bandwidth=500", "power_w": "watts=100"}
    text = ",".join([*(one for name, one in rest.items() if name != field), f"{key}=20"])
    part = stated_part(parse_stated(text), None)
    assert getattr(part, field) == 20
    assert getattr(stated_part(parse_stated(f"rtx-3090,{key}=20"), replace(EASY, sms=1)), field) == 20


EASY = replace(
    find_hardware("rtx-3090"),
    fp32_tflops=10.0,
    bandwidth_gb_per_s=500.0,
    power_w=100.0,
    idle_w=None,
    **dict.fromkeys(("fp16_tflops", "bf16_tflops", "tf32_tflops", "memory_gb")),  # type: ignore[arg-type]
)


def test_figures_that_are_not_given_are_unknown() -> None:
    part = stated_part(parse_stated(GIVEN), None)
    unknown = ("tf32_tflops", "fp16_tflops", "bf16_tflops", "fp8_tflops", "fp64_tflops", "memory_gb", "idle_w", "sms")
    unknown += ("boost_mhz", "l2_mb", "process_nm", "link_gb_per_s", "pcie_gb_per_s")
    assert {name: getattr(part, name) for name in unknown} == dict.fromkeys(unknown)
    assert (part.year, part.vendor, part.aliases, part.key, part.notes) == (0, "given", (), "given", ())


def test_whole_multiprocessors() -> None:
    part = stated_part(parse_stated(f"{GIVEN},sms=40.5"), None)
    assert (part.sms, part.cores) == (40, 40 * 128)
    changed = stated_part(parse_stated("rtx-3090,sms=40.5"), EASY)
    assert (changed.sms, type(changed.sms)) == (40, int)
    own = stated_part(parse_stated(f"{GIVEN},sms=40,cores=77,kind=gpu"), None)
    assert own.cores == 77


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fp32_tflops": 0.001, "bandwidth_gb_per_s": 1.0, "power_w": 0.5, "kind": "cpu"}, ""),
        ({"fp32_tflops": 0.0009}, "fp32_tflops of 0.0009 cannot be right: parts have 0.001 to 5000; check the unit"),
        ({"fp32_tflops": 5000.0, "bandwidth_gb_per_s": 100_000.0, "power_w": 20_000.0}, ""),
        ({"fp32_tflops": 5001.0}, "fp32_tflops of 5001"),
        ({"bandwidth_gb_per_s": 0.9}, "bandwidth_gb_per_s of 0.9 cannot be right: parts have 1 to 100000"),
        ({"bandwidth_gb_per_s": 100_001.0}, "bandwidth_gb_per_s of 100001"),
        ({"power_w": 0.4}, "power_w of 0.4 cannot be right: parts have 0.5 to 20000"),
        ({"power_w": 20_001.0}, "power_w of 20001"),
        ({"memory_gb": 10_000.0}, ""),
        ({"memory_gb": 10_001.0}, "memory_gb of 10001 cannot be right: parts have 0.1 to 10000"),
        ({"fp16_tflops": 641.0}, "fp16_tflops of 641 is 64.1 times the 10 TFLOPS of FP32"),
        ({"kind": "cpu", "fp32_tflops": 0.03, "bandwidth_gb_per_s": 10.0}, ""),  # 0.0003 TFLOPS/W
        ({"kind": "cpu", "fp32_tflops": 0.0299, "bandwidth_gb_per_s": 10.0}, "a CPU has 0.0003 to 0.1"),
        ({"fp32_tflops": 0.8, "bandwidth_gb_per_s": 100.0}, ""),  # 0.008 TFLOPS/W
        ({"fp32_tflops": 0.79, "bandwidth_gb_per_s": 100.0}, "a GPU has 0.008 to 1; check the units"),
        ({"bandwidth_gb_per_s": 10.0}, r"1,000 operations per byte, parts have 0.3 to 500"),
    ],
)
def test_limits_of_every_figure(changes: dict[str, object], message: str) -> None:
    part = replace(EASY, **changes)  # type: ignore[arg-type]
    if not message:
        check_plausible(part)
        return
    with pytest.raises(HardwareError, match=message):
        check_plausible(part)


def test_the_most_cores() -> None:
    assert parse_stated("cores=1000000").cores == 10**6
    assert parse_stated("cores=8.0").cores == 8
    assert parse_stated("watts=9").cores is None
    with pytest.raises(HardwareError, match="cores is '1000001': give a whole number"):
        parse_stated("cores=1000001")
    with pytest.raises(HardwareError, match="tflops is '0': give a number above 0"):
        parse_stated("tflops=0")


def test_what_the_text_of_a_part_with_figures_says() -> None:
    stated = parse_stated(" RTX 3090 , TDP = 250 , name = Mine ")
    assert (stated.base, dict(stated.figures), stated.name, stated.kind) == (
        "RTX 3090",
        {"power_w": 250.0},
        "Mine",
        None,
    )
    assert parse_stated("tflops=1").base == ""


@pytest.mark.parametrize("form", ["power", "half_power"])
def test_a_lower_power_limit_cuts_the_watts_of_busy_components_alone(form: str) -> None:
    """Zeus's V100s, A40s, P100s and RTX 6000s draw the smaller of their own watts and the limit."""
    own, limited = (getattr(load_profile(text), form) for text in ("a100-sxm4-80gb", "a100-sxm4-80gb,watts=200"))
    assert limited.static_w == own.static_w
    assert limited.weights_w["launch"] == own.weights_w["launch"] < 200 - own.static_w
    assert limited.weights_w["memory"] == pytest.approx(200 - own.static_w)
    assert limited.weights_w["memory"] < own.weights_w["memory"]


def test_a_stated_idle_power_stays_under_a_limit() -> None:
    for watts in (20, 50):
        assert load_profile(f"a100-sxm4-80gb,watts=200,idle_watts={watts}").power.static_w == pytest.approx(watts)


def test_a_limit_below_the_idle_power_is_drawn_all_the_time() -> None:
    power = load_profile("a100-sxm4-80gb,watts=30").power
    assert (power.static_w, set(power.weights_w.values())) == (30, {0.0})


def test_a_higher_power_limit_is_another_part() -> None:
    higher = load_profile("a100-sxm4-80gb,watts=500").power
    assert higher.static_w > load_profile("a100-sxm4-80gb").power.static_w
