"""The answers as rows of CodeCarbon's `emissions.csv`, so that its dashboards read them.

Names, order and units of the columns are those of CodeCarbon 3.3.2's `EmissionsData`: kg CO2e, kWh, s, W; its
energies and powers include the PUE. What is not known before training stays empty.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ..estimator.cost.hardware import BOUNDARIES
from ..estimator.place.site import country_name
from .wording import PROGRAM, hardware, one_line

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer

COLUMNS = (
    *("timestamp", "project_name", "run_id", "experiment_id", "duration", "emissions", "emissions_rate"),
    *("cpu_power", "gpu_power", "ram_power", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed"),
    *("water_consumed", "country_name", "country_iso_code", "region", "cloud_provider", "cloud_region", "os"),
    *("python_version", "codecarbon_version", "cpu_count", "cpu_model", "gpu_count", "gpu_model"),
    *("longitude", "latitude", "ram_total_size", "tracking_mode", "cpu_utilization_percent"),
    *("gpu_utilization_percent", "ram_utilization_percent", "ram_used_gb", "on_cloud", "pue", "wue"),
)


def emissions_csv(answers: Sequence[Answer]) -> str:
    """A header and a row per model, with the current time and a new run id."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for answer in answers:
        stamp = {"timestamp": datetime.now().isoformat(timespec="seconds"), "run_id": str(uuid.uuid4())}
        writer.writerow({**stamp, **_figures(answer), **_part(answer), **_place(answer)})
    return text.getvalue()


def _figures(answer: Answer) -> dict[str, object]:
    seconds, gas_kg = answer.estimate.seconds.value, answer.co2e_kg.value
    return {
        "project_name": f"{one_line(answer.model)} (predicted)",
        "duration": seconds,
        "emissions": gas_kg,
        "emissions_rate": gas_kg / seconds if seconds else "",
        "energy_consumed": answer.facility_energy_kwh.value,
        "codecarbon_version": PROGRAM,
        "tracking_mode": "predicted",
        "pue": answer.site.pue,
    }


def _part(answer: Answer) -> dict[str, object]:
    """The device; with its power and energy only if the profile's figure covers nothing else."""
    device = answer.profile.device
    known: dict[str, object] = {f"{device}_model": hardware(answer)}
    if device == "gpu":
        known["gpu_count"] = answer.estimate.devices
    if answer.profile.provenance.boundary == BOUNDARIES[device]:
        known[f"{device}_power"] = answer.estimate.power_w * answer.site.pue
        known[f"{device}_energy"] = answer.facility_energy_kwh.value
    return known


def _place(answer: Answer) -> dict[str, object]:
    region = answer.site.region
    if region is None:
        return {}
    known: dict[str, object] = {"country_iso_code": region.iso3, "country_name": country_name(region) or ""}
    if region.kind in ("state", "province"):
        known["region"] = region.name.lower()  # as CodeCarbon writes it
    if region.kind == "cloud region":
        provider, _, name = region.code.partition(":")
        known |= {"cloud_provider": provider, "cloud_region": name, "on_cloud": "Y"}
    return known
