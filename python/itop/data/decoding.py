"""Image files to arrays, in parallel threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from itop.data.errors import DataSetError

Pixels: TypeAlias = npt.NDArray[np.uint8]

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the images decoded so far and the images there are, from the calling thread."""

_CHUNK = 256


def open_image(path: str) -> Image.Image:
    """The decoded image.

    Raises:
        DataSetError: Naming the file, if it cannot be read.
    """
    try:
        image: Image.Image
        with Image.open(path) as image:
            image.load()
            return image
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "corrupt or not an image"
        raise DataSetError(f"cannot read image '{path}': {reason}") from error


def image_size(path: str) -> tuple[int, int]:
    """Height and width, from the file's header.

    Raises:
        DataSetError: Naming the file, if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:
        return open_image(path).size[::-1]  # says what is wrong


def to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; transparency is dropped."""
    return _to_grey(image).convert("RGB") if _is_grey(image) else image.convert("RGB")


def decode_images(
    paths: Sequence[str], *, resize_to: int | None = None, progress: Progress | None = None, threads: int | None = None
) -> Pixels:
    """Decodes images of one size.

    Args:
        paths: At least one file.
        resize_to: Side to which the shorter side is scaled before a central square is cut; ``None`` leaves sizes alone.
        progress: Told how far decoding is.
        threads: Default: one a processor, at most 8.

    Returns:
        uint8 [n, channels, height, width]; one channel if every image is grey, else three.

    Raises:
        DataSetError: If an image is corrupt or not of the first one's size, naming the first such file.
    """
    first = open_image(paths[0])
    if _is_grey(first):
        try:
            return _decode(paths, first, 1, resize_to, progress, threads)
        except _ColourFoundError:
            pass
    return _decode(paths, first, 3, resize_to, progress, threads)


class _ColourFoundError(Exception):
    """A set that began grey holds a coloured image."""


def _decode(
    paths: Sequence[str],
    first: Image.Image,
    channels: int,
    resize_to: int | None,
    progress: Progress | None,
    threads: int | None,
) -> Pixels:
    width, height = first.size if resize_to is None else (resize_to, resize_to)
    pixels = np.empty((len(paths), channels, height, width), dtype=np.uint8)

    def decode_chunk(start: int) -> int:
        chunk = paths[start : start + _CHUNK]
        for position, path in enumerate(chunk, start):
            image = open_image(path)
            if channels == 1 and not _is_grey(image):
                raise _ColourFoundError
            image = _to_grey(image) if channels == 1 else to_rgb(image)
            if resize_to is not None:
                image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
            if image.size != (width, height):
                raise DataSetError(
                    f"images that live in memory must have one size: '{paths[0]}' is {height} x {width} pixels, "
                    f"'{path}' is {image.height} x {image.width}; give an image size to resize them"
                )
            pixels[position] = np.asarray(image).reshape(height, width, channels).transpose(2, 0, 1)
        return len(chunk)

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        decoded = 0
        try:
            for count in pool.map(decode_chunk, range(0, len(paths), _CHUNK)):
                decoded += count
                if progress is not None:
                    progress(decoded, len(paths))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return pixels


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def _to_grey(image: Image.Image) -> Image.Image:
    """One channel of 8 bits. Pillow clips 16 bits to 8 where their upper half is meant."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("L")


def probed_sizes(paths: Sequence[str], probes: int = 32) -> set[tuple[int, int]]:
    """Heights and widths of evenly spaced images, from their headers.

    Raises:
        DataSetError: Naming the file, if one cannot be read.
    """
    return {image_size(path) for path in paths[:: max(1, len(paths) // probes)]}
