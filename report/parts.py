"""Where the energy goes: at most fourteen lines, however large the network is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..estimator.answer.answer import Answer
from ..estimator.cost.estimate import STARTUP
from ..estimator.cost.profile import STATIC

MOST = 14
_KINDS = 3  # lines for the layers without a line of their own, one per kind
OUTSIDE = "outside of layers"
_DOMINANT = 0.5  # a group with more than this share is split, even if not all of its parts can be shown
_COMPONENTS = {
    "compute": "arithmetic",
    "memory": "reading and writing",
    "launch": "waiting for the host",
    STATIC: "drawn at all times",
    STARTUP: "once a run",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One line of a breakdown: its expected energy and its share (0 to 1) of the whole."""

    name: str
    note: str
    energy_kwh: float
    share: float

    def __add__(self, other: Part) -> Part:
        return replace(self, energy_kwh=self.energy_kwh + other.energy_kwh, share=self.share + other.share)


def component_parts(answer: Answer) -> tuple[Part, ...]:
    """The components of eq. 2.2.1, largest first."""
    return tuple(
        Part(share.name, _COMPONENTS.get(share.name, ""), share.energy_kwh, share.share)
        for share in answer.estimate.breakdown
        if share.share > 0
    )


def layer_parts(answer: Answer) -> tuple[Part, ...]:
    """Groups of layers in the order of the network, split as far as `MOST` lines allow.

    The blocks of a long list are added up (`encoder.*.attention`); the rest is added
    up in the last line. Their shares add up to 1.
    """
    layers = {layer.path: layer for layer in answer.workload.layers}
    stars = _starred([*layers, *(share.name for share in answer.estimate.layers)])
    kinds = {stars[path]: layer.kind for path, layer in reversed(layers.items()) if path}
    parts = [group.total() for group in _grouped(_ordered_leaves(answer, stars))]
    return _shortened([replace(part, name=part.name or OUTSIDE, note=kinds.get(part.name, "")) for part in parts])


def _ordered_leaves(answer: Answer, stars: Mapping[str, str]) -> list[Part]:
    """The energy of each path alone, in the order of the network; energy outside of layers comes last."""
    own: dict[str, Part] = {}
    for share in answer.estimate.layers:
        path = stars[share.name]
        part = Part(path, "", share.energy_kwh, share.share)
        own[path] = own[path] + part if path in own else part
    order = {
        stars[layer.path]: index for index, layer in reversed(list(enumerate(answer.workload.layers))) if layer.path
    }
    return sorted(own.values(), key=lambda part: order.get(part.name, len(order)))


def _starred(paths: Sequence[str]) -> dict[str, str]:
    """Each path with `*` for the number of a block, if a list has more than `MOST` of them."""
    names = dict.fromkeys(paths)
    blocks: dict[str, set[str]] = {}
    for path in names:
        for match in re.finditer(r"(?:^|\.)(\d+)(?=\.)", path):
            blocks.setdefault(path[: match.start(1)], set()).add(match.group(1))
    long = {before for before, numbers in blocks.items() if len(numbers) > MOST}
    return {path: _with_stars(path, long) for path in names}


def _with_stars(path: str, long: set[str]) -> str:
    words, starred = path.split("."), []
    for index, word in enumerate(words):
        before = "".join(f"{one}." for one in words[:index])
        starred.append("*" if word.isdigit() and before in long else word)
    return ".".join(starred)


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers whose paths share their first `depth` words."""

    depth: int
    leaves: tuple[Part, ...]

    @property
    def share(self) -> float:
        return sum(leaf.share for leaf in self.leaves)

    def opened(self) -> list[_Group]:
        """The groups one word further down, in order."""
        below: dict[str, list[Part]] = {}
        for leaf in self.leaves:
            below.setdefault(_first_words(leaf.name, self.depth + 1), []).append(leaf)
        return [_Group(self.depth + 1, tuple(leaves)) for leaves in below.values()]

    def total(self) -> Part:
        first = self.leaves[0]
        name = first.name if len(self.leaves) == 1 else _first_words(first.name, self.depth)
        energy_kwh = sum(leaf.energy_kwh for leaf in self.leaves)
        return Part(name, "", energy_kwh, self.share)


def _first_words(path: str, count: int) -> str:
    return ".".join(path.split(".")[:count])


def _grouped(leaves: Sequence[Part]) -> list[_Group]:
    """The outermost groups, split from the largest down while there is room."""
    groups = _Group(0, tuple(leaves)).opened()
    while True:
        for group in sorted(groups, key=lambda group: -group.share):
            inner = group.opened() if len(group.leaves) > 1 else []
            fits = len(groups) - 1 + len(inner) <= MOST
            if inner and (fits or group.share > _DOMINANT):
                at = groups.index(group)
                groups[at : at + 1] = inner
                break
        else:
            return groups


def _shortened(parts: Sequence[Part]) -> tuple[Part, ...]:
    """At most `MOST` parts: the largest in their order, then the rest by kind, then one for all others."""
    if len(parts) <= MOST:
        return tuple(parts)
    by_share = sorted(parts, key=lambda part: -part.share)
    largest, rest = by_share[: MOST - _KINDS - 1], by_share[MOST - _KINDS - 1 :]
    by_kind: dict[str, list[Part]] = {}
    for part in rest:
        by_kind.setdefault(part.note, []).append(part)
    heaviest = sorted(by_kind.items(), key=lambda item: -sum(part.share for part in item[1]))
    others = [part for _, members in heaviest[_KINDS:] for part in members]
    merged = [*heaviest[:_KINDS], ("", others)]
    alone = [*largest, *(members[0] for _, members in merged if len(members) == 1)]
    lines = [_merged(kind, members) for kind, members in merged if len(members) > 1]
    return (*sorted(alone, key=parts.index), *lines)


def _merged(kind: str, members: Sequence[Part]) -> Part:
    name = f"{len(members)} more {kind}" if kind else f"{len(members)} others"
    return Part(name, "", sum(part.energy_kwh for part in members), sum(part.share for part in members))
