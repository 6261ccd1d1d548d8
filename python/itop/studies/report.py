"""``report.html`` of a study: one self-contained page, with its tables as CSV and LaTeX beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from itop.analysis.correlation import Correlation
from itop.studies.landscape import read_landscape
from itop.studies.results import StudyResults, in_words, read_results
from itop.studies.series import lines_of
from itop.studies.study_charts import study_charts
from itop.training.analysis_charts import (
    Subject,
    ensembles_of,
    ensembles_section,
    pictures_section,
)
from itop.training.charts import COLOURS, Chart
from itop.training.config import shared_fields
from itop.training.drawing import draw, typeset
from itop.training.files import write_text
from itop.training.layer_table import layer_table
from itop.training.outcomes import Outcome, Point
from itop.training.page import environment_list, failures_card, fill, page, rate, selection, table
from itop.training.printing import FORMATS, write_figures
from itop.training.run_view import RunView, read_run
from itop.training.summary import Spread
from itop.training.tables import cells_csv, points_latex, write_tables

__all__ = ["write_study_figures", "write_study_report"]

_MOST_POINTS = 8


def write_study_report(root: Path) -> Path:
    """Writes ``report.html``, ``cells.csv``, ``points.csv`` and ``points.tex`` into a study's folder, complete or not.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If `root` is no study's folder.
        ValueError: If a file in it is damaged; the message names it.
    """
    results = read_results(root)
    write_tables(results.cells, root, results.study.title)
    path = root / "report.html"
    write_text(path, _page(results))
    return path


def write_study_figures(root: Path, formats: Sequence[str] = FORMATS) -> tuple[Path, ...]:
    """Writes every chart of a study's page as a paper prints it into its folder ``figures``; returns the paths.

    Args:
        root: The study's folder, complete or not.
        formats: As of :func:`itop.training.printing.write_figures`.

    Raises:
        FileNotFoundError: If `root` is no study's folder.
        ValueError: If a file in it is damaged; the message names it.
    """
    results = read_results(root)
    charts = study_charts(results, _subjects(results))
    return write_figures(charts.every, root / "figures", formats)


def _page(results: StudyResults) -> str:
    study = results.study
    subjects = _subjects(results)
    charts = study_charts(results, subjects)
    environment: Mapping[str, Any] = next(
        (run.summary["environment"] for run in results.complete if run.summary is not None), {}
    )
    sections = {
        "title": escape(study.title),
        "subtitle": escape(_subtitle(results)),
        "question": escape(study.question),
        "failures": failures_card(results.cells),
        "hypothesis": _hypothesis(results),
        "selection": selection([(line.label, line.colour) for line in lines_of(results)]),
        "main": "".join(draw(chart) for chart in charts.main),
        "table": _table(results),
        "inside": _inside(subjects, charts.inside),
        "pictures": _pictures(subjects),
        "ensembles": _ensembles(results),
        "landscape": _landscape(results, charts.landscape),
        "layers": _layers(subjects),
        "command": escape(str(environment.get("command", ""))),
        "environment": environment_list(environment),
        "configuration": escape(json.dumps(shared_fields([cell.config for cell in results.study.cells]), indent=2)),
        "latex": escape(points_latex(results.cells, study.title)),
        "csv": escape(cells_csv(results.cells, results.root)),
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


def _row(point: Point) -> tuple[str, ...]:
    gap, deviations = point.generalisation_gap, point.prediction_deviations
    updates, train, test = (point.mean(name) for name in ("num_updates", "train_flops_ratio", "test_flops_ratio"))
    kind = ' <span class="kind">baseline</span>' if point.is_baseline else ""
    return (
        escape(point.label) + kind,
        f"{len(point.complete)}/{len(point.runs)}",
        f"<strong>{_spread(point.spread('test_accuracy'))}</strong>",
        "–" if gap is None else f"{round(gap.mean * 100, 2) + 0.0:.2f}",  # no negative zero
        rate(point.mean("exploration_rate")),
        rate(point.mean("predicted_exploration")) + (f", {max(deviations, key=abs):+.1f} σ" if deviations else ""),
        rate(point.mean("reliable_rate")) if updates else "–",
        "–" if updates is None else f"{updates:g}",
        "–" if train is None else f"{train:.3g}×",
        "–" if test is None else f"{test:.3g}×",
    )


def _subjects(results: StudyResults) -> list[Subject]:
    """The moving points, one run of each, spread over the study where there are more than there are colours."""
    found: list[tuple[Point, RunView]] = []
    for point in results.points:
        run = next(iter(_runs(point.complete)), None)
        if run is not None and run.updates and not point.is_baseline:
            found.append((point, run))
    stride = max(1, -(-len(found) // _MOST_POINTS))
    own = {line.label: line.colour for line in lines_of(results)}  # where a point is a line, they look alike
    return [
        Subject(point.label, own.get(point.label, COLOURS[index % len(COLOURS)]), run)
        for index, (point, run) in enumerate(found[::stride])
    ]


def _runs(runs: Iterable[Outcome]) -> list[RunView]:
    read = [read_run(run.folder, run.config) for run in runs]
    return [run for run in read if run is not None]


def _inside(subjects: Sequence[Subject], charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    return (
        f'<h2>Inside the runs</h2><p class="note">{_of_which(subjects)}. Theory is what the same schedule gives with random '
        f"growth.</p>{selection([(subject.label, subject.colour) for subject in subjects])}"
        f'<div class="grid-2">{"".join(draw(chart) for chart in charts)}</div>'
    )


def _layers(subjects: Sequence[Subject]) -> str:
    if not subjects:
        return ""
    tables = "".join(layer_table(subject.label, subject.run) for subject in subjects)
    return (
        f'<h2>Layers at the end</h2><p class="note">{_of_which(subjects)}: measured beside the expectation and the bound that '
        f"the numbers of dropped and grown weights imply.</p>{tables}"
    )


def _of_which(subjects: Sequence[Subject]) -> str:
    seeds = {subject.run.config.seed for subject in subjects}
    return f"One run of each point, seed {seeds.pop()}" if len(seeds) == 1 else "The first complete run of each point"


def _pictures(subjects: Sequence[Subject]) -> str:
    shown = subjects if len(subjects) <= 3 else [subjects[0], subjects[len(subjects) // 2], subjects[-1]]
    return pictures_section(shown, subjects)


def _ensembles(results: StudyResults) -> str:
    return ensembles_section(
        [row for point in results.points for row in ensembles_of(point.label, _runs(point.complete))]
    )


def _landscape(results: StudyResults, charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    paths = read_landscape(results.root)
    rows = [
        (
            escape(point.label),
            f"{path['barrier']:.3f}",
            f"{path['distance']:.3f}" if path["distance"] is not None else "–",
            f"{path['union_density'] * 100:.1f} %",
        )
        for point in results.points
        if (path := paths.get(point.label)) is not None
    ]
    head = ("Tickets", "Barrier", "NNSTD", "Density of both together")
    return (
        "<h2>Between two tickets</h2>"
        '<p class="note">Along the straight line from the network of one seed to that of the next: where the loss '
        "rises in between, the two lie in different basins.</p>"
        f'<div class="grid-2">{"".join(draw(chart) for chart in charts)}<div class="card">{table(head, rows)}</div></div>'
    )


def _spread(value: Spread | None) -> str:
    return "–" if value is None else value.in_percent()
