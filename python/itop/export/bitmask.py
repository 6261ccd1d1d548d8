"""Bitmask-compressed safetensors, in the layout of the compressed-tensors library (format ``sparse-bitmask``).

The weight of a module ``fc`` becomes four tensors: ``fc.compressed``, the values that are not zero in row-major order;
``fc.bitmask``, uint8 [rows, ceil(columns / 8)], a bit for each weight, the lowest first; ``fc.shape``; and
``fc.row_offsets``, int64 [rows], where each row's values begin. Its readers make ``fc.weight`` of them.

What the layout cannot say is in the file's metadata, and other readers give it back in the layout's words: kernels of
convolutions are stored as matrices [out, in * kernel], since the layout pads every last dimension to bytes; a parameter
that is not called ``weight`` (``in_proj_weight`` of attention) is stored as if it were a module's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itop.export.safetensors_file import load_safetensors, save_safetensors
from itop.export.state import (
    ExportReport,
    ModelOrState,
    is_worth_compressing,
    nonzero_bits,
    reading,
    report,
    tensors_of,
)

_SUFFIXES = ("compressed", "bitmask", "shape", "row_offsets")
_NEEDED = ("compressed", "bitmask", "shape")
_SHAPES = "itop.shapes"


def compress(tensor: Tensor) -> dict[str, Tensor]:
    """The four tensors of a matrix.

    Args:
        tensor: [rows, columns] on the CPU.
    """
    kept = nonzero_bits(tensor)
    counts = kept.sum(dim=1)
    return {
        "compressed": tensor[kept],
        "bitmask": torch.from_numpy(np.packbits(kept.numpy(), axis=1, bitorder="little")),
        "shape": torch.tensor(tensor.shape),
        "row_offsets": counts.cumsum(0) - counts,
    }


def decompress(parts: Mapping[str, Tensor]) -> Tensor:
    """The matrix of :func:`compress`, bit for bit.

    Raises:
        ValueError: If the parts do not fit together.
    """
    missing = [suffix for suffix in _NEEDED if suffix not in parts]
    if missing:
        raise ValueError(f"a compressed weight has no {', '.join(missing)}")
    shape = [int(size) for size in parts["shape"].tolist()]
    bitmask = parts["bitmask"]
    if len(shape) != 2 or min(shape) < 0 or list(bitmask.shape) != [shape[0], -(-shape[1] // 8)]:
        raise ValueError(f"a bitmask of shape {list(bitmask.shape)} is not that of a matrix of shape {shape}")
    bits = np.unpackbits(bitmask.numpy(), axis=1, count=shape[1], bitorder="little")
    kept = torch.from_numpy(bits.astype(np.bool_)).view(shape)
    values = parts["compressed"]
    if int(kept.sum()) != values.numel():
        raise ValueError(f"a bitmask of {int(kept.sum())} weights comes with {values.numel()} values")
    dense = torch.zeros(shape, dtype=values.dtype)
    dense[kept] = values
    return dense


def save_bitmask(model: ModelOrState, path: str | os.PathLike[str]) -> ExportReport:
    """Writes every weight without its zeros where that is smaller, all else as it is.

    Raises:
        RuntimeError: If safetensors is not installed.
    """
    tensors = tensors_of(model)
    stored: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    num_compressed = 0
    for name, tensor in tensors.items():
        owner = name.removesuffix(".weight")
        names = [f"{owner}.{part}" for part in _SUFFIXES]
        if not is_worth_compressing(tensor, _compressed_bytes(tensor)) or any(
            n in tensors or n in stored for n in names
        ):
            stored[name] = tensor.clone()
            continue
        num_compressed += 1
        stored |= zip(names, compress(tensor.flatten(1)).values(), strict=True)
        if tensor.dim() > 2 or owner == name:
            shapes[name] = list(tensor.shape)
    metadata = {_SHAPES: json.dumps(shapes, separators=(",", ":"))}
    return report(save_safetensors(stored, metadata, path), tensors, num_compressed)


def load_bitmask(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The dense state dict of a file of :func:`save_bitmask`, bit for bit; also of compressed-tensors' own files.

    Raises:
        ValueError: If the file is damaged.
    """
    stored, metadata = load_safetensors(path)
    with reading(path, "safetensors"):
        return _restored(stored, json.loads(metadata.get(_SHAPES, "{}")))


def _restored(stored: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    owners = {name.removesuffix(".weight"): name for name in shapes}
    state: dict[str, Tensor] = {}
    for stored_name, tensor in stored.items():
        owner, _, suffix = stored_name.rpartition(".")
        if suffix not in _SUFFIXES or any(f"{owner}.{part}" not in stored for part in _NEEDED):
            state[stored_name] = tensor
        elif suffix == "bitmask":
            name = owners.get(owner, owner if owner.endswith(".weight") else f"{owner}.weight")
            matrix = decompress({part: stored[f"{owner}.{part}"] for part in _NEEDED})
            shape = shapes.get(name, list(matrix.shape))
            if math.prod(shape) != matrix.numel():
                raise ValueError(f"the shape {shape} of '{name}' does not fit its {matrix.numel()} weights")
            state[name] = matrix.view(shape)
    return state


def sparsity_config(model: ModelOrState) -> dict[str, Any]:
    """What a Hugging Face ``config.json`` says of such a file: the value of its ``quantization_config``."""
    tensors = tensors_of(model)
    weights = [tensor for tensor in tensors.values() if tensor.dim() >= 2 and tensor.is_floating_point()]
    kept = sum(int(nonzero_bits(tensor).sum()) for tensor in weights)
    dense = [name for name, tensor in tensors.items() if not is_worth_compressing(tensor, _compressed_bytes(tensor))]
    return {
        "quant_method": "compressed-tensors",
        "sparsity_config": {
            "format": "sparse-bitmask",
            "global_sparsity": 1.0 - kept / max(1, sum(tensor.numel() for tensor in weights)),
            "ignore": sorted(name.removesuffix(".weight") for name in dense if name.endswith(".weight")),
            "sparsity_structure": "unstructured",
            "targets": ["Linear"],
        },
    }


def _compressed_bytes(tensor: Tensor) -> int:
    """What the four parts of a tensor take."""
    if tensor.dim() < 2 or not tensor.is_floating_point():
        return 0
    rows, columns = tensor.size(0), tensor.numel() // max(1, tensor.size(0))
    return int(nonzero_bits(tensor).sum()) * tensor.element_size() + rows * (-(-columns // 8) + 8) + 16
