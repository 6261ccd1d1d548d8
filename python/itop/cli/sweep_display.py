"""What a sweep shows on the terminal: a table that lives, and the result at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from itop.cli.text import plain_text
from itop.studies.cell import Cell
from itop.studies.results import StudyResults, in_words
from itop.studies.study import Study
from itop.studies.sweep import SweepObserver
from itop.studies.worker import Progress
from itop.training.outcomes import Point, label_of
from itop.training.summary import Spread

__all__ = ["SweepDisplay", "hypothesis_lines", "print_cells", "print_results"]

_REFRESH_SECONDS = 0.5
_WIDE = 100
"""Characters from which a terminal shows every column."""
_FILE_WIDTH = 140


@final
class SweepDisplay(SweepObserver):
    """One line a point with its seeds as they finish; where there is no terminal, one line a finished run."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console()
        self._quiet = quiet
        self._is_live = self._console.is_terminal and not quiet
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._study: Study | None = None
        self._done: dict[str, Mapping[str, Any]] = {}
        self._failed: dict[str, str] = {}
        self._running: dict[str, Progress | None] = {}
        self._began = time.monotonic()
        self._next = 0.0

    def __enter__(self) -> SweepDisplay:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def sweep_started(self, study: Study, num_complete: int) -> None:
        self._study = study
        self._began = time.monotonic()
        if not self._quiet:
            resumed = f", {num_complete} of them complete from before" if num_complete else ""
            self._console.print(f"[bold]{study.title}[/]: {_runs(len(study.cells))}{resumed}", highlight=False)

    def cell_started(self, cell: Cell) -> None:
        self._running[cell.identity] = None

    def cell_progressed(self, cell: Cell, progress: Progress) -> None:
        self._running[cell.identity] = progress

    def cell_ended(self, cell: Cell, summary: Mapping[str, Any]) -> None:
        ran = cell.identity in self._running
        self._running.pop(cell.identity, None)
        self._done[cell.identity] = summary
        if ran and not self._is_live and not self._quiet:
            accuracy = summary["test_accuracy"]["mean"]
            self._console.print(
                f"{cell.label}: {accuracy * 100:.2f} %, R_s {summary['exploration_rate'] * 100:.1f} %", highlight=False
            )

    def cell_failed(self, cell: Cell, reason: str) -> None:
        self._running.pop(cell.identity, None)
        self._failed[cell.identity] = reason
        if not self._quiet:
            self._console.print(Text.assemble(("failed", "red"), f"  {cell.label}: {plain_text(reason, length=300)}"))

    def polled(self) -> None:
        now = time.monotonic()
        if self._is_live and now >= self._next and self._study is not None:
            self._next = now + _REFRESH_SECONDS
            self._live.update(self._table(self._study), refresh=True)

    def _table(self, study: Study) -> Table:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, caption=self._caption(study))
        table.add_column("Point", no_wrap=True)
        table.add_column("Runs", justify="right")
        for heading in ("Accuracy", "R_s", "R_r"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("Now", no_wrap=True)
        for cells in list(study.points.values()):
            summaries = [self._done[cell.identity] for cell in cells if cell.identity in self._done]
            failed = sum(cell.identity in self._failed for cell in cells)
            running = [cell for cell in cells if cell.identity in self._running]
            accuracies = [summary["test_accuracy"]["mean"] for summary in summaries]
            table.add_row(
                label_of(cells[0].axes),
                f"{len(summaries)}/{len(cells)}",
                _percent(accuracies),
                _percent([summary["exploration_rate"] for summary in summaries], 1),
                _percent([summary["reliable_rate"] for summary in summaries if summary["num_updates"]], 1),
                Text(f"{failed} failed", style="red") if failed else self._now(running),
            )
        return table

    def _now(self, running: list[Cell]) -> Text:
        parts = []
        for cell in running:
            progress = self._running[cell.identity]
            share = f"{progress.step / max(progress.total_steps, 1):.0%}" if progress else "starting"
            accuracy = f", {progress.accuracy * 100:.1f} %" if progress and progress.accuracy is not None else ""
            parts.append(f"seed {cell.config.seed} {share}{accuracy}")
        return Text("; ".join(parts), style="cyan")

    def _caption(self, study: Study) -> str:
        elapsed = int(time.monotonic() - self._began)
        return f"{len(self._done)} of {len(study.cells)} runs complete, {elapsed // 60}:{elapsed % 60:02d} elapsed"


def print_cells(study: Study) -> None:
    """The runs of a study, before any is made."""
    console = Console()
    console.print(f"[bold]{study.title}[/]\n{study.question}", highlight=False)
    for cell in study.cells:
        console.print(f"  {cell.identity}  {cell.label}", highlight=False, markup=False)


def print_results(results: StudyResults, report: Path) -> None:
    """The table of points, the correlations, what failed, and where the report is."""
    console = Console()
    if not console.is_terminal:  # a file has no edge
        console = Console(width=_FILE_WIDTH)
    is_wide = console.width >= _WIDE
    explored = "R_s: weights explored" + (", beside what theory predicts of random growth" if is_wide else "")
    table = Table(
        title=results.study.title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        caption=f"{explored}; R_r: explored reliably.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    headings = ("Runs", "Test accuracy", "R_s", "predicted", "R_r", "Updates", "Training FLOPs")
    shown = headings if is_wide else ("Test accuracy", "R_s", "R_r")
    table.add_column("Point")
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for point in results.points:
        cells = dict(zip(headings, _cells(point), strict=True))
        table.add_row(point.label, *(cells[heading] for heading in shown))
    console.print()
    console.print(table)
    for line in hypothesis_lines(results):
        console.print(line, highlight=False)
    for failed in results.failures:
        reason = plain_text(failed.failure, length=300)
        console.print(Text.assemble(("failed", "red"), f"  {failed.label}: {reason}"))
    console.print(f"Report: {report}", soft_wrap=True, highlight=False, markup=False)


def _cells(point: Point) -> tuple[str, ...]:
    accuracy = point.spread("test_accuracy")
    updates, flops = point.mean("num_updates"), point.mean("train_flops_ratio")
    return (
        str(len(point.complete)),
        _percent(() if accuracy is None else accuracy.values),
        _rate(point.mean("exploration_rate")),
        _rate(point.mean("predicted_exploration")),
        _rate(point.mean("reliable_rate")) if updates else "-",
        "-" if updates is None else f"{updates:g}",
        "-" if flops is None else f"{flops:.2g}x",
    )


def hypothesis_lines(results: StudyResults) -> list[str]:
    """Rank correlations in words; empty where there are none."""
    test = results.hypothesis()
    if test is None:
        return []
    lines = []
    for name, what, correlation in (
        ("R_s", "explored", test.exploration),
        ("R_r", "reliably explored", test.reliable),
    ):
        low, high = correlation.bootstrap.low, correlation.bootstrap.high
        lines.append(
            f"Rank correlation of accuracy with {name}: {correlation.value:+.2f}, {correlation.confidence:.0%} interval "
            f"[{low:+.2f}, {high:+.2f}] over {correlation.num_points} runs. "
            + in_words(what, correlation, results.confounders)
        )
    return lines


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _percent(values: Sequence[float], decimals: int = 2) -> str:
    return Spread(tuple(values)).in_percent(decimals) if values else ""


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f} %"
