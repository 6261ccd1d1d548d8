"""Small folders of images for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, *, size: tuple[int, int] = (6, 5), mode: str = "RGB", level: int = 0) -> None:
    """An image of (height, width) whose pixels all differ, beginning at ``level``."""
    height, width = size
    pixels = np.arange(height * width * 3, dtype=np.int64).reshape(height, width, 3) + level
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels % 256).astype(np.uint8)).convert(mode).save(path)


def write_folder(
    root: Path,
    counts: Mapping[str, int],
    *,
    classes: tuple[str, ...] = ("cat", "dog"),
    size: tuple[int, int] = (6, 5),
    mode: str = "RGB",
) -> Path:
    """``counts[split]`` images a class in ``root/<split>/<class>/<number>.png``, each image different."""
    level = 0
    for split, count in counts.items():
        for name in classes:
            for number in range(count):
                write_image(root / split / name / f"{number}.png", size=size, mode=mode, level=level)
                level += 1
    return root
