"""Truly sparse layers: memory and time in proportion to the active weights.

>>> layer = SparseLinear(4096, 4096, sparsity=0.95)   # doctest: +SKIP

A layer's weights are one vector of values, so every optimiser keeps state for the active weights only.
"""

from __future__ import annotations

from itop.nn.convolution import SparseConv2d
from itop.nn.convolution_kernels import ConvolutionGeometry
from itop.nn.growth import grow_candidates_by_gradient, grow_convolution_candidates_by_gradient
from itop.nn.layouts import forget_layouts
from itop.nn.linear import SparseLinear
from itop.nn.pattern import PatternUpdate, SparsePattern, TieKeys
from itop.nn.replacement import Replacement, densify, sparsify
from itop.nn.sparse_layer import SparseLayer

__all__ = [
    "ConvolutionGeometry",
    "PatternUpdate",
    "Replacement",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SparsePattern",
    "TieKeys",
    "densify",
    "forget_layouts",
    "grow_candidates_by_gradient",
    "grow_convolution_candidates_by_gradient",
    "sparsify",
]
