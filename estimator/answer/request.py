"""What `estimate`'s options ask, read before any model is; and the answer, once a model has been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..base.errors import RequestError
from ..base.interval import Interval
from ..model.inputs import parse_input
from ..model.presets import DatasetPreset, dataset_preset
from ..model.read_model import TraceOptions
from ..place.budget import Limit, epochs_that_fit, judge, judged_figure, parse_limit, regions_that_fit
from ..place.regions import compare_regions
from ..place.schedule import Schedule, make_schedule, whole_number
from ..place.site import Site, load_regions
from .answer import Answer
from .forecast import forecast
from .where import Where, read_where

if TYPE_CHECKING:
    from ..cost.profile import Profile
    from ..trace.workload import Workload

_ASSUMED_DATASET = "cifar10"


@dataclass(frozen=True, slots=True)
class Question:
    """One set of options: `trace_options` say how a model is read, the others price what was read."""

    options: Mapping[str, Any]
    trace_options: TraceOptions
    preset: DatasetPreset | None
    where: Where
    limits: tuple[Limit, ...]

    def schedule(self, tokens_per_sample: int) -> Schedule:
        """How long the run is. Raises JoulecastError for options that do not tell."""
        preset, options = self.preset or self._assumed_preset(), self.options
        return make_schedule(
            batch_size=self.trace_options.batch_size,
            epochs=options["epochs"],
            steps=options["steps"],
            samples=options["samples"],
            tokens=options["tokens"],
            val_samples=options["val_samples"],
            dataset_samples=preset.train_samples if preset else None,
            tokens_per_sample=tokens_per_sample,
            accumulation=options["accumulate"],
            devices=options["devices"],
        )

    def answer(self, model: str, work: Workload, profile: Profile) -> Answer:
        """What `work`, read from `model` with `trace_options`, costs on `profile`'s hardware."""
        schedule = self.schedule(work.tokens_per_sample)
        estimate = forecast(profile, work, schedule)
        if assumed := self._assumed_preset():
            note = (
                f"the training set's size is not given: an epoch has {assumed.name}'s {assumed.train_samples:,} samples"
            )
            estimate = replace(estimate, warnings=(*estimate.warnings, note))
        if notes := self.where.notes_on(estimate.seconds):
            estimate = replace(estimate, warnings=(*estimate.warnings, *notes))
        at = self.options["budget_at"]
        answer = _judged(Answer(model, work, profile, schedule, estimate, self.where.site), self.limits, at)
        places = compare_regions(answer.facility_energy_kwh, self.where.regions, self.limits, at)
        return replace(answer, places=places)

    def _assumed_preset(self) -> DatasetPreset | None:
        """Epochs of nobody says what are taken to be of the thesis's dataset; `answer` adds a note."""
        options = self.options
        if options["epochs"] is not None and options["samples"] is None and options["dataset"] is None:
            return dataset_preset(_ASSUMED_DATASET)
        return None


def read_question(options: Mapping[str, Any]) -> Question:
    """What `estimate`'s options ask, by their names. Mistakes show here, before a model is loaded.

    Raises JoulecastError for values that cannot be used, RequestError for a model argument of no form.
    """
    limits = tuple(parse_limit(text) for text in options["budgets"])
    where = read_where(options)
    preset = dataset_preset(options["dataset"]) if options["dataset"] else None
    _check_limits(limits, where.site)
    question = Question(options, _trace_options(options, preset), preset, where, limits)
    question.schedule(2)  # stands for any sequence length
    return question


def _check_limits(limits: tuple[Limit, ...], site: Site) -> None:
    zero = Interval.exact(0.0)
    for limit in limits:
        judged_figure(limit, facility_energy_kwh=zero, co2e_kg=zero, seconds=zero, cost=zero, currency=site.currency)


def _trace_options(options: Mapping[str, Any], preset: DatasetPreset | None) -> TraceOptions:
    arguments = {}
    for text in options["model_args"]:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise RequestError(f"`model_args` {text!r} is not KEY=VALUE")
        arguments[key.strip()] = value
    return TraceOptions(
        args=arguments,
        specs=tuple(parse_input(text) for text in options["inputs"]),
        preset=preset,
        sequence_length=options["sequence_length"],
        batch_size=whole_number("batch_size", options["batch_size"]),
        train=not options["inference"],
        optimizer=options["optimizer"],
        precision=options["precision"],
        accumulate=whole_number("accumulate", options["accumulate"]),
        layers=options["layers"],
        time_limit_s=options["time_limit"],
    )


def _judged(answer: Answer, limits: tuple[Limit, ...], at: Any) -> Answer:
    verdicts, fits = [], []
    for limit in limits:
        figure = judged_figure(
            limit,
            facility_energy_kwh=answer.facility_energy_kwh,
            co2e_kg=answer.co2e_kg,
            seconds=answer.estimate.seconds,
            cost=answer.cost,
            currency=answer.site.currency,
        )
        verdict = judge(limit, figure, at)
        verdicts.append(verdict)
        if not verdict.exceeded:
            continue
        length, unit = answer.schedule.epochs, "epochs"
        if length is None:
            length, unit = float(answer.schedule.steps), "steps"
        fits.append(f"{limit.text}: {epochs_that_fit(verdict, length):,} {unit} would fit")
        own = answer.site.region
        basis = "life cycle" if own is None else own.basis
        if regions := regions_that_fit(verdict, answer.facility_energy_kwh, load_regions(), basis):
            names = ", ".join(f"{region.name} ({region.code})" for region in regions[:3])
            fits.append(f"{limit.text}: would fit in {len(regions)} regions ({basis} figures), the cleanest {names}")
    return replace(answer, verdicts=tuple(verdicts), fits=tuple(fits))
