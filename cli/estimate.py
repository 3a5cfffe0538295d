"""`estimate`: what a training run will cost, before its first step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..estimator.budget import Limit
    from ..estimator.profile import Profile
    from ..estimator.read_model import TraceOptions
    from ..estimator.site import Site
    from .answer import Answer

BUDGET_EXCEEDED = 3
_DEFAULT_BATCH_SIZE = 32
_ASSUMED_DATASET = "cifar10"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 an input that cannot be used, 2 wrong options, 3 budget exceeded.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="FILE.py, FILE.py:name, package.module:callable, or a Hugging Face config.json; several compare.",
)
@click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="Argument of the model.")
@click.option("--input", "inputs", multiple=True, metavar="SPEC", help="One sample: 3,224,224 or ids:int64:128.")
@click.option("--dataset", metavar="NAME", help="Shape, classes and size: cifar10, cifar100, mnist, imagenet-1k...")
@click.option("--sequence-length", type=int, metavar="N", help="Positions of a language model's input.")
@click.option("--batch-size", metavar="N", help=f"Samples per pass and device (default {_DEFAULT_BATCH_SIZE}).")
@click.option("--optimizer", type=click.Choice(["sgd", "momentum", "adam", "adamw"]), default="sgd", show_default=True)
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Autocast; default: the parameters' own."
)
@click.option("--accumulate", type=int, default=1, metavar="N", help="Passes per optimizer step.")
@click.option("--inference", is_flag=True, help="Forward passes alone.")
@click.option("--epochs", metavar="N", help="Passes over the training set.")
@click.option("--steps", metavar="N", help="Optimizer steps.")
@click.option("--samples", metavar="N", help="Size of the training set; alone, one epoch of it.")
@click.option("--tokens", metavar="N", help="Length of the run in tokens.")
@click.option("--val-samples", metavar="N", help="Samples that are validated on after each epoch.")
@click.option("--devices", type=int, default=1, metavar="N", help="Accelerators, data parallel.")
@click.option("--hardware", "--profile", "hardware", metavar="NAME", help="Hardware, profile or profile file.")
@click.option("--pue", type=float, metavar="X", help="The building's energy over the machines' (default 1.58).")
@click.option("--region", metavar="CODE", help="Where: FR, US-CA, gcp:europe-west9... (default: US, EPA 2018).")
@click.option("--carbon-intensity", type=float, metavar="G", help="g CO2e per kWh, in place of a region.")
@click.option("--price", type=float, metavar="X", help="Price of a kWh (default: US average 2022).")
@click.option("--currency", default="USD", metavar="CODE", help="Currency of the price.")
@click.option("--budget", "budgets", multiple=True, metavar="LIMIT", help="2kWh, 5kgCO2e, 10h, 3USD; several allowed.")
@click.option(
    "--budget-at",
    type=click.Choice(["high", "expected"]),
    default="high",
    show_default=True,
    help="Judge budgets at the interval's upper end or at the expected figure.",
)
@click.option("--layers", is_flag=True, help="Show the layer table.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (a list for several models).")
@click.option("--csv", "as_csv", is_flag=True, help="Print one CSV row per model (per layer with --layers).")
@click.option("--time-limit", type=float, default=60.0, show_default=True, help="Seconds that model code may take.")
@click.option("--traceback", is_flag=True, help="Show the frames of the model's own code when it fails.")
def estimate(models: tuple[str, ...], as_json: bool, as_csv: bool, **options: Any) -> int:
    """Predict the energy, CO2e, time and cost of training a network, from its architecture alone.

    \b
    estimate --model models/simplenet.py --epochs 100
    estimate --model timm:create_model --model-arg model_name=resnet50 --dataset imagenet-1k
             --hardware a100-sxm4-80gb --precision bf16 --epochs 90 --region FR
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv contradict: give one of them")
    if options["traceback"]:
        import os

        os.environ["JOULECAST_TRACEBACK"] = "1"
    answers = _answers(models, options)
    layers = options["layers"]
    if as_json:
        _print_json(answers, layers, single=len(models) == 1)
    elif as_csv:
        from .csv_output import print_csv

        print_csv(answers, layers=layers)
    else:
        from .table import print_answers

        print_answers(answers, layers=layers)
    return BUDGET_EXCEEDED if any(answer.exceeded for answer in answers) else 0


def _print_json(answers: list[Answer], layers: bool, *, single: bool) -> None:
    import json

    documents = [answer.to_json(layers=layers) for answer in answers]
    click.echo(json.dumps(documents[0] if single else documents, indent=2, allow_nan=False))


