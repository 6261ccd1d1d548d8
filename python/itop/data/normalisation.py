"""From bytes to floats of zero mean and unit variance in each channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_CHUNK = 4096
"""Images gathered at a time."""


@final
@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(value - mean) / std`` with the mean and standard deviation of each channel's bytes."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Tensor, samples: Tensor) -> Normalisation:
        """Measured, exactly, over ``images[samples]``.

        Args:
            images: uint8 [n, channels, height, width].
            samples: int64 indices into it.
        """
        num_channels = images.shape[1]
        histogram = torch.zeros(num_channels, 256, dtype=torch.int64)
        for start in range(0, len(samples), _CHUNK):
            chunk = samples[start : start + _CHUNK]
            for channel, values in enumerate(images[chunk].unbind(dim=1)):
                histogram[channel] += torch.bincount(values.flatten(), minlength=256)
        levels = torch.arange(256, dtype=torch.float64)
        frequency = histogram.double() / histogram.sum(dim=1, keepdim=True)
        mean = frequency @ levels
        variance = (frequency * (levels - mean[:, None]) ** 2).sum(dim=1)
        # A channel of one colour carries nothing: it becomes zero, not infinite.
        std = torch.where(variance > 0, variance.sqrt(), 1.0)
        return cls(tuple(mean.tolist()), tuple(std.tolist()))

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from uint8 to float32 [batch, channels, height, width] on ``device``."""
        mean = torch.tensor(self.mean, dtype=torch.float32).to(device)[:, None, None]
        scale = torch.tensor(self.std, dtype=torch.float64).reciprocal().float().to(device)[:, None, None]

        def normalise(images: Tensor) -> Tensor:
            return images.float().sub_(mean).mul_(scale)

        return normalise


IMAGENET = Normalisation(
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)
"""The figures the literature uses; natural photographs are close enough to share them."""
