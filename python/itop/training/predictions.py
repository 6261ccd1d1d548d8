"""What a trained model says of each test sample, kept for ensembles and calibration."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itop.training.execution import Precision
from itop.training.files import write_atomically
from itop.training.meter import Batch

__all__ = ["predict", "read_predictions", "write_predictions"]


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Batch], precision: Precision) -> tuple[Tensor, Tensor]:
    """Class probabilities float32 [samples, classes] and labels int64 [samples], on the CPU, in evaluation mode."""
    was_training = model.training
    model.eval()
    probabilities, targets = [], []
    try:
        for images, labels in batches:
            with precision.autocast():
                outputs = model(images)
            probabilities.append(outputs.float().softmax(dim=1).cpu())
            targets.append(labels.cpu())
    finally:
        model.train(was_training)
    return torch.cat(probabilities), torch.cat(targets)


def write_predictions(path: Path, probabilities: Tensor, labels: Tensor) -> None:
    """Replaces `path` in one step; probabilities are kept to 16 bits."""
    content: dict[str, Any] = {"probabilities": probabilities.numpy().astype(np.float16), "labels": labels.numpy()}
    write_atomically(path, lambda file: np.savez_compressed(file, **content))


def read_predictions(path: Path) -> tuple[Tensor, Tensor]:
    """What :func:`write_predictions` wrote, each row summing to 1 again.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no predictions; the message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            probabilities = torch.from_numpy(content["probabilities"].astype(np.float32))
            labels = torch.from_numpy(content["labels"].astype(np.int64))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} holds no predictions of a run: {error}") from None
    return probabilities / probabilities.sum(dim=1, keepdim=True), labels
