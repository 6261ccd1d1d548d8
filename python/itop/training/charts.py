"""Line charts and heat maps as SVG that follows the page's colours.

Colours are CSS classes (``series-0`` ..., ``heat-0`` ...), so that one drawing serves light and dark; what a pointer
needs to read values off a chart goes along as JSON. All text is escaped here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from html import escape
from itertools import groupby
from typing import final

__all__ = [
    "COLOURS",
    "HEAT_LEVELS",
    "REFERENCE_COLOURS",
    "THEORY_COLOUR",
    "Axis",
    "HeatMap",
    "LineStyle",
    "Scale",
    "Series",
    "figure",
    "heat_map",
    "line_chart",
    "shortened",
    "typeset",
]

HEAT_LEVELS = 32
COLOURS = (2, 1, 3, 4, 5, 7, 6, 9, 10, 11)
"""Indices of the page's colours that tell lines apart, best first."""
REFERENCE_COLOURS = (0, 12)
"""Of what others are compared with: grey, and that of text."""
THEORY_COLOUR = 8
MAX_POINTS = 400
MAX_COLUMNS = 120

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44


class LineStyle(Enum):
    SOLID = "solid"
    DASHED = "dashed"
    DOTTED = "dotted"
    POINTS = "points"
    """No line: each point by itself."""


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows.

    Args:
        label: Quantity with its unit.
        percent: Whether values are fractions, shown in percent.
        low, high: Fixed ends; None follows the data.
        settled: Whether the first tenth of each line is left out of what the ends follow, so that the differences
            at the end can be seen; what lies beyond is cut off.
        is_logarithmic: Whether equal distances are equal ratios; values must be above 0.
        is_difference: Whether values are differences of fractions, which may be negative.
    """

    label: str
    percent: bool = False
    low: float | None = None
    high: float | None = None
    settled: bool = False
    is_logarithmic: bool = False
    is_difference: bool = False

    def format(self, value: float, step: float) -> str:
        if self.is_logarithmic:
            return f"{value:g}" if value < 100_000 else f"{value / 1000:g}k"
        scaled, scaled_step = (value * 100, step * 100) if self.percent else (value, step)
        decimals = _decimals(scaled_step)
        if not self.percent and decimals == 0 and abs(scaled) >= 10_000:
            return f"{scaled / 1000:g}k"
        return f"{scaled:.{decimals}f}" + (" %" if self.percent else "")


def _decimals(step: float) -> int:
    """Digits behind the point that tell multiples of `step` apart, without rounding any: 1 for 2.5."""
    return next((count for count in range(6) if abs(round(step, count) - step) < 1e-9 * max(step, 1e-3)), 6)


@final
@dataclass(frozen=True, slots=True)
class Series:
    """One line, with a band where several runs spread.

    Args:
        label: For the legend.
        group: Lines of a group, over all charts, are shown and hidden together.
        colour: Index into the page's series colours.
        x, y: Points, x ascending.
        spread: Half the band's height at each point; None draws no band.
        style: How the line is drawn.
        faint: Whether the line steps back behind the others.
        has_dots: Whether its points are marked, where they are few; a spread is then drawn as a bar at each.
        legend: What the legend says instead of the label; lines of one text share an entry.
    """

    label: str
    group: str
    colour: int
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None
    style: LineStyle = LineStyle.SOLID
    faint: bool = False
    has_dots: bool = False
    legend: str | None = None

    @property
    def entry(self) -> str:
        return self.label if self.legend is None else self.legend

    def thinned(self) -> Series:
        """The same line with at most `MAX_POINTS` points and without those that are no numbers."""
        finite = [i for i, value in enumerate(self.y) if math.isfinite(value)]
        stride = max(1, math.ceil(len(finite) / MAX_POINTS))
        kept = finite[::stride]
        if finite and kept[-1] != finite[-1]:
            kept.append(finite[-1])
        spread = None if self.spread is None else [self.spread[i] for i in kept]
        x, y = [self.x[i] for i in kept], [self.y[i] for i in kept]
        return replace(self, x=x, y=y, spread=spread)


@final
@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values in [0, 1] in a grid.

    Args:
        rows: A name each.
        columns: What each column is, for pointers ("update 3").
        values: ``values[row][column]``.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


def line_chart(series: Sequence[Series], *, title: str, x_axis: Axis, y_axis: Axis) -> str:
    """An HTML figure with the lines, their axes and their legend; says so when there is nothing to draw."""
    drawn = [line for line in (entry.thinned() for entry in series) if line.x]
    if not drawn:
        return figure(title, '<p class="empty">Nothing recorded yet.</p>')
    scattered = all(line.style is LineStyle.POINTS for line in drawn)
    reach = [value for line in drawn for value in line.x]
    xs = Scale.over(reach, x_axis, _LEFT, _WIDTH - _RIGHT, margin=0.04 if scattered else 0.0)
    ys = Scale.over(_extremes(drawn, settled=y_axis.settled), y_axis, _HEIGHT - _BOTTOM, _TOP, padded=True)
    parts = [*_grid(xs, ys, x_axis, y_axis)]
    # A nested picture cuts off what lies beyond the axes, with room for the width of a line at their ends.
    width, height = _WIDTH - _RIGHT - _LEFT, _HEIGHT - _BOTTOM - _TOP
    view = f"{_LEFT - 4} {_TOP - 3} {width + 8} {height + 6}"
    x, y, *size = view.split()
    parts.append(f'<svg class="plot" x="{x}" y="{y}" width="{size[0]}" height="{size[1]}" viewBox="{view}">')
    parts += [(_bars if line.has_dots else _band)(line, xs, ys) for line in drawn if line.spread is not None]
    parts += [_line(line, xs, ys) for line in drawn]
    parts.append("</svg>")
    parts.append(f'<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" x1="0" x2="0"/>')
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">' + "".join(parts) + "</svg>"
    return figure(
        title, svg + '<div class="tooltip" hidden></div>' + _legend(drawn) + _pointer_data(drawn, xs, x_axis, y_axis)
    )


def heat_map(content: HeatMap, *, title: str) -> str:
    """An HTML figure with a coloured cell for each value, equal neighbours drawn as one."""
    if not content.columns or not content.rows:
        return figure(title, '<p class="empty">Nothing recorded yet.</p>')
    stride = max(1, math.ceil(len(content.columns) / MAX_COLUMNS))
    columns = content.columns[::stride]
    label_width = min(210, 16 + 6.4 * max(len(name) for name in content.rows))
    cell_width = (_WIDTH - label_width - 8) / len(columns)
    cell_height = min(26.0, max(7.0, 360 / len(content.rows)))
    height = cell_height * len(content.rows) + 30
    parts: list[str] = []
    for row, (name, values) in enumerate(zip(content.rows, content.values, strict=True)):
        top = row * cell_height
        if cell_height >= 10 or row % math.ceil(10 / cell_height) == 0:
            parts.append(
                f'<text class="tick" x="{label_width - 6:.1f}" y="{top + cell_height / 2 + 3.5:.1f}" '
                f'text-anchor="end">{escape(shortened(name))}</text>'
            )
        column = 0
        for level, cells in groupby(values[::stride], key=_heat_level):
            shown = list(cells)
            first, last = columns[column], columns[column + len(shown) - 1]
            span = first if first == last else f"{first} to {last}"
            parts.append(
                f'<rect class="heat-{level}" x="{label_width + column * cell_width:.2f}" y="{top:.1f}" '
                f'width="{len(shown) * cell_width + 0.3:.2f}" height="{max(cell_height - 1, 1):.1f}">'
                f"<title>{escape(name)}, {escape(span)}: {shown[-1] * 100:.1f} %</title></rect>"
            )
            column += len(shown)
    bottom = cell_height * len(content.rows)
    parts.append(f'<text class="tick" x="{label_width:.1f}" y="{bottom + 18:.1f}">{escape(columns[0])}</text>')
    end = escape(content.columns[-1])
    parts.append(f'<text class="tick" x="{_WIDTH - 8}" y="{bottom + 18:.1f}" text-anchor="end">{end}</text>')
    svg = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    scale = '<div class="heat-scale"><span>0 %</span><i></i><span>100 %</span></div>'
    return figure(title, svg + scale)


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high`, a tick every `step`, onto pixels from `start` to `end`."""

    low: float
    high: float
    step: float
    start: float
    end: float
    is_logarithmic: bool = False

    @classmethod
    def over(
        cls,
        values: Sequence[float],
        axis: Axis,
        start: float,
        end: float,
        *,
        padded: bool = False,
        margin: float = 0.0,
    ) -> Scale:
        low = min(values) if axis.low is None else axis.low
        high = max(values) if axis.high is None else axis.high
        if axis.percent and not axis.is_difference:  # a band may reach beyond what a fraction can be
            low, high = max(low, 0.0), min(high, 1.0)
        if axis.is_logarithmic:
            margin = (high / low) ** 0.04 if high > low else 1.5
            return cls(low / margin, high * margin, 1.0, start, end, is_logarithmic=True)
        if high <= low:
            low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
        step = _nice_step((high - low) / 5)
        if padded:  # whole ticks around the data
            low = math.floor(low / step + 1e-9) * step if axis.low is None else low
            high = math.ceil(high / step - 1e-9) * step if axis.high is None else high
        low = low - margin * (high - low) if axis.low is None else low
        high = high + margin * (high - low) if axis.high is None else high
        return cls(low, high, step, start, end)

    def __call__(self, value: float) -> float:
        if self.is_logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        if self.is_logarithmic:
            return self._logarithmic_ticks()
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [index * self.step for index in range(first, last + 1)]

    def _logarithmic_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
            ticks = [factor * 10.0**power for power in powers for factor in factors]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) >= 4:
                break
        return ticks


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _extremes(series: Sequence[Series], *, settled: bool) -> list[float]:
    values: list[float] = []
    for line in series:
        first = len(line.y) // 10 if settled else 0
        spread = line.spread or [0.0] * len(line.y)
        values += [y - s for y, s in zip(line.y[first:], spread[first:], strict=True)]
        values += [y + s for y, s in zip(line.y[first:], spread[first:], strict=True)]
    return values


