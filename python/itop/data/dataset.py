"""What a training loop sees of a data set: three splits, each a loader of normalised batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias, final

import torch
from torch import Tensor

from itop.data.errors import DataSetError

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images float32 [batch, channels, height, width], normalised; labels int64 [batch]; both on the loader's device."""


class BatchLoader(ABC):
    """Batches as a pure function of (seed, epoch, batch index).

    The same seed gives the same batches on any device, with any number of workers, and from any batch on.
    """

    def __init__(self, num_samples: int, batch_size: int, *, drops_single: bool) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size = batch_size
        single = drops_single and num_samples > batch_size > 1 and num_samples % batch_size == 1
        self.num_samples = num_samples - 1 if single else num_samples
        """Samples of an epoch. A training loader drops a last batch of one: batch normalisation cannot train on it."""

    @final
    def __len__(self) -> int:
        """Batches of an epoch, the last one smaller where the batch size does not divide the samples."""
        return -(-self.num_samples // self.batch_size)

    @final
    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[Batch]:
        """The batches ``start_batch .. len(self) - 1`` of an epoch; both counts start at 0.

        Raises:
            ValueError: If an argument is negative or ``start_batch`` exceeds ``len(self)``.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must be in [0, {len(self)}], got {start_batch}")
        return self._batches(epoch, start_batch)

    @final
    def __iter__(self) -> Iterator[Batch]:
        """Epoch 0: all there is of a loader that neither shuffles nor augments."""
        return self.epoch(0)

    @abstractmethod
    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        """``epoch`` with its arguments checked."""


class DataSet(ABC):
    """Images of one shape with class labels, in a training, a validation and a test split.

    Validation samples are never trained on; the test split is for one last look.
    """

    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        input_shape: tuple[int, int, int],
        *,
        num_train: int,
        num_validation: int,
        num_test: int,
    ) -> None:
        self.name = name
        self.class_names = class_names
        """By label. Class folders are sorted by name; published sets keep their own numbers."""
        self.input_shape = input_shape
        """Channels, height, width."""
        self.num_train = num_train
        self.num_validation = num_validation
        self.num_test = num_test

    @property
    @final
    def num_classes(self) -> int:
        return len(self.class_names)

    @abstractmethod
    def train(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        augment: bool = True,
        workers: int = 0,
    ) -> BatchLoader:
        """Shuffled anew each epoch, augmented unless asked not to.

        ``workers`` is the number of processes that decode images; sets in memory need none.
        """

    @final
    def validation(self, batch_size: int, *, device: torch.device | str = "cpu", workers: int = 0) -> BatchLoader:
        """The held-out training samples, in fixed order, not augmented.

        Raises:
            DataSetError: If nothing was held out (``num_validation == 0``).
        """
        if self.num_validation == 0:
            raise DataSetError(f"{self.name} has no validation images: none were held out of its training set")
        return self._validation(batch_size, torch.device(device), workers)

    @abstractmethod
    def test(self, batch_size: int, *, device: torch.device | str = "cpu", workers: int = 0) -> BatchLoader:
        """The test samples, in fixed order, not augmented."""

    @abstractmethod
    def _validation(self, batch_size: int, device: torch.device, workers: int) -> BatchLoader:
        """``validation`` where there is one."""

    @final
    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        splits = f"{self.num_train} train, {self.num_validation} validation, {self.num_test} test"
        return f"{type(self).__name__}({self.name}: {shape}, {self.num_classes} classes, {splits})"
