"""The sentences of papers and model cards, and text that is safe in them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from joulecast import __version__

from ..estimator.answer import figures
from ..estimator.place.site import country_name

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer

PROGRAM = f"joulecast {__version__}"


def one_line(text: str) -> str:
    """`text` without line breaks, control characters and halves of surrogate pairs."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(char if char.isprintable() else " " for char in whole).split())


def plain_number(value: float, digits: int = 4) -> str:
    """That many significant digits and no exponent: 123500, 0.0001235."""
    return format(Decimal(f"{value:.{digits}g}"), "f")


def origin(answer: Answer) -> str:
    """The program, its version, and what the prediction is based on."""
    estimate = answer.estimate
    return f"{PROGRAM}, predicted before training (profile: time {estimate.time_source}, power {estimate.power_source})"


def hardware(answer: Answer) -> str:
    count, name = answer.estimate.devices, one_line(answer.profile.hardware)
    return f"{count} x {name}" if count > 1 else name


def place(answer: Answer) -> str | None:
    """The place of the run, as precisely as it was given: "California, United States"."""
    region = answer.site.region
    if region is None or region.kind == "world":
        return None
    if region.kind == "cloud region":
        return f"{region.name}, {country_name(region)} ({region.code})"
    if region.kind in ("state", "province"):
        return f"{region.name}, {country_name(region)}"
    return region.name if region.live or region.kind == "union" else country_name(region)


def with_interval(pair: tuple[str, str]) -> str:
    """A figure of `figures` followed by its 90 % interval."""
    value, bounds = pair
    return f"{value} ({bounds})"


def carbon_of(answer: Answer) -> str:
    """The intensity of the electricity and its source."""
    site = answer.site
    return f"{figures.number(site.carbon_g_per_kwh)} g CO2e/kWh, {one_line(site.carbon_source)}"


def summary(answer: Answer) -> str:
    """Every figure of a model in one line."""
    energy, building = figures.energy(answer.estimate.energy_kwh), figures.energy(answer.facility_energy_kwh)
    return (
        f"time {with_interval(figures.seconds(answer.estimate.seconds))}, energy {with_interval(energy)}, "
        f"{with_interval(building)} with a PUE of {figures.number(answer.site.pue)}, "
        f"emissions {with_interval(figures.carbon(answer.co2e_kg))}"
    )
