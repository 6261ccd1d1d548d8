"""Sparse products against dense ones over shapes, densities, batches and threads."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from itop import _core
from itop.nn import SparseConv2d, SparseLinear

densities = st.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0])
seeds = st.integers(0, 2**31)


def mask_of(shape: torch.Size, density: float, seed: int) -> Tensor:
    """Random, with an empty row and an empty column."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    mask[seed % shape[0]] = False
    mask[:, seed % shape[1]] = False
    return mask


def gradients(module: nn.Module, x: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Output and gradients of the input and all parameters."""
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    return (y.detach(), *torch.autograd.grad(y, [leaf, *module.parameters()], weights))


def compare(layer: SparseLinear | SparseConv2d, x: Tensor, seed: int) -> None:
    sparse = gradients(layer, x, seed)
    y, grad_x, grad_weight, grad_bias = gradients(layer.to_dense(), x, seed)
    torch.testing.assert_close(sparse, (y, grad_x, grad_weight[layer.mask()], grad_bias), rtol=1e-9, atol=1e-9)
    for num_threads in (1, 3):
        _core.set_num_threads(num_threads)
        for again, first in zip(gradients(layer, x, seed), sparse, strict=True):
            assert torch.equal(again, first), f"{num_threads} threads give other bits"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 150), densities, seeds)
def test_linear_layers_equal_dense_ones_with_the_same_bits_for_any_number_of_threads(
    in_features: int, out_features: int, batch: int, density: float, seed: int
) -> None:
    torch.manual_seed(seed)
    dense = nn.Linear(in_features, out_features, dtype=torch.float64)
    layer = SparseLinear.from_dense(dense, mask_of(dense.weight.shape, density, seed))
    compare(layer, torch.randn(batch, in_features, dtype=torch.float64), seed)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_equal_dense_ones_with_the_same_bits_for_any_number_of_threads(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> tuple[int, int]:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    seed, groups = data.draw(seeds), data.draw(st.sampled_from([1, 1, 2, 3]))
    kernel, stride, padding, dilation = pair(1, 4), pair(1, 3), pair(0, 3), pair(1, 2)
    smallest = [max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in (0, 1)]
    size = [data.draw(st.integers(low, low + 12)) for low in smallest]
    channels = groups * data.draw(st.integers(1, 5)), groups * data.draw(st.integers(1, 5))
    torch.manual_seed(seed)
    dense = nn.Conv2d(*channels, kernel, stride, padding, dilation, groups, dtype=torch.float64)
    layer = SparseConv2d.from_dense(dense, mask_of(dense.weight.shape, data.draw(densities), seed))
    compare(layer, torch.randn(data.draw(st.integers(1, 20)), channels[0], *size, dtype=torch.float64), seed)
