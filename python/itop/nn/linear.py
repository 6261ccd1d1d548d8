"""``nn.Linear`` without its inactive weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from itop.allocation import target_count
from itop.nn.eager import eager_linear, is_eager
from itop.nn.growth import LinearGradientRows, ScoreRows
from itop.nn.operators import sparse_linear
from itop.nn.pattern import SparsePattern, TieKeys
from itop.nn.sparse_layer import SparseLayer

__all__ = ["SparseLinear"]


@final
class SparseLinear(SparseLayer):
    """``nn.Linear`` without its inactive weights.

    Args:
        in_features: Size of the input's last dimension.
        out_features: Size of the output's.
        bias: Whether there is a bias.
        sparsity: In [0, 1): the share of weights that are inactive; the number of active ones is exact.
        seed: Of the initial topology, uniformly at random. Values come from torch's generator, in the range ``nn.Linear``
            draws from.
        dtype: float32, float64 or bfloat16 (storage; sums are float32).

    Shape:
        ``[..., in_features] -> [..., out_features]``
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        sparsity: float,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (out_features, in_features)
        num_active = target_count(out_features * in_features, sparsity)
        super().__init__(
            SparsePattern.random(shape, num_active, TieKeys(seed)),
            torch.empty(num_active, dtype=dtype),
            torch.empty(out_features, dtype=dtype) if bias else None,
        )
        self.in_features = in_features
        self.out_features = out_features
        self.reset_parameters()

    @classmethod
    def from_pattern(cls, pattern: SparsePattern, bias: bool = True, dtype: torch.dtype | None = None) -> SparseLinear:
        """The layer ``[out, in]`` whose active weights are those of a pattern, values drawn as ``nn.Linear`` does."""
        layer = cls.__new__(cls)
        layer.out_features, layer.in_features = pattern.shape
        SparseLayer.__init__(
            layer,
            pattern,
            torch.empty(pattern.num_active, dtype=dtype),
            torch.empty(pattern.shape[0], dtype=dtype) if bias else None,
        )
        layer.reset_parameters()
        return layer

    @classmethod
    def from_dense(cls, module: nn.Linear, mask: Tensor) -> SparseLinear:
        """The sparse layer with the weights of a dense one where ``mask [out, in]`` is True."""
        layer = cls.__new__(cls)
        layer._take_weights(module, mask)
        layer.in_features = module.in_features
        layer.out_features = module.out_features
        return layer

    def to_dense(self) -> nn.Linear:
        """The dense layer with zeros in the place of inactive weights."""
        dense = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.values.dtype
        ).to_empty(device="cpu")
        self._give_weights(dense)
        return dense

    @property
    def weight_shape(self) -> torch.Size:
        return torch.Size((self.out_features, self.in_features))

    def gradient_rows(self, batches: Sequence[tuple[Tensor, Tensor]]) -> ScoreRows:
        return LinearGradientRows(batches)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"the input must have {self.in_features} features, got {list(x.shape)}")
        if is_eager(x):
            return eager_linear(x, self.values, self.bias, self._handle, self._pattern)
        output: Tensor = sparse_linear(x, self.values, self.bias, self._handle, self.out_features)
        return output

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"active={self.num_active}, sparsity={self.sparsity:.4f}"
        )
