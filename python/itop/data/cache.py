"""Decoded images kept between runs: decoding 60,000 files takes longer than training on them for a few epochs."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from itop.data.decoding import Pixels
from itop.data.folder import ImageFolder

_logger = logging.getLogger(__name__)

_FORMAT = 1
"""Raised when the same files would be decoded to other arrays."""


def cache_dir() -> Path:
    """``$ITOP_CACHE_DIR``, else ``itop`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        RuntimeError: If there is no home folder.
    """
    if own := os.environ.get("ITOP_CACHE_DIR"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "itop"
    return Path.home() / ".cache" / "itop"


def cached_pixels(folder: ImageFolder, resize_to: int | None, decode: Callable[[], Pixels]) -> Pixels:
    """The images of ``folder.splits``, one after the other, from the cache or from ``decode``.

    An entry counts while path, size and modification time of every file are what they were. A cache that cannot be
    read or written costs time, never the result.
    """
    place, fingerprint = _keys(folder, resize_to)
    num_images = sum(len(split.files) for split in folder.splits)
    try:
        directory = cache_dir() / "images"
        entry = directory / f"{place}-{fingerprint}.npy"
        pixels: Pixels = np.load(entry, allow_pickle=False)
        if pixels.dtype == np.uint8 and pixels.ndim == 4 and len(pixels) == num_images:
            return pixels
        _logger.warning("ignoring %s: it does not hold the images of %s", entry, folder.root)
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        _logger.warning("cannot read decoded images of %s from the cache: %s", folder.root, error)
    pixels = decode()
    try:
        _write(cache_dir() / "images", place, fingerprint, pixels)
    except (OSError, RuntimeError) as error:
        _logger.warning("cannot keep decoded images of %s for the next run: %s", folder.root, error)
    return pixels


def _keys(folder: ImageFolder, resize_to: int | None) -> tuple[str, str]:
    """A hash of what is cached and one of its state."""
    place = hashlib.blake2b(f"{folder.root.resolve()}\0{resize_to}".encode(), digest_size=8)
    state = hashlib.blake2b(f"{_FORMAT}\0".encode(), digest_size=16)
    prefix = f"{folder.root}{os.sep}"
    for split in folder.splits:
        state.update(f"{split.folder.name}\0{len(split.files)}\0".encode())
        for file in split.files:
            path = file.path.removeprefix(prefix)
            state.update(f"{path}\0{file.size}\0{file.modified_ns}\0".encode(errors="surrogateescape"))
    return place.hexdigest(), state.hexdigest()


def _write(directory: Path, place: str, fingerprint: str, pixels: Pixels) -> None:
    """Stores an entry in one step, then removes those of earlier states of the same folder."""
    directory.mkdir(parents=True, exist_ok=True)
    entry = directory / f"{place}-{fingerprint}.npy"
    descriptor, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, pixels, allow_pickle=False)
        os.replace(temporary, entry)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    for stale in directory.glob(f"{place}-*.npy"):
        if stale != entry:
            stale.unlink(missing_ok=True)
