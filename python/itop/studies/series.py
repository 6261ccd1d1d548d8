"""Points of a study that belong on one line of a figure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from itop.methods import PRESETS, Family
from itop.studies.results import StudyResults
from itop.studies.study import Axis as StudyAxis
from itop.training.charts import COLOURS, REFERENCE_COLOURS, THEORY_COLOUR, Axis, LineStyle, Series, Spacing
from itop.training.outcomes import Point, label_of
from itop.training.summary import Spread

__all__ = ["Line", "lines_of", "number_axis", "rates_over_axis"]

_PERCENT = {"sparsity", "drop_fraction", "train_fraction"}


@final
@dataclass(frozen=True, slots=True)
class Line:
    """Points that agree in everything but the study's axis; a baseline that lacks the axis is a level.

    Args:
        label: What they agree in.
        colour: Index into the page's series colours.
        axis: Name of the study's axis; None where it has none.
        points: In ascending order along it.
        reach: The ends of the axis over the whole study, between which a level is drawn.
    """

    label: str
    colour: int
    axis: str | None
    points: tuple[Point, ...]
    reach: tuple[float, float]

    @property
    def is_level(self) -> bool:
        return any(_place(point, self.axis) is None for point in self.points)

    @property
    def moves(self) -> bool:
        """Whether the topology does."""
        return any((point.mean("num_updates") or 0) > 0 for point in self.points)

    @property
    def is_predicted(self) -> bool:
        return any(point.mean("predicted_exploration") is not None for point in self.points)

    def over_axis(
        self, what: str, name: str, *, colour: int | None = None, style: LineStyle = LineStyle.SOLID
    ) -> Series:
        """One of the summaries' numbers along the axis: mean and standard deviation over seeds."""
        suffix = "" if what == "accuracy" else f" {what}"
        return self._drawn(what, f"{self.label}{suffix}", lambda point: point.spread(name), colour, style)

    def gap_over_axis(self) -> Series:
        """Training minus test accuracy along the axis."""
        return self._drawn("gap", self.label, lambda point: point.generalisation_gap, None, LineStyle.SOLID)

    def scattered(self, name: str) -> Series:
        """Test accuracy of each run against one of its numbers."""
        pairs = sorted(
            (x, y)
            for point in self.points
            for result in point.complete
            if (x := result.number(name)) is not None and (y := result.number("test_accuracy")) is not None
        )
        return Series(
            self.label,
            f"{self.label} runs",
            self.colour,
            [pair[0] for pair in pairs],
            [pair[1] for pair in pairs],
            style=LineStyle.POINTS,
        )

    def _drawn(
        self,
        what: str,
        label: str,
        spread_of: Callable[[Point], Spread | None],
        colour: int | None,
        style: LineStyle,
    ) -> Series:
        known = [(point, spread) for point in self.points if (spread := spread_of(point)) is not None]
        if self.is_level:
            known = known[:1]
            x: list[float] = list(dict.fromkeys(self.reach)) if known else []
            known = known * len(x)
            style = LineStyle.DASHED if style is LineStyle.SOLID else style
        else:
            x = [place for point, _ in known if (place := _place(point, self.axis)) is not None]
        several = any(len(spread.values) > 1 for _, spread in known)
        return Series(
            label,
            f"{self.label} {what}",
            self.colour if colour is None else colour,
            x,
            [spread.mean for _, spread in known],
            [spread.std for _, spread in known] if several and not self.is_level else None,
            style,
            has_dots=not self.is_level and style in (LineStyle.SOLID, LineStyle.DASHED),
        )


def lines_of(results: StudyResults) -> tuple[Line, ...]:
    """The lines of a study's figures, the studied ones before the baselines."""
    axis = None if results.study.axis is None else results.study.axis.name
    groups: dict[str, list[Point]] = {}
    for point in sorted(results.points, key=lambda point: point.is_baseline):
        told = {name: value for name, value in point.axes.items() if name != axis}
        groups.setdefault(label_of(told), []).append(point)
    values = [place for point in results.points if (place := _place(point, axis)) is not None]
    reach = (min(values), max(values)) if values else (0.0, 0.0)
    colours, references = itertools.cycle(COLOURS), itertools.cycle(REFERENCE_COLOURS)
    return tuple(
        Line(label, next(references if _is_reference(points) else colours), axis, tuple(_sorted(points, axis)), reach)
        for label, points in groups.items()
    )


def rates_over_axis(lines: Sequence[Line]) -> list[Series]:
    """R_s and R_r of each line along the axis, and R_s as theory predicts it."""
    series = [line.over_axis("R_s", "exploration_rate") for line in lines]
    series += [line.over_axis("R_r", "reliable_rate", style=LineStyle.DASHED) for line in lines if line.moves]
    return series + [
        line.over_axis("R_s predicted", "predicted_exploration", colour=THEORY_COLOUR, style=LineStyle.DOTTED)
        for line in lines
        if line.is_predicted
    ]


def _is_reference(points: Sequence[Point]) -> bool:
    families = [
        PRESETS[str(point.axes.get("method"))].family for point in points if point.axes.get("method") in PRESETS
    ]
    return all(point.is_baseline for point in points) or (
        bool(families) and all(family is Family.REFERENCE for family in families)
    )


def number_axis(axis: StudyAxis) -> Axis:
    """The study's axis as a chart draws it; sparsities so that what is left of the weights can be told apart."""
    spacing = Spacing.LOGARITHMIC if axis.is_logarithmic else Spacing.LINEAR
    if axis.name == "sparsity":
        spacing = Spacing.COMPLEMENT
    return Axis(axis.label, percent=axis.name in _PERCENT, spacing=spacing)


def _sorted(points: Sequence[Point], axis: str | None) -> list[Point]:
    """In ascending order along the axis; as they are where one has no place on it."""
    places = [_place(point, axis) for point in points]
    if any(place is None for place in places):
        return list(points)
    return [point for _, point in sorted(zip(places, points, strict=True), key=lambda pair: pair[0] or 0.0)]


def _place(point: Point, axis: str | None) -> float | None:
    """Where a point stands on the axis; None where it has no number there."""
    value = None if axis is None else point.axes.get(axis)
    return float(value) if isinstance(value, (int, float)) else None
