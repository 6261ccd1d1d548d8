"""Charts as values: what a page draws and a paper prints from the same numbers."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias, final

__all__ = [
    "COLOURS",
    "REFERENCE_COLOURS",
    "THEORY_COLOUR",
    "Axis",
    "Chart",
    "HeatMap",
    "LineChart",
    "LineStyle",
    "RankedRow",
    "Ranking",
    "Series",
    "Spacing",
    "file_name",
    "shortened",
]

COLOURS = (2, 1, 3, 4, 5, 7, 6, 9, 10, 11)
"""Indices of the page's colours that tell lines apart, best first."""
REFERENCE_COLOURS = (0, 12)
"""Of what others are compared with: grey, and that of text."""
THEORY_COLOUR = 8


class LineStyle(Enum):
    SOLID = "solid"
    DASHED = "dashed"
    DOTTED = "dotted"
    POINTS = "points"
    """No line: each point by itself."""


class Spacing(Enum):
    """Which steps along an axis are equally long."""

    LINEAR = "equal differences"
    LOGARITHMIC = "equal ratios"
    """Values must be above 0."""
    COMPLEMENT = "equal ratios of what is left to 1"
    """For sparsities near 1: 90 %, 99 % and 99.9 % are equally far apart. Values must be below 1."""

    def forward(self, value: float) -> float:
        """A number that grows evenly along the axis."""
        if self is Spacing.LOGARITHMIC:
            return math.log10(value)
        return value if self is Spacing.LINEAR else -math.log10(1.0 - value)

    def inverse(self, place: float) -> float:
        if self is Spacing.LOGARITHMIC:
            return float(10.0**place)
        return place if self is Spacing.LINEAR else float(1.0 - 10.0**-place)


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
        spacing: Which steps are equally long; ends that follow the data have room beside it unless it is linear.
        is_difference: Whether values are differences of fractions, which may be negative.
    """

    label: str
    percent: bool = False
    low: float | None = None
    high: float | None = None
    settled: bool = False
    spacing: Spacing = Spacing.LINEAR
    is_difference: bool = False

    def format(self, value: float, step: float) -> str:
        if self.spacing is Spacing.LOGARITHMIC and not self.percent:
            return f"{value:g}" if value < 100_000 else f"{value / 1000:g}k"
        scaled, scaled_step = (value * 100, step * 100) if self.percent else (value, step)
        decimals = _decimals(scaled_step if self.spacing is Spacing.LINEAR else scaled)
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

    def finite(self, most: int | None = None) -> Series:
        """The same line without points that are no numbers; thinned to about `most` of them, first and last kept."""
        kept = [i for i, (x, y) in enumerate(zip(self.x, self.y, strict=True)) if math.isfinite(x) and math.isfinite(y)]
        if most is not None and kept:
            last = kept[-1]
            kept = kept[:: max(1, math.ceil(len(kept) / most))]
            if kept[-1] != last:
                kept.append(last)
        spread = None if self.spread is None else [self.spread[i] for i in kept]
        x, y = [self.x[i] for i in kept], [self.y[i] for i in kept]
        return replace(self, x=x, y=y, spread=spread)


@final
@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over two axes.

    Args:
        name: Of its file, where it is printed.
        title: Above it.
        series: The lines; those without a point are left out.
        x_axis, y_axis: What is drawn to the right and upwards.
    """

    name: str
    title: str
    series: Sequence[Series]
    x_axis: Axis
    y_axis: Axis

    @property
    def is_empty(self) -> bool:
        return not any(line.finite().x for line in self.series)


@final
@dataclass(frozen=True, slots=True)
class HeatMap:
    """Values in [0, 1] in a grid.

    Args:
        name, title: As of a line chart.
        rows: A name each.
        columns: What each column is, for pointers ("update 3").
        values: ``values[row][column]``.
    """

    name: str
    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]

    @property
    def is_empty(self) -> bool:
        return not (self.rows and self.columns)


@final
@dataclass(frozen=True, slots=True)
class RankedRow:
    """Values of one thing, at least one; its mean decides its place."""

    label: str
    colour: int
    values: Sequence[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)


@final
@dataclass(frozen=True, slots=True)
class Ranking:
    """Values of several things side by side: runs as dots, their mean as a line.

    Args:
        name, title: As of a line chart.
        rows: In any order.
        axis: Of the values.
    """

    name: str
    title: str
    rows: Sequence[RankedRow]
    axis: Axis

    @property
    def is_empty(self) -> bool:
        return not self.rows

    @property
    def ordered(self) -> list[RankedRow]:
        """The largest mean first."""
        return sorted(self.rows, key=lambda row: -row.mean)


Chart: TypeAlias = LineChart | HeatMap | Ranking


def shortened(name: str, length: int = 30) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= length else "…" + name[-(length - 1) :]


def file_name(text: str) -> str:
    """`text` fit for the name of a file: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "chart"
