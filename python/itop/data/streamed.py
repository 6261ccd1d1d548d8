"""Image sets too large for memory: decoded, cropped and resized by worker processes while the model trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from itop.data.dataset import Batch, BatchLoader, DataSet
from itop.data.decoding import open_image, to_rgb
from itop.data.errors import DataSetError
from itop.data.folder import ClassFolders, ImageFolder
from itop.data.normalisation import IMAGENET, Normalisation
from itop.data.randomness import Indices, Purpose, random_order, random_words
from itop.data.splits import Holdout

Key: TypeAlias = tuple[int, int]
"""Epoch and position in the list of files: all that a worker needs to know."""


@final
class StreamedDataSet(DataSet):
    """A large image set: random resized crops and flips for training, a central crop otherwise.

    Args:
        name: For messages.
        folder: Where the images are; where ``val/`` stands beside ``test/`` it is the validation set.
        holdout: How a validation set is held out of the training set otherwise.
        image_size: Side of the square images the model sees, in pixels.
    """

    def __init__(self, name: str, folder: ImageFolder, *, holdout: Holdout, image_size: int) -> None:
        kept: Indices = np.arange(len(folder.train.files))
        if folder.validation is None:
            kept, held_out = holdout.split(folder.train.labels)
            self._validation_files = FileList.of(folder.train, held_out)
        else:
            kept = holdout.used(folder.train.labels, kept)
            self._validation_files = FileList.of(folder.validation)
        self._train_files = FileList.of(folder.train, kept)
        self._test_files = FileList.of(folder.test)
        self.normalisation = IMAGENET
        super().__init__(
            name,
            folder.train.class_names,
            (3, image_size, image_size),
            num_train=len(self._train_files),
            num_validation=len(self._validation_files),
            num_test=len(self._test_files),
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
        side = self.input_shape[1]
        return StreamedLoader(
            ImageFiles(self._train_files, RandomResizedCrop(side, seed) if augment else CentreCrop(side)),
            batch_size,
            device=torch.device(device),
            workers=workers,
            normalisation=self.normalisation,
            shuffle_seed=seed,
        )

    def test(self, batch_size: int, *, device: torch.device | str = "cpu", workers: int = 0) -> BatchLoader:
        return self._evaluation(self._test_files, batch_size, torch.device(device), workers)

    def _validation(self, batch_size: int, device: torch.device, workers: int) -> BatchLoader:
        return self._evaluation(self._validation_files, batch_size, device, workers)

    def _evaluation(self, files: FileList, batch_size: int, device: torch.device, workers: int) -> BatchLoader:
        return StreamedLoader(
            ImageFiles(files, CentreCrop(self.input_shape[1])),
            batch_size,
            device=device,
            workers=workers,
            normalisation=self.normalisation,
            shuffle_seed=None,
        )


@final
@dataclass(frozen=True, slots=True)
class FileList:
    """Paths and labels of a split; the order is the sorted one."""

    paths: tuple[str, ...]
    labels: Indices

    @classmethod
    def of(cls, split: ClassFolders, samples: Indices | None = None) -> FileList:
        """Of all files of ``split``, or of those at ``samples``."""
        if samples is None:
            samples = np.arange(len(split.files))
        return cls(tuple(split.files[sample].path for sample in samples.tolist()), split.labels[samples])

    def __len__(self) -> int:
        return len(self.paths)


@final
@dataclass(frozen=True, slots=True)
class RandomResizedCrop:
    """A random rectangle, 8 % to 100 % of the area and 3:4 to 4:3, resized to a square, flipped every other time.

    What is cut follows from (seed, epoch, position) alone, not from the worker that does it.

    Reference:
        Szegedy et al., Going Deeper with Convolutions, CVPR 2015, section 6.
    """

    side: int
    seed: int

    _ATTEMPTS = 10
    _MIN_AREA = 0.08
    _MAX_LOG_RATIO = float(np.log(4 / 3))

    def __call__(self, image: Image.Image, key: Key) -> Image.Image:
        epoch, position = key
        words = random_words(
            4 * self._ATTEMPTS + 1, Purpose.AUGMENTATION, seed=self.seed, epoch=epoch, item=position + 1
        )
        uniform = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        flip, *draws = uniform.tolist()
        box = self._box(image.width, image.height, draws)
        image = image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip < 0.5 else image

    def _box(self, width: int, height: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
        """Left, upper, right and lower edge of the first rectangle drawn that fits, else of the largest central one."""
        for attempt in range(self._ATTEMPTS):
            area, shape, left, upper = draws[4 * attempt : 4 * attempt + 4]
            target = width * height * (self._MIN_AREA + (1 - self._MIN_AREA) * area)
            ratio = float(np.exp(self._MAX_LOG_RATIO * (2 * shape - 1)))
            crop_width, crop_height = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
            if 0 < crop_width <= width and 0 < crop_height <= height:
                x, y = int(left * (width - crop_width + 1)), int(upper * (height - crop_height + 1))
                return x, y, x + crop_width, y + crop_height
        crop_width, crop_height = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        x, y = (width - crop_width) // 2, (height - crop_height) // 2
        return x, y, x + crop_width, y + crop_height


@final
@dataclass(frozen=True, slots=True)
class CentreCrop:
    """The shorter side resized to 8/7 of ``side`` (256 for 224), then the central square of ``side``."""

    side: int

    def __call__(self, image: Image.Image, key: Key) -> Image.Image:
        scale = round(self.side * 8 / 7) / min(image.size)
        width, height = (max(self.side, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, upper = (width - self.side) // 2, (height - self.side) // 2
        return image.crop((left, upper, left + self.side, upper + self.side))


@final
@dataclass(frozen=True, slots=True)
class UnreadableImage:
    """A failure on its way from a worker: an exception would arrive wrapped in the worker's traceback."""

    message: str


