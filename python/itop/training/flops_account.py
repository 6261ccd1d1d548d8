"""FLOPs of a whole training, for methods whose density changes on the way too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from itop import SparseEngine

__all__ = ["FlopsAccount"]


@final
class FlopsAccount:
    """Averages the engine's training FLOPs over steps, relative to dense (PAPER section 4: integrate where f_S changes).

    Densities only move at topology updates, so the account is settled once an epoch, by the mean of its two ends, and
    the network is only counted again where a layer's density has changed.
    """

    def __init__(self, engine: SparseEngine, example: Tensor) -> None:
        """`example` is a batch of any size that the model takes."""
        self._engine = engine
        self._example = example
        self._sum = 0.0
        self._steps = 0
        self._counts: tuple[int, ...] = ()
        self._factor = 0.0
        self._look()

    def settle(self, step: int) -> None:
        """Accounts for the steps since the last time, `step` in all."""
        before = self._factor
        self._look()
        self._sum += (before + self._factor) / 2 * (step - self._steps)
        self._steps = step

    @property
    def training_factor(self) -> float:
        """Training FLOPs of the steps settled so far over those of as many dense steps."""
        return self._sum / self._steps if self._steps else self._factor

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self._sum, "steps": self._steps, "counts": list(self._counts), "factor": self._factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sum, self._steps = float(state["sum"]), int(state["steps"])
        self._counts, self._factor = tuple(state["counts"]), float(state["factor"])

    def _look(self) -> None:
        counts = tuple(layer.num_active for layer in self._engine.layers)
        if counts != self._counts:
            self._factor = self._engine.flops(self._example).training_factor
            self._counts = counts
