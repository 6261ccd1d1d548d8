"""Charts as HTML figures with SVG that follows the page's colours.

Colours are CSS classes (``series-0`` ..., ``heat-0`` ...), so that one drawing serves light and dark; what a pointer
needs to read values off a chart goes along as JSON. All text is escaped here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html import escape
from itertools import groupby

from itop.training.charts import Axis, Chart, HeatMap, LineChart, LineStyle, RankedRow, Ranking, Series, shortened
from itop.training.scales import Scale, scales_of

__all__ = ["HEAT_LEVELS", "draw", "typeset"]

HEAT_LEVELS = 32
MAX_POINTS = 400
MAX_COLUMNS = 120

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
_ROW_HEIGHT, _RANKING_RIGHT = 26, 66


def draw(chart: Chart) -> str:
    """An HTML figure of a chart; says so when there is nothing to draw."""
    if chart.is_empty:
        body = '<p class="empty">Nothing recorded yet.</p>'
    elif isinstance(chart, LineChart):
        body = _lines(chart)
    elif isinstance(chart, HeatMap):
        body = _heat_map(chart)
    else:
        body = _ranking(chart)
    return f'<figure class="chart"><figcaption>{typeset(chart.title)}</figcaption>{body}</figure>'


def typeset(text: str) -> str:
    """HTML of plain text, the rates with their subscripts."""
    return re.sub(r"\bR_([sr])\b", r"R<sub>\1</sub>", escape(text))


def _lines(chart: LineChart) -> str:
    drawn = [line for line in (entry.finite(MAX_POINTS) for entry in chart.series) if line.x]
    xs, ys = scales_of(chart, (_LEFT, _WIDTH - _RIGHT), (_HEIGHT - _BOTTOM, _TOP))
    parts = _grid(xs, ys, chart.x_axis, chart.y_axis)
    # A nested picture cuts off what lies beyond the axes, with room for the width of a line at their ends.
    width, height = _WIDTH - _RIGHT - _LEFT, _HEIGHT - _BOTTOM - _TOP
    view = f"{_LEFT - 4} {_TOP - 3} {width + 8} {height + 6}"
    x, y, *size = view.split()
    parts.append(f'<svg class="plot" x="{x}" y="{y}" width="{size[0]}" height="{size[1]}" viewBox="{view}">')
    parts += [(_bars if line.has_dots else _band)(line, xs, ys) for line in drawn if line.spread is not None]
    parts += [_line(line, xs, ys) for line in drawn]
    parts.append("</svg>")
    parts.append(f'<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" x1="0" x2="0"/>')
    tooltip = '<div class="tooltip" hidden></div>'
    return _svg(chart, _HEIGHT, parts) + tooltip + _legend(drawn) + _pointer_data(drawn, xs, chart)


def _heat_map(content: HeatMap) -> str:
    """A coloured cell for each value, equal neighbours drawn as one."""
    stride = max(1, math.ceil(len(content.columns) / MAX_COLUMNS))
    columns = content.columns[::stride]
    label_width = min(210, 16 + 6.4 * max(len(name) for name in content.rows))
    cell_width = (_WIDTH - label_width - 8) / len(columns)
    cell_height = min(26.0, max(7.0, 360 / len(content.rows)))
    height = cell_height * len(content.rows) + 30
    parts: list[str] = []
    for row, (name, values) in enumerate(zip(content.rows, content.values, strict=True)):
        top = row * cell_height
        if cell_height >= 10 or row % math.ceil(10 / cell_height) == 0:
            parts.append(
                f'<text class="tick" x="{label_width - 6:.1f}" y="{top + cell_height / 2 + 3.5:.1f}" '
                f'text-anchor="end">{escape(shortened(name))}</text>'
            )
        column = 0
        for level, cells in groupby(values[::stride], key=_heat_level):
            shown = list(cells)
            first, last = columns[column], columns[column + len(shown) - 1]
            span = first if first == last else f"{first} to {last}"
            parts.append(
                f'<rect class="heat-{level}" x="{label_width + column * cell_width:.2f}" y="{top:.1f}" '
                f'width="{len(shown) * cell_width + 0.3:.2f}" height="{max(cell_height - 1, 1):.1f}">'
                f"<title>{escape(name)}, {escape(span)}: {shown[-1] * 100:.1f} %</title></rect>"
            )
            column += len(shown)
    bottom = cell_height * len(content.rows)
    parts.append(f'<text class="tick" x="{label_width:.1f}" y="{bottom + 18:.1f}">{escape(columns[0])}</text>')
    end = escape(content.columns[-1])
    parts.append(f'<text class="tick" x="{_WIDTH - 8}" y="{bottom + 18:.1f}" text-anchor="end">{end}</text>')
    scale = '<div class="heat-scale"><span>0 %</span><i></i><span>100 %</span></div>'
    return _svg(content, height, parts) + scale


def _ranking(chart: Ranking) -> str:
    """The largest mean on top. A row belongs to the group of its label's runs."""
    ordered = chart.ordered
    left = min(210.0, 16 + 6.4 * max(len(row.label) for row in ordered))
    bottom = 8 + _ROW_HEIGHT * len(ordered)
    reach = [value for row in ordered for value in row.values]
    scale = Scale.over(reach, chart.axis, left, _WIDTH - _RANKING_RIGHT, margin=0.04)
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{bottom}"/>')
        text = escape(chart.axis.format(tick, scale.step))
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    parts += [
        _ranked(row, chart.axis, scale, left, 8 + _ROW_HEIGHT * (index + 0.5)) for index, row in enumerate(ordered)
    ]
    middle, label = (left + _WIDTH - _RANKING_RIGHT) / 2, _typeset_svg(chart.axis.label)
    parts.append(f'<text class="label" x="{middle:.1f}" y="{bottom + 36}" text-anchor="middle">{label}</text>')
    return _svg(chart, bottom + _BOTTOM, parts)


