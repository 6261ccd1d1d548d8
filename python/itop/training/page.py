"""Self-contained pages: one template with its style and script, bodies that differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from itop.training.drawing import HEAT_LEVELS
from itop.training.outcomes import Outcome

__all__ = ["environment_list", "failures_card", "fill", "page", "selection", "table"]

_LIGHT_HEAT = ((238, 243, 250), (96, 150, 210), (12, 45, 99))
_DARK_HEAT = ((30, 37, 48), (43, 98, 160), (163, 212, 255))


def page(title: str, body: str) -> str:
    """A whole HTML document that needs nothing from outside: style and script are in it.

    Args:
        title: Plain text.
        body: HTML.
    """
    return fill(
        "page_template.html",
        {
            "title": escape(title),
            "body": body,
            "heat_colours_light": _heat_colours(_LIGHT_HEAT),
            "heat_colours_dark": _heat_colours(_DARK_HEAT),
        },
    )


def fill(template: str, sections: Mapping[str, str], package: str = "itop.training") -> str:
    """A template of a package with each ``{{name}}`` replaced; what is put in is not looked at again."""
    text = resources.files(package).joinpath(template).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: sections[match[1]], text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> str:
    """A table whose first column names the rows; all cells are HTML."""
    header = "".join(f'<th scope="col">{label}</th>' for label in head)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    attribute = f' class="{kind}"' if kind else ""
    return f"<table{attribute}><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"


def rate(value: float | None) -> str:
    """A part of 1 as tables show it; a dash where there is none."""
    return "–" if value is None else f"{value * 100:.2f} %"


def selection(names: Sequence[tuple[str, int]]) -> str:
    """Buttons that show or hide a series in all figures of the page at once; only there with JavaScript.

    Args:
        names: Label and colour of each series; its lines are in groups that begin with the label and a space.
    """
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-prefix="{escape(name)} ">'
        f'<i class="swatch series-{colour}"></i>{escape(name)}</button>'
        for name, colour in names
    )
    return f'<div class="selection" hidden><span>Show</span>{buttons}</div>' if len(names) > 1 else ""


def failures_card(runs: Sequence[Outcome]) -> str:
    """Which runs failed and why; empty where none did."""
    failed = [run for run in runs if run.status == "failed"]
    if not failed:
        return ""
    entries = "".join(f"<li><strong>{escape(run.label)}</strong>: {escape(str(run.failure))}</li>" for run in failed)
    said = "1 run failed:" if len(failed) == 1 else f"{len(failed)} runs failed:"
    return f'<div class="card failures"><p>{said}</p><ul>{entries}</ul></div>'


def environment_list(environment: Mapping[str, Any]) -> str:
    """Versions and machine as a definition list's content; the command has its own place."""
    return "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>"
        for name, value in environment.items()
        if name != "command"
    )


def _heat_colours(stops: tuple[tuple[int, int, int], ...]) -> str:
    rules = []
    for level in range(HEAT_LEVELS):
        position = level / (HEAT_LEVELS - 1) * (len(stops) - 1)
        index = min(int(position), len(stops) - 2)
        part = position - index
        colour = [round(a + (b - a) * part) for a, b in zip(stops[index], stops[index + 1], strict=True)]
        rules.append(f".heat-{level}{{fill:rgb({colour[0]},{colour[1]},{colour[2]})}}")
    gradient = ",".join(f"rgb({red},{green},{blue})" for red, green, blue in stops)
    return "".join(rules) + f".heat-scale i{{background:linear-gradient(90deg,{gradient})}}"
