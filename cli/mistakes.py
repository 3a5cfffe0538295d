"""One line for each mistake on a command line, with the option or command that was probably meant."""

from __future__ import annotations

import sys

import click

# What other programs call it.
_OPTIONS = {
    **dict.fromkeys(("--gpu", "--device", "--accelerator", "--machine"), "--hardware"),
    **dict.fromkeys(("--gpus", "--num-gpus", "--nproc-per-node", "--num-processes", "--world-size"), "--devices"),
    **dict.fromkeys(("--dp", "--tp", "--pp", "--cp", "--ep"), "--parallel, as in --parallel tp=8,pp=2,"),
    **dict.fromkeys(("--bs", "--batch", "--per-device-train-batch-size"), "--batch-size"),
    **dict.fromkeys(("--fp16", "--bf16", "--fp8", "--amp", "--dtype", "--mixed-precision"), "--precision"),
    **dict.fromkeys(("--max-steps", "--iterations", "--num-steps"), "--steps"),
    **dict.fromkeys(("--max-epochs", "--num-epochs", "--num-train-epochs"), "--epochs"),
    "--max-length": "--sequence-length",
    "--gradient-accumulation-steps": "--accumulate",
    "--country": "--region",
}
_COMMANDS = {
    "joulecast": {
        **dict.fromkeys(("predict", "forecast"), "estimate"),
        "hardware": "profiles",
        "regions": "estimate --regions FR,SE",
        **dict.fromkeys(("train", "thesis", "watch", "list", "show", "export"), "measure {}"),
        **dict.fromkeys(("calibrate", "benchmark"), "measure"),
        "report": "estimate --report FILE",
    },
    "measure": {"fit": "joulecast fit", "fleet": "joulecast fit --store PLACE --group hardware"},
}


def in_one_line(error: click.ClickException, program: str) -> str:
    """The message of a wrong option, argument or command."""
    path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else program
    if isinstance(error, click.NoSuchOption):
        return _no_such_option(error, path)
    said = " ".join(error.format_message().split())
    if isinstance(error, click.MissingParameter):
        name = error.param.opts[0] if error.param and error.param.param_type_name == "option" else ""
        files = [one for one in sys.argv[1:] if one.endswith((".py", ".json"))]
        if name == "--model" and files:
            return f"give the model as an option: {path} --model {files[0]}"
        return f"{said.rstrip('.')}; `{path} --help` shows an example"
    if said.startswith("No such command"):
        return _no_such_command(error, path)
    return _in_plain_words(said)


def _no_such_option(error: click.NoSuchOption, path: str) -> str:
    from ..estimator.base.suggest import near

    given = error.option_name
    known = [one for param in error.ctx.command.params for one in param.opts] if error.ctx else []
    meant = _OPTIONS.get(given.replace("_", "-"), "")
    if meant.partition(",")[0] in known:
        return f"No such option '{given}'; did you mean {meant.rstrip(',')}?"
    names = [one.lstrip("-") for one in known]
    hint = near(given.lstrip("-").replace("_", "-"), names).replace("mean ", "mean --").replace(" or ", " or --")
    return f"No such option '{given}'" + (hint or f"; `{path} --help` lists them")


def _no_such_command(error: click.ClickException, path: str) -> str:
    from ..estimator.base.suggest import near

    ctx = error.ctx if isinstance(error, click.UsageError) else None
    given = error.message.split("'")[1] if "'" in error.message else ""
    group = ctx.command if ctx else None
    known = group.list_commands(ctx) if ctx and isinstance(group, click.Group) else []
    meant = _COMMANDS.get(path.split()[-1], {}).get(given, "")
    hint = f"; did you mean `{_whole(meant, given, path)}`?" if meant else near(given, known)
    return f"No such command '{given}'" + (hint or f"; they are {', '.join(known)}")


def _whole(meant: str, given: str, path: str) -> str:
    command = meant.format(given)
    return command if command.startswith("joulecast") else f"{path} {command}"


def _in_plain_words(message: str) -> str:
    """click's message without the names of Python's types."""
    for kind, words in (("float", "number"), ("float range", "number"), ("integer", "whole number")):
        message = message.replace(f"is not a valid {kind}.", f"is not a {words}.")
    return message.replace("is not a valid integer range.", "is not a whole number.")
