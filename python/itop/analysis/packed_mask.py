"""Masks at one bit a weight, on the host, and counting in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]

_BYTE_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)


@final
@dataclass(frozen=True, slots=True, eq=False)
class PackedMask:
    """A bool tensor as bits; bits beyond the last weight are zero.

    Attributes:
        shape: Shape of the mask.
        words: uint64 [ceil(numel / 64)], weight i at bit i % 64 of word i // 64, on little-endian machines.
    """

    shape: tuple[int, ...]
    words: Words

    @classmethod
    def pack(cls, mask: Tensor) -> PackedMask:
        """Packs a bool tensor from any device.

        Raises:
            ValueError: If the tensor is not bool.
        """
        return cls(tuple(mask.shape), pack_rows(mask.reshape(1, -1))[0])

    def unpack(self) -> Tensor:
        """The mask again, as a bool tensor on the CPU."""
        bits = np.unpackbits(self.words.view(np.uint8), bitorder="little")[: self._numel]
        return torch.from_numpy(bits.astype(np.bool_)).reshape(self.shape)

    def count(self) -> int:
        """How many weights are set."""
        return int(count_bits(self.words).sum())

    @property
    def _numel(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def pack_rows(mask: Tensor) -> Words:
    """Each row of a bool matrix [rows, columns] as words [rows, ceil(columns / 64)]; spare bits are zero."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor, got {mask.dtype}")
    rows, columns = mask.shape
    num_words = -(-columns // 64)
    packed = np.zeros((rows, num_words * 8), dtype=np.uint8)
    packed[:, : -(-columns // 8)] = np.packbits(mask.cpu().numpy(), axis=1, bitorder="little")
    return packed.view(np.uint64)


def count_bits(words: Words) -> NDArray[np.uint8]:
    """How many bits are set in each word; same shape."""
    if hasattr(np, "bitwise_count"):  # from NumPy 2.0
        counts: NDArray[np.uint8] = np.bitwise_count(words)
        return counts
    in_bytes = _BYTE_COUNTS[np.ascontiguousarray(words).view(np.uint8)]
    summed: NDArray[np.uint8] = in_bytes.reshape(*words.shape, 8).sum(axis=-1, dtype=np.uint8)
    return summed