def _answers(models: tuple[str, ...], options: dict[str, Any]) -> list[Answer]:
    """One answer a model, in order; what is common to all is read first, so that mistakes show at once."""
    from ..estimator.budget import parse_limit
    from ..estimator.library import load_profile
    from ..estimator.presets import dataset_preset
    from ..estimator.site import DEFAULT_PUE, make_site

    limits = [parse_limit(text) for text in options["budgets"]]
    site = make_site(
        region=options["region"],
        carbon_g_per_kwh=options["carbon_intensity"],
        pue=DEFAULT_PUE if options["pue"] is None else options["pue"],
        price_per_kwh=options["price"],
        currency=options["currency"],
    )
    preset = dataset_preset(options["dataset"]) if options["dataset"] else None
    _check_limits(limits, site)
    trace_options = _trace_options(options, preset)
    _check_schedule(options, preset)
    profile = load_profile(options["hardware"])
    return [_answer(model, trace_options, options, preset, profile, site, limits) for model in models]


def _check_limits(limits: list[Limit], site: Site) -> None:
    from ..estimator.budget import judged_figure
    from ..estimator.interval import Interval

    zero = Interval.exact(0.0)
    for limit in limits:
        judged_figure(limit, facility_energy_kwh=zero, co2e_kg=zero, seconds=zero, cost=zero, currency=site.currency)


def _trace_options(options: dict[str, Any], preset: Any) -> TraceOptions:
    from ..estimator.inputs import parse_input
    from ..estimator.read_model import TraceOptions
    from ..estimator.schedule import whole_number

    arguments = {}
    for text in options["model_args"]:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--model-arg {text!r} is not KEY=VALUE")
        arguments[key.strip()] = value
    return TraceOptions(
        args=arguments,
        specs=tuple(parse_input(text) for text in options["inputs"]),
        preset=preset,
        sequence_length=options["sequence_length"],
        batch_size=whole_number("--batch-size", options["batch_size"] or _DEFAULT_BATCH_SIZE),
        train=not options["inference"],
        optimizer=options["optimizer"],
        precision=options["precision"],
        accumulate=whole_number("--accumulate", options["accumulate"]),
        layers=options["layers"],
        time_limit_s=options["time_limit"],
    )


def _schedule(options: dict[str, Any], preset: Any, batch_size: int, tokens_per_sample: int) -> Any:
    from ..estimator.schedule import make_schedule

    preset = preset or _assumed_preset(options)
    return make_schedule(
        batch_size=batch_size,
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


def _assumed_preset(options: dict[str, Any]) -> Any:
    """Epochs of nobody says what are taken to be of the thesis's dataset; `_answer` adds a note."""
    from ..estimator.presets import dataset_preset

    if options["epochs"] is not None and options["samples"] is None and options["dataset"] is None:
        return dataset_preset(_ASSUMED_DATASET)
    return None


def _check_schedule(options: dict[str, Any], preset: Any) -> None:
    """Mistakes in the schedule are found before a model is loaded; 2 stands for any sequence length."""
    from ..estimator.schedule import whole_number

    _schedule(options, preset, whole_number("--batch-size", options["batch_size"] or _DEFAULT_BATCH_SIZE), 2)


def _answer(
    model: str,
    trace_options: TraceOptions,
    options: dict[str, Any],
    preset: Any,
    profile: Profile,
    site: Site,
    limits: list[Limit],
) -> Answer:
    from dataclasses import replace

    from ..estimator.forecast import forecast
    from ..estimator.read_model import read_model
    from .answer import Answer

    work = read_model(model, trace_options)
    schedule = _schedule(options, preset, trace_options.batch_size, work.tokens_per_sample)
    estimate_ = forecast(profile, work, schedule)
    if assumed := _assumed_preset(options):
        note = f"no --samples or --dataset: an epoch is taken to be {assumed.name}'s {assumed.train_samples:,} samples"
        estimate_ = replace(estimate_, warnings=(*estimate_.warnings, note))
    answer = Answer(model, work, profile, schedule, estimate_, site)
    return _judged(answer, limits, options["budget_at"])


def _judged(answer: Answer, limits: list[Limit], at: Any) -> Answer:
    from dataclasses import replace

    from ..estimator.budget import epochs_that_fit, judge, judged_figure, regions_that_fit
    from ..estimator.site import load_regions

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
        if regions := regions_that_fit(verdict, answer.facility_energy_kwh, load_regions()):
            names = ", ".join(f"{region.name} ({region.code})" for region in regions[:3])
            fits.append(f"{limit.text}: would fit in {len(regions)} regions, the cleanest {names}")
    return replace(answer, verdicts=tuple(verdicts), fits=tuple(fits))
