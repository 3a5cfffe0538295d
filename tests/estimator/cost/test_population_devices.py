"""A device of the population model: its specifications, watts and bounds, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from joulecast.estimator.cost import population
from joulecast.estimator.cost.bounds import ErrorModel
from joulecast.estimator.cost.datasheet import datasheet_profile
from joulecast.estimator.cost.deviation import TRAITS
from joulecast.estimator.cost.hardware import Hardware
from joulecast.estimator.cost.population import SPECS, Deviation, Population, PopulationTime, population_watts, specs
from joulecast.estimator.trace.workload import Workload

from .neutral import DEVICE, NEUTRAL, mover, time_of

CARD = Hardware(
    key="c", name="Card", vendor="NVIDIA", kind="gpu", year=2023, fp32_tflops=40.0, tf32_tflops=80.0, fp16_tflops=160.0,
    bf16_tflops=170.0, memory_gb=24.0, bandwidth_gb_per_s=900.0, power_w=300.0, idle_w=20.0, cores=1, aliases=(),
    source="made up", sms=80, boost_mhz=2000.0, l2_mb=40.0, process_nm=4.0, fp8_tflops=600.0,
)  # fmt: skip


def spec(**changes: Any) -> dict[str, float]:
    return dict(zip(SPECS, specs(replace(CARD, **changes)).tolist(), strict=True))


def test_a_cards_figures_in_basic_units() -> None:
    assert spec() == pytest.approx(
        {
            "fp32": 20e12, "tf32": 40e12, "half": 85e12, "tensor": 1.0, "bandwidth": 900e9, "sms": 80, "l2": 40e6,
            "power": 300, "nm": 4, "amd": 0, "other": 0, "year": 2023, "mobile": 0, "clock": 2e9, "pascal": 0, "ecc": 1,
            "boost": 0, "radeon": 0, "fp8": 300e12, "unsupported": 0, "packed": 0, "integrated": 0,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tf32_tflops": None}, {"tf32": 0.0, "tensor": 1.0}),  # half precision at 4.25 times FP32
        ({"tf32_tflops": None, "bf16_tflops": 140.0, "fp16_tflops": None}, {"half": 70e12, "tensor": 1.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 130.0}, {"half": 65e12, "tensor": 0.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": None}, {"half": 20e12, "tensor": 0.0}),
        ({"tf32_tflops": None, "bf16_tflops": 10.0, "fp16_tflops": 10.0}, {"half": 20e12, "tensor": 0.0}),
        ({"vendor": "AMD"}, {"amd": 1.0, "fp32": 20e12}),
        ({"vendor": "AMD", "year": 2022}, {"fp32": 40e12}),  # CDNA 1 and 2
        (
            {"vendor": "AMD", "year": 2022, "tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 80.0},
            {"fp32": 10.24e12, "radeon": 1.0, "half": 40e12},  # 80 units of 64 lanes at 2 GHz, without dual issue
        ),
        # Vector units that compute two 16-bit products at a time: 72 of 40 TFLOPS and more.
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 72.0}, {"packed": 1.0, "tensor": 0.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 71.0}, {"packed": 0.0}),
        ({"vendor": "AMD", "memory_gb": None}, {"integrated": 1.0}),
        ({"vendor": "Apple", "memory_gb": None}, {"integrated": 0.0}),
        *(
            (
                {
                    "vendor": "AMD",
                    "tf32_tflops": None,
                    "bf16_tflops": None,
                    "fp16_tflops": 80.0,
                    "name": name,
                    "year": year,
                },
                {"radeon": 1.0, "unsupported": unsupported},
            )
            for name, year, unsupported in (
                ("Radeon RX 5700", 2019, 1.0),
                ("Radeon RX 5600 XT", 2020, 1.0),
                ("Radeon RX 580", 2017, 0.0),
                ("Radeon RX 6800", 2020, 0.0),
            )
        ),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 40.0, "year": 2016}, {"pascal": 1.0}),
        ({"tf32_tflops": None, "bf16_tflops": None, "fp16_tflops": 40.0, "year": 2019}, {"pascal": 0.0}),
        # Error correction takes bandwidth of GDDR memory on boards for data centres.
        ({"fp64_tflops": 20.0}, {"ecc": 0.0}),  # high-bandwidth memory: parts with FP64 units
        ({"fp64_tflops": 20.0, "year": 2014}, {"ecc": 1.0}),
        ({"bandwidth_gb_per_s": 8000.0}, {"ecc": 0.0}),
        ({"name": "GeForce RTX 4090"}, {"ecc": 0.0, "boost": 1.0}),
        ({"name": "TITAN V"}, {"ecc": 0.0, "boost": 1.0}),
        ({"name": "Quadro RTX 6000"}, {"ecc": 0.0, "boost": 0.0}),
        ({"year": 2022}, {"fp32": 20e12}),
        # 128 lanes at 1.6 GHz make a multiprocessor.
        ({"sms": None}, {"sms": 20e12 / 128 / 1.6e9}),
        # matrix units of 1,024 multiply-adds a clock each
        ({"sms": None, "fp32_tflops": 0.1}, {"sms": 85e12 / 1024 / 1.6e9}),
        ({"sms": None, "vendor": "AMD", "year": 2021}, {"sms": 20e12 / 128 / 1.6e9}),
        ({"vendor": "Apple"}, {"other": 1.0, "sms": 20e12 / 128 / 1.6e9, "clock": 1.6e9}),
        ({"vendor": "Google"}, {"other": 1.0}),
        ({"l2_mb": None}, {"l2": 4e6}),
        ({"boost_mhz": None}, {"clock": 1.6e9}),
        ({"name": "RTX 4090 Laptop GPU"}, {"mobile": 1.0}),
        ({"name": "RTX 2080 Max-Q"}, {"mobile": 1.0}),
        ({"name": "Quadro Mobile"}, {"mobile": 1.0}),
        *(
            ({"process_nm": None, "year": year}, {"nm": nm})
            for year, nm in (
                *((2014, 28), (2015, 28), (2016, 16), (2017, 16), (2018, 12), (2019, 12)),
                *((2020, 7), (2021, 7), (2022, 5), (2024, 5)),
            )
        ),
    ],
)
def test_gaps_of_a_datasheet_are_filled(changes: dict[str, Any], expected: dict[str, float]) -> None:
    found = spec(**changes)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle at a tenth of the board's power, waiting a fifth more, memory half."""
    power = {"idle": 0.1, "waiting": 0.2, "compute": 0.5, "memory": 0.5}
    known = Population(NEUTRAL, {}, {}, (), {}, power, "made up", ("made up",))
    monkeypatch.setattr(population, "load_population", lambda: known)


