"""The answer to a request: figures, verdicts and notes, as JSON (docs/formats.md) and as data frames."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..base.digits import counted
from ..base.interval import Interval
from ..base.units import JOULES_PER_KWH
from ..place.site import Site, co2e_kg, cost, facility_energy_kwh
from . import figures

if TYPE_CHECKING:
    import pandas

    from ..cost.estimate import Estimate, Share
    from ..cost.parallel.predict import Split
    from ..cost.profile import Profile
    from ..place.budget import BudgetVerdict
    from ..place.footprint import Embodied, Rent
    from ..place.regions import Place
    from ..place.schedule import Schedule
    from ..trace.workload import Workload

SCHEMA = "joulecast.estimate/1"
_PROFILE_BASES = {
    "measured": ("profile measured on {}", "profile measured"),
    "modelled": ("profile modelled for {}", "profile modelled"),
    "datasheet": ("profile from the datasheet of {}", "profile from a datasheet"),
    "probed": ("profile probed on {}", "profile probed"),
    "given": ("profile from the figures given", "profile from the figures given"),
    "assumed": ("profile assumed for {}", "profile assumed"),
}


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What a run costs: energy, CO2e, time and money, each with its 90 % interval, and how budgets compare.

    `energy_kwh` is the machine's own; `facility_energy_kwh`, `co2e_kg` and `cost` (electricity) include the building's
    share (PUE). On a cluster `energy_kwh` is that of the accelerators and `node_energy_kwh` that of whole nodes, which
    PUE multiplies together with `shared_energy_kwh` of idle hosts and storage. `rent` and `embodied` are separate and
    part of none of them.
    `fits` says what would fit, for budgets that are exceeded. `places` are the regions of the request, compared.
    `split` says how a cluster's devices share the model; None where each trains all of it.
    """

    model: str
    workload: Workload
    profile: Profile
    schedule: Schedule
    estimate: Estimate
    site: Site
    verdicts: tuple[BudgetVerdict, ...] = ()
    fits: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    split: Split | None = None
    rent: Rent | None = None
    embodied: Embodied | None = None

    def noting(self, notes: tuple[str, ...]) -> Answer:
        """The answer with more notes."""
        return replace(self, estimate=replace(self.estimate, warnings=(*self.estimate.warnings, *notes)))

    def __repr__(self) -> str:
        """The figures in one line; the generated one would print thousands of operations."""
        energy, carbon, time = (
            figures.energy(self.energy_kwh),
            figures.carbon(self.co2e_kg),
            figures.seconds(self.seconds),
        )
        shown = ", ".join(f"{value} ({bounds})" for value, bounds in (energy, carbon, time))
        return f"<Answer: {self.model} on {self.profile.name}, {shown}>"

    @property
    def seconds(self) -> Interval:
        return self.estimate.seconds

    @property
    def energy_kwh(self) -> Interval:
        return self.estimate.energy_kwh

    @property
    def node_energy_kwh(self) -> Interval | None:
        """Energy of whole nodes on a cluster: CPUs, memory, network, fans and power supplies included (modelled)."""
        if self.split is None:
            return None
        return self.energy_kwh + self.seconds * (self.split.all_rest_w / JOULES_PER_KWH)

    @property
    def shared_energy_kwh(self) -> Interval | None:
        """Energy of idle hosts and storage during the run; None without any."""
        if self.split is None or not self.split.shared_w:
            return None
        return self.seconds * (self.split.shared_w / JOULES_PER_KWH)

    @property
    def machine_kwh(self) -> Interval:
        """The energy that PUE multiplies: of nodes, idle hosts and storage on a cluster, otherwise of the machine."""
        nodes, shared = self.node_energy_kwh or self.energy_kwh, self.shared_energy_kwh
        return nodes if shared is None else nodes + shared

    @property
    def bill(self) -> Interval | None:
        """The rent of all devices for the length of the run, in `rent.currency`."""
        return self.rent.bill(self.seconds, self.estimate.devices) if self.rent else None

    @property
    def facility_energy_kwh(self) -> Interval:
        return facility_energy_kwh(self.machine_kwh, self.site)

    @property
    def co2e_kg(self) -> Interval:
        return co2e_kg(self.facility_energy_kwh, self.site)

    @property
    def cost(self) -> Interval:
        return cost(self.facility_energy_kwh, self.site)

    @property
    def exceeded(self) -> bool:
        """Whether some budget is exceeded."""
        return any(verdict.exceeded for verdict in self.verdicts)

    @property
    def length(self) -> str:
        """How long the run is, in words."""
        schedule = self.schedule
        parts = [f"{counted(schedule.steps, 'step')} of {counted(schedule.samples_per_step, 'sample')}"]
        if schedule.epochs is not None and schedule.samples is not None:
            epochs = f"{schedule.epochs:,.4g} epoch{'' if schedule.epochs == 1 else 's'}"
            parts.insert(0, f"{epochs} of {counted(schedule.samples, 'sample')}")
        if schedule.validation_steps:
            parts.append(
                f"{schedule.validation_steps:,} validation pass{'' if schedule.validation_steps == 1 else 'es'}"
            )
        if schedule.devices > 1:
            parts.append(f"{schedule.devices:,} devices")
        return ", ".join(parts)

    @property
    def time_replaced(self) -> bool:
        """Whether the time comes from the datasheet because the measured profile covers no such run."""
        return self.estimate.time_source != self.profile.provenance.time

    @property
    def time_bases(self) -> tuple[str, str]:
        """What the time is based on, in full and in short: "profile measured on NVIDIA T4", "profile measured"."""
        if self.time_replaced:
            return f"datasheet of {self.profile.hardware}, not its measured profile", "datasheet, not the profile"
        return self._bases(self.estimate.time_source)

    @property
    def energy_bases(self) -> tuple[str, str]:
        """What the energy is based on, in full and in short."""
        if self.time_replaced:
            source = self.estimate.power_source
            return f"that time x the profile's watts ({source})", f"that time x watts {source}"
        return self._bases(self.estimate.power_source)

    @property
    def time_basis(self) -> str:
        """What the time is based on, in words: "predicted; profile measured on NVIDIA T4"."""
        return f"predicted; {self.time_bases[0]}"

    @property
    def power_basis(self) -> str:
        """What the power is based on, in words."""
        return f"predicted; {self._bases(self.estimate.power_source)[0]}"

    def _bases(self, source: str) -> tuple[str, str]:
        long, short = _PROFILE_BASES.get(source, (f"profile {source}", f"profile {source}"))
        return long.format(self.profile.hardware), short

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.estimate.warnings

    @property
    def notes(self) -> tuple[str, ...]:
        """The warnings, and notes on the schedule and the profile."""
        length = [self.schedule.note] if self.schedule.note else []
        return (*self.estimate.warnings, *length, *self.profile.provenance.notes)

    def to_json(self, *, layers: bool = False) -> dict[str, Any]:
        """One object; with `layers` also the layer table."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "model": self.model,
            "profile": self.profile.name,
            "hardware": self.profile.hardware,
            "time_source": self.estimate.time_source,
            "power_source": self.estimate.power_source,
            "steps": self.estimate.steps,
            "seconds": self.estimate.seconds.to_json(),
            "energy_kwh": self.estimate.energy_kwh.to_json(),
            "facility_energy_kwh": self.facility_energy_kwh.to_json(),
            "co2e_kg": self.co2e_kg.to_json(),
            "cost": self.cost.to_json(),
            "currency": self.site.currency,
            **({} if self.node_energy_kwh is None else {"node_energy_kwh": self.node_energy_kwh.to_json()}),
            **({} if self.shared_energy_kwh is None else {"shared_energy_kwh": self.shared_energy_kwh.to_json()}),
            "boundaries": self.boundaries,
            **self._rent_json(),
            **self._embodied_json(),
            **({} if self.split is None else {"split": self.split.to_json()}),
            "site": _site_json(self.site),
            "workload": _workload_json(self.workload),
            "devices": self.estimate.devices,
            "power_w": self.estimate.power_w,
            "provenance": {
                "sources": list(self.profile.provenance.sources),
                "fitted_on": self.profile.provenance.fitted_on,
                "boundary": self.profile.provenance.boundary,
                "notes": list(self.profile.provenance.notes),
            },
            "breakdown": [_share(part) for part in self.estimate.breakdown],
            "warnings": list(self.estimate.warnings),
        }
        if self.verdicts:
            document["budget"] = [verdict.to_json() for verdict in self.verdicts]
        if self.places:
            document["regions"] = [place.to_json() for place in self.places]
        if layers:
            document["layers"] = self.layer_rows()
        return document

    @property
    def boundaries(self) -> dict[str, str]:
        """What each energy covers."""
        own = self.profile.provenance.boundary.removesuffix(", without PUE") or "the machine"
        if self.split is None:
            return {"energy_kwh": own, "facility_energy_kwh": f"{own}, times a PUE of {self.site.pue:g}"}
        found = {
            "energy_kwh": f"{own}, all devices",
            "node_energy_kwh": "whole nodes: accelerators, CPUs, memory, network, fans, power supplies (modelled)",
        }
        whole = "whole nodes"
        if self.shared_energy_kwh is not None:
            found["shared_energy_kwh"] = "idle hosts (modelled) and storage (given)"
            whole = "whole nodes, idle hosts and storage"
        return {**found, "facility_energy_kwh": f"{whole}, times a PUE of {self.site.pue:g}"}

    def _rent_json(self) -> dict[str, Any]:
        if self.rent is None or self.bill is None:
            return {}
        rent = {"per_device_hour": self.rent.per_device_hour, "currency": self.rent.currency}
        return {"rent": {**self.bill.to_json(), **rent, "source": self.rent.source, "given": self.rent.given}}

    def _embodied_json(self) -> dict[str, Any]:
        if self.embodied is None:
            return {}
        return {"embodied_kg": {**self.embodied.kg.to_json(), "sources": list(self.embodied.sources)}}

    def to_frame(self) -> pandas.DataFrame:
        """One row, or one for each compared region: the columns of `estimate --csv` (docs/formats.md)."""
        return _frame(self.rows())

    def layers_frame(self) -> pandas.DataFrame:
        """The layer table: one row per module, with its share of the energy. Needs a request with `layers`."""
        return _frame(self.layer_rows())

    def breakdown_frame(self) -> pandas.DataFrame:
        """Where the energy goes: one row per component, largest first."""
        return self.estimate.breakdown_frame()

    def rows(self) -> list[dict[str, Any]]:
        """Flat rows: intervals as three columns (`co2e_kg`, `co2e_kg_low`, `co2e_kg_high`)."""
        document = self.to_json()
        row: dict[str, Any] = {"model": document["model"]}
        for name in ("seconds", "energy_kwh", "node_energy_kwh", "facility_energy_kwh", "co2e_kg", "cost"):
            if (figure := getattr(self, name)) is not None:  # only clusters have nodes
                row |= _ends(name, figure)
        for name in ("profile", "hardware", "time_source", "power_source", "steps", "devices", "currency"):
            row[name] = document[name]
        for name in ("batch_size", "optimizer", "precision", "parameters", "forward_flops_per_sample"):
            row[name] = document["workload"][name]
        row |= {name: document["site"][name] for name in ("carbon_g_per_kwh", "carbon_source")}
        row["warnings"] = "; ".join(document["warnings"])
        return [{**row, **_of_place(place)} for place in self.places] or [row]

    def layer_rows(self) -> list[dict[str, Any]]:
        """The layer table: each module, with the share of energy of itself and all below it."""
        shares: dict[str, float] = {}
        for part in self.estimate.layers:
            path = part.name
            while path:
                shares[path] = shares.get(path, 0.0) + part.share
                path = path.rpartition(".")[0]
        return [
            {
                "path": layer.path,
                "kind": layer.kind,
                "depth": layer.depth,
                "leaf": layer.leaf,
                "output_shape": list(layer.output_shape),
                "forward_flops": layer.flops,
                "parameters": layer.parameters,
                "source": layer.source,
                "energy_share": shares.get(layer.path, 0.0) if layer.path else 1.0,
            }
            for layer in self.workload.layers
        ]


def _site_json(site: Site) -> dict[str, Any]:
    return {
        "pue": site.pue,
        "pue_source": site.pue_source,
        "carbon_g_per_kwh": site.carbon_g_per_kwh,
        "region": site.region.code if site.region else None,
        "carbon_source": site.carbon_source,
        "price_per_kwh": site.price_per_kwh,
        "price_source": site.price_source,
    }


def _workload_json(work: Workload) -> dict[str, Any]:
    return {
        "framework": work.framework,
        "batch_size": work.batch_size,
        "train": work.train,
        "optimizer": work.optimizer,
        "precision": work.precision,
        "parameters": work.parameters,
        "trainable_parameters": work.trainable_parameters,
        "forward_flops_per_sample": work.forward_flops / work.batch_size,
        "step_flops": work.flops,
        "tracer": work.tracer,
        "unsupported": dict(work.unsupported),
        "unsupported_byte_share": work.unsupported_byte_share,
    }


def _share(part: Share) -> dict[str, Any]:
    return {"name": part.name, "seconds": part.seconds, "energy_kwh": part.energy_kwh, "share": part.share}


def _ends(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _of_place(place: Place) -> dict[str, Any]:
    """What a region changes in a row: the CO2e and its source."""
    return {
        **_ends("co2e_kg", place.co2e_kg),
        "carbon_g_per_kwh": place.region.carbon_g_per_kwh,
        "carbon_source": place.region.label,
        "region": place.region.code,
        "ratio_to_first": place.ratio,
        "cleanest": place.cleanest,
    }


def _frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows)
