"""``report.html`` of a study: one self-contained page, with its tables as CSV and LaTeX beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, final

from itop.analysis.correlation import Correlation
from itop.studies.landscape import read_landscape
from itop.studies.results import CellResult, PointResult, StudyResults, in_words, read_results
from itop.studies.series import Line, lines_of, number_axis, rates_over_axis
from itop.studies.tables import cells_csv, points_latex, write_tables
from itop.training.analysis_charts import (
    Subject,
    analysis_figures,
    ensembles_of,
    ensembles_section,
    pictures_section,
)
from itop.training.charts import COLOURS, THEORY_COLOUR, Axis, LineStyle, Series, line_chart, typeset
from itop.training.config import shared_fields
from itop.training.files import write_text
from itop.training.page import environment_list, fill, page, selection, table
from itop.training.ranking import ranking
from itop.training.run_view import RunView, read_run
from itop.training.summary import Spread
from itop.training.theory import expected_exploration_of

__all__ = ["write_study_report"]

_MOST_POINTS = 8
_ACCURACY = Axis("test accuracy", percent=True)
_SHARE = Axis("part of all weights", percent=True, low=0, high=1)


@final
@dataclass(frozen=True, slots=True)
class _Point:
    """A point with the run that stands for it inside the page."""

    result: PointResult
    subject: Subject


def write_study_report(root: Path) -> Path:
    """Writes ``report.html``, ``cells.csv``, ``points.csv`` and ``points.tex`` into a study's folder, complete or not.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If `root` is no study's folder.
        ValueError: If a file in it is damaged; the message names it.
    """
    results = read_results(root)
    write_tables(results, root)
    path = root / "report.html"
    write_text(path, _page(results))
    return path


def _page(results: StudyResults) -> str:
    study = results.study
    lines = lines_of(results)
    points = _points(results)
    environment: Mapping[str, Any] = next(
        (result.summary["environment"] for result in results.complete if result.summary is not None), {}
    )
    sections = {
        "title": escape(study.title),
        "subtitle": escape(_subtitle(results)),
        "question": escape(study.question),
        "failures": _failures(results),
        "hypothesis": _hypothesis(results),
        "selection": selection([(line.label, line.colour) for line in lines]),
        "main": _main_charts(results, lines),
        "table": _table(results),
        "seed": str(study.cells[0].config.seed),
        "point_selection": selection([(point.subject.label, point.subject.colour) for point in points]),
        "inside": "".join(_exploration_charts(points)) + analysis_figures([point.subject for point in points]),
        "pictures": _pictures(points),
        "ensembles": _ensembles(results),
        "landscape": _landscape(results),
        "layers": "".join(_layer_table(point) for point in points),
        "command": escape(str(environment.get("command", ""))),
        "environment": environment_list(environment),
        "configuration": escape(json.dumps(shared_fields([cell.config for cell in results.study.cells]), indent=2)),
        "latex": escape(points_latex(results)),
        "csv": escape(cells_csv(results)),
    }
    return page(study.title, fill("study_template.html", sections, "itop.studies"))


def _subtitle(results: StudyResults) -> str:
    config = results.study.cells[0].config
    seeds = len({cell.config.seed for cell in results.study.cells})
    parts = [f"study {results.study.name}"]
    if config.recipe is not None:
        parts.append(f"recipe {config.recipe}")
    axes = {axis for cell in results.study.cells for axis in cell.axes}
    if "sparsity" not in axes:
        parts.append(f"sparsity {config.sparsity * 100:g} %")
    if not axes & {"epochs", "multiplier", "batch_size"}:
        parts.append(f"{config.num_epochs} epochs of batches of {config.batch_size}")
    if config.train_fraction < 1.0:
        parts.append(f"{config.train_fraction * 100:.3g} % of the training set")
    parts.append(f"{seeds} seed{'s' if seeds > 1 else ''}")
    complete, total = len(results.complete), len(results.cells)
    parts.append(f"{total} runs" if complete == total else f"{complete} of {total} runs complete")
    return " · ".join(parts)


def _failures(results: StudyResults) -> str:
    if not results.failures:
        return ""
    entries = "".join(
        f"<li><strong>{escape(result.cell.label)}</strong>: {escape(str(result.failure))}</li>"
        for result in results.failures
    )
    return f'<div class="card failures"><p>{len(results.failures)} runs failed:</p><ul>{entries}</ul></div>'


def _hypothesis(results: StudyResults) -> str:
    test = results.hypothesis()
    if test is None:
        return (
            '<p class="note">Too few points for a correlation: it takes three that explore at a constant density.</p>'
            + _theory(results)
        )
    rows = [
        (
            f"accuracy and {typeset(name)}",
            f"<strong>{correlation.value:+.2f}</strong>",
            _interval(correlation),
            _fisher(correlation),
        )
        for name, correlation in (("R_s", test.exploration), ("R_r", test.reliable))
    ]
    head = ("Spearman's rank correlation of", "value", "95 % interval, points resampled", "95 % interval, Fisher")
    confounders = results.confounders
    words = [
        in_words("explored (R_s)", test.exploration, confounders),
        in_words("reliably explored (R_r)", test.reliable, confounders),
    ]
    return (
        f'<p class="note">Over {test.exploration.num_points} runs that explore at a constant density; baselines are left '
        f"out. {typeset(' '.join(words))}</p>{_theory(results)}"
        f'<div class="card">{table(head, rows)}</div>'
    )


def _theory(results: StudyResults) -> str:
    deviation = results.largest_deviation()
    if deviation is None:
        return ""
    said = f"The largest deviation of a run's R_s from the closed form is {deviation:.1f} standard deviations."
    return f'<p class="note">{typeset(said)}</p>'


def _interval(correlation: Correlation) -> str:
    return f"{correlation.bootstrap.low:+.2f} … {correlation.bootstrap.high:+.2f}"


def _fisher(correlation: Correlation) -> str:
    return f"{correlation.fisher.low:+.2f} … {correlation.fisher.high:+.2f}"


# --- results --------------------------------------------------------------------------------------------------------


def _main_charts(results: StudyResults, lines: Sequence[Line]) -> str:
    charts = []
    axis = results.study.axis
    if axis is None:
        charts.append(
            ranking(
                [
                    (line.label, line.colour, spread.values)
                    for line in lines
                    for point in line.points
                    if (spread := point.spread("test_accuracy")) is not None
                ],
                title="Test accuracy, every run and the mean",
                axis=_ACCURACY,
            )
        )
    else:
        x_axis = number_axis(axis)
        charts.append(
            line_chart(
                [line.over_axis("accuracy", "test_accuracy") for line in lines],
                title=f"Test accuracy against {axis.label}",
                x_axis=x_axis,
                y_axis=_ACCURACY,
            )
        )
        charts.append(
            line_chart(
                rates_over_axis(lines), title=f"Explored weights against {axis.label}", x_axis=x_axis, y_axis=_SHARE
            )
        )
    share = Axis("explored, R_s", percent=True)
    reliable = Axis("explored reliably, R_r", percent=True)
    flops = Axis("training FLOPs, × dense", low=0)
    for title, name, x_axis, chosen in (
        ("Every run: accuracy against R_s", "exploration_rate", share, lines),
        ("Every run: accuracy against R_r", "reliable_rate", reliable, [line for line in lines if line.moves]),
        ("Every run: accuracy against training FLOPs", "train_flops_ratio", flops, lines),
    ):
        charts.append(
            line_chart([line.scattered(name) for line in chosen], title=title, x_axis=x_axis, y_axis=_ACCURACY)
        )
    gap = Axis("training minus test accuracy", percent=True, is_difference=True)
    if axis is not None:
        charts.append(
            line_chart(
                [line.gap_over_axis() for line in lines],
                title=f"Train-test gap against {axis.label}",
                x_axis=number_axis(axis),
                y_axis=gap,
            )
        )
    return "".join(charts)


def _table(results: StudyResults) -> str:
    head = (
        "Point",
        "Runs",
        "Test accuracy",
        "Train − test",
        "R<sub>s</sub>",
        "predicted",
        "R<sub>r</sub>",
        "Updates",
        "Training FLOPs",
        "Inference FLOPs",
    )
    return table(head, [_row(point) for point in results.points], kind="results")


def _row(point: PointResult) -> tuple[str, ...]:
    gap, deviations = point.generalisation_gap, point.prediction_deviations
    updates, train, test = (point.mean(name) for name in ("num_updates", "train_flops_ratio", "test_flops_ratio"))
    kind = ' <span class="kind">baseline</span>' if point.is_baseline else ""
    return (
        escape(point.label) + kind,
        f"{len(point.complete)}/{len(point.cells)}",
        f"<strong>{_spread(point.spread('test_accuracy'))}</strong>",
        "–" if gap is None else f"{gap.mean * 100:.2f}",
        _rate(point.mean("exploration_rate")),
        _rate(point.mean("predicted_exploration")) + (f", {max(deviations, key=abs):+.1f} σ" if deviations else ""),
        _rate(point.mean("reliable_rate")) if updates else "–",
        "–" if updates is None else f"{updates:g}",
        "–" if train is None else f"{train:.3g}×",
        "–" if test is None else f"{test:.3g}×",
    )


# --- inside the runs --------------------------------------------------------------------------------------------------


def _points(results: StudyResults) -> list[_Point]:
    """The moving points that have a complete run, spread over the study where there are more than there are colours."""
    found: list[tuple[PointResult, RunView]] = []
    for point in results.points:
        run = next(iter(_runs(results, point.complete)), None)
        if run is not None and run.updates and not point.is_baseline:
            found.append((point, run))
    stride = max(1, -(-len(found) // _MOST_POINTS))
    own = {line.label: line.colour for line in lines_of(results)}  # where a point is a line, they look alike
    return [
        _Point(point, Subject(point.label, own.get(point.label, COLOURS[index % len(COLOURS)]), run))
        for index, (point, run) in enumerate(found[::stride])
    ]


def _runs(results: StudyResults, cells: Iterable[CellResult]) -> list[RunView]:
    runs = [read_run(result.cell.folder(results.root), result.cell.config) for result in cells]
    return [run for run in runs if run is not None]


def _exploration_charts(points: Sequence[_Point]) -> list[str]:
    """R_s(t) with theory and bound, and R_r(t)."""
    if not points:
        return []
    explored, reliable, bounds = [], [], []
    for point in points:
        subject, updates = point.subject, point.subject.run.updates
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
    return [
        line_chart(explored, title="R_s over time, with theory", x_axis=steps_axis, y_axis=_SHARE),
        line_chart(
            reliable,
            title="R_r over time",
            x_axis=steps_axis,
            y_axis=Axis("part of all weights", percent=True, low=0),
        ),
        line_chart(bounds, title="What no growth rule exceeds", x_axis=steps_axis, y_axis=_SHARE) if bounds else "",
    ]


def _pictures(points: Sequence[_Point]) -> str:
    subjects = [point.subject for point in points]
    shown = subjects if len(subjects) <= 3 else [subjects[0], subjects[len(subjects) // 2], subjects[-1]]
    return pictures_section(shown, subjects)


def _ensembles(results: StudyResults) -> str:
    points = results.points
    return ensembles_section(
        [row for point in points for row in ensembles_of(point.label, _runs(results, point.complete))]
    )


def _landscape(results: StudyResults) -> str:
    paths = read_landscape(results.root)
    labels = [point.label for point in results.points if point.label in paths]
    if not labels:
        return ""
    lines = [
        Series(label, f"{label} path", COLOURS[index % len(COLOURS)], paths[label]["positions"], paths[label]["losses"])
        for index, label in enumerate(labels)
    ]
    chart = line_chart(
        lines,
        title="Loss between two seeds' tickets",
        x_axis=Axis("position on the line", low=0, high=1),
        y_axis=Axis("cross-entropy on test images"),
    )
    rows = [
        (
            escape(label),
            f"{paths[label]['barrier']:.3f}",
            f"{paths[label]['distance']:.3f}" if paths[label]["distance"] is not None else "–",
            f"{paths[label]['union_density'] * 100:.1f} %",
        )
        for label in labels
    ]
    head = ("Tickets", "Barrier", "NNSTD", "Density of both together")
    return (
        "<h2>Between two tickets</h2>"
        '<p class="note">Along the straight line from the network of one seed to that of the next: where the loss '
        "rises in between, the two lie in different basins.</p>"
        f'<div class="grid-2">{chart}<div class="card">{table(head, rows)}</div></div>'
    )


def _layer_table(point: _Point) -> str:
    run = point.subject.run
    if run.summary is None:
        return ""
    expected = expected_exploration_of(run.updates)
    rows = []
    for layer in run.summary["layers"]:
        theory = None if expected is None else expected.layers.get(layer["name"])
        rows.append(
            (
                f"<code>{escape(layer['name'])}</code>",
                escape(" × ".join(str(size) for size in layer["shape"])),
                f"{layer['num_active']:,}",
                _rate(layer["density"]),
                _rate(layer["exploration_rate"]),
                "–" if theory is None else _rate(theory[0]),
                "–" if theory is None else _rate(theory[1]),
                _rate(layer["reliable_rate"]),
            )
        )
    head = ("Layer", "Shape", "Active weights", "Density", "R<sub>s</sub>", "random growth", "bound", "R<sub>r</sub>")
    return f"<details><summary>{escape(point.subject.label)}</summary>{table(head, rows)}</details>"


def _spread(value: Spread | None) -> str:
    return "–" if value is None else value.in_percent()


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.2f} %"