def _ranked(row: RankedRow, axis: Axis, scale: Scale, left: float, y: float) -> str:
    said = f"{row.mean * 100:.2f} %" if axis.percent else f"{row.mean:.4g}"
    dots = "".join(f'<circle cx="{scale(value):.1f}" cy="{y:.1f}" r="3.5"/>' for value in row.values)
    x = scale(row.mean)
    group = f'data-group="{escape(row.label)} runs"'
    return (
        f'<text class="label" x="{left - 10:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(shortened(row.label))}</text>'
        f'<g class="dots series-{row.colour}" {group}>{dots}</g>'
        f'<line class="line series-{row.colour}" {group} x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}"/>'
        f'<text class="tick" x="{_WIDTH - 4}" y="{y + 4:.1f}" text-anchor="end">{said}</text>'
    )


def _svg(chart: Chart, height: float, parts: Sequence[str]) -> str:
    label = f'role="img" aria-label="{escape(chart.title)}"'
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" {label}>{"".join(parts)}</svg>'


def _grid(xs: Scale, ys: Scale, x_axis: Axis, y_axis: Axis) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for value in ys.ticks():
        y = ys(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = escape(y_axis.format(value, ys.step))
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for value in xs.ticks():
        text = escape(x_axis.format(value, xs.step))
        parts.append(f'<text class="tick" x="{xs(value):.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{_typeset_svg(x_axis.label)}</text>'
    )
    return parts


def _line(line: Series, xs: Scale, ys: Scale) -> str:
    points = " ".join(f"{xs(x):.1f},{ys(y):.1f}" for x, y in zip(line.x, line.y, strict=True))
    classes = f"line series-{line.colour} {line.style.value}" + (" faint" if line.faint else "")
    if len(line.x) == 1:
        return _dots(line, xs, ys)
    drawn = (
        ""
        if line.style is LineStyle.POINTS
        else (f'<polyline class="{classes}" data-group="{escape(line.group)}" points="{points}"/>')
    )
    return drawn + (_dots(line, xs, ys) if line.has_dots or line.style is LineStyle.POINTS else "")


def _dots(line: Series, xs: Scale, ys: Scale) -> str:
    circles = "".join(
        f'<circle cx="{xs(x):.1f}" cy="{ys(y):.1f}" r="3.5"/>' for x, y in zip(line.x, line.y, strict=True)
    )
    return f'<g class="dots series-{line.colour}" data-group="{escape(line.group)}">{circles}</g>'


def _band(line: Series, xs: Scale, ys: Scale) -> str:
    spread = line.spread or ()
    upper = [f"{xs(x):.1f},{ys(y + s):.1f}" for x, y, s in zip(line.x, line.y, spread, strict=True)]
    lower = [f"{xs(x):.1f},{ys(y - s):.1f}" for x, y, s in zip(line.x, line.y, spread, strict=True)]
    points = " ".join(upper + lower[::-1])
    return f'<polygon class="band series-{line.colour}" data-group="{escape(line.group)}" points="{points}"/>'


def _bars(line: Series, xs: Scale, ys: Scale) -> str:
    """A bar from mean minus to mean plus deviation at each point."""
    drawn = "".join(
        f'<line x1="{xs(x):.1f}" x2="{xs(x):.1f}" y1="{ys(y - s):.1f}" y2="{ys(y + s):.1f}"/>'
        for x, y, s in zip(line.x, line.y, line.spread or (), strict=True)
    )
    return f'<g class="bars series-{line.colour}" data-group="{escape(line.group)}">{drawn}</g>'


def _legend(series: Sequence[Series]) -> str:
    by_entry: dict[str, list[Series]] = {}
    for line in series:
        by_entry.setdefault(line.entry, []).append(line)
    entries = "".join(
        f'<button type="button" aria-pressed="true" data-groups="{escape(json.dumps([line.group for line in lines]))}">'
        f'<svg viewBox="0 0 26 8" aria-hidden="true">{_legend_mark(lines[0])}</svg><span>{typeset(entry)}</span></button>'
        for entry, lines in by_entry.items()
    )
    return f'<div class="legend">{entries}</div>'


def _legend_mark(line: Series) -> str:
    if line.style is LineStyle.POINTS:
        return f'<circle class="dots series-{line.colour}" cx="13" cy="4" r="3.5"/>'
    faint = " faint" if line.faint else ""
    return f'<line class="line series-{line.colour} {line.style.value}{faint}" x1="1" x2="25" y1="4" y2="4"/>'


def _pointer_data(series: Sequence[Series], xs: Scale, chart: LineChart) -> str:
    content = {
        "left": _LEFT,
        "width": _WIDTH,
        "x": chart.x_axis.label,
        "xPercent": chart.x_axis.percent,
        "percent": chart.y_axis.percent,
        "series": [
            {
                "label": line.label,
                "group": line.group,
                "colour": line.colour,
                "points": line.style is LineStyle.POINTS,
                "pixels": [round(xs(x), 1) for x in line.x],
                "x": [_rounded(x) for x in line.x],
                "y": [_rounded(y) for y in line.y],
                "spread": None if line.spread is None else [_rounded(s) for s in line.spread],
            }
            for line in series
        ],
    }
    # "<" is written as an escape: nothing in a label can end the script element.
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="chart-data">{text}</script>'


def _typeset_svg(text: str) -> str:
    return re.sub(r"\bR_([sr])\b", r'R<tspan dy="3" font-size="9">\1</tspan>', escape(text))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _heat_level(value: float) -> int:
    return min(HEAT_LEVELS - 1, max(0, int(value * HEAT_LEVELS))) if math.isfinite(value) else 0