def _grid(xs: Scale, ys: Scale, x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for value in ys.ticks():
        y = ys(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = escape(y_axis.format(value, ys.step))
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for value in xs.ticks():
        text = escape(x_axis.format(value, xs.step))
        parts.append(f'<text class="tick" x="{xs(value):.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{_typeset_svg(x_axis.label)}</text>'
    )
    return parts


def _line(line: Series, xs: Scale, ys: Scale) -> str:
    points = " ".join(f"{xs(x):.1f},{ys(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
    classes = f"line series-{line.colour} {line.style.value}" + (" faint" if line.faint else "")
    if len(line.x) == 1:
        return _dots(line, xs, ys)
    drawn = (
        ""
        if line.style is LineStyle.POINTS
        else (f'<polyline class="{classes}" data-group="{escape(line.group)}" points="{points}"/>')
    )
    return drawn + (_dots(line, xs, ys) if line.has_dots or line.style is LineStyle.POINTS else "")


def _dots(line: Series, xs: Scale, ys: Scale) -> str:
    circles = "".join(
        f'<circle cx="{xs(x):.1f}" cy="{ys(y):.1f}" r="3.5"/>' for x, y in zip(line.x, line.y, strict=True)
    )
    return f'<g class="dots series-{line.colour}" data-group="{escape(line.group)}">{circles}</g>'


def _band(line: Series, xs: Scale, ys: Scale) -> str:
    spread = line.spread or ()
    upper = [f"{xs(x):.1f},{ys(y + s):.1f}" for x, y, s in zip(line.x, line.y, spread, strict=True)]
    lower = [f"{xs(x):.1f},{ys(y - s):.1f}" for x, y, s in zip(line.x, line.y, spread, strict=True)]
    points = " ".join(upper + lower[::-1])
    return f'<polygon class="band series-{line.colour}" data-group="{escape(line.group)}" points="{points}"/>'


def _bars(line: Series, xs: Scale, ys: Scale) -> str:
    """A bar from mean minus to mean plus deviation at each point."""
    drawn = "".join(
        f'<line x1="{xs(x):.1f}" x2="{xs(x):.1f}" y1="{ys(y - s):.1f}" y2="{ys(y + s):.1f}"/>'
        for x, y, s in zip(line.x, line.y, line.spread or (), strict=True)
    )
    return f'<g class="bars series-{line.colour}" data-group="{escape(line.group)}">{drawn}</g>'


def _legend(series: Sequence[Series]) -> str:
    by_entry: dict[str, list[Series]] = {}
    for line in series:
        by_entry.setdefault(line.entry, []).append(line)
    entries = "".join(
        f'<button type="button" aria-pressed="true" data-groups="{escape(json.dumps([line.group for line in lines]))}">'
        f'<svg viewBox="0 0 26 8" aria-hidden="true">{_legend_mark(lines[0])}</svg><span>{typeset(entry)}</span></button>'
        for entry, lines in by_entry.items()
    )
    return f'<div class="legend">{entries}</div>'


def _legend_mark(line: Series) -> str:
    if line.style is LineStyle.POINTS:
        return f'<circle class="dots series-{line.colour}" cx="13" cy="4" r="3.5"/>'
    faint = " faint" if line.faint else ""
    return f'<line class="line series-{line.colour} {line.style.value}{faint}" x1="1" x2="25" y1="4" y2="4"/>'


def _pointer_data(series: Sequence[Series], xs: Scale, x_axis: Axis, y_axis: Axis) -> str:
    content = {
        "scale": [xs.low, xs.high, xs.start, xs.end, _WIDTH],
        "log": xs.is_logarithmic,
        "x": x_axis.label,
        "xPercent": x_axis.percent,
        "percent": y_axis.percent,
        "series": [
            {
                "label": line.label,
                "group": line.group,
                "colour": line.colour,
                "points": line.style is LineStyle.POINTS,
                "x": [_rounded(x) for x in line.x],
                "y": [_rounded(y) for y in line.y],
                "spread": None if line.spread is None else [_rounded(s) for s in line.spread],
            }
            for line in series
        ],
    }
    # "<" is written as an escape: nothing in a label can end the script element.
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="chart-data">{text}</script>'


def figure(title: str, body: str) -> str:
    """An HTML figure: a caption of plain text above HTML."""
    return f'<figure class="chart"><figcaption>{typeset(title)}</figcaption>{body}</figure>'


def _typeset_svg(text: str) -> str:
    return re.sub(r"\bR_([sr])\b", r'R<tspan dy="3" font-size="9">\1</tspan>', escape(text))


def typeset(text: str) -> str:
    """HTML of plain text, the rates with their subscripts."""
    return re.sub(r"\bR_([sr])\b", r"R<sub>\1</sub>", escape(text))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _heat_level(value: float) -> int:
    return min(HEAT_LEVELS - 1, max(0, int(value * HEAT_LEVELS))) if math.isfinite(value) else 0


def shortened(name: str, length: int = 30) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]
