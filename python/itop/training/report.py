"""``report.html`` of runs: one self-contained page, with their tables as CSV and LaTeX beside it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from itop.training.analysis_charts import (
    Subject,
    ensembles_of,
    ensembles_section,
    pictures_section,
)
from itop.training.charts import Chart
from itop.training.config import shared_fields
from itop.training.drawing import draw
from itop.training.experiment import Experiment
from itop.training.files import write_text
from itop.training.layer_table import layer_table
from itop.training.outcomes import Outcome, points_of, read_outcome
from itop.training.page import environment_list, failures_card, fill, page, selection, table
from itop.training.printing import FORMATS, write_figures
from itop.training.run_charts import MethodRuns, run_charts
from itop.training.run_folder import RunFolder
from itop.training.run_view import RunView, read_run
from itop.training.summary import spread_of
from itop.training.tables import cells_csv, points_latex, write_tables

__all__ = ["write_report", "write_report_figures"]

_METHOD_COLOURS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11)


def write_report(root: Path) -> Path:
    """Writes ``report.html``, ``cells.csv``, ``points.csv`` and ``points.tex`` into a run or experiment folder.

    Complete or not.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: If `root` is no such folder.
        ValueError: If a file in it is damaged; the message names it.
    """
    experiment = Experiment.load(root)
    methods = _read(experiment, root)
    write_tables(_outcomes(methods), root, _title(experiment))
    path = root / "report.html"
    write_text(path, _page(experiment, methods, root))
    return path


def write_report_figures(root: Path, formats: Sequence[str] = FORMATS) -> tuple[Path, ...]:
    """Writes every chart of a run's page as a paper prints it into its folder ``figures``; returns the paths.

    Args:
        root: The run's or the experiment's folder, complete or not.
        formats: As of :func:`itop.training.printing.write_figures`.

    Raises:
        FileNotFoundError: If `root` is no such folder.
        ValueError: If a file in it is damaged; the message names it.
    """
    methods = _read(Experiment.load(root), root)
    charts = run_charts(methods, _subjects(methods))
    return write_figures(charts.every, root / "figures", formats)


def _read(experiment: Experiment, root: Path) -> list[MethodRuns]:
    outcomes = [
        read_outcome(config, {"method": config.method}, RunFolder(experiment.folder_of(config, root)))
        for config in experiment.runs
    ]
    return [
        MethodRuns(
            str(point.axes["method"]),
            _METHOD_COLOURS[index % len(_METHOD_COLOURS)],
            point.runs,
            tuple(run for outcome in point.runs if (run := read_run(outcome.folder, outcome.config)) is not None),
        )
        for index, point in enumerate(points_of(outcomes))
    ]


def _outcomes(methods: Sequence[MethodRuns]) -> list[Outcome]:
    return [outcome for method in methods for outcome in method.outcomes]


def _title(experiment: Experiment) -> str:
    config = experiment.runs[0]
    return f"{config.model} on {config.data}"


def _subjects(methods: Sequence[MethodRuns]) -> list[Subject]:
    """The first run of each method that has looked inside itself."""
    return [
        Subject(method.name, method.colour, run)
        for method in methods
        if (run := next((run for run in method.runs if run.analysis is not None), None)) is not None
    ]


def _page(experiment: Experiment, methods: Sequence[MethodRuns], root: Path) -> str:
    outcomes, subjects = _outcomes(methods), _subjects(methods)
    charts = run_charts(methods, subjects)
    environment: Mapping[str, Any] = next((m.summary["environment"] for m in methods if m.summary is not None), {})
    title = _title(experiment)
    sections = {
        "title": escape(title),
        "subtitle": escape(_subtitle(experiment)),
        "finding": _finding(methods),
        "failures": failures_card(outcomes),
        "table": _table(methods),
        "curves": "".join(draw(chart) for chart in charts.curves),
        "exploration": "".join(draw(chart) for chart in charts.exploration),
        "heat_maps": _heat_maps_section(charts.heat_maps),
        "layers": _layers(methods),
        "selection": selection([(method.name, method.colour) for method in methods]),
        "instruments": _instruments(charts.instruments),
        "pictures": pictures_section(subjects, [subject for subject in subjects if _is_sparse(subject.run)]),
        "ensembles": ensembles_section([row for method in methods for row in ensembles_of(method.name, method.runs)]),
        "configuration": escape(json.dumps(shared_fields(experiment.runs), indent=2)),
        "command": escape(str(environment.get("command", ""))),
        "environment": environment_list(environment),
        "latex": escape(points_latex(outcomes, title)),
        "csv": escape(cells_csv(outcomes, root)),
    }
    return page(title, fill("report_template.html", sections))


def _heat_maps_section(charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    return (
        "<h2>Layers over updates</h2>"
        '<p class="note">One column a topology update, one row a layer; point at a cell for its value.</p>'
        f'<div class="grid-2">{"".join(draw(chart) for chart in charts)}</div>'
    )


def _instruments(charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    return (
        "<h2>How the topology moves</h2>"
        '<p class="note">Of one run of each method. Survival is the product-limit estimate over all grown weights, with '
        "its standard error; churn counts a weight dropped for one grown as one exchange; NNSTD compares the wiring "
        "with that of the start whatever the order of neurons (0 the same, 1 disjoint); gradient flow is the norm of "
        "the gradient over active weights on the batch of the update's step.</p>"
        f'<div class="grid-2">{"".join(draw(chart) for chart in charts)}</div>'
    )


def _is_sparse(run: RunView) -> bool:
    return run.summary is not None and run.summary["sparsity"] > 0


def _subtitle(experiment: Experiment) -> str:
    config = experiment.runs[0]
    seeds = len({run.seed for run in experiment.runs})
    parts = [
        f"target sparsity {config.sparsity * 100:g} %",
        f"{config.num_epochs} epochs of batches of {config.batch_size}",
        f"{seeds} seed{'s' if seeds > 1 else ''}",
    ]
    if config.allocation is not None:
        parts.append(f"allocation {config.allocation if isinstance(config.allocation, str) else 'by layer'}")
    if config.recipe is not None:
        parts.insert(0, f"recipe {config.recipe}")
    return " · ".join(parts)


def _finding(methods: Sequence[MethodRuns]) -> str:
    """The result in a sentence: the best of the sparse methods against the others."""
    summaries = [method.summary for method in methods if method.summary is not None]
    sparse = [summary for summary in summaries if summary["sparsity"] > 0]
    if not sparse:
        return ""
    best = max(sparse, key=lambda summary: summary["test_accuracy"]["mean"])
    accuracy = best["test_accuracy"]["mean"]
    others = [
        f"{abs(gap) * 100:.1f} points {'above' if gap >= 0 else 'below'} {escape(summary['method'])}"
        for summary in summaries
        if summary is not best
        for gap in [accuracy - summary["test_accuracy"]["mean"]]
    ]
    compared = f" ({', '.join(others)})" if 0 < len(others) <= 4 else ""
    return (
        f"<strong>{escape(best['method'])}</strong> at {best['sparsity'] * 100:.1f} % sparsity classifies "
        f"<strong>{accuracy * 100:.1f} %</strong> of the test images correctly{compared}. It has explored "
        f"{best['exploration_rate'] * 100:.0f} % of all weights, {best['reliable_rate'] * 100:.0f} % reliably."
    )


def _table(methods: Sequence[MethodRuns]) -> str:
    head = (
        "Method",
        "Sparsity",
        "Test accuracy",
        "at best epoch",
        "R<sub>s</sub>",
        "predicted",
        "R<sub>r</sub>",
        "Updates",
        "Training FLOPs",
        "Inference FLOPs",
        "Time",
        "Seeds",
    )
    return table(head, [_row(method) for method in methods], kind="results")


def _row(method: MethodRuns) -> tuple[str, ...]:
    name = f'<i class="swatch series-{method.colour}"></i>{escape(method.name)}'
    summary, num_runs = method.summary, len(method.outcomes)
    if summary is None:
        failed = any(outcome.status == "failed" for outcome in method.outcomes)
        state = "failed" if failed else "running" if method.runs else "not begun"
        return (name, "–", f'<span class="kind">{state}</span>', *("–",) * 8, f"0/{num_runs}")
    predicted = [rate for outcome in method.outcomes if (rate := outcome.number("predicted_exploration")) is not None]
    return (
        name,
        _percent(summary["sparsity"]),
        f"<strong>{_spread(summary['test_accuracy'])}</strong>",
        _spread(summary["test_accuracy_of_best"]),
        _percent(summary["exploration_rate"]),
        _percent(statistics.fmean(predicted)) if predicted else "–",
        _percent(summary["reliable_rate"]) if summary["num_updates"] else "–",  # nothing was ever put to the test
        f"{summary['num_updates']:g}",
        _ratio(summary["train_flops_ratio"]),
        _ratio(summary["test_flops_ratio"]),
        f"{summary['seconds']:.1f} s",
        f"{len(summary['seeds'])}/{num_runs}",
    )


def _layers(methods: Sequence[MethodRuns]) -> str:
    runs = [
        run for method in methods if (run := next((r for r in method.runs if r.summary is not None), None)) is not None
    ]
    if not runs:
        return ""
    tables = "".join(layer_table(f"{run.config.method}, seed {run.config.seed}", run) for run in runs)
    return (
        '<h2>Layers at the end</h2><p class="note">Measured beside the expectation and the bound that the numbers of dropped '
        f"and grown weights imply.</p>{tables}"
    )


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _spread(value: Mapping[str, Any] | None) -> str:
    return "–" if value is None else spread_of(value).in_percent()


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×" if value >= 0.095 else f"{value:.2g}×"