Sample: TypeAlias = tuple[Tensor, int] | UnreadableImage


@final
class ImageFiles(Dataset[Sample]):
    """Decodes and crops one file: uint8 [3, side, side] and its label."""

    def __init__(self, files: FileList, crop: RandomResizedCrop | CentreCrop) -> None:
        self._files = files
        self._crop = crop

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, key: Key) -> Sample:
        position = key[1]
        try:
            image = self._crop(to_rgb(open_image(self._files.paths[position])), key)
        except DataSetError as error:
            return UnreadableImage(str(error))
        pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
        return pixels, int(self._files.labels[position])


@final
class EpochBatches(Sampler[list[Key]]):
    """The keys of an epoch's batches from one batch on."""

    def __init__(self, order: Indices, epoch: int, batch_size: int, start_batch: int) -> None:
        self._order = order[start_batch * batch_size :]
        self._epoch = epoch
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self._order), self._batch_size):
            yield [(self._epoch, position) for position in self._order[start : start + self._batch_size].tolist()]


@final
class StreamedLoader(BatchLoader):
    """Batches that worker processes prepare; normalised on the device, to which bytes travel.

    Args:
        files: What to read.
        batch_size: Samples of a batch.
        device: Where batches end up.
        workers: Processes; with 0 the calling one decodes.
        normalisation: Of the channels.
        shuffle_seed: Of the order of training epochs; ``None`` keeps the sorted order.
    """

    def __init__(
        self,
        files: ImageFiles,
        batch_size: int,
        *,
        device: torch.device,
        workers: int,
        normalisation: Normalisation,
        shuffle_seed: int | None,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        super().__init__(len(files), batch_size, drops_single=shuffle_seed is not None)
        self._files = files
        self._device = device
        self._workers = workers
        self._normalise = normalisation.on(device)
        self._shuffle_seed = shuffle_seed

    def _batches(self, epoch: int, start_batch: int) -> Iterator[Batch]:
        order: Indices = np.arange(len(self._files))
        if self._shuffle_seed is not None:
            order = random_order(len(self._files), Purpose.ORDER, seed=self._shuffle_seed, epoch=epoch)
        batches: DataLoader[Sample] = DataLoader(
            self._files,
            batch_sampler=EpochBatches(order[: self.num_samples], epoch, self.batch_size, start_batch),
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self._device.type == "cuda",
            # Else torch's global generator would advance, and with it dropout and everything that follows.
            generator=torch.Generator(),
        )
        for batch in batches:
            if isinstance(batch, UnreadableImage):
                raise DataSetError(batch.message)
            images, labels = (part.to(self._device, non_blocking=True) for part in batch)
            yield self._normalise(images), labels


def _collate(samples: list[Sample]) -> tuple[Tensor, Tensor] | UnreadableImage:
    readable: list[tuple[Tensor, int]] = []
    for sample in samples:
        if isinstance(sample, UnreadableImage):
            return sample
        readable.append(sample)
    return torch.stack([pixels for pixels, _ in readable]), torch.tensor([label for _, label in readable])
