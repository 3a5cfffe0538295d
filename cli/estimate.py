"""`estimate`: what a training run will cost, before its first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..estimator.cost.software import SOFTWARE
from .help import HELP, Sections

if TYPE_CHECKING:
    from ..estimator.answer.answer import Answer
    from ..estimator.answer.request import Request

BUDGET_EXCEEDED = 3
_PAPERS = ("modelcard", "bibtex", "latex", "codecarbon")
_FORMATS = ("table", "json", "csv", *_PAPERS)
_FILE = click.Path(path_type=Path)
SECTIONS = {
    "models": "Model and inputs",
    "batch_size": "A step",
    "epochs": "Length of the run",
    "hardware": "Hardware and software",
    "devices": "Many devices",
    "pue": "Site and prices",
    "budgets": "Budgets",
    "layers": "Output",
    "time_limit": "Other",
}
"""The sections of the help, by the first option of each."""


@click.command(
    cls=Sections,
    sections=SECTIONS,
    context_settings=HELP,
    epilog="Exit status: 0 done, 1 an input that cannot be used, 2 wrong options, 3 budget exceeded.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="SPEC",
    help="FILE.py, FILE.py:name, 'train.py ITS OPTIONS', package.module:callable, or a Hugging Face config.json; "
    "several compare.",
)
@click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="Argument of the model.")
@click.option("--input", "inputs", multiple=True, metavar="SPEC", help="One sample: 3,224,224 or ids:int64:128.")
@click.option("--dataset", metavar="NAME", help="Shape, classes and size: cifar10, cifar100, mnist, imagenet-1k...")
@click.option("--sequence-length", type=int, metavar="N", help="Positions of a language model's input.")
@click.option(
    "--batch-size", "--micro-batch", "batch_size", show_default="a training script's own, otherwise 32", metavar="N",
    help="Samples per pass and device.",
)  # fmt: skip
@click.option(
    "--optimizer", metavar="NAME", help="sgd, AdamW, lion, muon, 8-bit...; default: a training's own, otherwise sgd."
)
@click.option("--loss", metavar="NAME", help="package.module:function of the output [and a target] to a scalar.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "fp8"]),
    help="Autocast; fp8: products in FP8, the rest in BF16; default: the parameters' own.",
)
@click.option("--accumulate", type=int, default=1, metavar="N", help="Passes per optimizer step.")
@click.option("--clip-gradients", is_flag=True, help="Gradients are clipped by their norm.")
@click.option("--ema", is_flag=True, help="A moving average of the parameters is kept.")
@click.option("--lora", metavar="SPEC", help="Adapters through PEFT: r=16 or r=16,targets=q_proj+v_proj.")
@click.option("--freeze", multiple=True, metavar="PATTERN", help="Parameters that are not trained: 'encoder.*'.")
@click.option(
    "--activation-checkpointing",
    type=click.Choice(["none", "selective", "full"]),
    help="Compute activations again in the backward pass; selective needs --cluster.",
)
@click.option("--inference", is_flag=True, help="Forward passes only.")
@click.option("--epochs", metavar="N", help="Passes over the training set.")
@click.option("--steps", metavar="N", help="Optimizer steps.")
@click.option("--samples", metavar="N", help="Size of the training set; alone, one epoch of it.")
@click.option("--tokens", metavar="N", help="Length of the run in tokens.")
@click.option("--val-samples", metavar="N", help="Samples of the validation after each epoch.")
@click.option(
    "--hardware",
    "--profile",
    "hardware",
    metavar="NAME",
    help="Hardware, machine type, profile or profile file; or figures: tflops=35,bandwidth=448,watts=150.",
)
@click.option("--cores", type=click.IntRange(1, 10**6), metavar="N", help="CPU cores that the job uses (default: all).")
@click.option("--compile", "compiled", is_flag=True, help="Through torch.compile: --software compiled.")
@click.option("--software", type=click.Choice(SOFTWARE), help="What runs it; stated, the interval is narrower.")
@click.option("--devices", type=int, metavar="N", help="Accelerators, data parallel.  [default: 1]")
@click.option("--cluster", metavar="NAME", help="Devices that share the model: dgx-h100, 64x8xh100-sxm:400gb-ib.")
@click.option("--parallel", metavar="SPLIT", help="How they share it: dp=8,tp=4,pp=2 (default: the fastest that fits).")
@click.option("--zero", type=click.IntRange(0, 3), metavar="STAGE", help="ZeRO stage of the data parallel devices.")
@click.option("--fsdp", is_flag=True, help="Fully sharded data parallel: --zero 3.")
@click.option("--global-batch", metavar="N", help="Samples of a step on all devices of a cluster.")
@click.option(
    "--parallel-config",
    type=_FILE,
    metavar="FILE",
    help="Split and batch from a file of DeepSpeed, Accelerate, torchtitan, Megatron-LM, axolotl, MaxText...",
)
@click.option("--input-bound", metavar="N", help="Samples that a node loads in a second, where data is the limit.")
@click.option("--overhead", type=float, metavar="SHARE", help="What a run on a cluster adds to its steps: 0.1 is 10 %.")
@click.option(
    "--restart-hours", type=float, metavar="H", help="Hours that an interruption on a cluster costs (default 0.31)."
)
@click.option("--idle-hosts", type=int, metavar="N", help="Nodes of a cluster kept ready for failures.")
@click.option("--storage-w", type=float, metavar="W", help="Watts of a cluster's storage and other shared machines.")
@click.option(
    "--pue", type=float, metavar="X", help="Energy of the building over energy of the machines (default 1.58)."
)
@click.option("--region", metavar="CODE", help="Where: FR, US-CA, gcp:europe-west9... (default: US, EPA 2018).")
@click.option("--regions", metavar="CODES", help="Regions to compare: FR,SE,US-CA.")
@click.option(
    "--live", is_flag=True, help="This hour's carbon intensity (Electricity Maps, needs $ELECTRICITYMAPS_API_TOKEN)."
)
@click.option("--carbon-intensity", type=float, metavar="G", help="g CO2e per kWh, instead of a region.")
@click.option("--price", type=float, metavar="X", help="Price of a kWh (default: US average 2022).")
@click.option("--currency", default="USD", metavar="CODE", help="Currency of the price.")
@click.option("--device-hour", type=float, metavar="X", help="Rent of one device an hour; budgets in money compare it.")
@click.option("--embodied", is_flag=True, help="Also the footprint of making the hardware, on a line of its own.")
@click.option("--budget", "budgets", multiple=True, metavar="LIMIT", help="2kWh, 5kgCO2e, 10h, 3USD; several allowed.")
@click.option(
    "--budget-at",
    type=click.Choice(["high", "expected"]),
    default="high",
    show_default=True,
    help="Compare budgets with the interval's upper end or with the expected figure.",
)
@click.option("--layers", is_flag=True, help="Show the layer table.")
@click.option("--verbose", is_flag=True, help="Show all notes and sources and the full breakdown.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object (a list for several models).")
@click.option("--csv", "as_csv", is_flag=True, help="Print one CSV row per model (per layer with --layers).")
@click.option(
    "--format",
    "format_",
    type=click.Choice(_FORMATS),
    help="What to print (default table); the last four are for papers, model cards and dashboards.",
)
@click.option("--report", type=_FILE, metavar="FILE", help="Also write a page: one HTML file that works offline.")
@click.option("--figure", type=_FILE, metavar="FILE", help="Also write a chart for papers: .png, .svg or .pdf.")
@click.option(
    "--accuracy",
    "accuracies",
    multiple=True,
    metavar="MODEL=VALUE",
    help="Accuracy shown in report and figure, one per model.",
)
@click.option(
    "--time-limit",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time that model code may take.",
)
@click.option("--traceback", is_flag=True, help="Show the frames of the model's own code when it fails.")
def estimate(models: tuple[str, ...], as_json: bool, as_csv: bool, format_: str | None, **options: Any) -> int:
    """Predict the energy, CO2e, time and cost of training a network, from its architecture alone.

    \b
    estimate --model models/simplenet.py --epochs 100
    estimate --model timm:create_model --model-arg model_name=resnet50 --dataset imagenet-1k
             --hardware a100-sxm4-80gb --precision bf16 --epochs 90 --region FR
    """
    from .report_output import read_report_output

    output = _output(as_json, as_csv, format_, options)
    report = read_report_output(models, options)
    answers = _answers(models, options)
    report.write(answers)
    _print(output, answers, options["layers"], options["verbose"])
    return BUDGET_EXCEEDED if any(answer.exceeded for answer in answers) else 0


def _output(as_json: bool, as_csv: bool, format_: str | None, options: dict[str, Any]) -> str:
    """The format to print. Raises UsageError for options that contradict each other or that format."""
    asked = {"--json": "json"} if as_json else {}
    asked |= {"--csv": "csv"} if as_csv else {}
    asked |= {f"--format {format_}": format_} if format_ else {}
    if len(set(asked.values())) > 1:
        raise click.UsageError(f"{' and '.join(asked)} contradict: give one of them")
    output = next(iter(asked.values()), "table")
    tables = [name for name in ("regions", "layers") if options[name]]
    if tables and output in _PAPERS:
        raise click.UsageError(f"--{tables[0]} is not part of {output}: use --format table, json or csv")
    if len(tables) == 2 and output == "csv":
        raise click.UsageError("--regions and --layers are rows of two tables: give one of them, or --json")
    if output == "modelcard" and options["inference"]:
        raise click.UsageError("a model card states the emissions of training: leave out --inference")
    return output


def _print(output: str, answers: list[Answer], layers: bool, verbose: bool) -> None:
    if output == "json":
        _print_json(answers, layers)
    elif output == "csv":
        from .csv_output import print_csv

        print_csv(answers, layers=layers)
    elif output == "table":
        from .table import print_answers

        print_answers(answers, layers=layers, verbose=verbose)
    else:
        from ..report.formats import render

        for note in dict.fromkeys(note for answer in answers for note in answer.estimate.warnings):
            click.echo(f"note: {note}", err=True)
        click.echo(render(output, answers), nl=False)


def _print_json(answers: list[Answer], layers: bool) -> None:
    import json

    documents = [answer.to_json(layers=layers) for answer in answers]
    click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2, allow_nan=False))


def _answers(models: tuple[str, ...], options: dict[str, Any]) -> list[Answer]:
    """One answer per model, in order. All requests are built first, so that mistakes show at once."""
    from ..estimator.model.reader import free_reader

    with free_reader() as reader:
        reader.start()  # takes seconds, in another process: before the imports of this one
    from ..estimator.answer.estimate import answers
    from ..estimator.base.errors import ModelError

    try:
        return answers([read_request(model, options) for model in models])
    except ModelError as error:
        if options["traceback"] and error.frames:
            click.echo(error.frames.rstrip(), err=True)
        raise


def read_request(model: str | None, options: Mapping[str, Any]) -> Request:
    """What the options ask about `model`, None for a template. Raises JoulecastError for values that cannot be used."""
    from dataclasses import fields

    from ..estimator.answer.request import Request

    if options["parallel_config"] or options["cluster"] or (options["tokens"] and options["devices"]):
        options = {**options, **_not_given()}
    of_the_same_name = {field.name: options[field.name] for field in fields(Request) if field.name in options}
    others = {
        "model": model,
        "model_args": _model_args(options["model_args"]),
        "train": not options["inference"],
        "time_limit_s": options["time_limit"],
        "hardware": _hardware(options["hardware"], options["cores"]),
        "zero": _zero(options["zero"], options["fsdp"], on_a_cluster=options["cluster"] is not None),
        "software": _software(options["software"], options["compiled"]),
        "regions": () if options["regions"] is None else options["regions"],
        "budget": options["budgets"],
    }
    return Request(**{**of_the_same_name, **others})


def _not_given() -> dict[str, None]:
    """Options left at their defaults, which a file may state."""
    context = click.get_current_context()
    default = click.core.ParameterSource.DEFAULT
    names = ("batch_size", "optimizer", "accumulate")
    return {name: None for name in names if context.get_parameter_source(name) is default}


def _zero(stage: int | None, fsdp: bool, *, on_a_cluster: bool) -> int | None:
    if fsdp and not on_a_cluster:
        from ..estimator.cost.parallel.cluster import EXAMPLES

        raise click.UsageError(f"--fsdp needs --cluster: give the devices, as in {EXAMPLES}")
    if fsdp and stage not in (None, 3):
        raise click.UsageError(f"--fsdp and --zero {stage} contradict: give one of them")
    return 3 if fsdp else stage


def _software(name: str | None, compiled: bool) -> str | None:
    if compiled and name not in (None, "compiled"):
        raise click.UsageError(f"--compile and --software {name} contradict: give one of them")
    return "compiled" if compiled else name


def _hardware(name: str | None, cores: int | None) -> str | None:
    """The hardware's text; cores are one of its figures."""
    return name if cores is None else f"{name},cores={cores}" if name else f"cores={cores}"


def _model_args(texts: Sequence[str]) -> dict[str, str]:
    arguments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.UsageError(f"--model-arg {text!r} is not KEY=VALUE")
        arguments[key.strip()] = value
    return arguments
