"""Dataset presets: the shape, classes and sizes of datasets that people name, from datasets/presets.csv."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..base.errors import JoulecastError
from ..base.suggest import near
from ..base.tables import read_table


@dataclass(frozen=True, slots=True)
class DatasetPreset:
    """One dataset. `input_shape` is of one sample, channels first; `test_samples` those held out."""

    key: str
    name: str
    input_shape: tuple[int, ...]
    input_dtype: str
    classes: int
    train_samples: int
    test_samples: int
    source: str


@cache
def dataset_presets() -> dict[str, DatasetPreset]:
    """All presets by key, in the order of the table."""
    presets = (
        DatasetPreset(
            key=row["key"],
            name=row["name"],
            input_shape=tuple(int(size) for size in row["input_shape"].split("x")),
            input_dtype=row["input_dtype"],
            classes=int(row["classes"]),
            train_samples=int(row["train_samples"]),
            test_samples=int(row["test_samples"]),
            source=row["source"],
        )
        for row in read_table("presets.csv")
    )
    return {preset.key: preset for preset in presets}


def dataset_preset(key: str) -> DatasetPreset:
    """The preset named `key`, in any case; raises JoulecastError with near names for an unknown one."""
    presets = dataset_presets()
    folded = key.strip().lower().replace("_", "-")
    for name, preset in presets.items():
        if folded.replace("-", "") == name.replace("-", ""):
            return preset
    hint = near(folded, presets) or f"; known are {', '.join(presets)}"
    raise JoulecastError(f"dataset {key!r} has no preset: give `inputs` and `samples`{hint}")
