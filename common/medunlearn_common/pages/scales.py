"""From values to places in a drawing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The plotting area inside an SVG, in its own units, and the value ranges it shows."""

    width: float = 440.0
    height: float = 250.0
    left: float = 46.0
    right: float = 14.0
    top: float = 28.0
    bottom: float = 40.0
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)

    def x(self, value: float) -> float:
        """Horizontal place of a value."""
        low, high = self.x_range
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.left + share * (self.width - self.left - self.right), 2)

    def y(self, value: float) -> float:
        """Vertical place of a value; SVG counts downwards."""
        low, high = self.y_range
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 2)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    label: str


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values that cover the range, about `wanted` of them."""
    if high <= low:
        return [low]
    raw = (high - low) / max(1, wanted - 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * magnitude >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def ticks(
    values: list[float], place: Callable[[float], float], label: Callable[[float], str]
) -> list[Tick]:
    """Ticks at the given values."""
    return [Tick(place=place(value), label=label(value)) for value in values]
