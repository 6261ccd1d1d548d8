"""Loss and accuracy over many batches, without waiting for the device at each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from itop.training.execution import Precision

__all__ = ["Batch", "Meter", "Score", "evaluate"]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images and their labels."""


@final
@dataclass(frozen=True, slots=True)
class Score:
    """Mean loss over samples, and the fraction of them classified correctly."""

    loss: float
    accuracy: float
    num_samples: int


@final
class Meter:
    """Sums on the device what :meth:`score` reads back once.

    Sums are float64: over a million samples a float32 sum has lost the last digits that a resumed run must repeat.
    """

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._num_samples = 0

    @torch.no_grad()
    def add(self, loss: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Adds a batch of outputs [batch, classes], labels [batch] and its mean loss, a scalar."""
        num_samples = labels.shape[0]
        self._loss.add_(loss, alpha=num_samples)
        self._correct.add_((outputs.argmax(1) == labels).sum())
        self._num_samples += num_samples

    def score(self) -> Score:
        """The means so far; waits for the device."""
        count = max(self._num_samples, 1)
        return Score(self._loss.item() / count, self._correct.item() / count, self._num_samples)

    def reset(self) -> None:
        self._loss.zero_()
        self._correct.zero_()
        self._num_samples = 0

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self._loss.clone(), "correct": self._correct.clone(), "num_samples": self._num_samples}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._loss.copy_(state["loss"])
        self._correct.copy_(state["correct"])
        self._num_samples = int(state["num_samples"])


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    precision: Precision,
    device: torch.device,
    *,
    seen: Callable[[Tensor, Tensor], None] | None = None,
) -> Score:
    """Scores `model` in evaluation mode; it is left in the mode it was in.

    Args:
        seen: Called with each batch's outputs and labels.
    """
    was_training = model.training
    model.eval()
    meter = Meter(device)
    try:
        with precision.autocast():
            for images, labels in batches:
                outputs = model(images)
                meter.add(loss(outputs, labels), outputs, labels)
                if seen is not None:
                    seen(outputs, labels)
    finally:
        model.train(was_training)
    return meter.score()
