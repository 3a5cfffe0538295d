"""Fields of the core as options of the command line: `batch_size` is --batch-size."""

from __future__ import annotations

import click

from ..estimator.base.errors import name_fields

# Options whose name is not that of their field.
_SPELLINGS = {"inputs": "--input", "model_args": "--model-arg", "time_limit_s": "--time-limit"}


def with_options(message: str, command: click.Command) -> str:
    """`message` of the core, which names fields, with the options of `command` and its subcommands in their place."""
    return name_fields(message, _SPELLINGS | _options(command))


def _options(command: click.Command) -> dict[str, str]:
    names = {
        name.removeprefix("--").replace("-", "_"): name
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            for name in command.list_commands(context):
                if (below := command.get_command(context, name)) is not None:
                    names |= _options(below)
    return names
