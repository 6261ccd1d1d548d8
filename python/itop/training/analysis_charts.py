"""Figures of what runs' instruments saw: survival, churn, topology distance, gradient flow, pictures, ensembles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, final

import torch

from itop.analysis.ensembles import EnsembleReport, ensemble_report
from itop.training.charts import Axis, LineChart, LineStyle, Series, Spacing
from itop.training.instruments import read_snapshots
from itop.training.page import table
from itop.training.pictures import mask_picture, strength_picture
from itop.training.predictions import read_predictions
from itop.training.run_view import RunView

__all__ = ["Subject", "analysis_charts", "ensembles_of", "ensembles_section", "pictures_section"]

_STEPS = Axis("optimiser step", low=0)
_MOST_PICTURES = 5


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """Something a figure has a line of: a method, a point of a study.

    Args:
        label: In legends; groups of lines begin with it.
        colour: Index into the page's series colours.
        run: What the line is drawn from, one run of possibly several.
    """

    label: str
    colour: int
    run: RunView

    def line(self, what: str, x: Sequence[float], y: Sequence[float], **style: Any) -> Series:
        return Series(self.label, f"{self.label} {what}", self.colour, x, y, **style)


def analysis_charts(subjects: Sequence[Subject]) -> tuple[LineChart, ...]:
    """A chart of each instrument that has seen something."""
    age, exchanged = Axis("age in optimiser steps", low=0), Axis("share exchanged", percent=True, low=0)
    ratio = Axis("ratio", spacing=Spacing.LOGARITHMIC)
    nnstd = "Topology distance (NNSTD) from the start"
    charts = (
        _chart("survival", "Survival of grown weights", subjects, _survival, age, _SHARE),
        _chart("churn", "Churn of each update", subjects, _churn, _STEPS, exchanged),
        _chart("topology-distance", nnstd, subjects, _distance, _STEPS, Axis("distance", low=0, high=1)),
        _chart(
            "gradient-flow",
            "Gradient flow: after an update over before",
            subjects,
            _gradient_flow,
            _STEPS,
            ratio,
        ),
    )
    return tuple(chart for chart in charts if not chart.is_empty)


_SHARE = Axis("part that lives longer", percent=True, low=0, high=1)


def _chart(
    name: str,
    title: str,
    subjects: Sequence[Subject],
    line_of: Callable[[Subject, Mapping[str, Any]], Series | None],
    x_axis: Axis,
    y_axis: Axis,
) -> LineChart:
    lines = [
        line
        for subject in subjects
        if subject.run.analysis is not None and (line := line_of(subject, subject.run.analysis)) is not None
    ]
    return LineChart(name, title, lines, x_axis, y_axis)


def _survival(subject: Subject, analysis: Mapping[str, Any]) -> Series | None:
    curve = analysis["survival"]
    if not curve or not curve["ages"]:
        return None
    return subject.line(
        "survival", [0, *curve["ages"]], [1.0, *curve["survival"]], spread=[0.0, *curve["standard_error"]]
    )


def _churn(subject: Subject, analysis: Mapping[str, Any]) -> Series | None:
    """Of both topologies of an update: at constant density the part of the active weights that was exchanged."""
    changed = dict(zip(analysis["churn"]["steps"], analysis["churn"]["weights"], strict=True))
    steps, shares = [], []
    for update in subject.run.updates:
        after = sum(round(layer.density * layer.size) for layer in update.layers.values())
        before = after + update.dropped - update.grown
        if update.step in changed:
            steps.append(update.step)
            shares.append(changed[update.step] / max(before + after, 1))
    return subject.line("churn", steps, shares) if steps else None


def _distance(subject: Subject, analysis: Mapping[str, Any]) -> Series | None:
    distance = analysis["topology_distance"]
    if not distance or max(distance["from_start"]) == 0.0:
        return None
    return subject.line("distance", distance["steps"], distance["from_start"], has_dots=True)


def _gradient_flow(subject: Subject, analysis: Mapping[str, Any]) -> Series | None:
    flows = [flow for flow in analysis["gradient_flow"] if flow["before"] > 0 and flow["after"] > 0]
    if not flows:
        return None
    ratios = [flow["after"] / flow["before"] for flow in flows]
    return subject.line("gradient flow", [flow["step"] for flow in flows], ratios, has_dots=True, style=LineStyle.SOLID)


def mask_pictures(subject: Subject) -> str:
    """The first layer that moved, at up to five moments from the start to the end of the run."""
    snapshots = read_snapshots(subject.run.folder)
    steps = sorted(snapshots)
    if len(steps) < 2:
        return ""
    first, last = snapshots[steps[0]], snapshots[steps[-1]]
    moved = [name for name, mask in first.items() if (mask.words != last[name].words).any()]
    if not moved:
        return ""
    name = moved[0]
    count = min(_MOST_PICTURES, len(steps))
    chosen = [steps[round(i * (len(steps) - 1) / (count - 1))] for i in range(count)]
    pictures = "".join(
        mask_picture(
            snapshots[step][name],
            label=f"Mask of {name} of {subject.label} after {step} steps",
            caption=f"step {step:,}",
        )
        for step in chosen
    )
    shape = " × ".join(str(size) for size in first[name].shape)
    title = f"{escape(subject.label)}: <code>{escape(name)}</code>, {shape}"
    return f'<div class="strip"><h3>{title}</h3><div class="pictures">{pictures}</div></div>'


def feature_pictures(subjects: Sequence[Subject]) -> str:
    """Which pixels each network kept connected, where its first layer reads images."""
    pictures = []
    for subject in subjects:
        strength = None if subject.run.analysis is None else subject.run.analysis["input_strength"]
        if strength is None:
            continue
        values = torch.tensor(strength["values"], dtype=torch.float64)
        pictures.append(
            strength_picture(
                values,
                tuple(strength["shape"]),
                label=f"Strength of the input pixels of {subject.label}",
                caption=subject.label,
            )
        )
    return f'<div class="pictures">{"".join(pictures)}</div>' if pictures else ""


def pictures_section(of_masks: Sequence[Subject], of_features: Sequence[Subject]) -> str:
    """Masks over time and input pixels under headings of their own; empty where there are none."""
    masks = "".join(mask_pictures(subject) for subject in of_masks)
    features = feature_pictures(of_features)
    parts = []
    if masks:
        parts.append(
            "<h2>Masks over time</h2>"
            '<p class="note">Outputs down, inputs to the right; in a large layer each pixel is the density of a block.</p>'
            f"{masks}"
        )
    if features:
        parts.append(
            "<h2>Which pixels stay connected</h2>"
            '<p class="note">The summed strength of the connections that leave each input pixel at the end of one run, '
            "from the weakest pixel to the strongest (QuickSelection).</p>"
            f"{features}"
        )
    return "".join(parts)


def ensembles_of(label: str, runs: Sequence[RunView]) -> list[tuple[str, EnsembleReport]]:
    """What can be taken together: the last networks of all runs, and the tickets that each run has set aside.

    Args:
        label: Of the runs, which differ in their seed.
        runs: Complete or not; those that are not are left out.

    Raises:
        ValueError: If a run's predictions are damaged; the message names the file.
    """
    complete = [run for run in runs if run.summary is not None]
    found = []
    over_seeds = _over_seeds(complete)
    if over_seeds is not None:
        found.append((f"{label}, {len(over_seeds.member_accuracies)} seeds", over_seeds))
    for run in complete:
        tickets = None if run.summary is None else run.summary.get("tickets")
        if tickets is not None:
            report = EnsembleReport(**{**tickets, "member_accuracies": tuple(tickets["member_accuracies"])})
            found.append((f"{label}, tickets of seed {run.config.seed}", report))
    return found


def _over_seeds(runs: Sequence[RunView]) -> EnsembleReport | None:
    """The runs' networks as one classifier, on the test set; None with fewer than two of them, or other test sets."""
    paths: list[Path] = [run.folder.predictions for run in runs if run.folder.predictions.exists()]
    if len(paths) < 2:
        return None
    read = [read_predictions(path) for path in paths]
    labels = read[0][1]
    if any(len(other) != len(labels) or bool((other != labels).any()) for _, other in read):
        return None
    return ensemble_report(torch.stack([probabilities for probabilities, _ in read]), labels)


def ensembles_section(rows: Sequence[tuple[str, EnsembleReport]]) -> str:
    """Accuracy, calibration and diversity of ensembles in a table under a heading; empty without any."""
    if not rows:
        return ""
    head = ("Networks", "Members", "Mean of members", "Ensemble", "NLL", "ECE", "Disagreement", "KL divergence")
    lines = []
    for label, report in rows:
        members = report.member_accuracies
        lines.append(
            (
                escape(label),
                str(len(members)),
                f"{sum(members) / len(members) * 100:.2f} %",
                f"<strong>{report.accuracy * 100:.2f} %</strong>",
                f"{report.negative_log_likelihood:.4f}",
                f"{report.calibration_error * 100:.2f} %",
                f"{report.disagreement * 100:.2f} %",
                f"{report.kl_divergence:.4f}",
            )
        )
    return (
        "<h2>Ensembles</h2>"
        '<p class="note">Several networks as one classifier, by the mean of their probabilities on the test set: those of '
        "all seeds, or the tickets that one run has set aside (FreeTickets). Negative log-likelihood and divergence in "
        "nats; expected calibration error in 15 bins; how often and how far two members differ.</p>"
        f'<div class="card">{table(head, lines, kind="ensembles")}</div>'
    )
