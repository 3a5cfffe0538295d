"""The page's template, which escapes whatever is put into it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """`text` with a mark in place of each character that no HTML or SVG may hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def asset(name: str) -> str:
    return files("joulecast.report").joinpath(name).read_text(encoding="utf-8").strip()


@cache
def environment() -> Environment:
    """Text is escaped always; an unknown name is an error."""
    return Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_finalize,
    )


def _finalize(value: Any) -> Any:
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