@pytest.mark.usefixtures("shares")
@pytest.mark.parametrize(
    ("device", "p", "precision", "idle_w", "watts"),
    [
        # 1 T multiply-adds of 40 pJ are 40 W, of which half counts.
        ({}, {"energy_mac": 40.0}, "float32", None, {"idle": 10, "launch": 30, "memory": 80, "compute": 50}),
        ({}, {"energy_mac": 40.0}, "float32", 15.0, {"idle": 15, "launch": 35, "memory": 85, "compute": 55}),
        ({}, {"energy_mac": 40.0}, "float32", 70.0, {"idle": 70, "launch": 90, "memory": 100, "compute": 100}),
        ({}, {"energy_mac": 40.0}, "float32", 95.0, {"idle": 95, "launch": 100, "memory": 100, "compute": 100}),
        ({}, {"energy_mac": 500.0}, "float32", None, {"compute": 30 + 0.5 * 85}),  # no more than the power limit
        ({}, {"energy_mac": 5.0, "energy_half": 0.5}, "float16", None, {"compute": 30 + 0.5 * 20}),
        ({}, {"energy_mac": 5.0, "energy_half": 0.5}, "bfloat16", None, {"compute": 30 + 0.5 * 20}),
        ({"half": 34e12}, {"energy_mac": 1.0, "energy_half": 0.5}, "bfloat16", None, {"compute": 30 + 0.5 * 8.5}),
        ({}, {"energy_mac": 5.0, "energy_half": 0.5}, "float32", None, {"compute": 30 + 0.5 * 5}),
        ({"tensor": 0.0}, {"energy_mac": 5.0, "energy_half": 0.5}, "float16", None, {"compute": 30 + 0.5 * 5}),
        ({"nm": 24.0}, {"energy_mac": 40.0}, "float32", None, {"compute": 50}),
        ({"nm": 24.0}, {"energy_mac": 40.0, "energy_nm": 1.0}, "float32", None, {"compute": 70}),
        ({"nm": 6.0}, {"energy_mac": 40.0, "energy_nm": 2.0}, "float32", None, {"compute": 35}),
    ],
)
def test_watts_of_a_board(
    device: dict[str, float], p: dict[str, float], precision: str, idle_w: float | None, watts: dict[str, float]
) -> None:
    time = PopulationTime({**DEVICE, **device}, parameters={**NEUTRAL, **p})
    found = population_watts(time, precision, idle_w)
    assert {name: found[name] for name in watts} == pytest.approx(watts)


