"""Runs the cells of a study, several at once, and goes on after any interruption."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, final

from itop.studies.cell import Cell
from itop.studies.study import Study, is_study_folder, same_cells
from itop.studies.worker import Done, Failed, Job, Message, Progress, Stopped, work
from itop.training.files import read_json
from itop.training.interruption import StopRequest

__all__ = ["SweepObserver", "SweepResult", "run_sweep"]

_POLL_SECONDS = 0.2


class SweepObserver:
    """Hears of a sweep as it goes; every method does nothing unless overridden."""

    def sweep_started(self, study: Study, num_complete: int) -> None:
        """So many cells are complete from before."""

    def cell_started(self, cell: Cell) -> None:
        """A worker begins a cell, or goes on with it."""

    def cell_progressed(self, cell: Cell, progress: Progress) -> None:
        """A cell has got this far."""

    def cell_ended(self, cell: Cell, summary: Mapping[str, Any]) -> None:
        """A cell is complete; also called for those that an earlier sweep completed."""

    def cell_failed(self, cell: Cell, reason: str) -> None:
        """A cell cannot be completed; the others go on."""

    def polled(self) -> None:
        """A moment has passed; called several times a second."""


@final
@dataclass(frozen=True, slots=True)
class SweepResult:
    """What came of a sweep.

    Args:
        summaries: Of the complete cells, by identity.
        failures: Why others could not be completed, by identity.
        is_stopped: Whether it was asked to stop before its end.
    """

    summaries: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    is_stopped: bool


def run_sweep(
    study: Study,
    root: Path,
    *,
    jobs: int = 1,
    observer: SweepObserver | None = None,
    stop: StopRequest | None = None,
    extend: bool = False,
) -> SweepResult:
    """Trains the cells that are not complete yet, each in a worker process.

    A finished cell is one whose folder holds a summary; it is never run again. Others go on from their last checkpoint.
    Killed at any moment and called again, it ends with the results of a sweep that was never killed.

    Args:
        study: What to run.
        root: Its folder, empty or one of the same study.
        jobs: Worker processes, at least 1.
        observer: Hears of it.
        stop: Stops the cells after their current step, each with a checkpoint.
        extend: Whether a folder of other cells may become one of these; cells in both are kept.

    Raises:
        ValueError: If `jobs` is below 1, or the folder holds another study.
        FileExistsError: If `root` holds something else.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    _check_folder(study, root, extend=extend)
    root.mkdir(parents=True, exist_ok=True)
    study.save(root)
    return _Sweep(study, root, jobs, observer or SweepObserver(), stop or StopRequest()).run()


def _check_folder(study: Study, root: Path, *, extend: bool) -> None:
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is a file, not a folder for a study")
    if is_study_folder(root):
        if not extend and not same_cells(Study.load(root).cells, study.cells):
            raise ValueError(f"{root} holds a study of other cells; name another folder, or extend the study")
    elif root.exists() and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise FileExistsError(f"{root} is not empty and holds no study")


@dataclass(slots=True)
class _Worker:
    process: Any
    connection: Connection
    cell: Cell | None = None


@dataclass(slots=True)
class _Sweep:
    study: Study
    root: Path
    jobs: int
    observer: SweepObserver
    stop: StopRequest
    summaries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    workers: list[_Worker] = field(default_factory=list)

    def run(self) -> SweepResult:
        waiting = self._take_in_complete()
        was_stopped = False
        try:
            while waiting or any(worker.cell is not None for worker in self.workers):
                if self.stop.is_set and not was_stopped:
                    was_stopped = True
                    waiting.clear()
                    for worker in self.workers:
                        _send(worker, "stop")
                self._fill(waiting)
                self._listen()
                self.observer.polled()
        finally:
            self._close()
        return SweepResult(self.summaries, self.failures, was_stopped)

    def _take_in_complete(self) -> list[Cell]:
        waiting = []
        complete = [cell for cell in self.study.cells if cell.is_complete(self.root)]
        self.observer.sweep_started(self.study, len(complete))
        for cell in self.study.cells:
            if cell.is_complete(self.root):
                folder = cell.folder(self.root)
                folder.check_config(cell.config)
                self._completed(cell, read_json(folder.summary))
            else:
                waiting.append(cell)
        return waiting

    def _fill(self, waiting: list[Cell]) -> None:
        """Gives every idle worker a cell; starts workers while there are more cells than workers."""
        while waiting:
            idle = next((worker for worker in self.workers if worker.cell is None), None)
            if idle is None:
                if len(self.workers) >= self.jobs:
                    return
                idle = _start()
                self.workers.append(idle)
            cell = waiting.pop(0)
            idle.cell = cell
            self.observer.cell_started(cell)
            _send(idle, Job(cell.config, cell.folder(self.root).path))

    def _listen(self) -> None:
        by_connection = {worker.connection: worker for worker in self.workers if worker.cell is not None}
        for connection in wait(list(by_connection), timeout=_POLL_SECONDS):
            assert isinstance(connection, Connection)
            worker = by_connection[connection]
            try:
                self._received(worker, connection.recv())
            except (EOFError, OSError):
                self._died(worker)

    def _received(self, worker: _Worker, message: Message) -> None:
        cell = worker.cell
        assert cell is not None, "only a worker with a cell sends"
        if isinstance(message, Progress):
            self.observer.cell_progressed(cell, message)
            return
        worker.cell = None
        if isinstance(message, Done):
            self._completed(cell, message.summary)
        elif isinstance(message, Failed):
            self._failed(cell, message.reason)
        else:
            assert isinstance(message, Stopped)

    def _died(self, worker: _Worker) -> None:
        """A worker has gone without a word: killed for its memory, or crashed."""
        self.workers.remove(worker)
        worker.process.join()
        cell = worker.cell
        assert cell is not None, "only workers with a cell are listened to"
        if self.stop.is_set:  # what stopped the sweep may have been sent to its workers too
            return
        code = worker.process.exitcode
        reason = f"its process was killed by signal {-code}" if code < 0 else f"its process ended with code {code}"
        self._failed(cell, cell.folder(self.root).record_failure(reason, kind="process"))

    def _completed(self, cell: Cell, summary: Mapping[str, Any]) -> None:
        self.summaries[cell.identity] = summary
        self.observer.cell_ended(cell, summary)

    def _failed(self, cell: Cell, reason: str) -> None:
        self.failures[cell.identity] = reason
        self.observer.cell_failed(cell, reason)

    def _close(self) -> None:
        for worker in self.workers:
            if worker.cell is not None:  # only after an error of our own
                worker.process.kill()
            _send(worker, None)
            worker.connection.close()
        for worker in self.workers:
            worker.process.join(timeout=10)


def _start() -> _Worker:
    # A fresh interpreter: forked threads of torch would never come back.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _send(worker: _Worker, message: object) -> None:
    try:
        worker.connection.send(message)
    except OSError:
        return  # it has died; whoever listens to it will notice
