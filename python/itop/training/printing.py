"""Charts as a paper prints them: SVG and PDF in one column's width, and the numbers they show as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from itop.training.charts import Axis, Chart, HeatMap, LineChart, LineStyle, Ranking, Series, Spacing, shortened
from itop.training.files import write_atomically, write_text
from itop.training.scales import scales_of

__all__ = ["FORMATS", "write_figures"]

FORMATS = ("svg", "pdf", "csv")

_WIDTH, _HEIGHT = 3.4, 2.5  # inches
_LEGEND_ROW = 0.14
_COLOURS = (
    *("#6b7686", "#d9742b", "#1f6fd6", "#178a6b", "#8a4fd3", "#c2326b", "#0f8ea3"),
    *("#8f7a12", "#8a94a3", "#4d7c0f", "#7c5c3e", "#475bd8", "#1b2330"),
)
"""Those of the page in its light scheme."""
_STYLES = {LineStyle.SOLID: "-", LineStyle.DASHED: "--", LineStyle.DOTTED: ":", LineStyle.POINTS: "none"}
_STYLE: Any = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "itop",  # the same figure is the same file
    "pdf.fonttype": 42,
    "path.simplify": False,  # every point that was measured is in the file
}


def write_figures(charts: Sequence[Chart], folder: Path, formats: Sequence[str] = FORMATS) -> tuple[Path, ...]:
    """Writes each chart that shows something, as ``NAME.FORMAT``.

    Args:
        charts: No two of the same name.
        folder: Made if it is not there.
        formats: Of the files: ``"svg"``, ``"pdf"``, ``"csv"`` (every number drawn, percentages as fractions).

    Returns:
        The paths written.
    """
    written = []
    for chart in charts:
        if chart.is_empty:
            continue
        for kind in formats:
            path = folder / f"{chart.name}.{kind}"
            if kind == "csv":
                write_text(path, _numbers(chart))
            else:
                write_atomically(path, _printed(chart, kind))
            written.append(path)
    return tuple(written)


def _printed(chart: Chart, kind: str) -> Callable[[Any], None]:
    def write(file: Any) -> None:
        import matplotlib as mpl  # costs a second to import: only those who want figures pay
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
            FigureCanvasAgg(figure)
            if isinstance(chart, LineChart):
                _lines(figure, chart)
            elif isinstance(chart, HeatMap):
                _heat_map(figure, chart)
            else:
                _ranking(figure, chart)
            metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"CreationDate": None}
            figure.savefig(file, format=kind, metadata=metadata)

    return write


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(figure: Any, chart: LineChart) -> None:
    axes = figure.add_subplot()
    handles: dict[str, Any] = {}
    for index, line in enumerate(line.finite() for line in chart.series):
        if line.x:
            handles.setdefault(line.entry, _draw(axes, line, _factor(chart.x_axis), _factor(chart.y_axis), index))
    if all(float(x).is_integer() for line in chart.series for x in line.finite().x):  # no epoch one and a half
        axes.xaxis.get_major_locator().set_params(integer=True)
    for name, axis, scale in zip("xy", (chart.x_axis, chart.y_axis), scales_of(chart), strict=True):
        if axis.spacing is not Spacing.LINEAR:
            _space(axes, name, axis, scale.ticks(), scale.step)
        getattr(axes, f"set_{name}lim")(scale.low * _factor(axis), scale.high * _factor(axis))
        getattr(axes, f"set_{name}label")(_label(axis))
    _legend(figure, handles)


def _space(axes: Any, name: str, axis: Axis, ticks: Sequence[float], step: float) -> None:
    import numpy as np

    factor, spacing = _factor(axis), axis.spacing

    def place_of(value: float) -> float:
        try:
            return spacing.forward(value / factor)
        except ValueError:  # tried out by matplotlib, never drawn
            return math.nan

    forward = np.vectorize(place_of, otypes=[float])
    inverse = np.vectorize(lambda place: spacing.inverse(place) * factor, otypes=[float])
    getattr(axes, f"set_{name}scale")("function", functions=(forward, inverse))
    labels = [axis.format(tick, step).removesuffix(" %") for tick in ticks]
    getattr(axes, f"set_{name}ticks")([tick * factor for tick in ticks], labels)


def _draw(axes: Any, line: Series, x_factor: float, y_factor: float, index: int) -> Any:
    colour = _COLOURS[line.colour % len(_COLOURS)]
    x, y = [value * x_factor for value in line.x], [value * y_factor for value in line.y]
    is_marked = line.has_dots or line.style is LineStyle.POINTS or len(x) == 1
    (drawn,) = axes.plot(
        x,
        y,
        linestyle=_STYLES[line.style],
        color=colour,
        marker="o" if is_marked else None,
        markersize=3,
        linewidth=1.2,
        gid=f"series-{index}",
    )
    if line.spread is not None:
        spread = [value * y_factor for value in line.spread]
        if line.has_dots:
            axes.errorbar(x, y, spread, fmt="none", ecolor=colour, elinewidth=0.9)
        else:
            low = [value - by for value, by in zip(y, spread, strict=True)]
            high = [value + by for value, by in zip(y, spread, strict=True)]
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    return drawn


def _legend(figure: Any, handles: dict[str, Any]) -> None:
    """Below the axes, where it hides nothing; the figure grows by its rows."""
    columns = 2 if max(len(entry) for entry in handles) <= 26 else 1
    rows = math.ceil(len(handles) / columns)
    figure.set_size_inches(_WIDTH, _HEIGHT + _LEGEND_ROW * rows)
    figure.legend(
        list(handles.values()),
        [_typeset(entry) for entry in handles],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=6.5,
        handlelength=2.4,
        columnspacing=1.2,
        labelspacing=0.25,
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def _ranking(figure: Any, chart: Ranking) -> None:
    rows = chart.ordered
    figure.set_size_inches(_WIDTH, 0.6 + 0.2 * len(rows))
    axes = figure.add_subplot()
    factor = _factor(chart.axis)
    for place, row in enumerate(rows):
        colour = _COLOURS[row.colour % len(_COLOURS)]
        axes.plot(
            [value * factor for value in row.values],
            [place] * len(row.values),
            linestyle="none",
            marker="o",
            markersize=3,
            color=colour,
            gid=f"row-{place}",
        )
        axes.plot([row.mean * factor] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=1.2)
    axes.set_yticks(range(len(rows)), [shortened(row.label) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel(_label(chart.axis))
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)


def _heat_map(figure: Any, chart: HeatMap) -> None:
    names = [shortened(name) for name in chart.rows]
    step = max(1, math.ceil(len(names) / 40))
    figure.set_size_inches(_WIDTH, max(1.2, 0.8 + 0.13 * min(len(names), 40)))
    axes = figure.add_subplot()
    image = axes.imshow(
        [[value * 100 for value in row] for row in chart.values],
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0,
        vmax=100,
    )
    axes.set_yticks(range(0, len(names), step), names[::step], fontsize=6)
    ends = [0] if len(chart.columns) == 1 else [0, len(chart.columns) - 1]
    axes.set_xticks(ends, [chart.columns[end] for end in ends])
    figure.colorbar(image, ax=axes, label="%", aspect=12)


# --- text -------------------------------------------------------------------------------------------------------------


def _factor(axis: Axis) -> float:
    return 100.0 if axis.percent else 1.0


def _label(axis: Axis) -> str:
    return _typeset(f"{axis.label} (%)" if axis.percent else axis.label)


def _typeset(text: str) -> str:
    """The rates with their subscripts; dollars in names stay dollars."""
    return re.sub(r"\bR_([sr])\b", r"$R_\1$", text.replace("$", r"\$"))


def _numbers(chart: Chart) -> str:
    rows: list[Sequence[object]]
    if isinstance(chart, LineChart):
        rows = [("series", "x", "y", "spread")]
        for line in (line.finite() for line in chart.series):
            spread: Sequence[object] = [""] * len(line.x) if line.spread is None else line.spread
            rows += [(line.label, *values) for values in zip(line.x, line.y, spread, strict=True)]
    elif isinstance(chart, HeatMap):
        rows = [("row", *chart.columns)]
        rows += [(name, *values) for name, values in zip(chart.rows, chart.values, strict=True)]
    else:
        rows = [("row", "value")]
        rows += [(row.label, value) for row in chart.ordered for value in row.values]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
