"""Dynamic sparse training in the ``Trainer`` of Hugging Face's transformers.

>>> trainer = Trainer(model, arguments, train_dataset=data, callbacks=[SparseCallback("rigl", sparsity=0.9)])  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from itop.integrations.resuming import EngineOfTrainer

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "itop.integrations.huggingface needs the package transformers: pip install 'itop[integrations]'"
    ) from error

_FILE = "itop.pt"


class SparseCallback(EngineOfTrainer, TrainerCallback):
    """Makes the engine when training begins, saves it beside the trainer's checkpoints, and goes on from one."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Weights and optimiser are there, and loaded where the trainer resumes.

        Raises:
            ValueError: If the trainer resumes from a checkpoint that holds no engine.
        """
        saved = _saved_in(_folder(args, state)) if state.global_step > 0 else None
        self.begin(kwargs["model"], kwargs["optimizer"], state.max_steps, saved)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer has written a checkpoint."""
        assert self.engine is not None
        content = self.engine.state_dict(full=True)
        if state.is_world_process_zero:
            path = _folder(args, state) / _FILE
            partial = path.with_suffix(".partial")
            torch.save(content, partial)
            partial.replace(path)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where the trainer went back to the weights of its best checkpoint, their masks come back with them."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            assert self.engine is not None
            self.engine.load_state_dict(_saved_in(Path(state.best_model_checkpoint)))


def _saved_in(folder: Path) -> dict[str, Any]:
    """The engine's state in a checkpoint."""
    path = folder / _FILE
    if not path.is_file():
        raise ValueError(
            f"there is no engine state {path}; resume from a checkpoint in the output folder that this callback saved"
        )
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
