"""A matplotlib figure as SVG within a page: no `style` attributes, text as text, colours by the page's names.

The page's policy allows no `style` attributes, and dark mode needs colours that change. charts.py draws as for paper,
and this module converts.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup

from .markup import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colours of the charts, and the variable of style.css for each.
INK, MUTED, LINE, TRACK, ACCENT, PAPER = "#16202a", "#55616e", "#dfe3e6", "#e9edee", "#0a6c5b", "#ffffff"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    TRACK: "var(--track)",
    ACCENT: "var(--accent)",
    PAPER: "var(--card)",
    "#000000": "var(--ink)",
}
RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "joulecast",
    "text.parse_math": False,  # a model may be called $x$
    "font.family": "sans-serif",
    "font.size": 11.0,
    "path.simplify": False,
}
_NAMESPACE = re.compile(r"^\{.*\}")
_REFERENCE = re.compile(r"#([A-Za-z]\w{7,})(?=\)|$)")  # longer than a colour
_DROPPED = ("metadata", "style", "title")
_CONTAINERS = ("defs", "g")
_FONT = ("font-family", "font-variant", "font-stretch")  # the page's own stand


def inline_svg(figure: Figure, *, key: str, label: str) -> Markup:
    """`figure` as an SVG element; `key` makes its ids different from other charts', `label` is what is read out.

    The same figure gives the same text, whenever and wherever it is drawn with one matplotlib.
    """
    stream = io.StringIO()
    with matplotlib.rc_context(RC):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    drawn = ElementTree.fromstring(stream.getvalue())
    used = {name for one in drawn.iter() for value in one.attrib.values() for name in _REFERENCE.findall(value)}
    attributes = {"class": "chart", "viewBox": drawn.attrib["viewBox"], "role": "img", "aria-label": printable(label)}
    root = ElementTree.Element("svg", attributes)
    root.extend(child for one in drawn if (child := _converted(one, key, used)) is not None)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _converted(node: ElementTree.Element, key: str, used: set[str]) -> ElementTree.Element | None:
    """The node without what the page has no use for; None where nothing is left."""
    name = _NAMESPACE.sub("", node.tag)
    if name in _DROPPED:
        return None
    children = [child for one in node if (child := _converted(one, key, used)) is not None]
    if name in _CONTAINERS and not children:
        return None
    converted = ElementTree.Element(name, _attributes(node, key, used))
    converted.text = (node.text or "").strip()
    converted.extend(children)
    return converted


def _attributes(node: ElementTree.Element, key: str, used: set[str]) -> dict[str, str]:
    """The node's attributes, with its style as presentation attributes and ids that are the chart's own."""
    attributes: dict[str, str] = {}
    for full_name, value in node.attrib.items():
        name = _NAMESPACE.sub("", full_name)
        if name == "style":
            properties = (part.partition(":") for part in value.split(";") if part.strip())
            attributes.update({one.strip(): setting.strip() for one, _, setting in properties})
        elif name != "id" or value in used:
            attributes[name] = value
    return {
        name: f"{key}-{value}" if name == "id" else _REFERENCE.sub(rf"#{key}-\1", _VARIABLES.get(value, value))
        for name, value in attributes.items()
        if name not in _FONT
    }
