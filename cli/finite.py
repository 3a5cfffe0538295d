"""Click type for finite numbers: click's own range accepts `inf` and `nan`."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
