"""What the user should know about a prediction, and how much it matters."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Self


class Topic(StrEnum):
    """What a note is about."""

    RANGE = "measured range"
    MODEL = "model"
    SCHEDULE = "schedule"
    SITE = "site"
    PROFILE = "profile"
    SOURCES = "sources"


class Weight(IntEnum):
    """How much a note matters; the heaviest are shown first."""

    DETAIL = 0  # how a figure was obtained
    ROUGH = 1  # the figures are less certain than their interval would be elsewhere
    ACT = 2  # the user can do something that changes or sharpens the figures
    STOP = 3  # the run as described may be impossible or not what was meant


class Note(str):
    """A warning of a prediction: its text, with what it is about and how much it matters."""

    topic: Topic
    weight: Weight

    def __new__(cls, text: str, topic: Topic = Topic.PROFILE, weight: Weight = Weight.DETAIL) -> Self:
        note = super().__new__(cls, text)
        note.topic, note.weight = topic, weight
        return note

    @classmethod
    def of(cls, text: str, topic: Topic, weight: Weight = Weight.DETAIL) -> Note:
        """`text` if it is a note already, else a note about `topic`."""
        return text if isinstance(text, Note) else cls(text, topic, weight)
