"""What a run reports while it trains: one record an epoch, one a topology update, kept in ``metrics.jsonl``."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, final

from itop.update_report import UpdateReport

__all__ = ["EpochRecord", "LayerUpdate", "MetricsLog", "UpdateRecord", "read_metrics"]

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch. Losses are means over samples, accuracies and rates fractions in [0, 1].

    Args:
        epoch: From 1, counted over all rounds.
        step: Optimiser steps so far.
        round: From 0; only methods that train in rounds get beyond.
        learning_rate: Of the epoch's last step.
        train_loss, train_accuracy: Of the epoch's own steps, while the weights moved.
        validation_loss, validation_accuracy: On the held-out split at the epoch's end; None where none is held out.
        density, exploration_rate, reliable_rate: Over all sparsifiable weights at the epoch's end.
        seconds: Training time so far, validation included.
    """

    epoch: int
    step: int
    round: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    density: float
    exploration_rate: float
    reliable_rate: float
    seconds: float


@final
@dataclass(frozen=True, slots=True)
class LayerUpdate:
    """One layer after a topology update.

    Args:
        size: Its weights in all.
        density, exploration_rate, reliable_rate: Fractions of them.
        dropped, grown: Connections that went and came; one that did both counts in both.
    """

    size: int
    density: float
    exploration_rate: float
    reliable_rate: float
    dropped: int
    grown: int


@final
@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """One topology update.

    Args:
        update: From 1.
        step: Optimiser steps when it happened.
        density, exploration_rate, reliable_rate: Over all sparsifiable weights afterwards.
        dropped, grown: Connections over all layers.
        layers: The same by layer name, in the model's order.
    """

    update: int
    step: int
    density: float
    exploration_rate: float
    reliable_rate: float
    dropped: int
    grown: int
    layers: Mapping[str, LayerUpdate]

    @classmethod
    def of(cls, report: UpdateReport) -> UpdateRecord:
        """The engine's report with counts turned into rates."""
        layers = {
            layer.name: LayerUpdate(
                size=layer.numel,
                density=_ratio(layer.num_active, layer.numel),
                exploration_rate=_ratio(layer.num_explored, layer.numel),
                reliable_rate=_ratio(layer.num_reliable, layer.numel),
                dropped=layer.dropped,
                grown=layer.grown,
            )
            for layer in report.layers
        }
        return cls(
            update=report.update,
            step=report.step,
            density=_ratio(
                sum(layer.num_active for layer in report.layers), sum(layer.numel for layer in report.layers)
            ),
            exploration_rate=report.exploration_rate,
            reliable_rate=report.reliable_rate,
            dropped=report.dropped,
            grown=report.grown,
            layers=layers,
        )


@final
class MetricsLog:
    """Appends records to ``metrics.jsonl``; can go back to where a checkpoint saw it end."""

    def __init__(self, path: Path, *, keep_bytes: int = 0) -> None:
        """Opens `path` with its first `keep_bytes` bytes kept; what an interrupted run wrote after them goes."""
        size = path.stat().st_size if path.exists() else 0
        if size < keep_bytes:
            logger.warning("%s is shorter than its checkpoint says; the report will miss some records", path)
        self._file: BinaryIO = path.open("ab")
        self._file.truncate(min(size, keep_bytes))

    def write(self, record: EpochRecord | UpdateRecord) -> None:
        kind = "epoch" if isinstance(record, EpochRecord) else "update"
        # NaN is no JSON: a diverged loss is written as null.
        values = {key: _finite(value) for key, value in asdict(record).items()}
        self._file.write((json.dumps({"kind": kind, **values}, allow_nan=False) + "\n").encode("utf-8"))

    def flush(self) -> int:
        """Makes everything written so far durable; returns the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> Iterator[EpochRecord | UpdateRecord]:
    """The records of a ``metrics.jsonl``; a last line that was cut off is left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line before the last is no record.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _record(json.loads(line))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError):
            if number == len(lines):  # only a finished line ends with a newline
                return
            raise ValueError(f"{path}, line {number}, is no record of a run") from None


def _record(values: dict[str, Any]) -> EpochRecord | UpdateRecord:
    kind = values.pop("kind")
    if kind == "epoch":
        losses = {key: math.nan if values[key] is None else values[key] for key in ("train_loss",)}
        return EpochRecord(**{**values, **losses})
    if kind == "update":
        layers = {str(name): LayerUpdate(**layer) for name, layer in values.pop("layers").items()}
        return UpdateRecord(**values, layers=layers)
    raise KeyError(kind)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
