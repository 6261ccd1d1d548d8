"""What a training shows on the terminal: progress bars with the rates in them, and the table at the end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from itop.training.config import RunConfig
from itop.training.experiment import Experiment, ExperimentResult
from itop.training.interruption import Interrupted
from itop.training.observers import TrainingObserver
from itop.training.records import EpochRecord, UpdateRecord
from itop.training.session import build_method
from itop.training.summary import spread_of

__all__ = ["TrainingDisplay", "print_result"]

_REFRESH_SECONDS = 0.15
_LINE_SECONDS = 30.0


@final
class TrainingDisplay(TrainingObserver):
    """Two bars: the run that is going on, and the experiment; a line for each run that is done.

    Where there is no terminal (a log file, a batch system), a line every half minute instead of bars.
    """

    def __init__(self, experiment: Experiment, *, quiet: bool = False) -> None:
        self._console = Console()
        self._experiment = experiment
        self._quiet = quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28 if self._console.width >= 110 else 10),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rates]}", style="dim"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            auto_refresh=False,  # refreshed from the steps: no thread competes with training for the processor
            disable=quiet or not self._console.is_terminal,
        )
        self._writes_lines = not quiet and not self._console.is_terminal
        self._next_line = time.monotonic() + _LINE_SECONDS
        self._name = ""
        self._run: TaskID | None = None
        self._all = self._bars.add_task(
            "all runs", total=len(experiment.runs), rates="", visible=len(experiment.runs) > 1
        )
        self._total_steps = 1
        self._done = 0
        self._next_refresh = 0.0
        self._step = 0
        self._measured_at = (0.0, 0)
        self._rates: dict[str, str] = {}
        self._warned: set[str] = set()

    def __enter__(self) -> TrainingDisplay:
        self._bars.start()
        if not self._quiet:
            config = self._experiment.runs[0]
            count = len(self._experiment.runs)
            limit = "" if config.max_steps is None else f", {config.max_steps:,} steps at most"
            self._console.print(
                f"[bold]{config.model}[/] on [bold]{config.data}[/]: {', '.join(self._experiment.methods)}; "
                f"{count} run{'s' if count > 1 else ''} of {config.num_epochs} epoch{'s' if config.num_epochs > 1 else ''}{limit}",
                highlight=False,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._bars.update(self._all, completed=self._done)
        self._bars.stop()

    def data_decoded(self, num_images: int, total: int) -> None:
        if self._run is None:
            self._run = self._bars.add_task("reading images once", total=total, rates="")
        self._bars.update(self._run, completed=num_images)
        self._bars.refresh()
        self._line(f"reading images once: {num_images:,} of {total:,}")

    def run_started(self, config: RunConfig, folder: Path, step: int, total_steps: int) -> None:
        if self._run is not None:
            self._bars.remove_task(self._run)
        self._total_steps = total_steps
        self._measured_at = (time.monotonic(), step)
        self._rates = {}
        self._name = _name(config)
        if config.method not in self._warned:
            self._warned.add(config.method)
            self._warn_of_no_update(config, total_steps)
        self._run = self._bars.add_task(self._name, total=total_steps, completed=step, rates="")
        self._bars.refresh()

    def step_taken(self, step: int) -> None:
        self._step = step
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + _REFRESH_SECONDS
            self._show(now)

    def topology_updated(self, record: UpdateRecord) -> None:
        self._rates |= {"R_s": _short(record.exploration_rate), "R_r": _short(record.reliable_rate)}

    def epoch_ended(self, record: EpochRecord) -> None:
        accuracy = record.train_accuracy if record.validation_accuracy is None else record.validation_accuracy
        self._rates |= {
            "acc": _short(accuracy),
            "R_s": _short(record.exploration_rate),
            "R_r": _short(record.reliable_rate),
        }

    def test_began(self, num_images: int) -> None:
        if self._run is not None:
            self._bars.update(self._run, completed=self._total_steps, rates=f"testing on {num_images:,} images")
            self._bars.refresh()
        self._line(f"{self._name}  testing on {num_images:,} images")

    def run_ended(self, config: RunConfig, summary: Mapping[str, Any]) -> None:
        self._run_over()
        if not self._quiet:
            accuracy, rate = summary["test_accuracy"]["mean"], summary["exploration_rate"]
            self._console.print(
                f"[green]done[/]  {_name(config)}  test {accuracy * 100:.2f} %  R_s {rate * 100:.1f} %"
                f"  {summary['seconds']:.1f} s",
                highlight=False,
            )

    def run_failed(self, config: RunConfig, reason: str) -> None:
        self._run_over()
        self._console.print(Text.assemble(("failed", "red"), f"  {_name(config)}  {' '.join(reason.split())}"))

    def method_skipped(self, method: str, reason: str) -> None:
        runs = sum(run.method == method for run in self._experiment.runs)
        self._run_over(runs)
        if not self._quiet:
            self._console.print(_skipped(method, reason))

    def say_how_to_resume(self, interruption: Interrupted, root: Path) -> None:
        self._console.print(
            f"\nStopped after step {interruption.step:,} of this run; nothing is lost. Go on with:\n"
            f"  itop train --resume {shlex.quote(str(root))}",
            highlight=False,
            markup=False,
            soft_wrap=True,  # a command that is to be copied has no line break
        )

    def _warn_of_no_update(self, config: RunConfig, total_steps: int) -> None:
        schedule = build_method(config).for_loop(total_steps // config.num_epochs).schedule
        interval = schedule.mean_interval(total_steps)
        if interval is None or interval <= total_steps:
            return
        self._console.print(
            f"[yellow]note[/]  {config.method} changes its topology every {interval:,.0f} steps, and this run has "
            f"{total_steps:,}: its masks will stay as they begin. --update-every {max(1, total_steps // 10)} makes ten updates.",
            highlight=False,
        )

    def _run_over(self, count: int = 1) -> None:
        self._done += count
        self._bars.update(self._all, completed=self._done)
        if self._run is not None:
            self._bars.remove_task(self._run)
            self._run = None

    def _line(self, text: str) -> None:
        """Prints it where there are no bars, unless another was printed in the last half minute."""
        if self._writes_lines and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _show(self, now: float) -> None:
        if self._run is None:
            return
        since, step = self._measured_at
        speed = (self._step - step) / max(now - since, 1e-6)
        rates = " ".join([*(f"{name} {value}" for name, value in self._rates.items()), _speed(speed)])
        left = timedelta(seconds=round((self._total_steps - self._step) / max(speed, 1e-6)))
        self._line(f"{self._name}  step {self._step:,} of {self._total_steps:,}  {rates}  {left} left")
        self._bars.update(self._run, completed=self._step, rates=rates)
        self._bars.update(self._all, completed=self._done + self._step / self._total_steps)
        self._bars.refresh()


def print_result(result: ExperimentResult, experiment: Experiment, report: Path) -> None:
    """The table of methods, what failed, and where the report is."""
    console = Console()
    config = experiment.runs[0]
    table = Table(
        title=f"{config.model} on {config.data}",
        title_justify="left",
        title_style="bold",
        header_style="bold",
        caption="R_s: weights explored; R_r: explored reliably; FLOPs against dense.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Method", no_wrap=True)
    for heading in ("Sparsity", "Test accuracy", "R_s", "R_r", "Training FLOPs"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = max((summary["test_accuracy"]["mean"] for summary in result.summaries), default=0.0)
    for summary in result.summaries:
        is_best = summary["test_accuracy"]["mean"] == best and len(result.summaries) > 1
        table.add_row(
            summary["method"],
            f"{summary['sparsity'] * 100:.1f} %",
            Text(spread_of(summary["test_accuracy"]).in_percent(), style="bold green" if is_best else ""),
            f"{summary['exploration_rate'] * 100:.1f} %",
            f"{summary['reliable_rate'] * 100:.1f} %" if summary["num_updates"] else "-",
            _ratio(summary["train_flops_ratio"]),
        )
    console.print()
    console.print(table)
    for name, reason in result.skipped.items():
        console.print(_skipped(name, reason))
    for summary in result.summaries:
        if summary["tickets_accuracy"] is not None:
            together = spread_of(summary["tickets_accuracy"]).in_percent()
            console.print(f"{summary['method']}: the tickets of a run classify {together} together.", highlight=False)
    for name, reason in result.failures.items():
        console.print(Text.assemble(("failed", "red"), f"  {name}: {' '.join(reason.split())}"))
    console.print(f"Report: {report}", soft_wrap=True, highlight=False, markup=False)


def _skipped(method: str, reason: str) -> Text:
    return Text.assemble(("skipped", "yellow"), f"  {method}: {' '.join(reason.split())}")


def _name(config: RunConfig) -> str:
    return f"{config.method}, seed {config.seed}"


def _short(rate: float) -> str:
    return f"{rate * 100:.1f}%"


def _speed(steps_per_second: float) -> str:
    if steps_per_second >= 10:
        return f"{steps_per_second:,.0f}/s"
    return f"{steps_per_second:.1f}/s" if steps_per_second >= 1 else f"{1 / max(steps_per_second, 1e-6):.1f} s/step"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x" if value >= 0.095 else f"{value:.2g}x"