def test_bounds_are_those_of_the_vendor_and_of_what_is_known() -> None:
    errors = {
        f"{what} {vendor} {known}": (0.1 + index / 100, 2.0 + index)
        for index, (what, vendor, known) in enumerate(
            (what, vendor, known)
            for what in ("time", "energy")
            for vendor in ("nvidia", "amd", "other", "radeon")
            for known in ("known", "unknown")
        )
    }
    fitted = Population(NEUTRAL, {}, {}, (), errors, {}, "made up", ("made up",))
    for flags, known, place in (
        ({}, True, 0),
        ({}, False, 1),
        ({"amd": 1.0}, True, 2),
        ({"other": 1.0}, False, 5),
        ({"amd": 1.0, "radeon": 1.0}, True, 6),
    ):
        times, energies = fitted.error_models(PopulationTime({**DEVICE, **flags}), software_known=known)
        assert (times.high, energies.high) == (2.0 + place, 2.0 + place + 8)
        assert times.low == pytest.approx(0.1 + place / 100)


def test_bounds_after_a_few_runs_are_what_is_not_known_of_the_work() -> None:
    nothing = tuple((0.0,) * len(TRAITS) for _ in TRAITS)
    time = replace(time_of(), deviation=Deviation({"memory": 0.0}, nothing, noise=0.2))
    own = replace(
        datasheet_profile(CARD), time=time, time_error=ErrorModel(0.5, math.exp(0.3)), energy_error=ErrorModel(0.5, 2.0)
    )
    work = Workload("net", "pytorch", 1, False, None, "float32", 0, 0, 0, 0, (), (mover(),))
    found = own.predict(work)
    reach = 1.645 * 0.2  # 90 % of a normal distribution
    assert math.log(found.seconds.high / found.seconds.value) == pytest.approx(reach)
    assert math.log(found.seconds.value / found.seconds.low) == pytest.approx(reach)
    # what the energy's bounds were wider than the time's is the doubt about watts
    whole = math.hypot(reach, math.sqrt(math.log(2) ** 2 - 0.3**2))
    assert math.log(found.energy_kwh.high / found.energy_kwh.value) == pytest.approx(whole)
    assert math.log(found.energy_kwh.value / found.energy_kwh.low) == pytest.approx(whole)
    narrow = replace(own, energy_error=ErrorModel(0.5, 1.1)).predict(work)
    assert narrow.energy_kwh.high / narrow.energy_kwh.value == pytest.approx(narrow.seconds.high / narrow.seconds.value)
