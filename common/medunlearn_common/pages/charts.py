"""Charts as data for the SVG templates: places are computed here, looks live in the CSS.

Every chart carries a title and a description for screen readers, and its series differ by
marker or dash as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medunlearn_common.pages.formatting import count, decimal, percent
from medunlearn_common.pages.scales import Frame, Tick, nice_ticks, ticks

Point = tuple[float, float]
Range = tuple[float, float, float]
"""Horizontal value, lower end, upper end."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series, already placed.

    Attributes:
        name: For the legend.
        style: CSS class: colour, dash and marker.
        path: SVG path data.
        dots: Centres of the markers, with the value each stands for.
        label_y: Height of the direct label at the line's end.
    """

    name: str
    style: str
    path: str
    dots: tuple[tuple[float, float, str], ...]
    label_y: float


@dataclass(frozen=True, kw_only=True)
class Band:
    """The range in which a line's values lie, already placed.

    Attributes:
        style: CSS class of its line.
        path: SVG path data, closed.
    """

    style: str
    path: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """Lines over two axes."""

    key: str
    title: str
    description: str
    frame: Frame
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    y_label: str
    lines: Sequence[Line]
    diagonal: str = ""
    legend: bool = True
    bands: Sequence[Band] = ()
    zero_y: float | None = None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar, already placed; `value` is its label."""

    style: str
    name: str
    x: float
    y: float
    width: float
    height: float
    value: str


@dataclass(frozen=True, kw_only=True)
class BarGroup:
    """Bars that belong together, and the chance level across them."""

    label: str
    x: float
    left: float
    right: float
    bars: Sequence[Bar]
    chance_y: float | None


@dataclass(frozen=True, kw_only=True)
class BarChart:
    """Groups of vertical bars, 0 to 100 %."""

    key: str
    title: str
    description: str
    frame: Frame
    y_ticks: Sequence[Tick]
    groups: Sequence[BarGroup]
    legend: Sequence[tuple[str, str]]
    chance: bool


@dataclass(frozen=True, kw_only=True)
class Row:
    """One horizontal bar of a list: share of the longest in percent, and its label."""

    label: str
    share: float
    value: str
    style: str = "after"


def line_chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[tuple[str, str, Sequence[Point]]],
    *,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    as_percent: bool = True,
    frame: Frame | None = None,
    legend: bool = True,
    markers: bool = True,
    bands: Sequence[tuple[str, Sequence[Range]]] = (),
) -> LineChart | None:
    """A chart of the series that have points; None where none has.

    Args:
        key: Makes element ids unique on the page.
        title: Short.
        description: What the chart shows, for those who cannot see it.
        series: Name, CSS class and points of each line.
        x_label: Below the horizontal axis.
        y_label: Above the vertical axis.
        y_range: Fixed range; else from zero to just above the largest value.
        as_percent: Label the vertical axis in percent.
        frame: Size; its ranges are replaced.
        legend: Draw the legend.
        markers: Draw a marker at each point.
        bands: CSS class and ranges, drawn below the lines.
    """
    known = [(name, style, list(points)) for name, style, points in series if points]
    if not known:
        return None
    xs = [x for _, _, points in known for x, _ in points]
    top = max(y for _, _, points in known for _, y in points)
    x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    y_range = y_range or (0.0, top * 1.08 or 1.0)
    base = frame or Frame()
    area = Frame(
        width=base.width,
        height=base.height,
        left=base.left,
        right=base.right,
        top=base.top,
        bottom=base.bottom,
        x_range=x_range,
        y_range=y_range,
    )
    whole = [value for value in nice_ticks(*x_range, wanted=6) if value == int(value)]

    places = nice_ticks(*y_range)
    digits = next(d for d in range(4) if d == 3 or all(round(v, d) == v for v in places))

    def say(value: float) -> str:
        return percent(value, 0) if as_percent else decimal(value, digits)

    return LineChart(
        key=key,
        title=title,
        description=description,
        frame=area,
        x_ticks=ticks(whole, area.x, count),
        y_ticks=ticks(places, area.y, say),
        x_label=x_label,
        y_label=y_label,
        lines=[
            _line(area, name, style, points, as_percent, markers) for name, style, points in known
        ],
        legend=legend,
        bands=[_band(area, style, ranges) for style, ranges in bands if ranges],
        zero_y=area.y(0.0) if y_range[0] < 0.0 < y_range[1] else None,
    )


