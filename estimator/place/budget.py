"""Budgets of energy, CO2e, time and money: reading them, comparing a run with them, and what would fit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ..base.digits import short
from ..base.errors import JoulecastError
from ..base.interval import Interval
from ..base.units import GRAMS_PER_KG, GRAMS_PER_LB, JOULES_PER_KWH, SECONDS_PER_HOUR
from .site import Region, Site, co2e_kg, cost, facility_energy_kwh

End = Literal["high", "expected"]
COMPARED_WITH = {  # what a budget of each quantity is compared with
    "energy": "facility energy (the machine's times PUE)",
    "co2e": "CO2e of the facility energy",
    "time": "time",
    "cost": "cost of the facility energy",
}
_RENT = "rent of the devices"
_DAY_S = 24 * SECONDS_PER_HOUR
_ENERGY_KWH = {
    "J": 1 / JOULES_PER_KWH,
    "kJ": 1e3 / JOULES_PER_KWH,
    "MJ": 1e6 / JOULES_PER_KWH,
    "GJ": 1e9 / JOULES_PER_KWH,
    "Wh": 1e-3,
    "kWh": 1.0,
    "MWh": 1e3,
    "GWh": 1e6,
}
_MASS_KG = {"g": 1 / GRAMS_PER_KG, "kg": 1.0, "t": 1e3, "lb": GRAMS_PER_LB / GRAMS_PER_KG}
_TIME_S = {"s": 1, "min": 60, "h": SECONDS_PER_HOUR, "d": _DAY_S, "w": 7 * _DAY_S}
_TIME_WORDS = {
    **dict.fromkeys(("sec", "second", "seconds"), "s"),
    **dict.fromkeys(("minute", "minutes", "mins"), "min"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("day", "days"), "d"),
    **dict.fromkeys(("week", "weeks"), "w"),
}
_SYMBOLS = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
CURRENCIES = frozenset(
    re.findall(r"\w+", "AUD BRL CAD CHF CNY DKK EUR GBP INR JPY KRW MXN NOK NZD PLN SEK SGD USD ZAR")
)
_NUMBER = r"[-+]?(?:(?:\d[\d_]*\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf)"
_TEXT = re.compile(rf"([$€£¥])?\s*({_NUMBER})\s*(\S*)", re.IGNORECASE)
_UNITS = "kWh (J to GJ, Wh to GWh), kgCO2e (g, kg, t, lb), h (s, min, h, days, weeks) or a currency such as USD"


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget of one quantity, "energy" (kWh), "co2e" (kgCO2e), "time" (s) or "cost" (a currency), given as `text`.

    `amount` is in `unit`, one of those in brackets. `given_unit` is the user's; one is `units_per_given` of `unit`.
    """

    quantity: str
    amount: float
    unit: str
    text: str
    given_unit: str
    units_per_given: float


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """A limit compared with a prediction; `figure` and `excess` are in the limit's unit.

    With `is_rent`, a budget in money is compared with the rent, otherwise with the electricity.
    """

    limit: Limit
    figure: float
    at: End  # the end of the interval that is compared
    is_rent: bool = False

    @property
    def exceeded(self) -> bool:
        return self.figure > self.limit.amount

    @property
    def excess(self) -> float:
        """How far above the limit; negative when within it."""
        return self.figure - self.limit.amount

    @property
    def excess_percent(self) -> float:
        return 100 * self.excess / self.limit.amount

    def __str__(self) -> str:
        end = "at the interval's upper end" if self.at == "high" else "at the expected value"
        unit, scale = _spelled(self.limit, self.is_rent), self.limit.units_per_given
        figure = f"{short(self.figure / scale)} of {short(self.limit.amount / scale)} {unit} {end}"
        if not self.exceeded:
            return f"within budget: {figure}"
        return f"over budget: {figure}, {short(abs(self.excess_percent))} % too much"

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.limit.text,
            "quantity": self.limit.quantity,
            "limit": self.limit.amount,
            "unit": self.limit.unit,
            "judged": _RENT if self.is_rent else COMPARED_WITH[self.limit.quantity],
            "at": self.at,
            "figure": self.figure,
            "exceeded": self.exceeded,
            "excess": self.excess,
            "excess_percent": self.excess_percent,
        }


def _spelled(limit: Limit, is_rent: bool = False) -> str:
    """The user's unit, with what it measures: "kWh with PUE", "kg CO2e", "USD of rent"."""
    if limit.quantity == "energy":
        return f"{limit.given_unit} with PUE"
    if limit.quantity == "cost":
        return f"{limit.given_unit} of {'rent' if is_rent else 'electricity'}"
    mass, gas, rest = limit.given_unit.partition("CO2")
    return f"{mass} {gas}{rest}".strip() if gas else limit.given_unit


