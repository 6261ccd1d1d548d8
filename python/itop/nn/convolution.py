"""``nn.Conv2d`` without its inactive weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from itop.allocation import target_count
from itop.nn.convolution_kernels import ConvolutionGeometry
from itop.nn.eager import eager_conv2d, is_eager
from itop.nn.growth import ConvolutionGradientRows, ScoreRows
from itop.nn.operators import flat_geometry, sparse_conv2d
from itop.nn.pattern import SparsePattern, TieKeys
from itop.nn.sparse_layer import SparseLayer

__all__ = ["SparseConv2d"]


@final
class SparseConv2d(SparseLayer):
    """``nn.Conv2d`` without its inactive weights; zero padding.

    Args:
        in_channels: Of the images.
        out_channels: Of the output.
        kernel_size: One length, or height and width; likewise ``stride``, ``padding`` and ``dilation``.
        padding: Or "valid" (none), or "same" (the output has the size of the image; of stride 1).
        groups: Divides both numbers of channels.
        bias: Whether there is a bias.
        sparsity: In [0, 1): the share of weights that are inactive; the number of active ones is exact.
        seed: Of the initial topology, uniformly at random.
        dtype: float32, float64 or bfloat16 (storage; sums are float32).

    Shape:
        ``[batch, in_channels, height, width] -> [batch, out_channels, out_height, out_width]``, or one image without
        the batch.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        sparsity: float,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide both {in_channels} and {out_channels} channels, got {groups}")
        geometry = _geometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        columns = in_channels // groups * math.prod(geometry.kernel_size)
        num_active = target_count(out_channels * columns, sparsity)
        super().__init__(
            SparsePattern.random((out_channels, columns), num_active, TieKeys(seed)),
            torch.empty(num_active, dtype=dtype),
            torch.empty(out_channels, dtype=dtype) if bias else None,
        )
        self.geometry = geometry
        self._flat_geometry = flat_geometry(geometry)
        self.reset_parameters()

    @classmethod
    def from_dense(cls, module: nn.Conv2d, mask: Tensor) -> SparseConv2d:
        """The sparse layer with the weights of a dense one where ``mask`` is True.

        Raises:
            ValueError: If the module pads with anything but zeros, or not the same on both sides, or the mask has another
                shape.
        """
        if module.padding_mode != "zeros":
            raise ValueError(f"a sparse convolution pads with zeros, got padding_mode {module.padding_mode!r}")
        layer = cls.__new__(cls)
        layer._take_weights(module, mask)
        layer.geometry = _geometry(
            module.in_channels,
            module.out_channels,
            _pair(module.kernel_size),
            _pair(module.stride),
            module.padding if isinstance(module.padding, str) else _pair(module.padding),
            _pair(module.dilation),
            module.groups,
        )
        layer._flat_geometry = flat_geometry(layer.geometry)
        return layer

    def to_dense(self) -> nn.Conv2d:
        """The dense layer with zeros in the place of inactive weights."""
        geometry = self.geometry
        dense = nn.Conv2d(
            geometry.in_channels,
            geometry.out_channels,
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
            self.bias is not None,
            device="meta",
            dtype=self.values.dtype,
        ).to_empty(device="cpu")
        self._give_weights(dense)
        return dense

    @property
    def weight_shape(self) -> torch.Size:
        geometry = self.geometry
        return torch.Size((geometry.out_channels, geometry.in_channels // geometry.groups, *geometry.kernel_size))

    def gradient_rows(self, batches: Sequence[tuple[Tensor, Tensor]]) -> ScoreRows:
        with_batch = [
            (x.reshape(-1, *x.shape[-3:]), gradient.reshape(-1, *gradient.shape[-3:])) for x, gradient in batches
        ]
        return ConvolutionGradientRows(with_batch, self.geometry)

    def forward(self, x: Tensor) -> Tensor:
        geometry = self.geometry
        if x.dim() not in (3, 4) or x.shape[-3] != geometry.in_channels:
            raise ValueError(
                f"the input must be [batch, {geometry.in_channels}, height, width], or one such image, got {list(x.shape)}"
            )
        for size, kernel, padding, dilation in zip(
            x.shape[-2:], geometry.kernel_size, geometry.padding, geometry.dilation, strict=True
        ):
            if size + 2 * padding <= dilation * (kernel - 1):
                raise ValueError(
                    f"images of {x.shape[-2]}x{x.shape[-1]}, padded by {geometry.padding}, are smaller than the kernel "
                    f"{geometry.kernel_size} of dilation {geometry.dilation}"
                )
        if x.dim() == 3:
            return self.forward(x[None])[0]
        if is_eager(x):
            return eager_conv2d(x, self.values, self.bias, self._handle, self._pattern, geometry)
        output: Tensor = sparse_conv2d(x, self.values, self.bias, self._handle, self._flat_geometry)
        return output

    def extra_repr(self) -> str:
        geometry = self.geometry
        return (
            f"{geometry.in_channels}, {geometry.out_channels}, kernel_size={geometry.kernel_size}, "
            f"stride={geometry.stride}, padding={geometry.padding}, dilation={geometry.dilation}, "
            f"groups={geometry.groups}, bias={self.bias is not None}, active={self.num_active}, "
            f"sparsity={self.sparsity:.4f}"
        )


def _geometry(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int],
    stride: int | tuple[int, int],
    padding: int | tuple[int, int] | str,
    dilation: int | tuple[int, int],
    groups: int,
) -> ConvolutionGeometry:
    kernel, steps, spread = _pair(kernel_size), _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        padding = _padding_of_name(padding, kernel, steps, spread)
    return ConvolutionGeometry(in_channels, out_channels, kernel, steps, _pair(padding), spread, groups)


def _padding_of_name(
    name: str, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    if name == "valid":
        return (0, 0)
    if name != "same":
        raise ValueError(f"padding must be numbers, 'valid' or 'same', got {name!r}")
    if stride != (1, 1):
        raise ValueError(f"padding 'same' is for stride 1, got {stride}")
    height, width = (spread * (size - 1) for size, spread in zip(kernel, dilation, strict=True))
    if height % 2 or width % 2:
        raise ValueError(
            f"padding 'same' of a kernel {kernel} with dilation {dilation} differs between the sides, and a sparse "
            "convolution pads both alike"
        )
    return (height // 2, width // 2)


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
