"""Where values lie on an axis, and which of them are marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from itop.training.charts import Axis, LineChart, LineStyle, Series, Spacing

__all__ = ["Scale", "scales_of"]


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high`, a tick every `step`, onto pixels from `start` to `end`."""

    low: float
    high: float
    step: float
    start: float
    end: float
    spacing: Spacing = Spacing.LINEAR

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
        if axis.spacing is not Spacing.LINEAR:
            first, last = axis.spacing.forward(low), axis.spacing.forward(high)
            room = (last - first) * 0.04 if last > first else 0.2
            low, high = axis.spacing.inverse(first - room), axis.spacing.inverse(last + room)
            return cls(low, high, _nice_step((high - low) / 5), start, end, axis.spacing)
        if high <= low:
            low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
        step = _nice_step((high - low) / 5)
        if padded:  # whole ticks around the data
            low = math.floor(low / step + 1e-9) * step if axis.low is None else low
            high = math.ceil(high / step - 1e-9) * step if axis.high is None else high
        room = margin * (high - low)
        low = low - room if axis.low is None else low
        high = high + room if axis.high is None else high
        return cls(low, high, step, start, end)

    def __call__(self, value: float) -> float:
        first, last = self.spacing.forward(self.low), self.spacing.forward(self.high)
        return self.start + (self.spacing.forward(value) - first) / (last - first) * (self.end - self.start)

    def ticks(self) -> list[float]:
        ticks = [] if self.spacing is Spacing.LINEAR else self._round_numbers()
        if len(ticks) >= 3:
            return ticks
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [index * self.step for index in range(first, last + 1)]

    def _round_numbers(self) -> list[float]:
        """From four to about twelve, as round as the spacing allows."""
        ends = sorted((self.low, self.high) if self.spacing is Spacing.LOGARITHMIC else (1 - self.low, 1 - self.high))
        powers = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
        ticks: list[float] = []
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8)):
            # Rounded, because 5 * 0.001 is not the nearest number to 0.005.
            numbers = [round(factor * 10.0**power, 12) for power in powers for factor in factors]
            if self.spacing is Spacing.COMPLEMENT:
                numbers = [round(1.0 - number, 12) for number in reversed(numbers)]
            ticks = [number for number in numbers if self.low <= number <= self.high]
            if len(ticks) >= 4:
                break
        return ticks


def scales_of(
    chart: LineChart, across: tuple[float, float] = (0.0, 1.0), upwards: tuple[float, float] = (0.0, 1.0)
) -> tuple[Scale, Scale]:
    """The scales of a chart's two axes, between the pixels named; the chart must not be empty."""
    drawn = [line for line in (line.finite() for line in chart.series) if line.x]
    is_marked = any(line.has_dots or line.style is LineStyle.POINTS for line in drawn)
    reach = [value for line in drawn for value in line.x]
    return (
        Scale.over(reach, chart.x_axis, *across, margin=0.04 if is_marked else 0.0),
        Scale.over(_extremes(drawn, settled=chart.y_axis.settled), chart.y_axis, *upwards, padded=True),
    )


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
