"""The numbers of a study as CSV and as a LaTeX table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from itop.studies.results import CellResult, PointResult, StudyResults
from itop.training.files import write_text
from itop.training.summary import Spread

__all__ = ["cells_csv", "points_csv", "points_latex", "write_tables"]

_NUMBERS = (
    "test_accuracy",
    "test_accuracy_of_best",
    "train_accuracy",
    "sparsity",
    "exploration_rate",
    "reliable_rate",
    "num_updates",
    "steps",
    "train_flops_ratio",
    "test_flops_ratio",
)


def cells_csv(results: StudyResults) -> str:
    """One line a run: its axes, seed, status, every number as it was measured, and the folder it is in."""
    axes = axis_names(results.points)
    head = [*axes, "seed", "baseline", "status", *_NUMBERS, "predicted_exploration_rate", "deviation", "folder"]
    return _csv([head, *(_cell_row(result, axes, results.root) for result in results.cells)])


def points_csv(results: StudyResults) -> str:
    """One line a point: mean and standard deviation over its seeds."""
    points = results.points
    axes = axis_names(points)
    spread = [name for number in _NUMBERS for name in (number, f"{number}_std")]
    rows = [[*axes, "runs", *spread]]
    for point in points:
        cells = [_text(point.axes.get(axis)) for axis in axes]
        spreads = [point.spread(number) for number in _NUMBERS]
        numbers = [_text(value) for entry in spreads for value in ((None, None) if entry is None else _both(entry))]
        rows.append([*cells, str(len(point.complete)), *numbers])
    return _csv(rows)


def points_latex(results: StudyResults) -> str:
    """A ``tabular`` of the points, for a paper that loads ``booktabs``."""
    points = results.points
    axes = axis_names(points)
    head = [_escape(axis.replace("_", " ")) for axis in axes]
    head += ["accuracy (\\%)", "$R_s$", "predicted", "$R_r$", "updates", "training FLOPs"]
    lines = [
        f"% {results.study.title}",
        "\\begin{tabular}{" + "l" * len(axes) + "r" * (len(head) - len(axes)) + "}",
        "\\toprule",
        " & ".join(head) + " \\\\",
        "\\midrule",
    ]
    for point in points:
        accuracy = point.spread("test_accuracy")
        shown = "--"
        if accuracy is not None:
            deviation = f" $\\pm$ {accuracy.std * 100:.2f}" if len(accuracy.values) > 1 else ""
            shown = f"{accuracy.mean * 100:.2f}{deviation}"
        rates = [point.mean(name) for name in ("exploration_rate", "predicted_exploration", "reliable_rate")]
        updates, flops = point.mean("num_updates"), point.mean("train_flops_ratio")
        if not updates:
            rates[2] = None  # nothing was ever put to the test
        cells = [_escape(_text(point.axes.get(axis))) or "--" for axis in axes]
        cells += [shown, *("--" if rate is None else f"{rate:.3f}" for rate in rates)]
        cells.append("--" if updates is None else f"{updates:g}")
        cells.append("--" if flops is None else f"{flops:.3g}$\\times$")
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def write_tables(results: StudyResults, folder: Path) -> tuple[Path, ...]:
    """Writes ``cells.csv``, ``points.csv`` and ``points.tex`` and returns their paths."""
    written = []
    for name, text in (
        ("cells.csv", cells_csv(results)),
        ("points.csv", points_csv(results)),
        ("points.tex", points_latex(results)),
    ):
        write_text(folder / name, text)
        written.append(folder / name)
    return tuple(written)


def axis_names(points: Sequence[PointResult]) -> list[str]:
    """Every axis that one of the points has, in the order in which they first appear."""
    return list(dict.fromkeys(axis for point in points for axis in point.axes))


def _cell_row(result: CellResult, axes: Sequence[str], root: Path) -> list[str]:
    cell = result.cell
    deviation = result.prediction_deviation
    return [
        *(_text(cell.axes.get(axis)) for axis in axes),
        str(cell.config.seed),
        "yes" if cell.is_baseline else "no",
        result.status,
        *(_text(result.number(name)) for name in _NUMBERS),
        _text(result.number("predicted_exploration")),
        _text(None if deviation is None else round(deviation, 3)),
        str(cell.folder(root).path.relative_to(root)),
    ]


def _both(spread: Spread) -> tuple[float, float]:
    return spread.mean, spread.std


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.8g}"
    return str(value)


def _escape(text: str) -> str:
    for character in ("\\", "&", "%", "$", "#", "_", "{", "}"):
        text = text.replace(character, "\\textbackslash{}" if character == "\\" else f"\\{character}")
    return text


def _csv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
