"""The numbers of runs side by side as CSV and as a LaTeX table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from itop.training.files import write_text
from itop.training.outcomes import Outcome, Point, points_of
from itop.training.summary import Spread

__all__ = ["cells_csv", "points_csv", "points_latex", "write_tables"]

_NUMBERS = (
    "test_accuracy",
    "test_loss",
    "test_accuracy_of_best",
    "train_accuracy",
    "sparsity",
    "exploration_rate",
    "predicted_exploration_rate",
    "reliable_rate",
    "num_updates",
    "steps",
    "train_flops_ratio",
    "test_flops_ratio",
)
_SUMMARY_NAMES = {"predicted_exploration_rate": "predicted_exploration"}


def cells_csv(runs: Sequence[Outcome], root: Path) -> str:
    """One line a run: its axes, seed, status, every number as it was measured, and its folder as seen from `root`."""
    axes = axis_names(points_of(runs))
    head = [*axes, "seed", "baseline", "status", *_NUMBERS, "deviation", "folder"]
    return _csv([head, *(_cell_row(run, axes, root) for run in runs)])


def points_csv(runs: Sequence[Outcome]) -> str:
    """One line a point: mean and standard deviation over its seeds."""
    points = points_of(runs)
    axes = axis_names(points)
    spread = [name for number in _NUMBERS for name in (number, f"{number}_std")]
    rows = [[*axes, "runs", *spread]]
    for point in points:
        cells = [_text(point.axes.get(axis)) for axis in axes]
        spreads = [point.spread(_SUMMARY_NAMES.get(number, number)) for number in _NUMBERS]
        numbers = [_text(value) for entry in spreads for value in ((None, None) if entry is None else _both(entry))]
        rows.append([*cells, str(len(point.complete)), *numbers])
    return _csv(rows)


def points_latex(runs: Sequence[Outcome], title: str) -> str:
    """A ``tabular`` of the points, for a paper that loads ``booktabs``."""
    points = points_of(runs)
    axes = axis_names(points)
    head = [_escape(axis.replace("_", " ")) for axis in axes]
    head += ["accuracy (\\%)", "$R_s$", "predicted", "$R_r$", "updates", "training FLOPs"]
    lines = [
        f"% {' '.join(title.split())}",
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
        cells = [_escape(_short(point.axes.get(axis))) or "--" for axis in axes]
        cells += [shown, *("--" if rate is None else f"{rate:.3f}" for rate in rates)]
        cells.append("--" if updates is None else f"{updates:g}")
        cells.append("--" if flops is None else f"{flops:.3g}$\\times$")
        lines.append(" & ".join(cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def write_tables(runs: Sequence[Outcome], root: Path, title: str) -> tuple[Path, ...]:
    """Writes ``cells.csv``, ``points.csv`` and ``points.tex`` into `root` and returns their paths."""
    written = []
    for name, text in (
        ("cells.csv", cells_csv(runs, root)),
        ("points.csv", points_csv(runs)),
        ("points.tex", points_latex(runs, title)),
    ):
        write_text(root / name, text)
        written.append(root / name)
    return tuple(written)


def axis_names(points: Sequence[Point]) -> list[str]:
    """Every axis that one of the points has, in the order in which they first appear."""
    return list(dict.fromkeys(axis for point in points for axis in point.axes))


def _cell_row(run: Outcome, axes: Sequence[str], root: Path) -> list[str]:
    deviation = run.prediction_deviation
    return [
        *(_text(run.axes.get(axis)) for axis in axes),
        str(run.config.seed),
        "yes" if run.is_baseline else "no",
        run.status,
        *(_text(run.number(_SUMMARY_NAMES.get(name, name))) for name in _NUMBERS),
        _text(None if deviation is None else round(deviation, 3)),
        str(run.folder.path.relative_to(root)),
    ]


def _both(spread: Spread) -> tuple[float, float]:
    return spread.mean, spread.std


def _text(value: object) -> str:
    """Numbers with every digit they have."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return "" if value is None else str(value)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else _text(value)


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _escape(text: str) -> str:
    return text.translate(_LATEX)


def _csv(rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
