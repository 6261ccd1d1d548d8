"""A study's figures as a paper prints them: SVG and PDF, in one column's width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itop.studies.results import StudyResults
from itop.studies.series import lines_of, number_axis, rates_over_axis
from itop.training.charts import Axis, LineStyle, Series
from itop.training.files import write_atomically

__all__ = ["write_figures"]

_COLOURS = (
    *("#6b7686", "#d9742b", "#1f6fd6", "#178a6b", "#8a4fd3", "#c2326b", "#0f8ea3"),
    *("#8f7a12", "#8a94a3", "#4d7c0f", "#7c5c3e", "#475bd8", "#1b2330"),
)
"""Those of the page in its light scheme."""
_STYLES = {LineStyle.SOLID: "-", LineStyle.DASHED: "--", LineStyle.DOTTED: ":", LineStyle.POINTS: ""}
_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "itop",  # the same figure is the same file
    "pdf.fonttype": 42,
}


def write_figures(results: StudyResults, folder: Path, formats: Sequence[str] = ("svg", "pdf")) -> tuple[Path, ...]:
    """Draws accuracy and exploration along the study's axis, and accuracy against R_s and R_r.

    Args:
        results: Of the study; points without a complete run are left out.
        folder: Made if it is not there.
        formats: Of the files: ``"svg"``, ``"pdf"``.

    Returns:
        The paths written.
    """
    lines = lines_of(results)
    percent = Axis("test accuracy", percent=True)
    share = Axis("part of all weights", percent=True)
    figures: dict[str, tuple[list[Series], Axis, Axis]] = {}
    if results.study.axis is not None:
        axis = number_axis(results.study.axis)
        figures["accuracy"] = ([line.over_axis("accuracy", "test_accuracy") for line in lines], axis, percent)
        figures["exploration"] = (rates_over_axis(lines), axis, share)
    moving = [line for line in lines if line.moves]
    explored = Axis("explored weights, R_s", percent=True)
    reliable = Axis("reliably explored weights, R_r", percent=True)
    figures["accuracy-explored"] = ([line.scattered("exploration_rate") for line in moving], explored, percent)
    figures["accuracy-reliable"] = ([line.scattered("reliable_rate") for line in moving], reliable, percent)
    written = []
    for name, (series, x_axis, y_axis) in figures.items():
        for kind in formats:
            path = folder / f"{name}.{kind}"
            write_atomically(path, _drawing(series, x_axis, y_axis, kind))
            written.append(path)
    return tuple(written)


def _drawing(series: Sequence[Series], x_axis: Axis, y_axis: Axis, kind: str) -> Callable[[Any], None]:
    def write(file: Any) -> None:
        import matplotlib as mpl  # costs a second to import: only those who want figures pay
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(3.4, 2.6), layout="constrained")
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            for line in series:
                if line.x:
                    _draw(axes, line, 100 if x_axis.percent else 1, 100 if y_axis.percent else 1)
            axes.set_xlabel(_label(x_axis))
            axes.set_ylabel(_label(y_axis))
            if x_axis.is_logarithmic:
                axes.set_xscale("log")
            axes.legend(frameon=False, fontsize=6.5)
            metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"CreationDate": None}
            figure.savefig(file, format=kind, metadata=metadata)

    return write


def _draw(axes: Any, line: Series, x_scale: float, y_scale: float) -> None:
    colour = _COLOURS[line.colour % len(_COLOURS)]
    x, y = [value * x_scale for value in line.x], [value * y_scale for value in line.y]
    marker = "o" if line.has_dots or line.style is LineStyle.POINTS else None
    axes.plot(
        x,
        y,
        linestyle=_STYLES[line.style] or "none",
        color=colour,
        marker=marker,
        markersize=3,
        linewidth=1.2,
        label=line.label,
    )
    if line.spread is not None and line.has_dots:
        axes.errorbar(x, y, [value * y_scale for value in line.spread], fmt="none", ecolor=colour, elinewidth=0.9)
    elif line.spread is not None:
        spread = [value * y_scale for value in line.spread]
        low = [value - by for value, by in zip(y, spread, strict=True)]
        high = [value + by for value, by in zip(y, spread, strict=True)]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _label(axis: Axis) -> str:
    return f"{axis.label} (%)" if axis.percent else axis.label
