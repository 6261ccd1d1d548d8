"""What a trained model says of each test sample, kept for ensembles and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from itop.training.files import write_atomically

__all__ = ["Predictions", "read_predictions", "write_predictions"]


@final
class Predictions:
    """What a model says of the samples of some batches."""

    def __init__(self) -> None:
        self._logarithms: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """A batch of outputs [batch, classes] and labels [batch]."""
        self._logarithms.append(outputs.detach().float().log_softmax(dim=1).cpu())
        self._labels.append(labels.cpu())

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Logarithms of class probabilities, float32 [samples, classes], and labels int64 [samples], on the CPU.

        A logarithm says how unlikely a class is where its probability would be rounded to zero, and a divergence from it
        to infinity.
        """
        return torch.cat(self._logarithms), torch.cat(self._labels)


def write_predictions(path: Path, log_probabilities: Tensor, labels: Tensor) -> None:
    """Replaces `path` in one step.

    Args:
        path: Of the file.
        log_probabilities: float32 [..., samples, classes].
        labels: int64 [samples].
    """
    content: dict[str, Any] = {"log_probabilities": log_probabilities.numpy(), "labels": labels.numpy()}
    write_atomically(path, lambda file: np.savez_compressed(file, **content))


def read_predictions(path: Path) -> tuple[Tensor, Tensor]:
    """Class probabilities, float64 [..., samples, classes], and labels int64 [samples] of :func:`write_predictions`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no predictions; the message names it.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            logarithms = torch.from_numpy(content["log_probabilities"].astype(np.float64))
            labels = torch.from_numpy(content["labels"].astype(np.int64))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ValueError(f"{path} holds no predictions of a run: {error}") from None
    return logarithms.softmax(dim=-1), labels
