"""The two operators as eager code on the CPU calls them: autograd functions of their own.

An operator of ``torch.library`` that is written in Python passes torch's dispatcher, and Python, four times a training
step. With caches that the products have swept, that took a sixth of the step of a small convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from itop.nn.convolution_kernels import ConvolutionGeometry
from itop.nn.pattern import SparsePattern
from itop.nn.products import Gradients, convolve, convolve_backward, multiply, multiply_backward

__all__ = ["eager_conv2d", "eager_linear", "is_eager"]


def is_eager(x: Tensor) -> bool:
    """Whether nothing of torch wants to see an operator: no compiler, tracer, mode, transform, autocast or subclass."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.is_cpu
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_tracing_state() is None
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
    )


def _needed(ctx: Any, gradients: Gradients) -> tuple[Tensor | None, ...]:
    return tuple(
        gradient if needed else None for gradient, needed in zip(gradients, ctx.needs_input_grad, strict=False)
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, pattern: SparsePattern
    ) -> Tensor:
        # The handle tells autograd of an update in between, after which these gradients would be of another length.
        ctx.save_for_backward(x, values, handle)
        ctx.pattern = pattern
        return multiply(pattern, x, values, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, values, _ = ctx.saved_tensors
        gradients = multiply_backward(ctx.pattern, gradient, x, values, *ctx.needs_input_grad[:3])
        return *_needed(ctx, gradients), None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        handle: Tensor,
        pattern: SparsePattern,
        geometry: ConvolutionGeometry,
    ) -> Tensor:
        ctx.save_for_backward(x, values, handle)
        ctx.pattern, ctx.geometry = pattern, geometry
        return convolve(pattern, geometry, x, values, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, values, _ = ctx.saved_tensors
        gradients = convolve_backward(ctx.pattern, ctx.geometry, gradient, x, values, *ctx.needs_input_grad[:3])
        return *_needed(ctx, gradients), None, None, None


def eager_linear(x: Tensor, values: Tensor, bias: Tensor | None, handle: Tensor, pattern: SparsePattern) -> Tensor:
    """As :func:`itop.nn.operators.sparse_linear`, where :func:`is_eager`."""
    output: Tensor = _Linear.apply(x, values, bias, handle, pattern)
    return output


def eager_conv2d(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    handle: Tensor,
    pattern: SparsePattern,
    geometry: ConvolutionGeometry,
) -> Tensor:
    """As :func:`itop.nn.operators.sparse_conv2d`, where :func:`is_eager`."""
    output: Tensor = _Convolution.apply(x, values, bias, handle, pattern, geometry)
    return output
