"""Random crops of padded images and horizontal flips, a batch at a time, on the images' device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import final

import torch
from torch import Tensor

from itop.data.errors import DataSetError
from itop.data.randomness import Purpose, coins, random_words, scaled


@final
class Padding(Enum):
    """What surrounds an image."""

    REFLECT = "reflect"
    """Its mirror image, the border pixel not repeated."""
    ZERO = "zero"
    """Black, before normalisation."""


@final
@dataclass(frozen=True, slots=True)
class Augmentation:
    """Pad by ``pad`` pixels on every side, crop the original size at random, flip left to right with probability 1/2.

    Args:
        pad: Pixels, at least 0; 0 leaves cropping out.
        padding: What the padding holds.
        flip: Whether images are flipped at all.
    """

    pad: int = 0
    padding: Padding = Padding.REFLECT
    flip: bool = False

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0, got {self.pad}")

    @property
    def changes_nothing(self) -> bool:
        return self.pad == 0 and not self.flip

    def check(self, height: int, width: int) -> None:
        """Raises ``DataSetError`` if images of this size cannot be padded this way."""
        if self.padding is Padding.REFLECT and self.pad >= min(height, width):
            raise DataSetError(
                f"reflect padding of {self.pad} pixels needs images larger than that, got {height} x {width}"
            )

    def draw(self, num_samples: int, *, seed: int, epoch: int) -> Shifts:
        """What happens to each sample in an epoch, on the CPU."""
        words = random_words(3 * num_samples, Purpose.AUGMENTATION, seed=seed, epoch=epoch).reshape(3, num_samples)
        return Shifts(
            rows=torch.from_numpy(scaled(words[0], 2 * self.pad + 1) - self.pad),
            columns=torch.from_numpy(scaled(words[1], 2 * self.pad + 1) - self.pad),
            flips=torch.from_numpy(coins(words[2]) & self.flip),
        )

    def apply(self, images: Tensor, shifts: Shifts) -> Tensor:
        """Crops and flips one batch.

        Args:
            images: uint8 [batch, channels, height, width], contiguous.
            shifts: Of these images, on their device.

        Returns:
            A new tensor like ``images``.
        """
        batch, channels, height, width = images.shape
        rows = shifts.rows[:, None] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        columns = shifts.columns[:, None] + torch.where(shifts.flips[:, None], width - 1 - columns, columns)
        # One gather of whole pixels: where each pixel of the result lies in the flattened source image.
        source_rows, source_columns = _mirrored(rows, height), _mirrored(columns, width)
        source = (source_rows[:, :, None] * width + source_columns[:, None, :]).view(batch, 1, height * width)
        cropped = images.view(batch, channels, height * width).gather(2, source.expand(-1, channels, -1))
        cropped = cropped.view(batch, channels, height, width)
        if self.padding is Padding.ZERO and self.pad > 0:
            outside = (rows != rows.clamp(0, height - 1))[:, :, None] | (columns != columns.clamp(0, width - 1))[
                :, None
            ]
            cropped.masked_fill_(outside[:, None], 0)
        return cropped


@final
@dataclass(frozen=True, slots=True)
class Shifts:
    """How samples are cropped and flipped.

    Attributes:
        rows: int64 [n], how far below the original's first row the crop begins, in ``-pad .. pad``.
        columns: The same to the right.
        flips: bool [n]; the crop is taken first, then flipped.
    """

    rows: Tensor
    columns: Tensor
    flips: Tensor

    def to(self, device: torch.device) -> Shifts:
        return Shifts(self.rows.to(device), self.columns.to(device), self.flips.to(device))

    def __getitem__(self, samples: slice) -> Shifts:
        return Shifts(self.rows[samples], self.columns[samples], self.flips[samples])


NO_AUGMENTATION = Augmentation()
"""Images as they are."""


def _mirrored(positions: Tensor, size: int) -> Tensor:
    """Positions outside ``0 .. size - 1`` reflected at the border pixel; clamped where zero padding goes further."""
    last = size - 1
    return (last - (last - positions.abs()).abs()).clamp_(0, last)
