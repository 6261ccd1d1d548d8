"""A run's layers at its end beside what theory expects of them."""

from __future__ import annotations

from html import escape

from itop.training.page import rate, table
from itop.training.run_view import RunView
from itop.training.theory import expected_exploration_of

__all__ = ["layer_table"]

_HEAD = ("Layer", "Shape", "Active weights", "Density", "R<sub>s</sub>", "random growth", "bound", "R<sub>r</sub>")


def layer_table(label: str, run: RunView) -> str:
    """A table under `label`, closed until it is asked for; empty before the run's end."""
    if run.summary is None:
        return ""
    expected = expected_exploration_of(run.updates)
    rows = []
    for layer in run.summary["layers"]:
        theory = (None, None) if expected is None else expected.layers.get(layer["name"], (None, None))
        rows.append(
            (
                f"<code>{escape(layer['name'])}</code>",
                escape(" × ".join(str(size) for size in layer["shape"])),
                f"{layer['num_active']:,}",
                *(rate(part) for part in (layer["density"], layer["exploration_rate"], *theory)),
                rate(layer["reliable_rate"]) if run.updates else "–",
            )
        )
    return f"<details><summary>{escape(label)}</summary>{table(_HEAD, rows)}</details>"
