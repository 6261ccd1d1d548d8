"""Data sets by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from itop.data.augmentation import Augmentation
from itop.data.dataset import DataSet
from itop.data.decoding import Progress
from itop.data.errors import DataSetError
from itop.data.sources import (
    Request,
    load_cifar10,
    load_cifar100,
    load_digits,
    load_fashion_mnist,
    load_folder,
    load_imagenet,
)
from itop.data.splits import Holdout
from itop.names import unknown_name

DataSource: TypeAlias = Callable[[Request], DataSet]

DATASETS: Mapping[str, DataSource] = MappingProxyType(
    {
        "digits": load_digits,
        "fashion-mnist": load_fashion_mnist,
        "cifar10": load_cifar10,
        "cifar100": load_cifar100,
        "imagenet": load_imagenet,
        "folder": load_folder,
    }
)
"""Every named data set."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {"fashionmnist": "fashion-mnist", "cifar-10": "cifar10", "cifar-100": "cifar100"}
)
"""Other names of some of them."""


def canonical_dataset_name(name: str) -> str:
    """The name without regard to case, underscores and aliases.

    Raises:
        DataSetError: If no data set has that name; the message has the nearest one.
    """
    key = name.strip().lower().replace("_", "-")
    key = ALIASES.get(key, key)
    if key in DATASETS:
        return key
    raise DataSetError(unknown_name("data set", name, DATASETS))


def load_dataset(
    name: str = "digits",
    root: str | os.PathLike[str] | None = None,
    *,
    validation_fraction: float = 0.1,
    validation_size: int | None = None,
    seed: int = 0,
    download: bool = False,
    image_size: int | None = None,
    augmentation: Augmentation | None = None,
    progress: Progress | None = None,
    train_fraction: float = 1.0,
) -> DataSet:
    """A data set with its training, validation and test splits.

    Args:
        name: A key of ``DATASETS``; ``"folder"`` is any folder of images.
        root: Folder that holds the data, or a folder of that name. Default: ``$ITOP_DATA_ROOT``, then where downloads
            and system packages put data. Digits need none.
        validation_fraction: Part of the training set to hold out, class by class, in [0, 1).
        validation_size: A number of images to hold out instead. Neither counts for a folder that holds ``val/`` beside
            ``test/``: it brings its own validation set.
        seed: Chooses the validation images. The order and augmentation of batches have their own seed.
        download: Whether Fashion-MNIST and CIFAR may be downloaded (into ``root`` or the cache), and ImageNet's
            archives unpacked.
        image_size: Side in pixels to which a folder's images are resized.
        augmentation: Of sets in memory, instead of the data set's own.
        progress: Called while a folder is decoded for the first time.
        train_fraction: Part of the training samples to use, class by class, in (0, 1]; validation and test stay whole.

    Raises:
        ValueError: If an argument is out of range; ``DataSetError``, one of its kind, if the data is not there or not
            what it should be.
    """
    key = canonical_dataset_name(name)
    holdout = Holdout(validation_fraction, validation_size, seed, train_fraction)
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    folder = None if root is None else Path(root).expanduser()
    return DATASETS[key](Request(key, folder, holdout, download, image_size, augmentation, progress))
