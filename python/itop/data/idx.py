"""The idx files of MNIST and its successors, plain or gzipped."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

from itop.data.decoding import Pixels
from itop.data.errors import DataSetError

_UINT8 = 8
_MAX_DIMENSIONS = 4


def find_idx(folder: Path, name: str) -> Path | None:
    """``name`` or ``name.gz`` in ``folder``."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def read_idx(path: Path) -> Pixels:
    """The array of bytes in an idx file.

    Layout: two zero bytes, a type (8: uint8), the number of dimensions, each dimension as a big-endian uint32, values.

    Raises:
        DataSetError: If the file is truncated or something else.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataSetError(f"cannot read '{path}': {error}") from error
    if len(content) < 4 or content[:3] != bytes([0, 0, _UINT8]) or not 1 <= content[3] <= _MAX_DIMENSIONS:
        raise DataSetError(f"'{path}' is no idx file of bytes")
    header_size = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header_size, 4))
    if len(content) != header_size + prod(shape):
        raise DataSetError(
            f"'{path}' is truncated or damaged: it announces {header_size + prod(shape)} bytes and has {len(content)}"
        )
    values: Pixels = np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape).copy()
    return values
