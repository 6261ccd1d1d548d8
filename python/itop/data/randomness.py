"""Random words that are a function of (seed, epoch, purpose): the same on every machine, device and resume.

Only the raw output of a bit generator is used: NumPy keeps it fixed over versions, unlike that of ``shuffle`` or
``permutation``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias, final

import numpy as np
import numpy.typing as npt

Words: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]


@final
class Purpose(IntEnum):
    """What random words decide; each has its own stream."""

    ORDER = 0
    AUGMENTATION = 1
    VALIDATION_SPLIT = 2
    TEST_SPLIT = 3
    TRAIN_SUBSET = 4


def random_words(count: int, purpose: Purpose, *, seed: int, epoch: int = 0, item: int = 0) -> Words:
    """``count`` independent uniform 64-bit words of a Philox 4x64 stream of their own.

    Reference:
        Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    counter = np.array([0, 0, item, int(purpose)], dtype=np.uint64)
    words: Words = np.random.Philox(key=key, counter=counter).random_raw(count)
    return words


def random_order(count: int, purpose: Purpose, *, seed: int, epoch: int = 0) -> Indices:
    """A permutation of ``0 .. count - 1``: by random word, then by index."""
    order: Indices = np.argsort(random_words(count, purpose, seed=seed, epoch=epoch), kind="stable").astype(np.int64)
    return order


def scaled(words: Words, bound: int) -> Indices:
    """Integers in ``0 .. bound - 1`` from the upper 32 bits; uniform to one part in ``2**32 / bound``."""
    integers: Indices = ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)
    return integers


def coins(words: Words) -> npt.NDArray[np.bool_]:
    """The lowest bit: independent of ``scaled`` of the same words."""
    heads: npt.NDArray[np.bool_] = (words & np.uint64(1)).astype(np.bool_)
    return heads
