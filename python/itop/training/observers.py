"""Who wants to know how training goes: progress bars, event files, tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from itop.training.config import RunConfig
from itop.training.records import EpochRecord, UpdateRecord

__all__ = ["ObserverGroup", "TensorBoardEvents", "TrainingObserver", "is_tensorboard_installed"]


class TrainingObserver:
    """Hears of a run as it goes; every method does nothing unless overridden."""

    def data_decoded(self, num_images: int, total: int) -> None:
        """So many images of a data set that is used for the first time are decoded."""

    def run_started(self, config: RunConfig, folder: Path, step: int, total_steps: int) -> None:
        """A run begins, or goes on from optimiser step `step`."""

    def step_taken(self, step: int) -> None:
        """An optimiser step is done; called at every step, so an override should be cheap."""

    def topology_updated(self, record: UpdateRecord) -> None:
        """The topology has changed."""

    def epoch_ended(self, record: EpochRecord) -> None:
        """An epoch, with its validation, is over."""

    def test_began(self, num_images: int) -> None:
        """The last step is done; the finished network is scored on the test set."""

    def run_ended(self, config: RunConfig, summary: Mapping[str, Any]) -> None:
        """The run is complete; also called for a run that an earlier command completed."""

    def run_failed(self, config: RunConfig, reason: str) -> None:
        """The run cannot go on; those after it do."""

    def method_skipped(self, method: str, reason: str) -> None:
        """The model has nothing for a method to work on: none of its runs takes place."""


@final
class ObserverGroup(TrainingObserver):
    """Several observers as one."""

    def __init__(self, observers: Iterable[TrainingObserver]) -> None:
        self._observers = tuple(observers)

    def data_decoded(self, num_images: int, total: int) -> None:
        for observer in self._observers:
            observer.data_decoded(num_images, total)

    def run_started(self, config: RunConfig, folder: Path, step: int, total_steps: int) -> None:
        for observer in self._observers:
            observer.run_started(config, folder, step, total_steps)

    def step_taken(self, step: int) -> None:
        for observer in self._observers:
            observer.step_taken(step)

    def topology_updated(self, record: UpdateRecord) -> None:
        for observer in self._observers:
            observer.topology_updated(record)

    def epoch_ended(self, record: EpochRecord) -> None:
        for observer in self._observers:
            observer.epoch_ended(record)

    def test_began(self, num_images: int) -> None:
        for observer in self._observers:
            observer.test_began(num_images)

    def run_ended(self, config: RunConfig, summary: Mapping[str, Any]) -> None:
        for observer in self._observers:
            observer.run_ended(config, summary)

    def run_failed(self, config: RunConfig, reason: str) -> None:
        for observer in self._observers:
            observer.run_failed(config, reason)

    def method_skipped(self, method: str, reason: str) -> None:
        for observer in self._observers:
            observer.method_skipped(method, reason)


def is_tensorboard_installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


@final
class TensorBoardEvents(TrainingObserver):
    """Writes every record as TensorBoard scalars under ``tensorboard/`` in the run folder; needs TensorBoard."""

    def __init__(self) -> None:
        self._writer: Any = None

    def run_started(self, config: RunConfig, folder: Path, step: int, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # costs a second to import: only those who want events pay

        self._close()
        # What an interrupted run wrote beyond its checkpoint is hidden by the purge.
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step if step else None)

    def topology_updated(self, record: UpdateRecord) -> None:
        for name in ("density", "exploration_rate", "reliable_rate"):
            self._writer.add_scalar(f"topology/{name}", getattr(record, name), record.step)
        for layer, values in record.layers.items():
            self._writer.add_scalar(f"exploration_rate/{layer}", values.exploration_rate, record.step)

    def epoch_ended(self, record: EpochRecord) -> None:
        for name, value in asdict(record).items():
            if name not in ("epoch", "step", "round", "seconds") and value is not None:
                group = name.split("_")[0] if name.endswith(("_loss", "_accuracy")) else "topology"
                self._writer.add_scalar(f"{group}/{name}", value, record.step)

    def run_ended(self, config: RunConfig, summary: Mapping[str, Any]) -> None:
        self._close()

    def run_failed(self, config: RunConfig, reason: str) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
