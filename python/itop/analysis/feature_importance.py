"""Which input features a sparse network kept connected: the strength of its input neurons.

Reference:
    Atashgahi et al., Quick and Robust Feature Selection (QuickSelection), Machine Learning 2022.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def input_strength(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of ``|w|`` over the connections that leave each input neuron.

    Args:
        weight: [outputs, inputs, ...] of the first layer; what follows the inputs (a kernel) is summed over.
        mask: bool of that shape: the active connections. By default all.

    Returns:
        float64 [inputs], on the weight's device.

    Raises:
        ValueError: If the weight has fewer than two dimensions, or the mask another shape.
    """
    if weight.dim() < 2:
        raise ValueError(f"weight must have at least two dimensions, got shape {tuple(weight.shape)}")
    magnitude = weight.detach().double().abs()
    if mask is not None:
        if mask.shape != weight.shape:
            raise ValueError(f"mask must have the weight's shape {tuple(weight.shape)}, got {tuple(mask.shape)}")
        magnitude = magnitude.masked_fill(~mask.to(weight.device), 0.0)
    return magnitude.transpose(0, 1).flatten(1).sum(dim=1)


def select_features(strength: Tensor, num_features: int) -> Tensor:
    """The strongest input features, strongest first; of equal ones the earlier.

    Args:
        strength: [inputs].
        num_features: In [0, inputs].

    Returns:
        int64 [num_features].
    """
    if not 0 <= num_features <= len(strength):
        raise ValueError(f"num_features must be in [0, {len(strength)}], got {num_features}")
    return torch.argsort(strength, descending=True, stable=True)[:num_features]


def strength_image(strength: Tensor, image_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Strength of the pixels of flattened images, as an image in [0, 1] that plotting libraries show.

    Args:
        strength: [inputs] of a layer that reads whole flattened images.
        image_shape: (height, width) or (channels, height, width), the order in which images were flattened.

    Returns:
        float64 [height, width], or [height, width, 3] for three channels; other channels are averaged. The largest
        value is 1, or all are 0.

    Raises:
        ValueError: If the shape does not hold as many pixels as there are inputs.
    """
    if len(image_shape) not in (2, 3) or int(np.prod(image_shape)) != len(strength):
        raise ValueError(
            f"image_shape must be (height, width) or (channels, height, width) of {len(strength)} inputs, "
            f"got {image_shape}"
        )
    image: NDArray[np.float64] = strength.detach().double().cpu().numpy().reshape(image_shape)
    if image.ndim == 3:
        image = image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)
    largest = image.max(initial=0.0)
    return image / largest if largest > 0.0 else image
