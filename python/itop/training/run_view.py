"""A run folder as it is read for a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from itop.training.config import RunConfig
from itop.training.files import read_json
from itop.training.records import EpochRecord, UpdateRecord, read_metrics
from itop.training.run_folder import RunFolder

__all__ = ["RunView", "read_run"]


@final
@dataclass(frozen=True, slots=True)
class RunView:
    """What a run has written so far.

    Args:
        folder: Where.
        config: Of the run.
        epochs, updates: Its records, in order.
        summary: None before the run's end.
        analysis: What its instruments saw; None before its end, and where it had none.
    """

    folder: RunFolder
    config: RunConfig
    epochs: tuple[EpochRecord, ...]
    updates: tuple[UpdateRecord, ...]
    summary: Mapping[str, Any] | None
    analysis: Mapping[str, Any] | None


def read_run(folder: RunFolder, config: RunConfig) -> RunView | None:
    """The run in a folder; None where it has not begun.

    Raises:
        ValueError: If a file in it is damaged; the message names it.
    """
    if not folder.metrics.exists():
        return None
    records = list(read_metrics(folder.metrics))
    return RunView(
        folder,
        config,
        tuple(record for record in records if isinstance(record, EpochRecord)),
        tuple(record for record in records if isinstance(record, UpdateRecord)),
        read_json(folder.summary) if folder.is_complete else None,
        read_json(folder.analysis) if folder.is_complete and folder.analysis.exists() else None,
    )
