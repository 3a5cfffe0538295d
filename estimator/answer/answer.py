"""Everything that one `--model` was answered with, and its JSON document (docs/formats.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..base.interval import Interval
from ..place.site import Site, co2e_kg, cost, facility_energy_kwh

if TYPE_CHECKING:
    from ..cost.estimate import Estimate, Share
    from ..cost.profile import Profile
    from ..place.budget import Verdict
    from ..place.regions import Place
    from ..place.schedule import Schedule
    from ..trace.workload import Workload

SCHEMA = "joulecast.estimate/1"


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's workload, where and how long it runs, and what that costs."""

    model: str
    work: Workload
    profile: Profile
    schedule: Schedule
    estimate: Estimate
    site: Site
    verdicts: tuple[Verdict, ...] = field(default=())
    fits: tuple[str, ...] = ()  # what would fit, for the budgets that are exceeded
    places: tuple[Place, ...] = ()  # the regions it was held beside

    @property
    def facility_energy_kwh(self) -> Interval:
        return facility_energy_kwh(self.estimate.energy_kwh, self.site)

    @property
    def co2e_kg(self) -> Interval:
        return co2e_kg(self.facility_energy_kwh, self.site)

    @property
    def cost(self) -> Interval:
        return cost(self.facility_energy_kwh, self.site)

    @property
    def exceeded(self) -> bool:
        return any(verdict.exceeded for verdict in self.verdicts)

    @property
    def length(self) -> str:
        """How long the run is, in words."""
        schedule = self.schedule
        parts = [f"{schedule.steps:,} steps of {schedule.samples_per_step:,} samples"]
        if schedule.epochs is not None and schedule.samples is not None:
            parts.insert(0, f"{schedule.epochs:,.4g} epochs of {schedule.samples:,} samples")
        if schedule.validation_steps:
            parts.append(f"{schedule.validation_steps:,} validation passes")
        if schedule.devices > 1:
            parts.append(f"{schedule.devices:,} devices")
        return ", ".join(parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known beside the figures: of the estimate, the schedule and the profile."""
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
            "site": {
                "pue": self.site.pue,
                "carbon_g_per_kwh": self.site.carbon_g_per_kwh,
                "region": self.site.region.code if self.site.region else None,
                "carbon_source": self.site.carbon_source,
                "price_per_kwh": self.site.price_per_kwh,
                "price_source": self.site.price_source,
            },
            "workload": {
                "framework": self.work.framework,
                "batch_size": self.work.batch_size,
                "train": self.work.train,
                "optimizer": self.work.optimizer,
                "precision": self.work.precision,
                "parameters": self.work.parameters,
                "trainable_parameters": self.work.trainable_parameters,
                "forward_flops_per_sample": self.work.forward_flops / self.work.batch_size,
                "step_flops": self.work.flops,
                "tracer": self.work.tracer,
                "unsupported": dict(self.work.unsupported),
                "unsupported_byte_share": self.work.unsupported_byte_share,
            },
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
            for layer in self.work.layers
        ]


def _share(part: Share) -> dict[str, Any]:
    return {"name": part.name, "seconds": part.seconds, "energy_kwh": part.energy_kwh, "share": part.share}
