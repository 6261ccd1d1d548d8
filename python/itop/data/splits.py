"""Validation samples held out of a training set, in proportion to its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from itop.data.errors import DataSetError
from itop.data.randomness import Indices, Purpose, random_order


@final
@dataclass(frozen=True, slots=True)
class Holdout:
    """How many training samples become validation samples, and which.

    Args:
        fraction: Of the training set, in [0, 1); at least one sample unless 0.
        size: A number of samples instead; then ``fraction`` has no meaning.
        seed: Chooses the samples within each class.
        train_fraction: Part of the remaining training samples that is used, class by class, in (0, 1]. Validation and
            test stay whole, so that scores of different fractions compare.
    """

    fraction: float = 0.1
    size: int | None = None
    seed: int = 0
    train_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"validation_fraction must be in [0, 1), got {self.fraction}")
        if self.size is not None and self.size < 0:
            raise ValueError(f"validation_size must be at least 0, got {self.size}")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"train_fraction must be in (0, 1], got {self.train_fraction}")

    def split(self, labels: Indices) -> tuple[Indices, Indices]:
        """Sorted indices of the training and of the validation samples.

        Raises:
            DataSetError: If a class would have no training sample left.
        """
        wanted = self.size
        if wanted is None:
            wanted = max(1, round(len(labels) * self.fraction)) if self.fraction > 0 else 0
        kept, held_out = stratified_split(labels, wanted, purpose=Purpose.VALIDATION_SPLIT, seed=self.seed)
        return self.used(labels, kept), held_out

    def used(self, labels: Indices, kept: Indices) -> Indices:
        """Those of the samples `kept` for training that `train_fraction` leaves, sorted; at least one of each class."""
        if self.train_fraction == 1.0:
            return kept
        num_classes = len(np.unique(labels[kept]))
        num_left_out = min(len(kept) - round(len(kept) * self.train_fraction), len(kept) - num_classes)
        chosen, _ = stratified_split(labels[kept], num_left_out, purpose=Purpose.TRAIN_SUBSET, seed=self.seed)
        return kept[chosen]


def stratified_split(labels: Indices, num_held_out: int, *, purpose: Purpose, seed: int) -> tuple[Indices, Indices]:
    """Splits samples so that every class gives its share: the exact one, rounded down or up.

    Args:
        labels: Class of each sample, from 0.
        num_held_out: Size of the second part.
        purpose: The stream of random words.
        seed: Of that stream.

    Returns:
        Sorted indices of the samples kept and of those held out.

    Raises:
        DataSetError: If a class would have no sample left.
    """
    counts = np.bincount(labels)
    num_classes = int(np.count_nonzero(counts))
    if num_held_out > len(labels) - num_classes:
        raise DataSetError(
            f"holding {num_held_out} of {len(labels)} training images out leaves one of the {num_classes} classes "
            "without any"
        )
    quotas = _shares(counts, num_held_out)
    held_out = np.zeros(len(labels), dtype=np.bool_)
    order = random_order(len(labels), purpose, seed=seed)
    for label, quota in enumerate(quotas):
        of_class = order[labels[order] == label]
        held_out[of_class[:quota]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _shares(counts: Indices, total: int) -> list[int]:
    """Whole shares of ``total`` in proportion to ``counts``: largest remainders, ties to the lower class.

    A class keeps at least one of its own, which the caller has made possible.
    """
    size = int(counts.sum())
    exact = [divmod(int(count) * total, size) for count in counts]
    shares = [whole for whole, _ in exact]
    by_remainder = sorted(range(len(shares)), key=lambda label: (-exact[label][1], label))
    missing = total - sum(shares)
    while missing:
        for label in by_remainder:
            if missing and shares[label] + 1 < counts[label]:
                shares[label] += 1
                missing -= 1
    return shares
