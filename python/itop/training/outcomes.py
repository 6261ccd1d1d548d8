"""What came of runs that stand side by side: one outcome a run, one point for those that differ in their seed alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from itop.training.config import JsonValue, RunConfig
from itop.training.files import read_json
from itop.training.run_folder import RunFolder
from itop.training.summary import Spread

__all__ = ["OnAxes", "Outcome", "Point", "label_of", "points_of", "read_outcome"]


def label_of(axes: Mapping[str, JsonValue]) -> str:
    """For people: ``rigl-itop, unexplored first, update every 100``; what is switched off is not told."""
    parts = []
    for name, value in axes.items():
        words = name.replace("_", " ")
        if name == "method":
            parts.append(str(value))
        elif value is True:
            parts.append(words)
        elif value is not False:
            parts.append(f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}")
    return ", ".join(parts) or "all runs"


class OnAxes:
    """A run that stands somewhere on some axes: its values on them tell its point from the others, its seed does not."""

    __slots__ = ()

    config: RunConfig
    axes: Mapping[str, JsonValue]

    @property
    def point(self) -> str:
        """The axes as text, equal for the seeds of one point."""
        return json.dumps(dict(self.axes), sort_keys=True)

    @property
    def label(self) -> str:
        """For people: ``update every 100, seed 2``."""
        return f"{label_of(self.axes)}, seed {self.config.seed}"


@final
@dataclass(frozen=True, slots=True)
class Outcome(OnAxes):
    """A run and, once it is complete, its numbers: fractions in [0, 1].

    Args:
        config: What was trained.
        axes: The values that tell this run's point from the others, by axis; the seed is none of them.
        is_baseline: Whether it is what the others are compared with.
        folder: Where it is.
        summary: The content of its ``summary.json``; None while it is not complete.
        failure: Why it could not be completed; None where it did not fail.
    """

    config: RunConfig
    axes: Mapping[str, JsonValue]
    is_baseline: bool
    folder: RunFolder
    summary: Mapping[str, Any] | None
    failure: str | None

    @property
    def status(self) -> str:
        return "complete" if self.summary is not None else "failed" if self.failure is not None else "open"

    def number(self, name: str) -> float | None:
        """One of the summary's numbers, of a spread its only value; None where there is none."""
        value = None if self.summary is None else self.summary.get(name)
        if isinstance(value, Mapping):
            value = value.get("mean", value.get("rate"))
        return None if value is None else float(value)

    @property
    def prediction_deviation(self) -> float | None:
        """Measured minus predicted R_s, in standard deviations of one run; None where theory says nothing.

        Nothing is left to chance where every weight is explored for sure: there the deviation is 0 or infinite.
        """
        predicted = None if self.summary is None else self.summary.get("predicted_exploration")
        measured = self.number("exploration_rate")
        if predicted is None or measured is None:
            return None
        gap, error = measured - predicted["rate"], predicted["standard_error"]
        if error < 1e-12:
            return 0.0 if abs(gap) < 1e-9 else math.copysign(math.inf, gap)
        return float(gap / error)

    @property
    def generalisation_gap(self) -> float | None:
        """Training minus test accuracy of the last model."""
        train, test = self.number("train_accuracy"), self.number("test_accuracy")
        return None if train is None or test is None else train - test


@final
@dataclass(frozen=True, slots=True)
class Point:
    """The runs of one point, over its seeds; numbers are those of the complete ones."""

    axes: Mapping[str, JsonValue]
    is_baseline: bool
    runs: tuple[Outcome, ...]

    @property
    def complete(self) -> tuple[Outcome, ...]:
        return tuple(run for run in self.runs if run.summary is not None)

    def spread(self, name: str) -> Spread | None:
        """Mean and standard deviation of one of the summaries' numbers over seeds; None where nobody has it."""
        values = [value for run in self.complete if (value := run.number(name)) is not None]
        return Spread(tuple(values)) if values else None

    def mean(self, name: str) -> float | None:
        spread = self.spread(name)
        return None if spread is None else spread.mean

    @property
    def generalisation_gap(self) -> Spread | None:
        gaps = [gap for run in self.complete if (gap := run.generalisation_gap) is not None]
        return Spread(tuple(gaps)) if gaps else None

    @property
    def prediction_deviations(self) -> tuple[float, ...]:
        return tuple(z for run in self.complete if (z := run.prediction_deviation) is not None)

    @property
    def label(self) -> str:
        return label_of(self.axes)


def points_of(runs: Sequence[Outcome]) -> tuple[Point, ...]:
    """The runs by point, in the order in which the points first appear."""
    found: dict[str, list[Outcome]] = {}
    for run in runs:
        found.setdefault(run.point, []).append(run)
    return tuple(Point(same[0].axes, same[0].is_baseline, tuple(same)) for same in found.values())


def read_outcome(
    config: RunConfig, axes: Mapping[str, JsonValue], folder: RunFolder, *, is_baseline: bool = False
) -> Outcome:
    """What a run has come to so far.

    Raises:
        ValueError: If its summary or its failure is damaged; the message names the file.
    """
    summary = read_json(folder.summary) if folder.is_complete else None
    failure = folder.read_failure() if summary is None else None
    return Outcome(config, axes, is_baseline, folder, summary, failure)
