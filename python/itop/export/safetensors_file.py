"""A safetensors file with a checksum of each tensor in its metadata, where readers that do not know of it pass over it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from itop.export.state import reading, require, write_whole

_CHECKSUMS = "itop.crc32"
"""Of all other metadata, then of each tensor by name: eight digits each, without names, which would take more than the sums."""


def save_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: str | os.PathLike[str]) -> Path:
    """Writes tensors on the CPU and what is said of them.

    Raises:
        RuntimeError: If safetensors is not installed.
    """
    safetensors = require("safetensors.torch", "export to safetensors", "safetensors")
    said = {"format": "pt", **metadata}
    said[_CHECKSUMS] = "".join(f"{checksum:08x}" for checksum in _checksums(tensors, said))
    return write_whole(path, lambda file: safetensors.save_file(dict(tensors), str(file), metadata=said))


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what is said of them; files of other writers have no checksums and are believed.

    Raises:
        RuntimeError: If safetensors is not installed.
        ValueError: If the file is damaged.
    """
    safe_open = require("safetensors", "reading safetensors").safe_open
    with reading(path, "safetensors"):
        with safe_open(os.fspath(path), framework="pt") as file:
            said = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        written = said.pop(_CHECKSUMS, None)
        if written is not None:
            _check(written, tensors, said)
    return tensors, said


def _check(written: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    found = [f"{checksum:08x}" for checksum in _checksums(tensors, metadata)]
    parts = ["its metadata is", *(f"its tensor '{name}' is" for name in sorted(tensors))]
    if len(written) != 8 * len(found):
        raise ValueError("its tensors are not those that were written")
    for i, (part, checksum) in enumerate(zip(parts, found, strict=True)):
        if written[8 * i : 8 * i + 8] != checksum:
            raise ValueError(f"{part} not what was written")


def _checksums(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[int]:
    """CRC-32 of the metadata, and of each tensor with its name, type and shape."""
    yield zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        kind = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        yield zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, kind)
