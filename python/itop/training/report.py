"""``report.html``: an experiment on one self-contained page, built from what its run folders hold."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, final

from itop.training.analysis_charts import (
    Subject,
    analysis_figures,
    ensembles_of,
    ensembles_section,
    pictures_section,
)
from itop.training.charts import THEORY_COLOUR, Axis, HeatMap, LineStyle, Series, heat_map, line_chart
from itop.training.config import shared_fields
from itop.training.experiment import Experiment
from itop.training.files import write_text
from itop.training.page import environment_list, fill, page, selection
from itop.training.records import EpochRecord, UpdateRecord
from itop.training.run_folder import RunFolder
from itop.training.run_view import RunView, read_run
from itop.training.summary import spread_of, summarise_method
from itop.training.theory import expected_exploration_of

__all__ = ["write_report"]

_METHOD_COLOURS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11)


@final
@dataclass(frozen=True, slots=True)
class _MethodRuns:
    """All seeds of one method; those not begun yet are left out."""

    name: str
    colour: int
    runs: tuple[RunView, ...]

    @property
    def summary(self) -> Mapping[str, Any] | None:
        complete = [run.summary for run in self.runs if run.summary is not None]
        return summarise_method(complete) if complete else None

    @property
    def first_updating(self) -> RunView | None:
        return next((run for run in self.runs if run.updates), None)


def write_report(root: Path) -> Path:
    """Writes ``report.html`` into a run or experiment folder and returns its path; complete or not.

    Raises:
        FileNotFoundError: If `root` is no such folder.
        ValueError: If a file in it is damaged; the message names it.
    """
    experiment = Experiment.load(root)
    methods = _read(experiment, root)
    path = root / "report.html"
    write_text(path, _page(experiment, methods))
    return path


def _read(experiment: Experiment, root: Path) -> list[_MethodRuns]:
    by_method: dict[str, list[RunView]] = {name: [] for name in experiment.methods}
    for config in experiment.runs:
        run = read_run(RunFolder(experiment.folder_of(config, root)), config)
        if run is not None:
            by_method[config.method].append(run)
    return [
        _MethodRuns(name, _METHOD_COLOURS[index % len(_METHOD_COLOURS)], tuple(runs))
        for index, (name, runs) in enumerate(by_method.items())
    ]


def _page(experiment: Experiment, methods: Sequence[_MethodRuns]) -> str:
    config = experiment.runs[0]
    updating = [method for method in methods if method.first_updating is not None]
    environment: Mapping[str, Any] = next((m.summary["environment"] for m in methods if m.summary is not None), {})
    title = f"{config.model} on {config.data}"
    subjects = [
        Subject(method.name, method.colour, run)
        for method in methods
        if (run := next((run for run in method.runs if run.analysis is not None), None)) is not None
    ]
    sections = {
        "title": escape(title),
        "subtitle": escape(_subtitle(experiment)),
        "finding": _finding(methods),
        "table": _table(methods),
        "curves": _accuracy_chart(methods) + _loss_chart(methods),
        "exploration": _overview_chart(methods) + "".join(_exploration_chart(method) for method in updating),
        "heat_maps": "".join(_heat_maps(method) for method in updating),
        "layers": "".join(_layer_table(method) for method in methods),
        "selection": selection([(method.name, method.colour) for method in methods]),
        "instruments": _instruments(subjects),
        "pictures": pictures_section(subjects, [subject for subject in subjects if _is_sparse(subject.run)]),
        "ensembles": ensembles_section([row for method in methods for row in ensembles_of(method.name, method.runs)]),
        "configuration": escape(json.dumps(shared_fields(experiment.runs), indent=2)),
        "command": escape(str(environment.get("command", ""))),
        "environment": environment_list(environment),
    }
    return page(title, fill("report_template.html", sections))


def _instruments(subjects: Sequence[Subject]) -> str:
    figures = analysis_figures(subjects)
    if not figures:
        return ""
    return (
        "<h2>How the topology moves</h2>"
        '<p class="note">Of one run of each method. Survival is the product-limit estimate over all grown weights, with '
        "its standard error; churn counts a weight dropped for one grown as one exchange; NNSTD compares the wiring "
        "with that of the start whatever the order of neurons (0 the same, 1 disjoint); gradient flow is the norm of "
        "the gradient over active weights on the batch of the update's step.</p>"
        f'<div class="grid-2">{figures}</div>'
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


def _finding(methods: Sequence[_MethodRuns]) -> str:
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


def _table(methods: Sequence[_MethodRuns]) -> str:
    head = (
        "Method",
        "Sparsity",
        "Test accuracy",
        "at best epoch",
        "R<sub>s</sub>",
        "R<sub>r</sub>",
        "Updates",
        "Training FLOPs",
        "Inference FLOPs",
        "Time",
        "Seeds",
    )
    rows = []
    for method in methods:
        name = f'<i class="swatch series-{method.colour}"></i>{escape(method.name)}'
        summary = method.summary
        if summary is None:
            state = "running" if method.runs else "no result"
            rows.append(f'<tr><th scope="row">{name}</th><td colspan="{len(head) - 1}">{state}</td></tr>')
            continue
        cells = (
            _percent(summary["sparsity"]),
            f"<strong>{_spread(summary['test_accuracy'])}</strong>",
            _spread(summary["test_accuracy_of_best"]),
            _percent(summary["exploration_rate"]),
            _percent(summary["reliable_rate"]) if summary["num_updates"] else "–",  # nothing was ever put to the test
            f"{summary['num_updates']:g}",
            _ratio(summary["train_flops_ratio"]),
            _ratio(summary["test_flops_ratio"]),
            f"{summary['seconds']:.1f} s",
            str(len(summary["seeds"])),
        )
        rows.append(f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f'<th scope="col">{label}</th>' for label in head)
    return f'<table class="results"><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _accuracy_chart(methods: Sequence[_MethodRuns]) -> str:
    validated = any(epoch.validation_accuracy is not None for epoch in _all_epochs(methods))
    series = [
        _over_seeds(method, method.name, lambda e: e.validation_accuracy if validated else e.train_accuracy)
        for method in methods
    ]
    title = "Validation accuracy" if validated else "Training accuracy"
    return line_chart(series, title=title, x_axis=Axis("epoch"), y_axis=Axis("accuracy", percent=True, settled=True))


def _loss_chart(methods: Sequence[_MethodRuns]) -> str:
    series = [_over_seeds(method, f"{method.name}, training", lambda e: e.train_loss) for method in methods]
    if any(epoch.validation_loss is not None for epoch in _all_epochs(methods)):
        series += [
            _over_seeds(method, f"{method.name}, validation", lambda e: e.validation_loss, LineStyle.DASHED)
            for method in methods
        ]
    return line_chart(series, title="Loss", x_axis=Axis("epoch"), y_axis=Axis("cross-entropy", low=0, settled=True))


def _overview_chart(methods: Sequence[_MethodRuns]) -> str:
    series = []
    for method in methods:
        series.append(_over_seeds(method, f"{method.name} R_s", lambda e: e.exploration_rate, x=_step))
        if method.first_updating is not None:  # reliable is what survived a round of dropping
            reliable = _over_seeds(method, f"{method.name} R_r", lambda e: e.reliable_rate, LineStyle.DASHED, x=_step)
            series.append(reliable)
    return line_chart(
        series,
        title="Explored (R_s) and reliably explored (R_r) weights",
        x_axis=Axis("optimiser step", low=0),
        y_axis=Axis("part of all weights", percent=True, low=0, high=1),
    )


def _exploration_chart(method: _MethodRuns) -> str:
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
    return line_chart(
        [*measured, *theory],
        title=f"{method.name}: exploration against theory",
        x_axis=Axis("optimiser step", low=0),
        y_axis=Axis("part of all weights", percent=True, low=0, high=1),
    )


def _heat_maps(method: _MethodRuns) -> str:
    run = method.first_updating
    if run is None:
        return ""
    names = list(run.updates[0].layers)
    columns = [f"update {update.update}" for update in run.updates]

    def grid(value: Callable[[str, UpdateRecord], float]) -> HeatMap:
        return HeatMap(names, columns, [[value(name, update) for update in run.updates] for name in names])

    seed = f", seed {run.config.seed}" if len(method.runs) > 1 else ""
    density = grid(lambda name, update: update.layers[name].density)
    explored = grid(lambda name, update: update.layers[name].exploration_rate)
    return heat_map(density, title=f"{method.name}{seed}: density of each layer") + heat_map(
        explored, title=f"{method.name}{seed}: explored part of each layer"
    )


def _layer_table(method: _MethodRuns) -> str:
    run = next((run for run in method.runs if run.summary is not None), None)
    if run is None or run.summary is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(layer["name"])}</code></th>'
        f"<td>{escape(' × '.join(str(size) for size in layer['shape']))}</td><td>{layer['num_active']:,}</td>"
        f"<td>{_percent(layer['density'])}</td><td>{_percent(layer['exploration_rate'])}</td>"
        f"<td>{_percent(layer['reliable_rate'])}</td></tr>"
        for layer in run.summary["layers"]
    )
    return (
        f"<details><summary>{escape(method.name)}, seed {run.config.seed}</summary><table><thead><tr>"
        '<th scope="col">Layer</th><th scope="col">Shape</th><th scope="col">Active weights</th>'
        '<th scope="col">Density</th><th scope="col">R<sub>s</sub></th><th scope="col">R<sub>r</sub></th>'
        f"</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _over_seeds(
    method: _MethodRuns,
    label: str,
    value: Callable[[EpochRecord], float | None],
    style: LineStyle = LineStyle.SOLID,
    *,
    x: Callable[[EpochRecord], int] = lambda epoch: epoch.epoch,
) -> Series:
    points = [(x(epoch), value(epoch)) for run in method.runs for epoch in run.epochs]
    return _mean_line(method, label, points, style)


def _over_updates(
    method: _MethodRuns, label: str, value: Callable[[UpdateRecord], float], style: LineStyle = LineStyle.SOLID
) -> Series:
    points: list[tuple[int, float | None]] = [(u.step, value(u)) for run in method.runs for u in run.updates]
    return _mean_line(method, label, points, style)


def _mean_line(method: _MethodRuns, label: str, points: Iterable[tuple[int, float | None]], style: LineStyle) -> Series:
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


def _all_epochs(methods: Sequence[_MethodRuns]) -> Iterable[EpochRecord]:
    return (epoch for method in methods for run in method.runs for epoch in run.epochs)


def _step(epoch: EpochRecord) -> int:
    return epoch.step


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %"


def _spread(value: Mapping[str, Any] | None) -> str:
    return "–" if value is None else spread_of(value).in_percent()


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×" if value >= 0.095 else f"{value:.2g}×"
