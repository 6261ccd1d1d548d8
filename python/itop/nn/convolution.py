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
        groups: Divides both numbers of channels.
        bias: Whether there is a bias.
        sparsity: In [0, 1): the share of weights that are inactive; the number of active ones is exact.
        seed: Of the initial topology, uniformly at random.
        dtype: float32, float64 or bfloat16 (storage; sums are float32).

    Shape:
        ``[batch, in_channels, height, width] -> [batch, out_channels, out_height, out_width]``
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
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
        geometry = ConvolutionGeometry(
            in_channels, out_channels, _pair(kernel_size), _pair(stride), _pair(padding), _pair(dilation), groups
        )
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
            ValueError: If the module pads with anything but a number of zeros, or the mask has another shape.
        """
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ValueError(
                f"a sparse convolution pads with a number of zeros, got padding {module.padding!r} of mode "
                f"{module.padding_mode!r}"
            )
        layer = cls.__new__(cls)
        layer._take_weights(module, mask)
        layer.geometry = ConvolutionGeometry(
            module.in_channels,
            module.out_channels,
            _pair(module.kernel_size),
            _pair(module.stride),
            _pair(module.padding),
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
        return ConvolutionGradientRows(batches, self.geometry)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.geometry.in_channels:
            raise ValueError(
                f"the input must be [batch, {self.geometry.in_channels}, height, width], got {list(x.shape)}"
            )
        if is_eager(x):
            return eager_conv2d(x, self.values, self.bias, self._handle, self._pattern, self.geometry)
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


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width
