"""HTML that cannot be spoilt by what is put into it: plain text is escaped, always."""

from __future__ import annotations

import html
import re

_VOID = frozenset(("br", "hr", "input", "link", "meta"))
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None  # a plain str is text, a Markup is HTML


def printable(text: str) -> str:
    """`text` with a mark in place of each character that no HTML or SVG may hold."""
    return _UNPRINTABLE.sub("\ufffd", text)


def escaped(child: Child) -> Markup:
    if isinstance(child, Markup):
        return child
    return Markup("" if child is None else html.escape(printable(child)))


def joined(*children: Child) -> Markup:
    return Markup("".join(escaped(child) for child in children))


def element(name: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`element("p", "a < b", class_="note")` is `<p class="note">a &lt; b</p>`.

    `data_model=0` becomes `data-model="0"`; True stands alone, False and None are left out.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        label = key.rstrip("_").replace("_", "-")
        parts.append(label if value is True else f'{label}="{html.escape(printable(str(value)))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{joined(*children)}</{name}>")
