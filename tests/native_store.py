"""The native mask store with NumPy on the outside, for tests that go below the Python engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itop import _core

Bools = npt.NDArray[np.bool_]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class NativeStore:
    """A ``MaskStore`` of flat layers of the given sizes on the CPU."""

    def __init__(self, sizes: Sequence[int], seed: int = 0) -> None:
        self.sizes = list(sizes)
        layers = [(f"layer{i}", 0, (1, 1, 1, size), (0, 0, 0, 1)) for i, size in enumerate(sizes)]
        self.native = _core.MaskStore(layers, "cpu", 0, seed, 0)

    def to_sets(self, bits: Sequence[Bools]) -> _core.BitSets:
        """Bool arrays, one a layer, as a native set."""
        sets = self.native.empty(0)
        for layer, flags in enumerate(bits):
            padded = np.zeros((len(flags) + 63) // 64 * 64, dtype=bool)
            padded[: len(flags)] = flags
            sets.set_words(layer, np.packbits(padded, bitorder="little").view(np.uint64), 0)
        return sets

    def to_bools(self, sets: _core.BitSets) -> list[Bools]:
        """A native set as bool arrays, one a layer; bits past a layer's end must be zero."""
        result = []
        for layer, size in enumerate(self.sizes):
            flags = np.unpackbits(sets.words(layer, 0).view(np.uint8), bitorder="little").astype(bool)
            assert not flags[size:].any()
            result.append(flags[:size])
        return result

    def select(
        self,
        candidates: Sequence[Bools],
        k: Sequence[int],
        scores: Sequence[Tensor | None] | None = None,
        *,
        magnitude: bool = True,
        largest: bool = True,
        across_layers: bool = False,
        update: int = 0,
        draw: int = 0,
        reduction: Callable[[npt.NDArray[np.int64]], None] | None = None,
    ) -> list[Bools]:
        chosen = self.native.select(
            self.to_sets(candidates),
            [None] * len(self.sizes) if scores is None else list(scores),
            magnitude=magnitude,
            largest=largest,
            k=list(k),
            across_layers=across_layers,
            update=update,
            draw=draw,
            reduction=reduction,
            stream=0,
        )
        return self.to_bools(chosen)

    def commit(
        self,
        dropped: Sequence[Bools],
        grown: Sequence[Bools],
        tensors: Sequence[Sequence[Tensor]],
        *,
        zero_all_inactive: bool = False,
        regrown_keeps_value: bool = False,
        marks_reliable: bool = True,
    ) -> npt.NDArray[np.int64]:
        return self.native.commit(
            self.to_sets(dropped),
            self.to_sets(grown),
            tensors,
            zero_all_inactive=zero_all_inactive,
            regrown_keeps_value=regrown_keeps_value,
            marks_reliable=marks_reliable,
            stream=0,
        )
