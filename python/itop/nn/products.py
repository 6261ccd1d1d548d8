"""A layer's products on the CPU: inputs of any shape, order and type as the kernels want them."""

from __future__ import annotations

import torch
from torch import Tensor

from itop.nn.convolution_kernels import ConvolutionGeometry, convolution_backward, convolution_forward
from itop.nn.linear_kernels import linear_backward, linear_forward
from itop.nn.pattern import SparsePattern

Gradients = tuple[Tensor, Tensor, Tensor]
"""Of the input, the values and the bias; what is not needed is an empty tensor."""


def multiply(pattern: SparsePattern, x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + bias`` for ``x [..., in]``."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    y = linear_forward(pattern, values.contiguous(), None if bias is None else bias.contiguous(), flat)
    return y.view(*x.shape[:-1], pattern.shape[0])


def multiply_backward(
    pattern: SparsePattern,
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> Gradients:
    flat_x = x.reshape(-1, x.shape[-1]).contiguous()
    flat_gradient = gradient.reshape(-1, gradient.shape[-1]).contiguous()
    grad_x, grad_values, grad_bias = linear_backward(
        pattern, values.contiguous(), flat_x, flat_gradient, needs_x, needs_values, needs_bias
    )
    return (grad_x.view(x.shape) if needs_x else grad_x), grad_values, grad_bias


def _computed_in(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def convolve(
    pattern: SparsePattern, geometry: ConvolutionGeometry, x: Tensor, values: Tensor, bias: Tensor | None
) -> Tensor:
    """A convolution of ``x [batch, in, height, width]``; bfloat16 images are computed in float32."""
    wide = x.to(_computed_in(values)).contiguous()
    y = convolution_forward(pattern, geometry, values.contiguous(), None if bias is None else bias.contiguous(), wide)
    return y.to(x.dtype)


def convolve_backward(
    pattern: SparsePattern,
    geometry: ConvolutionGeometry,
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> Gradients:
    wide = _computed_in(values)
    grad_x, grad_values, grad_bias = convolution_backward(
        pattern,
        geometry,
        values.contiguous(),
        x.to(wide).contiguous(),
        gradient.to(wide).contiguous(),
        needs_x,
        needs_values,
        needs_bias,
    )
    return grad_x.to(x.dtype), grad_values, grad_bias
