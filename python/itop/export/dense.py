"""Dense safetensors: what every other tool reads."""

from __future__ import annotations

import os

from torch import Tensor

from itop.export.state import ExportReport, ModelOrState, reading, report, require, tensors_of, write_whole


def save_dense(model: ModelOrState, path: str | os.PathLike[str]) -> ExportReport:
    """Writes all tensors with their zeros.

    Raises:
        RuntimeError: If safetensors is not installed.
    """
    safetensors = require("safetensors.torch", "export to safetensors", "safetensors")
    # Tied weights share memory, which the format does not know: each name gets a copy.
    tensors = {name: tensor.clone() for name, tensor in tensors_of(model).items()}
    written = write_whole(path, lambda file: safetensors.save_file(tensors, str(file), metadata={"format": "pt"}))
    return report(written, tensors, 0)


def load_dense(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The state dict of a file of :func:`save_dense`.

    Raises:
        ValueError: If the file cannot be read.
    """
    safetensors = require("safetensors.torch", "reading safetensors", "safetensors")
    with reading(path, "safetensors"):
        state: dict[str, Tensor] = safetensors.load_file(os.fspath(path))
    return state
