"""The masks of the parts of layers that this process holds: the native bit sets, what they say of values, their saved form."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itop import _core
from itop.distributed.agreement import LayerDigest
from itop.distributed.reduction import Reduction
from itop.distributed.shards import like_parameter
from itop.exact_sums import rounded_sums
from itop.held_parts import HeldParts
from itop.layers import Layer, index_map
from itop.saved_codes import ACTIVE, EXPLORED, RELIABLE, read_codes
from itop.selection import BitSet, Scores

__all__ = ["HeldMasks", "compared", "is_native"]


class HeldMasks(HeldParts):
    """Which weights of the parts held here are active, were explored, were explored reliably.

    Args:
        layers: The sparse layers, all on one device.
        seed: Of every random choice.
        reduction: Of :class:`HeldParts`.

    Attributes:
        store: The native bit sets.
    """

    def __init__(self, layers: Sequence[Layer], seed: int, reduction: Reduction | None = None) -> None:
        super().__init__(layers, reduction)
        self.store = self._make_store(seed)
        self._counts = np.zeros((len(self.layers), 3), dtype=np.int64)

    def _make_store(self, seed: int) -> _core.MaskStore:
        rows = [(layer.name, *self._index_map(i)) for i, layer in enumerate(self.layers)]
        index = self.device.index if self.device.index is not None else 0
        return _core.MaskStore(rows, self.device.type, index, seed, self.stream)

    def _index_map(self, layer: int) -> tuple[int, list[int], list[int]]:
        try:
            return index_map(self.local(layer), self.layers[layer].shape, self.start(layer))
        except ValueError as error:
            raise ValueError(f"layer '{self.layers[layer].name}' cannot be masked: {error}") from None

    # --- sets ---------------------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.store.seed

    @property
    def active(self) -> BitSet:
        return BitSet(self, self.store.active)

    @property
    def explored(self) -> BitSet:
        return BitSet(self, self.store.explored)

    @property
    def reliable(self) -> BitSet:
        return BitSet(self, self.store.reliable)

    def empty(self) -> BitSet:
        return BitSet(self, self.store.empty(self.stream))

    def full(self) -> BitSet:
        return BitSet(self, self.store.full(self.stream))

    def only(self, layers: Iterable[int]) -> BitSet:
        """Every weight of some layers, no weight of the others."""
        full, result = self.full(), self.empty()
        for i in layers:
            result.native.set_words(int(i), full.native.words(int(i), self.stream), self.stream)
        return result

    def from_tensors(self, masks: Sequence[Tensor]) -> BitSet:
        """A set from one bool tensor a layer, each in its layer's shape."""
        result = self.empty()
        for i, mask in enumerate(masks):
            result.native.pack(i, self.in_storage_order(i, mask.to(torch.bool)), self.stream)
        return result

    # --- values and sets ----------------------------------------------------------------------------------------------

    def sums_of_magnitudes(self, scores: Scores, among: BitSet) -> list[float]:
        """Of each layer the sum of ``abs(score)`` over a set, as exact as :meth:`sums`."""
        tensors = [self.in_storage_order(i, tensor) for i, tensor in enumerate(scores.tensors)]
        if not all(map(is_native, tensors)):
            masks = among.to_tensors()
            return self.sums(tensor[mask].abs() for tensor, mask in zip(tensors, masks, strict=True))
        rows = np.array([_core.sum_magnitudes(among.native, i, tensor) for i, tensor in enumerate(tensors)])
        self.reductions.sum(rows)
        return rounded_sums(rows)

    def smallest_magnitudes(self, tensors: Sequence[Tensor], among: BitSet) -> list[float]:
        """Of each layer the smallest ``abs(value)`` over the part held here of a set; infinity where that is empty."""
        stored = [self.in_storage_order(i, tensor) for i, tensor in enumerate(tensors)]
        if all(map(is_native, stored)):
            return [_core.smallest_magnitude(among.native, i, tensor) for i, tensor in enumerate(stored)]
        masks = among.to_tensors()
        return [
            float(tensor.abs().masked_fill(~mask, math.inf).min()) for tensor, mask in zip(stored, masks, strict=True)
        ]

    def where(
        self,
        tensors: Sequence[Tensor],
        *,
        limit: float | Sequence[float],
        greater: bool = False,
        magnitude: bool = False,
    ) -> BitSet:
        """The weights at which a value (or its magnitude) is smaller than a limit, or greater.

        Args:
            tensors: One a layer, as those of :meth:`weights`.
            limit: One for all layers, or one a layer.
        """
        stored = [self.in_storage_order(i, tensor) for i, tensor in enumerate(tensors)]
        limits = [float(limit)] * len(stored) if isinstance(limit, (int, float)) else limit
        if not all(map(is_native, stored)):
            return self.from_tensors(compared(stored, limits, greater, magnitude))
        result = self.empty()
        for i, tensor in enumerate(stored):
            _core.compare_with(tensor, result.native, i, magnitude=magnitude, greater=greater, limit=limits[i])
        return result

    # --- counts and bytes ---------------------------------------------------------------------------------------------

    def _recount(self) -> None:
        sets = (self.active, self.explored, self.reliable)
        self._counts = np.array([bits.counts() for bits in sets], dtype=np.int64).T.copy()

    @property
    def active_counts(self) -> npt.NDArray[np.int64]:
        """Active weights of each layer, as an array that is not to be written to."""
        return self._counts[:, 0]

    @property
    def num_active(self) -> list[int]:
        return [int(count) for count in self._counts[:, 0]]

    @property
    def num_explored(self) -> list[int]:
        return [int(count) for count in self._counts[:, 1]]

    @property
    def num_reliable(self) -> list[int]:
        return [int(count) for count in self._counts[:, 2]]

    def num_bytes(self) -> int:
        """Of the bit sets this process holds."""
        return self.store.num_bytes()

    def digest(self) -> bytes:
        """128 bits that differ when active, explored or reliable sets differ."""
        parts = (of_layer.digest for of_layer in self.layer_digests())
        return hashlib.blake2b(b"".join(parts), digest_size=16).digest()

    def layer_digests(self) -> list[LayerDigest]:
        """128 bits of each layer's part held here, with its place, for comparison between ranks."""
        digests: list[LayerDigest] = []
        for i, layer in enumerate(self.layers):
            digest = hashlib.blake2b(digest_size=16)
            for bits in (self.active, self.explored, self.reliable):
                digest.update(bits.native.words(i, self.stream).tobytes())
            digests.append(LayerDigest(layer.name, (self.start(i), tuple(self.local(i).shape)), digest.digest()))
        return digests

    def mask(self, layer: int) -> Tensor:
        """A layer's mask as its parameter is: a plain tensor, or a DTensor of the same placement; a copy."""
        return like_parameter(self.active.to_tensor(layer), self.layers[layer].parameter)

    # --- saved form ---------------------------------------------------------------------------------------------------

    def layer_codes(self, layer: int) -> Any:
        """A byte for each weight of a layer: :data:`ACTIVE`, :data:`EXPLORED` and :data:`RELIABLE`, in its shape.

        A DTensor where the layer is one.
        """
        codes = self.active.to_tensor(layer).to(torch.uint8) * ACTIVE
        codes |= self.explored.to_tensor(layer).to(torch.uint8) * EXPLORED
        codes |= self.reliable.to_tensor(layer).to(torch.uint8) * RELIABLE
        return like_parameter(codes.contiguous(), self.layers[layer].parameter)

    def read_codes(self, layer: int, saved: object) -> Any:
        """What :meth:`set_codes` takes of a layer, from what :meth:`layer_codes` of either execution gave.

        Raises:
            ValueError: If it is of another model or sharding, or damaged.
        """
        return read_codes(self, layer, saved)

    def set_codes(self, codes: Sequence[Tensor]) -> None:
        """Replaces all sets by the codes of the parts held here."""
        for i, of_layer in enumerate(codes):
            of_layer = of_layer.to(self.device)
            for bit, bits in ((ACTIVE, self.active), (EXPLORED, self.explored), (RELIABLE, self.reliable)):
                bits.native.pack(i, self.in_storage_order(i, (of_layer & bit) != 0), self.stream)
        self._recount()

    # --- moving -------------------------------------------------------------------------------------------------------

    def move_if_needed(self) -> None:
        """Follows the parameters to another device or memory format (``model.to(...)`` after the engine was made)."""
        if not self._has_moved():
            return
        masks = [
            [self._unpacked(bits, i) for i in range(len(self.layers))]
            for bits in (self.active, self.explored, self.reliable)
        ]
        self._note_layout()
        self.store = self._make_store(self.seed)
        for bits, of_layers in zip((self.active, self.explored, self.reliable), masks, strict=True):
            for i, mask in enumerate(of_layers):
                bits.native.pack(i, self.in_storage_order(i, mask.to(self.device)), self.stream)

    def _unpacked(self, bits: BitSet, layer: int) -> Tensor:
        """A mask as the store lays it out, whatever has become of the weight since."""
        shape = self.local(layer).shape
        mask = torch.empty_strided(shape, self._local_strides[layer], dtype=torch.bool, device=self.device)
        bits.native.unpack(layer, mask, self.stream)
        return mask


def is_native(tensor: Tensor) -> bool:
    """Whether the core looks at a tensor's values itself where no selection does: float32 in host memory."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def compared(tensors: Sequence[Tensor], limits: Sequence[float], greater: bool, magnitude: bool) -> list[Tensor]:
    """Bool tensors: where values (or magnitudes) are smaller than a layer's limit, or greater."""
    values = [tensor.abs() if magnitude else tensor for tensor in tensors]
    return [value > limit if greater else value < limit for value, limit in zip(values, limits, strict=True)]
