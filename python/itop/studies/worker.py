"""A process that trains cells, one after the other, and tells of them through a pipe.

Processes rather than threads: a cell that runs out of memory or crashes takes nothing else with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias, final

from itop.training.config import RunConfig
from itop.training.data_source import DataSource
from itop.training.interruption import Interrupted, StopRequest
from itop.training.loop import train_session
from itop.training.observers import TrainingObserver
from itop.training.records import EpochRecord, UpdateRecord
from itop.training.run_folder import RunFolder
from itop.training.session import Session

__all__ = ["Done", "Failed", "Job", "Message", "Progress", "Stopped", "work"]

_SECONDS_BETWEEN_MESSAGES = 0.25
_PR_SET_PDEATHSIG = 1
"""Of Linux' ``prctl``."""


@final
@dataclass(frozen=True, slots=True)
class Job:
    """A cell to train: its configuration and its folder."""

    config: RunConfig
    folder: Path


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far a cell is; rates and accuracy once they are known."""

    step: int
    total_steps: int
    exploration_rate: float | None = None
    reliable_rate: float | None = None
    accuracy: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Done:
    """A cell is complete: the content of its summary."""

    summary: Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Failed:
    """A cell cannot be completed, and why."""

    reason: str


@final
@dataclass(frozen=True, slots=True)
class Stopped:
    """A cell has stopped where it was, as asked; its checkpoint is written."""


Message: TypeAlias = Progress | Done | Failed | Stopped


def work(connection: Connection) -> None:
    """The life of a worker: a job in, messages out, until the other side closes the pipe or sends None.

    Whatever else arrives while a job runs asks it to stop. Where the parent is gone the worker ends at once: nobody else
    is to train the same cell beside it.
    """
    for interruption in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group: the parent decides what they mean
        signal.signal(interruption, signal.SIG_IGN)
    _end_with_parent()
    inbox = _Inbox(connection)
    source = DataSource()
    while (job := inbox.next_job()) is not None:
        inbox.stop.is_set = False
        _send(connection, _train(job, source, connection, inbox.stop))


def _end_with_parent() -> None:
    """Has the system kill this process with its parent, where it can: also while it hangs, or has been stopped."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return  # not Linux: the pipe tells
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it died before it was asked about
        os._exit(1)


def _send(connection: Connection, message: Message) -> None:
    try:
        connection.send(message)
    except OSError:  # the parent is gone
        os._exit(1)


class _Inbox:
    """Reads the pipe on a thread of its own, so that a busy worker notices when it is to stop or its parent dies."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._jobs: list[Job | None] = []
        self._arrived = threading.Condition()
        self.stop = StopRequest()
        threading.Thread(target=self._read, daemon=True).start()

    def next_job(self) -> Job | None:
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._jobs))
            return self._jobs.pop(0)

    def _read(self) -> None:
        while True:
            try:
                received = self._connection.recv()
            except (EOFError, OSError):
                os._exit(1)
            if received is None or isinstance(received, Job):
                with self._arrived:
                    self._jobs.append(received)
                    self._arrived.notify()
            else:
                self.stop.is_set = True


def _train(job: Job, source: DataSource, connection: Connection, stop: StopRequest) -> Message:
    folder = RunFolder(job.folder)
    try:
        with _alone(job.folder):
            folder.failure.unlink(missing_ok=True)
            session = Session.build(job.config, source)
            observer = _Reporter(connection, session.total_steps)
            return Done(train_session(session, folder.path, observer=observer, stop=stop, resume=True))
    except Interrupted:
        return Stopped()
    except Exception as error:  # whatever it is, it belongs to this cell
        return Failed(folder.record_failure(error, kind=type(error).__name__))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process trains in `folder`: one that a killed sweep left behind ends within moments."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no such locks on this system: its pipes end a worker all the same
        yield
        return
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Reporter(TrainingObserver):
    """Sends progress, not more than four times a second."""

    def __init__(self, connection: Connection, total_steps: int) -> None:
        self._connection = connection
        self._total = total_steps
        self._step = 0
        self._exploration: float | None = None
        self._reliable: float | None = None
        self._accuracy: float | None = None
        self._next = 0.0

    def run_started(self, config: RunConfig, folder: Path, step: int, total_steps: int) -> None:
        self._step = step
        self._send()

    def step_taken(self, step: int) -> None:
        self._step = step
        if time.monotonic() >= self._next:
            self._send()

    def topology_updated(self, record: UpdateRecord) -> None:
        self._exploration, self._reliable = record.exploration_rate, record.reliable_rate

    def epoch_ended(self, record: EpochRecord) -> None:
        self._exploration, self._reliable = record.exploration_rate, record.reliable_rate
        self._accuracy = record.validation_accuracy if record.validation_accuracy is not None else record.train_accuracy

    def _send(self) -> None:
        self._next = time.monotonic() + _SECONDS_BETWEEN_MESSAGES
        progress = Progress(self._step, self._total, self._exploration, self._reliable, self._accuracy)
        _send(self._connection, progress)
