"""What is drawn of the runs of an experiment: curves, exploration beside theory, layers over updates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from itop.training.analysis_charts import Subject, analysis_charts
from itop.training.charts import THEORY_COLOUR, Axis, Chart, HeatMap, LineChart, LineStyle, Series, file_name
from itop.training.outcomes import Outcome
from itop.training.records import EpochRecord, UpdateRecord
from itop.training.run_view import RunView
from itop.training.summary import summarise_method
from itop.training.theory import expected_exploration_of

__all__ = ["MethodRuns", "RunCharts", "run_charts"]

_STEPS = Axis("optimiser step", low=0)
_SHARE = Axis("part of all weights", percent=True, low=0, high=1)


@final
@dataclass(frozen=True, slots=True)
class MethodRuns:
    """All seeds of one method: what came of each, and what those that have begun wrote."""

    name: str
    colour: int
    outcomes: tuple[Outcome, ...]
    runs: tuple[RunView, ...]

    @property
    def summary(self) -> Mapping[str, Any] | None:
        complete = [outcome.summary for outcome in self.outcomes if outcome.summary is not None]
        return summarise_method(complete) if complete else None

    @property
    def first_updating(self) -> RunView | None:
        return next((run for run in self.runs if run.updates), None)


@final
@dataclass(frozen=True, slots=True)
class RunCharts:
    """Everything that is drawn of an experiment, by the page's headings."""

    curves: tuple[Chart, ...]
    exploration: tuple[Chart, ...]
    heat_maps: tuple[Chart, ...]
    instruments: tuple[Chart, ...]

    @property
    def every(self) -> tuple[Chart, ...]:
        return (*self.curves, *self.exploration, *self.heat_maps, *self.instruments)


def run_charts(methods: Sequence[MethodRuns], subjects: Sequence[Subject]) -> RunCharts:
    """The charts of an experiment, complete or not.

    Args:
        methods: Its runs, by method.
        subjects: Runs that have looked inside themselves.
    """
    updating = [method for method in methods if method.first_updating is not None]
    return RunCharts(
        (_accuracy_chart(methods), _loss_chart(methods)),
        (_overview_chart(methods), *(_exploration_chart(method) for method in updating)),
        tuple(chart for method in updating for chart in _heat_maps(method)),
        analysis_charts(subjects),
    )


def _accuracy_chart(methods: Sequence[MethodRuns]) -> Chart:
    validated = any(epoch.validation_accuracy is not None for epoch in _all_epochs(methods))
    series = [
        _over_seeds(method, method.name, lambda e: e.validation_accuracy if validated else e.train_accuracy)
        for method in methods
    ]
    title = "Validation accuracy" if validated else "Training accuracy"
    return LineChart("accuracy", title, series, Axis("epoch"), Axis("accuracy", percent=True, settled=True))


def _loss_chart(methods: Sequence[MethodRuns]) -> Chart:
    series = [_over_seeds(method, f"{method.name}, training", lambda e: e.train_loss) for method in methods]
    if any(epoch.validation_loss is not None for epoch in _all_epochs(methods)):
        series += [
            _over_seeds(method, f"{method.name}, validation", lambda e: e.validation_loss, LineStyle.DASHED)
            for method in methods
        ]
    return LineChart("loss", "Loss", series, Axis("epoch"), Axis("cross-entropy", low=0, settled=True))


def _overview_chart(methods: Sequence[MethodRuns]) -> Chart:
    series = []
    for method in methods:
        series.append(_over_seeds(method, f"{method.name} R_s", lambda e: e.exploration_rate, x=_step))
        if method.first_updating is not None:  # reliable is what survived a round of dropping
            reliable = _over_seeds(method, f"{method.name} R_r", lambda e: e.reliable_rate, LineStyle.DASHED, x=_step)
            series.append(reliable)
    title = "Explored (R_s) and reliably explored (R_r) weights"
    return LineChart("exploration", title, series, _STEPS, _SHARE)


def _exploration_chart(method: MethodRuns) -> Chart:
    """R_s and R_r after every update of one method, with what theory expects of the same updates."""
    measured = [
        _over_updates(method, "R_s measured", lambda u: u.exploration_rate),
        _over_updates(method, "R_r measured", lambda u: u.reliable_rate, LineStyle.DASHED),
    ]
    run = method.first_updating
    expected = None if run is None else expected_exploration_of(run.updates)
    theory = []
    if expected is not None:
        grey = THEORY_COLOUR
        group = f"{method.name} theory"
        dashed, dotted = LineStyle.DASHED, LineStyle.DOTTED
        steps, random, bound = expected.steps, expected.random_growth, expected.bound
        theory = [
            Series("R_s of random growth, theory", f"{group} mean", grey, steps, random, style=dashed),
            Series("upper bound of R_s", f"{group} bound", grey, steps, bound, style=dotted),
        ]
    title = f"{method.name}: exploration against theory"
    return LineChart(f"exploration-{file_name(method.name)}", title, [*measured, *theory], _STEPS, _SHARE)


def _heat_maps(method: MethodRuns) -> tuple[Chart, ...]:
    run = method.first_updating
    if run is None:
        return ()
    names = list(run.updates[0].layers)
    columns = [f"update {update.update}" for update in run.updates]
    label = f"{method.name}, seed {run.config.seed}" if len(method.runs) > 1 else method.name

    def grid(what: str, title: str, value: Callable[[str, UpdateRecord], float]) -> HeatMap:
        values = [[value(name, update) for update in run.updates] for name in names]
        return HeatMap(f"{what}-{file_name(method.name)}", f"{label}: {title}", names, columns, values)

    return (
        grid("density", "density of each layer", lambda name, update: update.layers[name].density),
        grid("explored", "explored part of each layer", lambda name, update: update.layers[name].exploration_rate),
    )


def _over_seeds(
    method: MethodRuns,
    label: str,
    value: Callable[[EpochRecord], float | None],
    style: LineStyle = LineStyle.SOLID,
    *,
    x: Callable[[EpochRecord], int] = lambda epoch: epoch.epoch,
) -> Series:
    points = [(x(epoch), value(epoch)) for run in method.runs for epoch in run.epochs]
    return _mean_line(method, label, points, style)


def _over_updates(
    method: MethodRuns, label: str, value: Callable[[UpdateRecord], float], style: LineStyle = LineStyle.SOLID
) -> Series:
    points: list[tuple[int, float | None]] = [(u.step, value(u)) for run in method.runs for u in run.updates]
    return _mean_line(method, label, points, style)


def _mean_line(method: MethodRuns, label: str, points: Iterable[tuple[int, float | None]], style: LineStyle) -> Series:
    """The mean at each x over the runs that got there, and their standard deviation where there are several."""
    at: dict[int, list[float]] = {}
    for x, value in points:
        if value is not None and math.isfinite(value):
            at.setdefault(x, []).append(value)
    xs = sorted(at)
    means = [statistics.fmean(at[x]) for x in xs]
    spread = [statistics.stdev(at[x]) if len(at[x]) > 1 else 0.0 for x in xs]
    band = spread if len(method.runs) > 1 else None
    faint = style is not LineStyle.SOLID
    return Series(label, f"{method.name} {label}", method.colour, xs, means, band, style, faint)


def _all_epochs(methods: Sequence[MethodRuns]) -> Iterable[EpochRecord]:
    return (epoch for method in methods for run in method.runs for epoch in run.epochs)


def _step(epoch: EpochRecord) -> int:
    return epoch.step
