"""The console commands: `joulecast` with its subcommands, and `estimate` and `measure` on their own."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable

import click

from .help import HELP
from .mistakes import in_one_line

# Each subcommand is in the module of its name, which is imported when the command is used.
_COMMANDS = {
    "estimate": (
        "joulecast.cli.estimate",
        "estimate",
        "Predict energy, CO2e, time and cost before training.",
    ),
    "check": ("joulecast.cli.check", "check", "Verify the budgets of a project's models, in CI or before a commit."),
    "sweep": ("joulecast.cli.sweep", "sweep", "Predict the cost of many candidates, alone and together."),
    "serve": ("joulecast.cli.serve", "serve", "Answer estimates over HTTP, for a fleet."),
    "measure": ("joulecast.cli.measure", "measure", "Measure training runs and calibrate this machine."),
    "fit": ("joulecast.cli.fit", "fit", "Learn from a table of your own runs, from one run on."),
    "profiles": ("joulecast.cli.profiles", "profiles", "List profiles and known hardware, with their sources."),
    "explain": ("joulecast.cli.explain", "explain", "Show the weights, prices, evidence and errors of a profile."),
    "doctor": ("joulecast.cli.doctor", "doctor", "Check this machine, and how to get what is missing."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return load_command(cmd_name) if cmd_name in _COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


def load_command(name: str) -> click.Command:
    module, attribute, _ = _COMMANDS[name]
    command: click.Command = getattr(importlib.import_module(module), attribute)
    return command


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from joulecast import __version__

        click.echo(f"joulecast {__version__}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings=HELP)
@click.option("--version", is_flag=True, callback=_print_version, expose_value=False, is_eager=True, help="Version.")
def joulecast() -> None:
    """Predict the energy, CO2e, time and cost of a training run before its first step."""


def run(command: click.Command, program: str) -> None:
    """Runs a command; every failure that is not a bug of joulecast is one line on stderr.

    Exit status: 0 done, 1 an input that cannot be used, 2 wrong options, 3 budget exceeded,
    130 interrupted.
    """
    from ..estimator.base.errors import JoulecastError, RequestError
    from .fields import with_options

    try:
        status = command.main(prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Abort:
        _fail(program, "interrupted", 130)
    except KeyboardInterrupt:
        _fail(program, "interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:
        _fail(program, in_one_line(error, program), 2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except JoulecastError as error:
        _fail(program, with_options(" ".join(str(error).split()), command), 2 if isinstance(error, RequestError) else 1)
    except BrokenPipeError:  # `estimate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    else:
        sys.exit(status if isinstance(status, int) else 0)


_LONG_WORD = re.compile(r"\S{300,}")


def _fail(program: str, message: str, status: int) -> None:
    """One line on stderr, values cut where they are too long to read."""
    message = _LONG_WORD.sub(lambda found: f"{found[0][:80]}...", message)
    click.echo(f"{program}: {message}".encode("utf-8", "replace").decode(), err=True)
    sys.exit(status)


def _runner(name: str | None) -> Callable[[], None]:
    def entry() -> None:
        try:
            command = load_command(name) if name else joulecast
        except KeyboardInterrupt:
            _fail(name or "joulecast", "interrupted", 130)
            return
        run(command, name or "joulecast")

    return entry


main = _runner(None)
estimate = _runner("estimate")
measure = _runner("measure")
