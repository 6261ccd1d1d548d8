"""Folders of images sorted into classes: ``root/train/<class>/...`` and ``root/test/<class>/...`` (or ``val``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from itop.data.errors import DataSetError
from itop.data.randomness import Indices

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image; other files and hidden ones are passed over."""


@final
@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image and what tells it from a later version of itself."""

    path: str
    size: int
    modified_ns: int


@final
@dataclass(frozen=True, slots=True)
class ClassFolders:
    """The images of one split.

    Attributes:
        folder: Of the split.
        class_names: Names of its sub-folders, sorted; a label is a position here.
        files: Sorted by class, then by path; sub-folders of a class belong to it.
        labels: int64 [len(files)].
    """

    folder: Path
    class_names: tuple[str, ...]
    files: tuple[ImageFile, ...]
    labels: Indices

    @classmethod
    def list(cls, folder: Path) -> ClassFolders:
        """Reads the names in a folder of class folders.

        Raises:
            DataSetError: If there are fewer than two classes, or one without an image.
        """
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        if len(names) < 2:
            found = f"only {names[0]!r}" if names else "none"
            raise DataSetError(f"'{folder}' must hold at least two class folders with images, found {found}")
        files: list[ImageFile] = []
        counts: list[int] = []
        for name in names:
            of_class = _images_below(folder / name)
            if not of_class:
                raise DataSetError(f"class folder '{folder / name}' holds no images")
            files += of_class
            counts.append(len(of_class))
        labels = np.repeat(np.arange(len(names), dtype=np.int64), counts)
        return cls(folder, tuple(names), tuple(files), labels)


@final
@dataclass(frozen=True, slots=True)
class ImageFolder:
    """The splits of a data folder. ``validation`` is there only where ``val/`` stands beside ``test/``."""

    root: Path
    train: ClassFolders
    validation: ClassFolders | None
    test: ClassFolders

    @classmethod
    def list(cls, root: Path) -> ImageFolder:
        """Reads the names below ``root``.

        Raises:
            DataSetError: If ``root`` is no such folder, or its splits have different classes.
        """
        present = [name for name in ("test", "val") if (root / name).is_dir()]
        if not (root / "train").is_dir() or not present:
            raise DataSetError(
                f"'{root}' is no folder of images: it must hold train/ and test/ (or val/) with one folder a class, "
                f"found {_content(root)}"
            )
        train = ClassFolders.list(root / "train")
        others = [ClassFolders.list(root / name) for name in present]
        for other in others:
            _check_same_classes(train, other)
        return cls(root, train, validation=others[1] if len(others) == 2 else None, test=others[0])

    @property
    def splits(self) -> Sequence[ClassFolders]:
        """Training, validation if there is one, test."""
        return [split for split in (self.train, self.validation, self.test) if split is not None]


def is_image_folder(root: Path) -> bool:
    """Whether ``root`` looks like one, by its split folders alone."""
    return (root / "train").is_dir() and ((root / "test").is_dir() or (root / "val").is_dir())


def _images_below(folder: Path) -> list[ImageFile]:
    found: list[ImageFile] = []
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append(entry.path)
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                    # A dangling link has no status; it is reported when it is opened.
                    status = entry.stat() if os.path.exists(entry.path) else entry.stat(follow_symlinks=False)
                    found.append(ImageFile(entry.path, status.st_size, status.st_mtime_ns))
    return sorted(found, key=lambda file: file.path)


def _check_same_classes(train: ClassFolders, other: ClassFolders) -> None:
    expected, got = set(train.class_names), set(other.class_names)
    if expected == got:
        return
    differences = []
    if missing := sorted(expected - got):
        differences.append(f"missing {_some(missing)}")
    if surplus := sorted(got - expected):
        differences.append(f"not in train/: {_some(surplus)}")
    raise DataSetError(f"the classes of '{other.folder}' must be those of '{train.folder}': {'; '.join(differences)}")


def _content(root: Path) -> str:
    return _some(sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())) or "nothing"


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
