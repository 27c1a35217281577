"""Numbers as people read them."""

from __future__ import annotations

import math
from unicodedata import category

MISSING = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """0.283 → "28.3 %"."""
    return MISSING if share is None else f"{100 * share:.{digits}f}\u202f%"


def fine_percent(share: float | None) -> str:
    """A small share with two significant digits: 0.00098 → "0.098 %"."""
    if share is None:
        return MISSING
    value = 100 * share
    digits = 0 if value <= 0 or value >= 10 else min(6, 1 - math.floor(math.log10(value)))
    return f"{value:.{max(0, digits)}f}\u202f%"


def points(difference: float | None) -> str:
    """0.021 → "2.1 points"."""
    if difference is None:
        return MISSING
    value = f"{100 * difference:.1f}"
    return f"{value} point{'' if value == '1.0' else 's'}"


def decimal(value: float | None, digits: int = 2) -> str:
    """0.5312 → "0.53"."""
    return MISSING if value is None else f"{value:.{digits}f}"


def scientific(value: float | None) -> str:
    """0.00001 → "1e-5"."""
    if value is None:
        return MISSING
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def count(value: float | None) -> str:
    """1234567 → "1 234 567" with narrow spaces."""
    return MISSING if value is None else f"{round(value):,}".replace(",", "\u202f")


def byte_size(value: float | None) -> str:
    """14321 → "14.3 kB" (powers of 1000)."""
    if value is None:
        return MISSING
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f}\u202f{unit}" if unit == "B" else f"{size:.3g}\u202f{unit}"
        size /= 1000
    return f"{size:.3g}\u202fTB"


def duration(seconds: float | None) -> str:
    """203 → "3 min 23 s"."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}\u202fmin {rest}\u202fs"
    return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"


def plain(text: str, most: int = 80) -> str:
    """A foreign text fit to be shown: one line, nothing that steers a terminal or a reader's eye.

    Spaces of any width become plain ones, control characters and those that turn the direction of
    writing "?"; what is too long ends in "…".
    """
    shown = "".join(
        " " if category(char) == "Zs" else char if char.isprintable() else "?"
        for char in text[: most + 1]
    )
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
