"""How every command shows its help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Sections(click.Command):
    """A command whose help shows its options in sections: `sections` has each heading by its first parameter's name."""

    def __init__(self, *arguments: Any, sections: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        heading, found = "Options", dict[str, list[tuple[str, str]]]()
        for parameter in self.get_params(ctx):
            heading = self.sections.get(str(parameter.name), heading)
            if (line := parameter.get_help_record(ctx)) is not None:
                found.setdefault(heading, []).append(line)
        for heading, lines in found.items():
            with formatter.section(heading):
                formatter.write_dl(lines)
