"""The topology update in plain NumPy, one weight and one rule at a time: what the native core is held against.

Written for reading. Nothing here is fast, shares code with the core, or knows of words, chunks, brackets or threads.
Scores are ordinary arrays, sets of weights are bool arrays, both flat and in the layer's logical (row-major) order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
UInts = npt.NDArray[np.uint64]

MASK32 = np.uint64(0xFFFFFFFF)


# --- Random keys -----------------------------------------------------------------------------------------------------


def philox(counter: Sequence[UInts], key: tuple[int, int]) -> list[UInts]:
    """Philox 4x32-10 of many counters at once: four arrays of 32-bit words in, four out.

    Reference:
        Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    key0, key1 = key
    for _ in range(10):
        product0 = c0 * np.uint64(0xD2511F53)
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0),
            product1 & MASK32,
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1),
            product0 & MASK32,
        )
        key0 = (key0 + 0x9E3779B9) & 0xFFFFFFFF
        key1 = (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


@dataclass(frozen=True)
class KeyStream:
    """Names one sequence of random keys: a layer's, for one draw of one update."""

    seed: int
    layer: int
    update: int
    draw: int

    def tie_keys(self, indices: npt.ArrayLike) -> UInts:
        """64 random bits a weight: 16 coarse ones, of which eight neighbours share a block, then 48 fine ones."""
        index = np.asarray(indices, dtype=np.uint64)
        coarse_block = self._block(index // np.uint64(8), fine=0)
        within = index % np.uint64(8)
        word = np.choose((within // np.uint64(2)).astype(np.int64), coarse_block)
        coarse = (word >> (np.uint64(16) * (within % np.uint64(2)))) & np.uint64(0xFFFF)
        fine_block = self._block(index, fine=1)
        return (coarse << np.uint64(48)) | (fine_block[0] << np.uint64(16)) | (fine_block[1] & np.uint64(0xFFFF))

    def _block(self, counter: UInts, fine: int) -> list[UInts]:
        flags = np.uint64(self.draw << 25 | fine << 24)
        layer = np.full_like(counter, self.layer)
        update = np.full_like(counter, self.update)
        words = [counter & MASK32, (counter >> np.uint64(32)) | flags, layer, update]
        return philox(words, (self.seed & 0xFFFFFFFF, self.seed >> 32))


# --- Selection -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """One layer's part of a selection; without scores all its candidates are equally good."""

    candidates: Bools
    stream: KeyStream
    scores: Floats | None = None


def select_k(layers: Sequence[Candidates], k: int, *, magnitude: bool = True, largest: bool = True) -> list[Bools]:
    """The ``k`` best candidates of all ``layers`` together, exactly: by score, then the smaller tie key, then the index.

    ``-0.0`` and ``0.0`` are one score. Chooses ``min(k, number of candidates)``.
    """
    ranked = []
    for number, layer in enumerate(layers):
        indices = np.flatnonzero(layer.candidates)
        scores = np.zeros(len(indices)) if layer.scores is None else layer.scores[indices].astype(np.float64)
        assert np.isfinite(scores).all(), "scores without an order"
        if magnitude:
            scores = np.abs(scores)
        if largest:
            scores = -scores
        keys = layer.stream.tie_keys(indices)
        ranked += [
            (float(score), int(key), number, int(index))
            for score, key, index in zip(scores, keys, indices, strict=True)
        ]
    chosen = [np.zeros(len(layer.candidates), dtype=bool) for layer in layers]
    for _, _, number, index in sorted(ranked)[: max(k, 0)]:
        chosen[number][index] = True
    return chosen


# --- A topology change -----------------------------------------------------------------------------------------------


@dataclass
class LayerState:
    """One layer: its masks, its weights, and every optimiser state of the weights' shape."""

    values: list[Floats]
    active: Bools
    explored: Bools = field(init=False)
    reliable: Bools = field(init=False)

    def __post_init__(self) -> None:
        self.explored = self.active.copy()
        self.reliable = np.zeros_like(self.active)

    @property
    def weights(self) -> Floats:
        return self.values[0]


def commit(
    layer: LayerState,
    dropped: Bools,
    grown: Bools,
    *,
    zero_all_inactive: bool = False,
    regrown_keeps_value: bool = False,
    marks_reliable: bool = True,
) -> None:
    """``active <- (active - dropped) + grown``, in place; what survives a pruning round is reliable from then on."""
    kept = layer.active & ~dropped
    keeps_value = kept | (dropped & grown) if regrown_keeps_value else kept
    touched = np.ones_like(kept) if zero_all_inactive else dropped | grown
    for values in layer.values:
        values[touched & ~keeps_value] = 0.0
    layer.active = kept | grown
    layer.explored |= layer.active
    if marks_reliable:
        layer.reliable |= kept


@dataclass(frozen=True)
class Rule:
    """A method's rule for one update of one layer: drop the smallest magnitudes, grow as many elsewhere.

    Attributes:
        by_gradient: Grow the largest gradient magnitudes (RigL); otherwise uniformly at random (SET).
        unexplored_first: Never-explored sites are taken before any other.
        regrown_keeps_value: A weight dropped and grown in the same update keeps its value and state.
    """

    by_gradient: bool = False
    unexplored_first: bool = False
    regrown_keeps_value: bool = False


def update_layer(
    layer: LayerState, num_changed: int, rule: Rule, *, gradients: Floats, drop_keys: KeyStream, grow_keys: KeyStream
) -> tuple[Bools, Bools]:
    """One update of one layer, in place; returns what was dropped and what was grown.

    Sites for growth are all that were not kept, so a weight may be grown the moment it was dropped.
    """
    (dropped,) = select_k([Candidates(layer.active, drop_keys, layer.weights)], num_changed, largest=False)
    sites = ~(layer.active & ~dropped)
    scores = gradients if rule.by_gradient else None
    grown = np.zeros_like(sites)
    if rule.unexplored_first:
        (grown,) = select_k([Candidates(sites & ~layer.explored, grow_keys, scores)], num_changed)
    left = num_changed - int(grown.sum())
    (rest,) = select_k([Candidates(sites & ~grown, grow_keys, scores)], left)
    grown = grown | rest
    commit(layer, dropped, grown, regrown_keeps_value=rule.regrown_keeps_value)
    return dropped, grown


# --- Allocation ------------------------------------------------------------------------------------------------------


def erk_densities(shapes: Sequence[tuple[int, ...]]) -> list[float]:
    """Erdos-Renyi-Kernel: a layer's relative density, ``sum(shape) / prod(shape)``."""
    return [sum(shape) / math.prod(shape) for shape in shapes]


def allocate(numel: Sequence[int], relative_density: Sequence[float], total: int) -> list[int]:
    """Active weights a layer in proportion to its relative density, none above its size, ``total`` in all.

    Layers that would exceed their size become dense, and the rest is shared anew, until none does. Fractions go to the
    layers with the largest remainders.
    """
    dense = {layer for layer, density in enumerate(relative_density) if math.isinf(density)}
    while True:
        left = total - sum(numel[layer] for layer in dense)
        others = [layer for layer in range(len(numel)) if layer not in dense]
        divisor = sum(relative_density[layer] * numel[layer] for layer in others)
        epsilon = left / divisor if divisor > 0 else 0.0
        overfull = {layer for layer in others if epsilon * relative_density[layer] > 1.0}
        if not overfull:
            break
        dense |= overfull
    shares = [
        float(numel[layer]) if layer in dense else epsilon * relative_density[layer] * numel[layer]
        for layer in range(len(numel))
    ]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(others, key=lambda layer: (counts[layer] - shares[layer], layer))
    for layer in by_remainder[: total - sum(counts)]:
        counts[layer] += 1
    return counts


# --- What the theory says --------------------------------------------------------------------------------------------


def expected_exploration_rate(density: float, drop_fractions: Sequence[float]) -> float:
    """R_s of one layer after exact-count random growth over all inactive sites, the just-dropped included.

    ``u_i = u_(i-1) * (1 - P_i d / (1 - d + P_i d))``, ``u_0 = 1 - d``, ``R_s = 1 - u_n``.
    """
    unexplored = 1.0 - density
    for fraction in drop_fractions:
        unexplored *= 1.0 - fraction * density / (1.0 - density + fraction * density)
    return 1.0 - unexplored
