"""What is drawn of a study: its results along its axis, the insides of its runs, the line between two tickets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from itop.studies.landscape import read_landscape
from itop.studies.results import StudyResults
from itop.studies.series import Line, lines_of, number_axis, rates_over_axis
from itop.training.analysis_charts import Subject, analysis_charts
from itop.training.charts import (
    COLOURS,
    THEORY_COLOUR,
    Axis,
    Chart,
    LineChart,
    LineStyle,
    RankedRow,
    Ranking,
    Series,
)
from itop.training.theory import expected_exploration_of

__all__ = ["StudyCharts", "study_charts"]

_ACCURACY = Axis("test accuracy", percent=True)
_SHARE = Axis("part of all weights", percent=True, low=0, high=1)


@final
@dataclass(frozen=True, slots=True)
class StudyCharts:
    """Everything that is drawn of a study: along its axis, inside its runs, between its tickets."""

    main: tuple[Chart, ...]
    inside: tuple[Chart, ...]
    landscape: tuple[Chart, ...]

    @property
    def every(self) -> tuple[Chart, ...]:
        return (*self.main, *self.inside, *self.landscape)


def study_charts(results: StudyResults, subjects: Sequence[Subject]) -> StudyCharts:
    """The charts of a study, complete or not.

    Args:
        results: What came of its runs.
        subjects: Runs to look inside.
    """
    return StudyCharts(
        _main_charts(results, lines_of(results)),
        (*_exploration_charts(subjects), *analysis_charts(subjects)),
        _landscape_charts(results),
    )


def _main_charts(results: StudyResults, lines: Sequence[Line]) -> tuple[Chart, ...]:
    axis = results.study.axis
    moving = [line for line in lines if line.moves]
    scattered = (
        _scatter("explored", "R_s", "exploration_rate", Axis("explored, R_s", percent=True), lines),
        _scatter("reliable", "R_r", "reliable_rate", Axis("explored reliably, R_r", percent=True), moving),
        _scatter("flops", "training FLOPs", "train_flops_ratio", Axis("training FLOPs, × dense", low=0), lines),
    )
    if axis is None:
        rows = [
            RankedRow(line.label, line.colour, spread.values)
            for line in lines
            for point in line.points
            if (spread := point.spread("test_accuracy")) is not None
        ]
        return (Ranking("accuracy", "Test accuracy, every run and the mean", rows, _ACCURACY), *scattered)
    x_axis = number_axis(axis)
    gap = Axis("training minus test accuracy", percent=True, is_difference=True)
    return (
        LineChart(
            "accuracy",
            f"Test accuracy against {axis.label}",
            [line.over_axis("accuracy", "test_accuracy") for line in lines],
            x_axis,
            _ACCURACY,
        ),
        LineChart("exploration", f"Explored weights against {axis.label}", rates_over_axis(lines), x_axis, _SHARE),
        *scattered,
        LineChart(
            "train-test-gap",
            f"Train-test gap against {axis.label}",
            [line.gap_over_axis() for line in lines],
            x_axis,
            gap,
        ),
    )


def _scatter(name: str, what: str, number: str, x_axis: Axis, lines: Sequence[Line]) -> LineChart:
    series = [line.scattered(number) for line in lines]
    return LineChart(f"accuracy-{name}", f"Every run: accuracy against {what}", series, x_axis, _ACCURACY)


def _exploration_charts(subjects: Sequence[Subject]) -> tuple[Chart, ...]:
    """R_s(t) with theory and bound, and R_r(t)."""
    explored, reliable, bounds = [], [], []
    for subject in subjects:
        updates = subject.run.updates
        steps = [update.step for update in updates]
        explored.append(subject.line("R_s", steps, [update.exploration_rate for update in updates]))
        reliable.append(subject.line("R_r", steps, [update.reliable_rate for update in updates]))
        expected = expected_exploration_of(updates)
        if expected is not None:
            explored.append(
                Series(
                    f"{subject.label}, theory",
                    f"{subject.label} theory",
                    THEORY_COLOUR,
                    expected.steps,
                    expected.random_growth,
                    style=LineStyle.DASHED,
                    faint=True,
                    legend="theory of random growth, of each",
                )
            )
            bounds.append(subject.line("bound", expected.steps, expected.bound, style=LineStyle.DOTTED))
    steps_axis = Axis("optimiser step", low=0)
    share_from_zero = Axis("part of all weights", percent=True, low=0)
    charts = (
        LineChart("explored-over-time", "R_s over time, with theory", explored, steps_axis, _SHARE),
        LineChart("reliable-over-time", "R_r over time", reliable, steps_axis, share_from_zero),
        LineChart("bound-over-time", "What no growth rule exceeds", bounds, steps_axis, _SHARE),
    )
    return tuple(chart for chart in charts if not chart.is_empty)


def _landscape_charts(results: StudyResults) -> tuple[Chart, ...]:
    paths = read_landscape(results.root)
    lines = [
        Series(label, f"{label} path", COLOURS[index % len(COLOURS)], paths[label]["positions"], paths[label]["losses"])
        for index, label in enumerate(point.label for point in results.points if point.label in paths)
    ]
    position, loss = Axis("position on the line", low=0, high=1), Axis("cross-entropy on test images")
    return (LineChart("landscape", "Loss between two seeds' tickets", lines, position, loss),) if lines else ()
