"""What came of a study: one row a cell, one a point, and the hypothesis as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from itop.analysis.correlation import Correlation, HypothesisTest, correlate_hypothesis
from itop.methods import PRESETS, Density
from itop.studies.cell import Cell, label_of
from itop.studies.study import Study
from itop.training.config import FIELDS
from itop.training.files import read_json
from itop.training.summary import Spread

__all__ = ["CellResult", "PointResult", "StudyResults", "in_words", "read_results"]


@final
@dataclass(frozen=True, slots=True)
class CellResult:
    """A cell and, once it is complete, its numbers: fractions in [0, 1].

    Args:
        cell: Which.
        summary: The content of its ``summary.json``; None while it is not complete.
        failure: Why it could not be completed; None where it did not fail.
    """

    cell: Cell
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
class PointResult:
    """The complete cells of one point, over its seeds."""

    axes: Mapping[str, Any]
    is_baseline: bool
    cells: tuple[CellResult, ...]

    @property
    def complete(self) -> tuple[CellResult, ...]:
        return tuple(result for result in self.cells if result.summary is not None)

    def spread(self, name: str) -> Spread | None:
        """Mean and standard deviation of one of the summaries' numbers over seeds; None where nobody has it."""
        values = [value for result in self.complete if (value := result.number(name)) is not None]
        return Spread(tuple(values)) if values else None

    def mean(self, name: str) -> float | None:
        spread = self.spread(name)
        return None if spread is None else spread.mean

    @property
    def generalisation_gap(self) -> Spread | None:
        gaps = [gap for result in self.complete if (gap := result.generalisation_gap) is not None]
        return Spread(tuple(gaps)) if gaps else None

    @property
    def prediction_deviations(self) -> tuple[float, ...]:
        return tuple(z for result in self.complete if (z := result.prediction_deviation) is not None)

    @property
    def label(self) -> str:
        return label_of(self.axes)


@final
@dataclass(frozen=True, slots=True)
class StudyResults:
    """A study with what its cells have come to so far."""

    study: Study
    root: Path
    cells: tuple[CellResult, ...]

    @property
    def points(self) -> tuple[PointResult, ...]:
        by_identity = {result.cell.identity: result for result in self.cells}
        return tuple(
            PointResult(cells[0].axes, cells[0].is_baseline, tuple(by_identity[cell.identity] for cell in cells))
            for cells in self.study.points.values()
        )

    @property
    def complete(self) -> tuple[CellResult, ...]:
        return tuple(result for result in self.cells if result.summary is not None)

    @property
    def failures(self) -> tuple[CellResult, ...]:
        return tuple(result for result in self.cells if result.failure is not None and result.summary is None)

    @property
    def exploring(self) -> tuple[CellResult, ...]:
        """The complete cells that explore: no baselines, a topology that moved, at a density that was never higher.

        Pruning a dense network moves its topology too, but explores nothing.
        """
        return tuple(
            result
            for result in self.complete
            if not result.cell.is_baseline
            and (result.number("num_updates") or 0) > 0
            and PRESETS[result.cell.config.method].density is Density.CONSTANT
        )

    @property
    def confounders(self) -> tuple[str, ...]:
        """What differs between exploring cells beside how they explore, and may move accuracy by itself."""
        told: dict[str, set[str]] = {}
        for result in self.exploring:
            for name, value in result.cell.axes.items():
                if name in FIELDS:
                    told.setdefault(name, set()).add(str(value))
        return tuple(name for name, values in told.items() if len(values) > 1)

    def hypothesis(self) -> HypothesisTest | None:
        """Rank correlation of test accuracy with R_s and with R_r over the cells that explore.

        Cells of one point are resampled together. None with fewer than three such points, or where nothing varies.
        """
        exploring = self.exploring
        points = [result.cell.point for result in exploring]
        if len(set(points)) < 3:
            return None
        columns = [
            [float(result.number(name) or 0.0) for result in exploring]
            for name in ("test_accuracy", "exploration_rate", "reliable_rate")
        ]
        if any(len(set(column)) < 2 for column in columns):
            return None
        return correlate_hypothesis(columns[0], columns[1], columns[2], groups=points)

    def largest_deviation(self) -> float | None:
        """Of measured from predicted R_s over all cells, in standard deviations of one run."""
        deviations = [abs(z) for result in self.complete if (z := result.prediction_deviation) is not None]
        return max(deviations, default=None)


def in_words(what: str, correlation: Correlation, confounders: Sequence[str]) -> str:
    """What a correlation of accuracy with a number of weights says, in a sentence or two.

    Args:
        what: Of the weights: "explored".
        correlation: With its interval.
        confounders: What else differs between the runs.
    """
    low, high = correlation.bootstrap.low, correlation.bootstrap.high
    if low <= 0 <= high:
        return f"No relation of accuracy to the number of weights {what} can be told from chance."
    said = f"Accuracy {'rises' if low > 0 else 'falls'} with the number of weights {what}"
    if not confounders:
        return f"{said}."
    others = " and ".join(name.replace("_", " ") for name in confounders)
    return f"{said}, but these runs differ in {others} too, which may be why."


def read_results(root: Path) -> StudyResults:
    """The study in folder `root` with everything its cells have written; complete or not.

    Raises:
        FileNotFoundError: If the folder is none of a study.
        ValueError: If a file in it is damaged; the message names it.
    """
    study = Study.load(root)
    return StudyResults(study, root, tuple(_read(cell, root) for cell in study.cells))


def _read(cell: Cell, root: Path) -> CellResult:
    folder = cell.folder(root)
    summary = read_json(folder.summary) if folder.is_complete else None
    failure = None
    if summary is None and cell.failure(root).exists():
        failure = str(read_json(cell.failure(root)).get("reason", "unknown"))
    return CellResult(cell, summary, failure)
