"""torch's own sparse CSR tensors: rows of output units, for ``torch.sparse.mm`` and who builds on it."""

from __future__ import annotations

import os
import warnings

import torch
from torch import Tensor

from itop.export.state import (
    ExportReport,
    ModelOrState,
    nonzero_bits,
    num_bytes,
    reading,
    report,
    tensors_of,
    write_whole,
)
from itop.torch_files import check_archive

_SHAPES = "itop.shapes"


def to_csr(weight: Tensor) -> Tensor:
    """A weight [out, ...] as a sparse CSR matrix [out, rest], int32 indices; -0 counts as a value.

    Raises:
        ValueError: If it has less than two dimensions.
    """
    if weight.dim() < 2:
        raise ValueError(f"a CSR matrix needs a weight of at least two dimensions, got shape {list(weight.shape)}")
    matrix = weight.detach().flatten(1).contiguous()
    kept = nonzero_bits(matrix)
    offsets = torch.zeros(matrix.size(0) + 1, dtype=torch.int32, device=matrix.device)
    offsets[1:] = kept.sum(dim=1).cumsum(0)
    columns = kept.nonzero()[:, 1].to(torch.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(offsets, columns, matrix[kept], size=matrix.shape, check_invariants=True)


def save_csr(model: ModelOrState, path: str | os.PathLike[str]) -> ExportReport:
    """Writes a state dict whose sparse weights are CSR matrices, with ``torch.save``; loads with ``weights_only=True``."""
    tensors = tensors_of(model)
    content: dict[str, Tensor | dict[str, list[int]]] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        sparse = tensor.dim() >= 2 and tensor.is_floating_point() and _csr_bytes(tensor) < num_bytes(tensor)
        content[name] = to_csr(tensor) if sparse else tensor.clone()
        if sparse:
            shapes[name] = list(tensor.shape)
    content[_SHAPES] = shapes
    written = write_whole(path, lambda file: torch.save(content, file))
    return report(written, tensors, len(shapes))


def load_csr(path: str | os.PathLike[str], *, dense: bool = True) -> dict[str, Tensor]:
    """The state dict of a file of :func:`save_csr`.

    Args:
        dense: Weights in their own shapes with their zeros; otherwise as CSR matrices.

    Raises:
        ValueError: If the file is another one.
    """
    with reading(path, "save_csr"):
        check_archive(path)
        content = torch.load(path, weights_only=True)
        if not isinstance(content, dict) or _SHAPES not in content:
            raise ValueError("it was written by something else")
        shapes = content.pop(_SHAPES)
        if dense:
            content |= {name: _to_dense(content[name]).view(shape) for name, shape in shapes.items()}
        return dict(content)


def _to_dense(matrix: Tensor) -> Tensor:
    """By assignment: torch's own way adds to zeros, which makes +0 of -0."""
    dense = torch.zeros(matrix.shape, dtype=matrix.dtype)
    rows = torch.arange(matrix.size(0)).repeat_interleave(matrix.crow_indices().diff().to(torch.int64))
    dense[rows, matrix.col_indices().to(torch.int64)] = matrix.values()
    return dense


def _csr_bytes(tensor: Tensor) -> int:
    return int(nonzero_bits(tensor).sum()) * (tensor.element_size() + 4) + 4 * (tensor.size(0) + 1)
