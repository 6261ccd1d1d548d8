"""From a name and a folder to a data set, one function a set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from itop.data.augmentation import NO_AUGMENTATION, Augmentation, Padding
from itop.data.cache import cached_pixels
from itop.data.dataset import DataSet
from itop.data.decoding import Progress, decode_images, probed_sizes
from itop.data.errors import DataSetError
from itop.data.folder import ImageFolder, is_image_folder
from itop.data.idx import find_idx, read_idx
from itop.data.randomness import Purpose
from itop.data.resident import LabelledImages, ResidentDataSet
from itop.data.roots import ROOT_VARIABLE, candidate_roots, download_root
from itop.data.splits import Holdout, stratified_split
from itop.data.streamed import StreamedDataSet

RESIDENT_MAX_SIDE: Final = 128
"""Images of a folder live in memory up to this height and width ..."""
RESIDENT_MAX_BYTES: Final = 2 * 2**30
"""... and up to this total; larger sets are streamed."""

FASHION_MNIST_CLASSES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_SYSTEM_FASHION_MNIST: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts it."""
_IMAGENET_ARCHIVE: Final = "ILSVRC2012_img_train.tar"
_IMAGENET_SIDE: Final = 224


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What ``load_dataset`` was asked for; see there."""

    name: str
    root: Path | None
    holdout: Holdout
    download: bool
    image_size: int | None
    augmentation: Augmentation | None
    progress: Progress | None


def load_digits(request: Request) -> DataSet:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8, levels 0 to 16; every fifth of a class is test."""
    from sklearn.datasets import load_digits as sklearn_digits

    if request.root is not None:
        raise DataSetError(f"digits come with scikit-learn and need no data root, got '{request.root}'")
    _refuse_image_size(request)
    digits = sklearn_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    # The test set is the same for every seed: results of different seeds stay comparable.
    train, test = stratified_split(labels, len(labels) // 5, purpose=Purpose.TEST_SPLIT, seed=0)
    return ResidentDataSet(
        "digits",
        tuple("0123456789"),
        train=LabelledImages(images[train], labels[train]),
        test=LabelledImages(images[test], labels[test]),
        validation=request.holdout,
        augmentation=request.augmentation or NO_AUGMENTATION,
    )


def load_fashion_mnist(request: Request) -> DataSet:
    """Fashion-MNIST, 1 x 28 x 28, from idx files (plain, gzipped or torchvision's) or class folders."""
    for place in _places(request, _download_fashion_mnist, _SYSTEM_FASHION_MNIST):
        for folder in (place, place / "FashionMNIST" / "raw", place / "raw"):
            if find_idx(folder, "train-images-idx3-ubyte"):
                return _fashion_mnist_from_idx(request, folder)
        if is_image_folder(place):
            return _load_class_folders(request, place, NO_AUGMENTATION, num_classes=10)
    raise _not_found(request, "idx files")


def _download_fashion_mnist(root: Path) -> None:
    from torchvision.datasets import FashionMNIST  # a hundred megabytes of modules, for those who need them

    FashionMNIST(str(root), download=True)


def load_cifar10(request: Request) -> DataSet:
    """CIFAR-10, 3 x 32 x 32, from torchvision's files or class folders; crops of the reflected image, flips."""
    from torchvision.datasets import CIFAR10

    return _load_cifar(request, CIFAR10, 10, Augmentation(pad=4, padding=Padding.REFLECT, flip=True))


def load_cifar100(request: Request) -> DataSet:
    """CIFAR-100, 3 x 32 x 32, from torchvision's files or class folders; crops of the zero-padded image, flips."""
    from torchvision.datasets import CIFAR100

    return _load_cifar(request, CIFAR100, 100, Augmentation(pad=4, padding=Padding.ZERO, flip=True))


def load_imagenet(request: Request) -> DataSet:
    """ImageNet, 3 x 224 x 224, streamed from ``train/`` and ``val/`` class folders.

    With ``download`` the archives of ILSVRC 2012 in the root are unpacked first; nobody may fetch them from afar.
    """
    _refuse_augmentation(request)
    for place in candidate_roots("imagenet", request.root):
        if not is_image_folder(place) and request.download and (place / _IMAGENET_ARCHIVE).is_file():
            _unpack_imagenet(place)
        if is_image_folder(place):
            side = request.image_size or _IMAGENET_SIDE
            return StreamedDataSet("imagenet", ImageFolder.list(place), holdout=request.holdout, image_size=side)
    raise _not_found(request, f"{_IMAGENET_ARCHIVE} to unpack with download")


def load_folder(request: Request) -> DataSet:
    """Any folder of images.

    Images up to 128 x 128 pixels, 2 GiB in all, live in memory; others are streamed at 224 x 224. ``image_size``
    resizes either kind. Coloured images in memory are augmented by crops of the reflected image, an eighth of the
    shorter side at most, and flips; grey ones, often digits and letters, are not.
    """
    if request.root is None and ROOT_VARIABLE not in os.environ:
        raise DataSetError(f"a folder of images needs its data root: give one or set {ROOT_VARIABLE}")
    root = candidate_roots("folder", request.root)[0]
    return _load_class_folders(request, root, default_augmentation=None, num_classes=None)


def _load_cifar(request: Request, torchvision_set: Any, num_classes: int, augmentation: Augmentation) -> DataSet:
    for place in _places(request, lambda root: torchvision_set(str(root), download=True)):
        if (place / torchvision_set.base_folder).is_dir():
            _refuse_image_size(request)
            try:
                train, test = (torchvision_set(str(place), train=train) for train in (True, False))
            except Exception as error:  # damaged pickles fail in many ways
                raise DataSetError(f"cannot read '{place / torchvision_set.base_folder}': {error}") from error
            return ResidentDataSet(
                request.name,
                tuple(train.classes),
                train=_from_torchvision(train),
                test=_from_torchvision(test),
                validation=request.holdout,
                augmentation=request.augmentation or augmentation,
            )
        if is_image_folder(place):
            return _load_class_folders(request, place, augmentation, num_classes)
    raise _not_found(request, torchvision_set.base_folder)


def _from_torchvision(split: Any) -> LabelledImages:
    images = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
    return LabelledImages(images, np.asarray(split.targets, dtype=np.int64))


def _fashion_mnist_from_idx(request: Request, folder: Path) -> DataSet:
    _refuse_image_size(request)
    splits = []
    for prefix in ("train", "t10k"):
        arrays = []
        for suffix in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            path = find_idx(folder, f"{prefix}-{suffix}")
            if path is None:
                raise DataSetError(f"'{folder}' holds no {prefix}-{suffix} or {prefix}-{suffix}.gz")
            arrays.append(read_idx(path))
        images, labels = arrays
        if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(FASHION_MNIST_CLASSES):
            raise DataSetError(f"the {prefix} images and labels in '{folder}' do not belong together")
        splits.append(LabelledImages(images[:, None], labels.astype(np.int64)))
    train, test = splits
    return ResidentDataSet(
        request.name,
        FASHION_MNIST_CLASSES,
        train=train,
        test=test,
        validation=request.holdout,
        augmentation=request.augmentation or NO_AUGMENTATION,
    )


def _load_class_folders(
    request: Request, root: Path, default_augmentation: Augmentation | None, num_classes: int | None
) -> DataSet:
    """Class folders in memory if they fit there, else streamed."""
    folder = ImageFolder.list(root)
    name = request.name if num_classes else root.resolve().name
    if num_classes is not None and len(folder.train.class_names) != num_classes:
        raise DataSetError(
            f"{request.name} has {num_classes} classes, '{root}' has {len(folder.train.class_names)}; "
            f"the data set 'folder' takes any"
        )
    sizes = probed_sizes([file.path for file in folder.train.files])
    sides = (request.image_size,) * 2 if request.image_size else tuple(map(max, zip(*sizes, strict=True)))
    num_images = sum(len(split.files) for split in folder.splits)
    if max(sides) > RESIDENT_MAX_SIDE or 3 * sides[0] * sides[1] * num_images > RESIDENT_MAX_BYTES:
        _refuse_augmentation(request)
        side = request.image_size or _IMAGENET_SIDE
        return StreamedDataSet(name, folder, holdout=request.holdout, image_size=side)

    paths = [file.path for split in folder.splits for file in split.files]
    pixels = cached_pixels(
        folder,
        request.image_size,
        lambda: decode_images(paths, resize_to=request.image_size, progress=request.progress),
    )
    starts = np.cumsum([len(split.files) for split in folder.splits])[:-1]
    parts = np.split(pixels, starts)
    pools = [LabelledImages(part, split.labels) for part, split in zip(parts, folder.splits, strict=True)]
    if folder.validation is not None and request.holdout.train_fraction < 1.0:
        labels = folder.splits[0].labels
        used = request.holdout.used(labels, np.arange(len(labels)))
        pools[0] = LabelledImages(parts[0][used], labels[used])
    if default_augmentation is None:
        _, channels, height, width = pixels.shape
        default_augmentation = (
            Augmentation(pad=min(height, width) // 8, flip=True) if channels == 3 else NO_AUGMENTATION
        )
    return ResidentDataSet(
        name,
        folder.train.class_names,
        train=pools[0],
        test=pools[-1],
        validation=request.holdout if folder.validation is None else pools[1],
        augmentation=request.augmentation or default_augmentation,
    )


def _places(request: Request, download: Callable[[Path], object], *others: Path) -> Iterator[Path]:
    """Folders to look into; the last is a download, which begins only when it is reached."""
    try:
        if request.download and request.root is not None and not request.root.exists():
            request.root.mkdir(parents=True)
        yield from candidate_roots(request.name, request.root, *others)
        if request.download:
            root = request.root or download_root()
            download(root)
            yield root
    except (OSError, RuntimeError) as error:
        raise DataSetError(f"cannot download {request.name}: {error}") from error


def _unpack_imagenet(root: Path) -> None:
    from torchvision.datasets import ImageNet

    try:
        for split in ("train", "val"):
            ImageNet(str(root), split)
    except (OSError, RuntimeError) as error:
        raise DataSetError(f"cannot unpack ImageNet's archives in '{root}': {error}") from error


def _not_found(request: Request, native_format: str) -> DataSetError:
    holds = f"{native_format} or train/ and test/ (or val/) with one folder a class"
    if request.root is not None:
        return DataSetError(f"data root '{request.root}' holds no {request.name}: expected {holds}")
    return DataSetError(
        f"{request.name} needs a data root with {holds}: give one, set {ROOT_VARIABLE}, or allow the download"
    )


def _refuse_image_size(request: Request) -> None:
    if request.image_size is not None:
        raise DataSetError(f"image_size resizes folders of images, not {request.name}, got {request.image_size}")


def _refuse_augmentation(request: Request) -> None:
    if request.augmentation is not None:
        raise DataSetError(f"{request.name} is streamed with random resized crops and takes no other augmentation")
