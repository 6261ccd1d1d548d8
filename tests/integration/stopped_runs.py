"""Runs that are asked to stop on the way, and what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from itop.training.checkpoint import load_checkpoint
from itop.training.interruption import StopRequest
from itop.training.observers import TrainingObserver


class StopAt(TrainingObserver):
    """Asks for a stop after a certain step."""

    def __init__(self, step: int) -> None:
        self.request = StopRequest()
        self._step = step

    def step_taken(self, step: int) -> None:
        if step == self._step:
            self.request.is_set = True


def final_state(folder: Path) -> dict[str, Any]:
    """The states of a run's last checkpoint."""
    return dict(load_checkpoint(folder / "checkpoints" / "last.pt").states)
