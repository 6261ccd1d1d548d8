"""Dynamic sparse training in the ``Trainer`` of PyTorch Lightning.

>>> trainer = Trainer(max_epochs=90, callbacks=[SparseCallback("rigl", sparsity=0.9)])   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from itop.integrations.resuming import EngineOfTrainer

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise ImportError(
            "itop.integrations.lightning needs the package lightning: pip install 'itop[integrations]'"
        ) from error


class SparseCallback(EngineOfTrainer, Callback):
    """Makes the engine when fitting begins; its state travels in the trainer's checkpoints."""

    _loaded: Mapping[str, Any] | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Model and optimisers are there; where the trainer resumes, weights are loaded and optimisers are about to be."""
        if len(trainer.optimizers) != 1:
            raise ValueError(
                f"the callback follows one optimiser, got {len(trainer.optimizers)}; make a SparseEngine over all"
            )
        self.begin(trainer.model, trainer.optimizers[0], _optimizer_steps(trainer), self._loaded)
        self._loaded = None

    def state_dict(self) -> dict[str, Any]:
        """Part of the trainer's checkpoint."""
        return {} if self.engine is None else self.engine.state_dict(full=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Called before the optimisers exist: the state waits for :meth:`on_fit_start`."""
        self._loaded = dict(state_dict) or None


def _optimizer_steps(trainer: Any) -> int | None:
    steps = trainer.estimated_stepping_batches
    return int(steps) if 0 < steps < float("inf") else None