def _band(area: Frame, style: str, ranges: Sequence[Range]) -> Band:
    upper = [f"{area.x(x)} {area.y(high)}" for x, _, high in ranges]
    lower = [f"{area.x(x)} {area.y(low)}" for x, low, _ in reversed(ranges)]
    return Band(style=style, path=f"M{'L'.join([*upper, *lower])}Z")


def roc_chart(
    key: str, title: str, description: str, series: Sequence[tuple[str, str, Sequence[Point]]]
) -> LineChart:
    """A square ROC plot with the diagonal of the coin toss."""
    area = Frame(width=320, height=300, left=46, right=14, top=28, bottom=40)
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return LineChart(
        key=key,
        title=title,
        description=description,
        frame=area,
        x_ticks=ticks(marks[::2], area.x, lambda value: percent(value, 0)),
        y_ticks=ticks(marks, area.y, lambda value: percent(value, 0)),
        x_label="false alarms",
        y_label="members found",
        lines=[_line(area, name, style, points, True, False) for name, style, points in series],
        diagonal=f"M{area.x(0)} {area.y(0)}L{area.x(1)} {area.y(1)}",
        legend=False,
    )


def _line(
    area: Frame, name: str, style: str, points: Sequence[Point], as_percent: bool, markers: bool
) -> Line:
    placed = [(area.x(x), area.y(y)) for x, y in points]
    path = "".join(f"{'L' if i else 'M'}{x} {y}" for i, (x, y) in enumerate(placed))
    values = [percent(y) if as_percent else decimal(y) for _, y in points]
    return Line(
        name=name,
        style=style,
        path=path,
        dots=tuple((x, y, value) for (x, y), value in zip(placed, values, strict=True))
        if markers and len(points) <= 60
        else (),
        label_y=placed[-1][1],
    )


def bar_chart(
    key: str,
    title: str,
    description: str,
    groups: Mapping[str, Sequence[tuple[str, str, float | None]]],
    *,
    chance: Mapping[str, float | None] | None = None,
    frame: Frame | None = None,
    top: float = 1.0,
) -> BarChart:
    """Grouped bars; a bar whose value is None leaves its place empty.

    Args:
        key: Makes element ids unique on the page.
        title: Short.
        description: For those who cannot see it.
        groups: For each group its bars: name, CSS class, share.
        chance: Level of guessing by group.
        frame: Size.
        top: The largest value on the axis.
    """
    base = frame or Frame(bottom=30.0)
    area = Frame(
        width=base.width,
        height=base.height,
        left=base.left,
        right=base.right,
        top=base.top,
        bottom=base.bottom,
        y_range=(0.0, top),
    )
    slot = (area.width - area.left - area.right) / max(1, len(groups))
    placed: list[BarGroup] = []
    for index, (label, bars) in enumerate(groups.items()):
        left = area.left + slot * (index + 0.11)
        level = (chance or {}).get(label)
        placed.append(
            BarGroup(
                label=label,
                x=round(left + 0.39 * slot, 2),
                left=round(left - 4, 2),
                right=round(left + 0.78 * slot + 4, 2),
                bars=_bars(area, bars, left, 0.78 * slot),
                chance_y=area.y(level) if level is not None else None,
            )
        )
    names = {name: style for bars in groups.values() for name, style, v in bars if v is not None}
    return BarChart(
        key=key,
        title=title,
        description=description,
        frame=area,
        y_ticks=ticks(nice_ticks(0.0, top), area.y, lambda value: percent(value, 0)),
        groups=placed,
        legend=[(style, name) for name, style in names.items()],
        chance=any(group.chance_y is not None for group in placed),
    )


def _bars(
    area: Frame, bars: Sequence[tuple[str, str, float | None]], left: float, room: float
) -> list[Bar]:
    width = room / max(1, len(bars))
    return [
        Bar(
            style=style,
            name=name,
            x=round(left + i * width + 1.5, 2),
            y=area.y(min(value, area.y_range[1])),
            width=round(width - 3, 2),
            height=round(area.y(0.0) - area.y(min(value, area.y_range[1])), 2),
            value=percent(value, 0 if len(bars) > 2 and width < 26 else 1).replace("\u202f%", ""),
        )
        for i, (name, style, value) in enumerate(bars)
        if value is not None
    ]


def rows(values: Mapping[str, tuple[float, str]], style: str = "after") -> list[Row]:
    """Horizontal bars, relative to the longest; values are (size, label)."""
    longest = max((size for size, _ in values.values()), default=0.0) or 1.0
    return [
        Row(label=label, share=round(100 * size / longest, 2), value=text, style=style)
        for label, (size, text) in values.items()
    ]
