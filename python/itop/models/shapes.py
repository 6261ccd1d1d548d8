"""How many pixels are left after convolutions and pooling, and whether any are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import TypeAlias

from torch import nn

InputShape: TypeAlias = tuple[int, int, int]
"""Channels, height, width of one image."""


def check_input(input_shape: InputShape, num_classes: int) -> None:
    """Raises ``ValueError`` unless both describe a classification task over images."""
    if len(input_shape) != 3 or any(size < 1 for size in input_shape):
        raise ValueError(f"input_shape must be (channels, height, width), each at least 1, got {tuple(input_shape)}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")


def check_image_size(model: str, input_shape: InputShape, smallest: int) -> None:
    """Raises ``ValueError`` if an image has a side below ``smallest`` pixels."""
    _, height, width = input_shape
    if min(height, width) < smallest:
        raise ValueError(f"{model} needs images of at least {smallest} x {smallest} pixels, got {height} x {width}")


def flattened_size(model: str, layers: Iterable[nn.Module], input_shape: InputShape) -> int:
    """Values a sample has after ``layers``: channels times pixels.

    Raises:
        ValueError: If no pixel is left, naming ``model`` and the smallest square image it takes.
    """
    layers = list(layers)
    channels, height, width = input_shape
    height_out, width_out = _pixels_left(layers, height), _pixels_left(layers, width)
    if min(height_out, width_out) < 1:
        check_image_size(model, input_shape, smallest=next(side for side in count(1) if _pixels_left(layers, side) > 0))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
    return channels * height_out * width_out


def _pixels_left(layers: Iterable[nn.Module], side: int) -> int:
    """Side of the map after ``layers`` for square windows without dilation; 0 or less once a window does not fit."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
            assert isinstance(padding, int)
            side = (side + 2 * padding - kernel) // stride + 1
        elif isinstance(layer, nn.MaxPool2d):
            assert isinstance(layer.kernel_size, int)
            assert isinstance(layer.stride, int)
            reach = side - layer.kernel_size
            side = (-(-reach // layer.stride) if layer.ceil_mode else reach // layer.stride) + 1
        if side < 1:
            return 0
    return side
