"""What is known of the published data sets before any of their files is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

__all__ = ["PUBLISHED", "PublishedData"]


@final
@dataclass(frozen=True, slots=True)
class PublishedData:
    """A data set as everybody has it.

    Args:
        training_samples: Before any is held out.
        input_shape: Channels, height and width of a sample as a network gets it.
        num_classes: Of its labels.
    """

    training_samples: int
    input_shape: tuple[int, int, int]
    num_classes: int


PUBLISHED: Mapping[str, PublishedData] = MappingProxyType(
    {
        "digits": PublishedData(1438, (1, 8, 8), 10),
        "fashion-mnist": PublishedData(60_000, (1, 28, 28), 10),
        "cifar10": PublishedData(50_000, (3, 32, 32), 10),
        "cifar100": PublishedData(50_000, (3, 32, 32), 100),
        "imagenet": PublishedData(1_281_167, (3, 224, 224), 1000),
    }
)
"""By the name a configuration gives them."""
