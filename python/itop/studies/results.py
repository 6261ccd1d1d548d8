"""What came of a study: one row a cell, one a point, and the hypothesis as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from itop.analysis.correlation import Correlation, HypothesisTest, correlate_hypothesis
from itop.methods import PRESETS, Density
from itop.studies.study import Study
from itop.training.config import FIELDS
from itop.training.outcomes import Outcome, Point, points_of, read_outcome

__all__ = ["StudyResults", "in_words", "read_results"]


@final
@dataclass(frozen=True, slots=True)
class StudyResults:
    """A study with what its cells have come to so far."""

    study: Study
    root: Path
    cells: tuple[Outcome, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        return points_of(self.cells)

    @property
    def complete(self) -> tuple[Outcome, ...]:
        return tuple(result for result in self.cells if result.summary is not None)

    @property
    def failures(self) -> tuple[Outcome, ...]:
        return tuple(result for result in self.cells if result.failure is not None and result.summary is None)

    @property
    def exploring(self) -> tuple[Outcome, ...]:
        """The complete cells that explore: no baselines, a topology that moved, at a density that was never higher.

        Pruning a dense network moves its topology too, but explores nothing.
        """
        return tuple(
            result
            for result in self.complete
            if not result.is_baseline
            and (result.number("num_updates") or 0) > 0
            and PRESETS[result.config.method].density is Density.CONSTANT
        )

    @property
    def confounders(self) -> tuple[str, ...]:
        """What differs between exploring cells beside how they explore, and may move accuracy by itself."""
        told: dict[str, set[str]] = {}
        for result in self.exploring:
            for name, value in result.axes.items():
                if name in FIELDS:
                    told.setdefault(name, set()).add(str(value))
        return tuple(name for name, values in told.items() if len(values) > 1)

    def hypothesis(self) -> HypothesisTest | None:
        """Rank correlation of test accuracy with R_s and with R_r over the cells that explore.

        Cells of one point are resampled together. None with fewer than three such points, or where nothing varies.
        """
        exploring = self.exploring
        points = [result.point for result in exploring]
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
    cells = [
        read_outcome(cell.config, cell.axes, cell.folder(root), is_baseline=cell.is_baseline) for cell in study.cells
    ]
    return StudyResults(study, root, tuple(cells))
