"""Stopping a run between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import final

__all__ = ["Interrupted", "StopRequest", "stop_on_signals"]


@final
class Interrupted(Exception):
    """A run stopped because it was asked to, after it wrote a checkpoint.

    Attributes:
        folder: The run folder to resume from.
        step: Optimiser steps taken.
    """

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__(f"stopped after {step} steps; the checkpoint is in {folder}")
        self.folder = folder
        self.step = step


@dataclass(slots=True)
class StopRequest:
    """Set from anywhere; the loop looks at it after every step."""

    is_set: bool = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """A request that SIGINT (Ctrl-C) and SIGTERM set; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python takes no signals, the request is never set by itself.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        if request.is_set and signum == signal.SIGINT:
            raise KeyboardInterrupt
        request.is_set = True

    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
