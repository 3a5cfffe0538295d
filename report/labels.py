"""Places names in a scatter plot: next to their point, without overlap. All lengths are in points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_GAP = 5.0  # between a name and its point
_WHISKER = 3.0  # on either side of a whisker


@dataclass(frozen=True, slots=True)
class Box:
    left: float
    low: float
    right: float
    high: float

    def overlaps(self, other: Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.low < other.high and other.low < self.high

    def within(self, frame: Box) -> bool:
        across = frame.left <= self.left and self.right <= frame.right
        return across and frame.low <= self.low and self.high <= frame.high


@dataclass(frozen=True, slots=True)
class Whisker:
    """One point of the plot with the bounds of its interval above and below."""

    x: float
    low: float
    middle: float
    high: float

    @property
    def box(self) -> Box:
        return Box(self.x - _WHISKER, self.low - _WHISKER, self.x + _WHISKER, self.high + _WHISKER)


@dataclass(frozen=True, slots=True)
class Spot:
    """A name's anchor: `across` says which of its sides ("left", "center", "right") is at `x`; y is its middle."""

    x: float
    y: float
    across: str
    box: Box


def place(whiskers: Sequence[Whisker], sizes: Sequence[tuple[float, float]], frame: Box) -> list[Spot]:
    """A spot for each whisker's name of the given width and height: in `frame`, without overlap if there is room."""
    lines = [whisker.box for whisker in whiskers]
    found: list[Spot] = []
    for whisker, (width, height) in zip(whiskers, sizes, strict=True):
        spots = list(_spots(whisker, width, height))
        inside = [spot for spot in spots if spot.box.within(frame)] or spots
        names = [other.box for other in found]
        # Covering a line is better than covering a name.
        found.append(min(inside, key=lambda spot: (_covered(spot, names), _covered(spot, lines))))
    return found


def _covered(spot: Spot, boxes: Sequence[Box]) -> int:
    return sum(spot.box.overlaps(box) for box in boxes)


def _spots(whisker: Whisker, width: float, height: float) -> Iterator[Spot]:
    """Above and below the whisker, then left and right of its point and its ends."""
    for y in (whisker.high + _GAP + height / 2, whisker.low - _GAP - height / 2):
        for across in ("center", "left", "right"):
            yield _spot(whisker.x, y, across, width, height)
    for y in (whisker.middle, whisker.high - height / 2, whisker.low + height / 2):
        yield _spot(whisker.x + 2 * _GAP, y, "left", width, height)
        yield _spot(whisker.x - 2 * _GAP, y, "right", width, height)


def _spot(x: float, y: float, across: str, width: float, height: float) -> Spot:
    left = x - {"left": 0.0, "center": width / 2, "right": width}[across]
    return Spot(x, y, across, Box(left, y - height / 2, left + width, y + height / 2))
