"""Values of several things side by side, one row each: runs as dots, their mean as a line."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape

from itop.training.charts import Axis, Scale, figure, shortened, typeset

__all__ = ["ranking"]

_WIDTH, _ROW, _TOP, _BOTTOM, _RIGHT = 560, 26, 8, 44, 66


def ranking(rows: Sequence[tuple[str, int, Sequence[float]]], *, title: str, axis: Axis) -> str:
    """An HTML figure, the largest mean on top.

    Args:
        rows: Label, index of a colour and at least one value each. A row belongs to the group of its label's runs.
        title: Above it.
        axis: Of the values.
    """
    if not rows:
        return figure(title, '<p class="empty">Nothing recorded yet.</p>')
    ordered = sorted(rows, key=lambda row: -statistics.fmean(row[2]))
    left = min(210.0, 16 + 6.4 * max(len(label) for label, _, _ in rows))
    bottom = _TOP + _ROW * len(ordered)
    scale = Scale.over([value for _, _, values in rows for value in values], axis, left, _WIDTH - _RIGHT, margin=0.04)
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        text = escape(axis.format(tick, scale.step))
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    for index, (label, colour, values) in enumerate(ordered):
        parts.append(_row(label, colour, values, axis, scale, left, _TOP + _ROW * (index + 0.5)))
    middle = (left + _WIDTH - _RIGHT) / 2
    label = f'<text class="label" x="{middle:.1f}" y="{bottom + 36}" text-anchor="middle">{typeset(axis.label)}</text>'
    svg = f'<svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" aria-label="{escape(title)}">'
    return figure(title, svg + "".join(parts) + label + "</svg>")


def _row(label: str, colour: int, values: Sequence[float], axis: Axis, scale: Scale, left: float, y: float) -> str:
    mean = statistics.fmean(values)
    said = f"{mean * 100:.2f} %" if axis.percent else f"{mean:.4g}"
    dots = "".join(f'<circle cx="{scale(value):.1f}" cy="{y:.1f}" r="3.5"/>' for value in values)
    return (
        f'<text class="label" x="{left - 10:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(shortened(label))}</text>'
        f'<g class="dots series-{colour}">{dots}</g>'
        f'<line class="line series-{colour}" x1="{scale(mean):.1f}" x2="{scale(mean):.1f}" y1="{y - 8:.1f}" y2="{y + 8:.1f}"/>'
        f'<text class="tick" x="{_WIDTH - 4}" y="{y + 4:.1f}" text-anchor="end">{said}</text>'
    )
