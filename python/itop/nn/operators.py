"""The two operators behind the modules: opaque to ``torch.compile``, differentiable, aware of autocast.

Eager code on the CPU goes a shorter way, :mod:`itop.nn.eager`.

A pattern enters an operator as an int64 scalar on the CPU, its identifier: compiled code keeps working when an update
writes another identifier into the same tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from itop.nn import device_kernels
from itop.nn.convolution_kernels import ConvolutionGeometry
from itop.nn.pattern import pattern_of
from itop.nn.products import convolve, convolve_backward, multiply, multiply_backward

__all__ = ["sparse_conv2d", "sparse_linear"]


def _pattern(handle: Tensor) -> Any:
    return pattern_of(int(handle.item()))


# --- linear -------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("itop::sparse_linear", mutates_args=(), device_types="cpu")
def sparse_linear(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, out_features: int) -> Tensor:
    """``x W^T + bias`` for ``x [..., in]``; ``W [out, in]`` has ``values`` at the positions of the pattern."""
    return multiply(_pattern(handle), x, values, bias)


@sparse_linear.register_kernel("cuda")
def _(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, out_features: int) -> Tensor:
    y = device_kernels.linear_forward(_pattern(handle), values, bias, x.reshape(-1, x.shape[-1]))
    return y.view(*x.shape[:-1], out_features)


@sparse_linear.register_fake
def _(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, out_features: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out_features)


@torch.library.custom_op("itop::sparse_linear_backward", mutates_args=(), device_types="cpu")
def _linear_backward(
    gradient: Tensor, x: Tensor, values: Tensor, handle: Tensor, needs_x: bool, needs_values: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return multiply_backward(_pattern(handle), gradient, x, values, needs_x, needs_values, needs_bias)


@_linear_backward.register_kernel("cuda")
def _(
    gradient: Tensor, x: Tensor, values: Tensor, handle: Tensor, needs_x: bool, needs_values: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    flat_x, flat_gradient = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    grad_x, grad_values, grad_bias = device_kernels.linear_backward(
        _pattern(handle), values, flat_x, flat_gradient, needs_x, needs_values, needs_bias
    )
    return (grad_x.view(x.shape) if needs_x else grad_x), grad_values, grad_bias


@_linear_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, values: Tensor, handle: Tensor, needs_x: bool, needs_values: bool, needs_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if needs_x else (0,)),
        values.new_empty(values.shape if needs_values else (0,)),
        values.new_empty(gradient.shape[-1] if needs_bias else 0),
    )


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, _, handle, _ = inputs
    ctx.save_for_backward(x, values, handle)


def _differentiate_linear(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, values, handle = ctx.saved_tensors
    needs_x, needs_values, needs_bias = ctx.needs_input_grad[:3]
    grad_x, grad_values, grad_bias = _linear_backward(gradient, x, values, handle, needs_x, needs_values, needs_bias)
    return (
        grad_x if needs_x else None,
        grad_values if needs_values else None,
        grad_bias if needs_bias else None,
        None,
        None,
    )


sparse_linear.register_autograd(_differentiate_linear, setup_context=_save_linear)


# --- convolution --------------------------------------------------------------------------------------------------------


def _geometry(geometry: Sequence[int]) -> ConvolutionGeometry:
    in_channels, out_channels, *pairs, groups = geometry
    kernel_size, stride, padding, dilation = ((pairs[i], pairs[i + 1]) for i in (0, 2, 4, 6))
    return ConvolutionGeometry(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)


def flat_geometry(geometry: ConvolutionGeometry) -> list[int]:
    """The eleven integers an operator takes."""
    return [
        geometry.in_channels,
        geometry.out_channels,
        *geometry.kernel_size,
        *geometry.stride,
        *geometry.padding,
        *geometry.dilation,
        geometry.groups,
    ]


@torch.library.custom_op("itop::sparse_conv2d", mutates_args=(), device_types="cpu")
def sparse_conv2d(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, geometry: Sequence[int]) -> Tensor:
    """A convolution of ``x [batch, in, height, width]``; bfloat16 images are computed in float32."""
    return convolve(_pattern(handle), _geometry(geometry), x, values, bias)


@sparse_conv2d.register_kernel("cuda")
def _(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, geometry: Sequence[int]) -> Tensor:
    raise ValueError("truly sparse convolutions run on the CPU only; on a GPU use masked execution for them")


@sparse_conv2d.register_fake
def _(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, geometry: Sequence[int]) -> Tensor:
    shape = _geometry(geometry)

    def size(length: Any, i: int) -> Any:
        reach = shape.dilation[i] * (shape.kernel_size[i] - 1) + 1
        return (length + 2 * shape.padding[i] - reach) // shape.stride[i] + 1

    return x.new_empty(x.shape[0], shape.out_channels, size(x.shape[2], 0), size(x.shape[3], 1))


@torch.library.custom_op("itop::sparse_conv2d_backward", mutates_args=(), device_types="cpu")
def _conv2d_backward(
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    handle: Tensor,
    geometry: Sequence[int],
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return convolve_backward(
        _pattern(handle), _geometry(geometry), gradient, x, values, needs_x, needs_values, needs_bias
    )


@_conv2d_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    values: Tensor,
    handle: Tensor,
    geometry: Sequence[int],
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if needs_x else (0,)),
        values.new_empty(values.shape if needs_values else (0,)),
        values.new_empty(gradient.shape[1] if needs_bias else 0),
    )


def _save_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, _, handle, geometry = inputs
    ctx.save_for_backward(x, values, handle)
    ctx.geometry = geometry


def _differentiate_conv2d(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, values, handle = ctx.saved_tensors
    needs_x, needs_values, needs_bias = ctx.needs_input_grad[:3]
    grad_x, grad_values, grad_bias = _conv2d_backward(
        gradient, x, values, handle, ctx.geometry, needs_x, needs_values, needs_bias
    )
    return (
        grad_x if needs_x else None,
        grad_values if needs_values else None,
        grad_bias if needs_bias else None,
        None,
        None,
    )


sparse_conv2d.register_autograd(_differentiate_conv2d, setup_context=_save_conv2d)

# Under autocast both run as the dense layers do; older versions of torch cannot say so for an operator.
if hasattr(torch.library, "register_autocast"):
    for _operator in (sparse_linear, sparse_conv2d):
        torch.library.register_autocast(_operator, "cpu", torch.bfloat16)
