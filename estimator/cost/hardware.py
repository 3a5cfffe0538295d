"""Accelerators and CPUs as their datasheets describe them.

Vendors' FLOPS count a multiply and an add as two; joulecast counts the pair as one, so a peak in
multiply-adds per second is half of the figures here.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..base.errors import HardwareError
from ..base.files import read_text
from ..base.tables import read_table

USER_FILE_VARIABLE = "JOULECAST_HARDWARE"
SHIPPED = "joulecast"  # the origin of the rows that come with the package
BOUNDARIES = {"gpu": "the GPU board, without its host", "cpu": "the CPU package, without memory"}
"""What the power on a datasheet covers, by the part's kind."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """One part: dense peak rates in TFLOPS by precision, memory, power. None: not published.

    Tensor rates are with FP32 accumulation and without sparsity. `power_w` is the board's power or
    the TDP, `idle_w` its power at rest. Link rates count both directions. `verified` is false where
    a figure was not read in a source. The labels say where rates and watts come from, `power_spread` by
    which factor `power_w` may be off either way, `notes` what was assumed. `origin` is "joulecast", or
    the path of the user's file.
    """

    key: str
    name: str
    vendor: str
    kind: str  # "gpu" or "cpu"
    year: int
    fp32_tflops: float
    tf32_tflops: float | None
    fp16_tflops: float | None
    bf16_tflops: float | None
    memory_gb: float | None
    bandwidth_gb_per_s: float
    power_w: float
    idle_w: float | None
    cores: int
    aliases: tuple[str, ...]
    source: str
    fp8_tflops: float | None = None
    fp64_tflops: float | None = None
    sms: int | None = None  # NVIDIA's SMs, AMD's compute units, Apple's GPU cores
    boost_mhz: float | None = None
    l2_mb: float | None = None
    process_nm: float | None = None
    link_gb_per_s: float | None = None  # NVLink, Infinity Fabric or ICI of one device
    pcie_gb_per_s: float | None = None
    verified: bool = True
    power_spread: float = 1.0
    time_label: str = "datasheet"  # "datasheet", "probed", "assumed" or "given"
    power_label: str = "datasheet"
    notes: tuple[str, ...] = ()
    origin: str = SHIPPED

    @property
    def is_users(self) -> bool:
        return self.origin != SHIPPED

    @property
    def before_ampere(self) -> bool:
        """Whether this is an NVIDIA GPU without bfloat16 units, for which FlashAttention-2 has no kernels."""
        return self.vendor == "NVIDIA" and self.kind == "gpu" and self.bf16_tflops is None


_NO_COLUMN = ("power_spread", "time_label", "power_label", "notes", "origin")
COLUMNS = tuple(name for name in Hardware.__dataclass_fields__ if name not in _NO_COLUMN)
_NEEDED = COLUMNS[: COLUMNS.index("fp8_tflops")]  # a user's own table may leave out the others


def load_hardware() -> tuple[Hardware, ...]:
    """The user's own rows, then the shipped ones. Raises HardwareError for a broken user's file."""
    return (*user_hardware(), *shipped_hardware())


def user_hardware() -> tuple[Hardware, ...]:
    """The rows of the user's own table, if there is one. Raises HardwareError for a broken file."""
    path = user_file()
    return _read_user_file(path) if path else ()


def user_file() -> Path | None:
    """The user's own table: $JOULECAST_HARDWARE, else `hardware.csv` in the user's config, if there."""
    named = os.environ.get(USER_FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    default = default_user_file()
    return default if default.is_file() else None


def default_user_file() -> Path:
    import platformdirs

    return platformdirs.user_config_path("joulecast") / "hardware.csv"


@cache
def shipped_hardware() -> tuple[Hardware, ...]:
    return tuple(_row(row, SHIPPED) for row in read_table("hardware.csv"))


def _read_user_file(path: Path) -> tuple[Hardware, ...]:
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        missing = [column for column in _NEEDED if column not in (reader.fieldnames or ())]
        if missing:
            raise HardwareError(f"{path} lacks the column {missing[0]!r}: its first line must have {','.join(_NEEDED)}")
        parts = []
        for row in reader:
            try:
                parts.append(_row(row, str(path)))
            except ValueError as error:
                raise HardwareError(f"{path}, line {reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HardwareError(f"cannot read the hardware table {path} ({error}): correct or remove it") from error
    keys = [part.key for part in parts]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise HardwareError(f"{path} has the key {twice[0]!r} twice: give each part its own")
    return tuple(parts)


def _row(row: Mapping[str, str | None], origin: str) -> Hardware:
    """One row of a table. Raises ValueError naming the column, the value and the rule."""
    cells = {column: (row.get(column) or "").strip() for column in COLUMNS}
    if cells["kind"] not in ("gpu", "cpu"):
        raise ValueError(f"kind is {cells['kind']!r}: give gpu or cpu")
    return Hardware(
        key=_text(cells, "key"),
        name=_text(cells, "name"),
        vendor=_text(cells, "vendor"),
        kind=cells["kind"],
        year=int(_number(cells, "year")),
        fp32_tflops=_number(cells, "fp32_tflops"),
        tf32_tflops=_published(cells, "tf32_tflops"),
        fp16_tflops=_published(cells, "fp16_tflops"),
        bf16_tflops=_published(cells, "bf16_tflops"),
        memory_gb=_published(cells, "memory_gb"),
        bandwidth_gb_per_s=_number(cells, "bandwidth_gb_per_s"),
        power_w=_number(cells, "power_w"),
        idle_w=_published(cells, "idle_w"),
        cores=int(_number(cells, "cores")),
        aliases=tuple(alias.strip() for alias in cells["aliases"].split(";") if alias.strip()),
        source=_text(cells, "source"),
        fp8_tflops=_published(cells, "fp8_tflops"),
        fp64_tflops=_published(cells, "fp64_tflops"),
        sms=None if not cells["sms"] else int(_number(cells, "sms")),
        boost_mhz=_published(cells, "boost_mhz"),
        l2_mb=_published(cells, "l2_mb"),
        process_nm=_published(cells, "process_nm"),
        link_gb_per_s=_published(cells, "link_gb_per_s"),
        pcie_gb_per_s=_published(cells, "pcie_gb_per_s"),
        verified=_flag(cells, "verified"),
        origin=origin,
    )


def _text(cells: Mapping[str, str], column: str) -> str:
    if not cells[column]:
        raise ValueError(f"{column} is empty: fill it in")
    return cells[column]


def _published(cells: Mapping[str, str], column: str) -> float | None:
    return _number(cells, column) if cells[column] else None


def _flag(cells: Mapping[str, str], column: str) -> bool:
    if cells[column] not in ("", "yes", "no", "True", "False"):
        raise ValueError(f"{column} is {cells[column]!r}: give yes or no")
    return cells[column] not in ("no", "False")


def _number(cells: Mapping[str, str], column: str) -> float:
    try:
        number = float(cells[column])
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{column} is {cells[column]!r}: give a number above 0")
    return number