def parse_limit(text: str) -> Limit:
    """The limit of texts such as "2kWh", "200 gCO2e", "30 min", "$3". Raises JoulecastError."""
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise JoulecastError(f"budget {text!r} cannot be read: give a number and a unit, {_UNITS}")
    symbol, number, unit = match.groups()
    amount = float(number.replace("_", ""))
    if not (math.isfinite(amount) and amount > 0):
        raise JoulecastError(f"budget {text!r} cannot be used: give a number above 0 with its unit")
    if symbol and unit:
        raise JoulecastError(f"budget {text!r} has two units: give {symbol}{number} or {number}{unit}")
    known = _unit(_SYMBOLS.get(symbol or unit, unit))
    if known is None and not unit:
        raise JoulecastError(f"budget {text!r} has no unit: give {_UNITS}")
    if known is None:
        raise JoulecastError(f"budget {text!r} has the unknown unit {unit!r}{_meant(number, unit)}: give {_UNITS}")
    quantity, base, factor = known
    given = unit if quantity != "cost" else base
    return Limit(quantity, amount * factor, base, text.strip(), given, factor)


def _meant(number: str, unit: str) -> str:
    """A mass is one of CO2e, and a power may be an energy: ` (did you mean 2kgCO2e?)`."""
    for ending in ("CO2e", "h"):
        if _unit(unit + ending) is not None:
            return f" (did you mean {number}{unit}{ending}?)"
    return ""


def _unit(unit: str) -> tuple[str, str, float] | None:
    """The quantity, its base unit and the factor to it."""
    for name, factor in _ENERGY_KWH.items():
        # "mWh" and "MWh" differ by a factor of a billion: a mega must be written as such.
        if unit == name or (not name.startswith("M") and unit.casefold() == name.casefold()):
            return "energy", "kWh", factor
    mass, gas, rest = unit.casefold().partition("co2")
    if gas and rest in ("", "e", "eq") and mass in _MASS_KG:
        return "co2e", "kgCO2e", _MASS_KG[mass]
    time = _TIME_WORDS.get(unit.casefold(), unit.casefold())
    if time in _TIME_S:
        return "time", "s", _TIME_S[time]
    return ("cost", unit.upper(), 1.0) if unit.upper() in CURRENCIES else None


def verdicts_of_run(
    limits: Iterable[Limit],
    site: Site,
    *,
    seconds: Interval | None,
    energy_kwh: Interval | None,
    at: End = "high",
    rent: Interval | None = None,
) -> tuple[BudgetVerdict, ...]:
    """Each limit compared with a run of `seconds` and the machine's own `energy_kwh` at `site`.

    A budget in money is compared with the `rent` where there is one, otherwise with the electricity.
    A limit whose figure is None has no verdict. Raises JoulecastError for a limit in another currency than the price.
    """
    facility = None if energy_kwh is None else facility_energy_kwh(energy_kwh, site)
    figures = {
        "energy": facility,
        "co2e": None if facility is None else co2e_kg(facility, site),
        "time": seconds,
        "cost": rent or (None if facility is None else cost(facility, site)),
    }
    verdicts = []
    for limit in limits:
        if limit.quantity == "cost" and limit.unit != site.currency:
            raise JoulecastError(
                f"budget {limit.text!r} is in {limit.unit}, the price in {site.currency}: use one currency"
            )
        if (figure := figures[limit.quantity]) is not None:
            is_rent = limit.quantity == "cost" and rent is not None
            verdicts.append(BudgetVerdict(limit, _at(figure, at), at, is_rent))
    return tuple(verdicts)


def verdict_of(limit: Limit, figure: Interval, at: End = "high") -> BudgetVerdict:
    """`limit` against `figure`, an interval in the limit's unit, at its upper end or its value."""
    return BudgetVerdict(limit, _at(figure, at), at)


def _at(figure: Interval, at: End) -> float:
    return figure.high if at == "high" else figure.value


def epochs_that_fit(verdict: BudgetVerdict, epochs: float) -> int:
    """The most whole epochs within the budget, 0 where not one is; every cost is proportional to epochs."""
    if verdict.figure <= 0:
        raise JoulecastError("a run that costs nothing fits any budget: give a longer run")
    # A billionth of slack: 0.3 kWh is three epochs of 0.1 kWh, though not in binary fractions.
    return math.floor(verdict.limit.amount / verdict.figure * epochs * (1 + 1e-9))


def regions_that_fit(
    verdict: BudgetVerdict, facility_energy_kwh: Interval, regions: Iterable[Region], basis: str = "life cycle"
) -> tuple[Region, ...]:
    """The regions where the run would stay within a CO2e budget, cleanest first; none for other budgets.

    Only regions of one `basis`, that of the run's own figure: "direct" intensities leave out what a life cycle counts.
    A region whose statistics say 0 g/kWh is left out: no grid's electricity is free of emissions.
    """
    if verdict.limit.quantity != "co2e":
        return ()
    energy_kwh = _at(facility_energy_kwh, verdict.at)
    fitting = [
        region
        for region in regions
        if region.basis == basis and 0 < energy_kwh * region.carbon_g_per_kwh / GRAMS_PER_KG <= verdict.limit.amount
    ]
    return tuple(sorted(fitting, key=lambda region: region.carbon_g_per_kwh))
