"""Dense safetensors: what every other tool reads."""

from __future__ import annotations

import os

from torch import Tensor

from itop.export.safetensors_file import load_safetensors, save_safetensors
from itop.export.state import ExportReport, ModelOrState, report, tensors_of


def save_dense(model: ModelOrState, path: str | os.PathLike[str]) -> ExportReport:
    """Writes all tensors with their zeros.

    Raises:
        RuntimeError: If safetensors is not installed.
    """
    # Tied weights share memory, which the format does not know: each name gets a copy.
    tensors = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    return report(save_safetensors(tensors, {}, path), tensors, 0)


def load_dense(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a file of :func:`save_dense`, or of another safetensors file.

    Raises:
        ValueError: If the file is damaged.
    """
    return load_safetensors(path)[0]
