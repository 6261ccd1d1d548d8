"""ONNX: the network with its zeros, for engines that find them by themselves."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from itop.export.state import ExportReport, report, require, tensors_of, write_whole
from itop.layers import unwrap


def save_onnx(model: nn.Module, example_inputs: tuple[Any, ...], path: str | os.PathLike[str]) -> ExportReport:
    """Writes one file, weights included; the first dimension of each input stays open.

    Args:
        model: In the mode it is to be used in; evaluation, usually.
        example_inputs: Positional arguments of a call.

    Raises:
        RuntimeError: If the packages onnx and onnxscript are not installed.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "export to ONNX")
    model = unwrap(model)
    shapes = tuple({0: torch.export.Dim.AUTO} if isinstance(value, torch.Tensor) else None for value in example_inputs)
    program = torch.onnx.export(
        model, example_inputs, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False
    )
    assert program is not None
    written = write_whole(path, lambda file: program.save(file, external_data=False))
    return report(written, tensors_of(model), 0)
