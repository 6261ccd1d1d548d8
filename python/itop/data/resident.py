"""Image sets that live as bytes in the memory of the device they are used on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itop.data.augmentation import NO_AUGMENTATION, Augmentation
from itop.data.dataset import Batch, BatchLoader, DataSet
from itop.data.normalisation import Normalisation
from itop.data.randomness import Indices, Purpose, random_order
from itop.data.splits import Holdout


@final
class LabelledImages:
    """Bytes and classes of images, copied once to each device that asks.

    Args:
        images: uint8 [n, channels, height, width]; shared, not copied.
        labels: int64 [n].
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: Indices) -> None:
        self.labels = labels
        self._on_device = {torch.device("cpu"): (torch.from_numpy(images), torch.from_numpy(labels))}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """uint8 [n, channels, height, width] on the CPU."""
        return self._on_device[torch.device("cpu")][0]

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels on ``device``, kept there."""
        if device not in self._on_device:
            images, labels = self._on_device[torch.device("cpu")]
            self._on_device[device] = (images.to(device), labels.to(device))
        return self._on_device[device]


@final
class ResidentDataSet(DataSet):
    """A small image set: a batch is gathered, augmented and normalised where the model is.

    Args:
        name: For messages.
        class_names: By label.
        train: The training pool.
        test: The test set.
        validation: A validation set of its own, or how one is held out of ``train``.
        augmentation: Of training batches.

    The channels' mean and standard deviation are those of the training split alone.
    """

    def __init__(
        self,
        name: str,
        class_names: tuple[str, ...],
        *,
        train: LabelledImages,
        test: LabelledImages,
        validation: LabelledImages | Holdout,
        augmentation: Augmentation,
    ) -> None:
        self._train, self._test = train, test
        if isinstance(validation, Holdout):
            kept, held_out = validation.split(train.labels)
            self._held_out_pool = train
        else:
            kept, held_out = np.arange(len(train)), np.arange(len(validation))
            self._held_out_pool = validation
        self._kept, self._held_out = torch.from_numpy(kept), torch.from_numpy(held_out)
        _, channels, height, width = train.images.shape
        augmentation.check(height, width)
        self.augmentation = augmentation
        self.normalisation = Normalisation.of(train.images, self._kept)
        super().__init__(
            name,
            class_names,
            (channels, height, width),
            num_train=len(kept),
            num_validation=len(held_out),
            num_test=len(test),
        )

    def train(
        self,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        seed: int = 0,
        augment: bool = True,
        workers: int = 0,
    ) -> BatchLoader:
        return ResidentTrainLoader(
            self._train,
            self._kept,
            batch_size,
            device=torch.device(device),
            seed=seed,
            augmentation=self.augmentation if augment else NO_AUGMENTATION,
            normalisation=self.normalisation,
        )

    def test(self, batch_size: int, *, device: torch.device | str = "cpu", workers: int = 0) -> BatchLoader:
        samples = torch.arange(len(self._test))
        return ResidentEvaluationLoader(self._test, samples, batch_size, torch.device(device), self.normalisation)

    def _validation(self, batch_size: int, device: torch.device, workers: int) -> BatchLoader:
        return ResidentEvaluationLoader(self._held_out_pool, self._held_out, batch_size, device, self.normalisation)


@final
class ResidentTrainLoader(BatchLoader):
    """Shuffled, augmented batches. Randomness is drawn on the CPU and copied once an epoch: no batch waits for it."""

    def __init__(
        self,
        pool: LabelledImages,
        samples: Tensor,
        batch_size: int,
        *,
        device: torch.device,
        seed: int,
        augmentation: Augmentation,
        normalisation: Normalisation,
    ) -> None:
        super().__init__(len(samples), batch_size, drops_single=True)
        self._images, self._labels = pool.on(device)
        self._samples = samples
        self._device, self._seed = device, seed
        self._augmentation = augmentation
        self._normalise = normalisation.on(device)

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        order = random_order(len(self._samples), Purpose.ORDER, seed=self._seed, epoch=epoch)[: self.num_samples]
        samples = self._samples[torch.from_numpy(order)].to(self._device)
        shifts = self._augmentation.draw(self.num_samples, seed=self._seed, epoch=epoch).to(self._device)
        for start in range(start_batch * self.batch_size, self.num_samples, self.batch_size):
            batch = slice(start, start + self.batch_size)
            images = self._images.index_select(0, samples[batch])
            if not self._augmentation.changes_nothing:
                images = self._augmentation.apply(images, shifts[batch])
            yield self._normalise(images), self._labels.index_select(0, samples[batch])


@final
class ResidentEvaluationLoader(BatchLoader):
    """Every sample once, in the order of ``samples``, as it is; all epochs are the same."""

    def __init__(
        self,
        pool: LabelledImages,
        samples: Tensor,
        batch_size: int,
        device: torch.device,
        normalisation: Normalisation,
    ) -> None:
        super().__init__(len(samples), batch_size, drops_single=False)
        self._images, self._labels = pool.on(device)
        self._samples = samples.to(device)
        self._normalise = normalisation.on(device)

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        for start in range(start_batch * self.batch_size, self.num_samples, self.batch_size):
            samples = self._samples[start : start + self.batch_size]
            yield self._normalise(self._images.index_select(0, samples)), self._labels.index_select(0, samples)
