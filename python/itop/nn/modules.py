"""Layers that hold values and indices of their active weights, and nothing of the others."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from itop import _core
from itop.allocation import target_count
from itop.compressed_weight import CompressedWeight
from itop.nn.convolution_kernels import ConvolutionGeometry
from itop.nn.derived_indices import chosen_layouts
from itop.nn.growth import ConvolutionGradientRows, LinearGradientRows, ScoreRows
from itop.nn.lent_memory import lent_tensor
from itop.nn.operators import flat_geometry, sparse_conv2d, sparse_linear
from itop.nn.pattern import PatternUpdate, SparsePattern, TieKeys, select_entries
from itop.optimizer_group import OptimizerGroup

__all__ = ["SparseConv2d", "SparseLayer", "SparseLinear"]


class SparseLayer(CompressedWeight):
    """What truly sparse layers share: a vector of values, their positions, and how both change.

    Memory of weights, gradients and optimiser state is that of the active weights. The layer computes on CPUs.

    Attributes:
        values: The only weights, ``[active]``, in row order of the weight flattened to a matrix.
        bias: ``[out]`` or None.
        row_pointers: Buffer, int64 ``[out + 1]``.
        columns: Buffer, int32 ``[active]``.
    """

    bias: nn.Parameter | None
    row_pointers: Tensor
    columns: Tensor
    _pattern: SparsePattern
    _handle: Tensor

    def __init__(self, pattern: SparsePattern, values: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.values = nn.Parameter(values)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))
        self._set_pattern(pattern)

    def _set_pattern(self, pattern: SparsePattern) -> None:
        self._pattern = pattern
        self.register_buffer("row_pointers", pattern.row_pointers)
        self.register_buffer("columns", pattern.columns)
        if "_handle" in self.__dict__:
            self._handle.fill_(pattern.identifier)
        else:
            # Not a buffer: identifiers belong to a process, and data parallelism copies buffers between processes.
            self._handle = torch.tensor(pattern.identifier, dtype=torch.int64, device="cpu")

    # --- looking ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def gradient_rows(self, batches: Sequence[tuple[Tensor, Tensor]]) -> ScoreRows:
        """The gradient of the dense weight, as rows that are formed when they are asked for.

        Args:
            batches: The layer's input and the gradient of its output, for each pass that the gradient sums over.
        """

    @property
    def pattern(self) -> SparsePattern:
        """Where the active weights are."""
        return self._pattern

    @property
    def num_active(self) -> int:
        return self._pattern.num_active

    @property
    def density(self) -> float:
        return self._pattern.num_active / self._pattern.numel

    @property
    def sparsity(self) -> float:
        return 1.0 - self.density

    def mask(self) -> Tensor:
        """Bool, in the shape of the dense weight: a dense tensor, for inspection."""
        return self._pattern.to_mask().view(self.weight_shape)

    def dense_weight(self) -> Tensor:
        """The dense weight with zeros, a copy."""
        values = self.values.detach()
        dense = torch.zeros(self._pattern.numel, dtype=values.dtype, device=values.device)
        dense[self._pattern.positions().to(values.device)] = values
        return dense.view(self.weight_shape)

    def chosen_layouts(self) -> dict[str, str]:
        """Which kernels and layouts this layer has chosen so far, in words; empty before its first call."""
        return chosen_layouts(self._pattern)

    # --- changing -----------------------------------------------------------------------------------------------------

    def fresh_values(self, count: int) -> Tensor:
        """So many initial values from torch's generator, in the range of :meth:`reset_parameters`."""
        bound = _bound(self._pattern.shape[1])
        return torch.empty(count, dtype=self.values.dtype).uniform_(-bound, bound)

    def keep_all_but_smallest(self, k: int, keys: TieKeys) -> Tensor:
        """Which weights stay when the ``k`` of the smallest magnitude are dropped: bool ``[active]``.

        Equal magnitudes go by the tie keys of their positions, as in the masked execution.

        Raises:
            NonFiniteError: If a value is NaN or infinite.
        """
        dropped = select_entries(self._pattern, self.values.detach(), k, keys, magnitude=True, largest=False)
        return dropped.logical_not_()

    def update_topology(
        self,
        keep: Tensor,
        grown: Tensor,
        optimizer: Optimizer | OptimizerGroup | None = None,
        *,
        regrown_keeps_value: bool = False,
    ) -> PatternUpdate:
        """Drops and grows weights in place; values, gradient and optimiser state move with the weights that stay.

        Time and memory are those of the active weights. A grown weight is zero, and so is its state.

        Args:
            keep: bool ``[active]``; False drops.
            grown: int64, ascending: positions row * columns + column in the weight as a matrix.
            optimizer: Whose state of ``values`` moves along.
            regrown_keeps_value: Whether a weight that is dropped and grown goes on with its value and state.

        Returns:
            The new pattern, and for each of its entries the old one whose value stayed (-1: grown).

        Raises:
            ValueError: If a grown position is kept, out of order or out of range; nothing has changed then.
        """
        update = self._pattern.updated(keep, grown, regrown_keeps_value=regrown_keeps_value)
        self.replace_topology(update, optimizer)
        return update

    def replace_topology(self, update: PatternUpdate, optimizer: Optimizer | OptimizerGroup | None = None) -> None:
        """Takes a new pattern; entry ``i`` goes on with the value and state of the old entry ``sources[i]``, -1 is zero."""
        if update.pattern.shape != self._pattern.shape:
            raise ValueError(f"the pattern must be {self._pattern.shape}, got {update.pattern.shape}")
        sources = update.sources

        def carried(old: Tensor) -> Tensor:
            new = lent_tensor(sources.shape, old.dtype)
            old = old.contiguous()
            _core.sparse_carry_values(
                old.data_ptr(), sources.data_ptr(), sources.numel(), old.element_size(), new.data_ptr()
            )
            return new

        old_shape = self.values.shape
        if optimizer is not None and self.values in optimizer.state:
            _carry_state(optimizer.state[self.values], old_shape, carried)
        gradient = self.values.grad
        self._set_values(carried(self.values.data))
        self.values.grad = None if gradient is None else carried(gradient)
        self._set_pattern(update.pattern)

    def _set_values(self, values: Tensor) -> None:
        """Rebinds the parameter's storage; its gradient, which may have another length, is gone."""
        self.values.grad = None
        if values.shape != self.values.shape:
            # A loss of the last step that is still alive keeps the node that sums up gradients, and with it the length
            # it expects; a change of type lets autograd make a new one.
            other = torch.float32 if values.dtype == torch.float64 else torch.float64
            self.values.data = values.new_empty(0, dtype=other)
        self.values.data = values

    # --- saving ---------------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> SparseLayer:
        duplicate = self.__class__.__new__(self.__class__)
        memo[id(self)] = duplicate
        state = {key: deepcopy(value, memo) for key, value in self.__dict__.items() if key != "_handle"}
        duplicate.__dict__.update(state)
        duplicate._set_pattern(self._pattern)
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_handle"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._set_pattern(self._pattern)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool, *arguments: Any
    ) -> None:
        """A state with another topology brings its pattern along: values take its length."""
        parts = [state_dict.get(prefix + name) for name in ("row_pointers", "columns", "values")]
        row_pointers, columns, values = parts
        if row_pointers is not None and columns is not None and values is not None:
            pattern = SparsePattern(self._pattern.shape, row_pointers.clone(), columns.clone())
            if values.shape != (pattern.num_active,):
                raise ValueError(
                    f"{prefix}values must have the pattern's {pattern.num_active} entries, got {list(values.shape)}"
                )
            if pattern != self._pattern:
                if values.shape != self.values.shape:
                    self._set_values(self.values.data.new_zeros(values.shape))
                self._set_pattern(pattern)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *arguments)


def _carry_state(state: dict[Any, Any], shape: torch.Size, carried: Any) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == shape and value.dim() == 1:
            state[key] = carried(value)
        elif isinstance(value, dict):
            _carry_state(value, shape, carried)


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

    def reset_parameters(self) -> None:
        """Draws values and bias anew; the topology stays."""
        _reset(self.values, self.bias, self.in_features)

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
        pattern = _checked_pattern(module, mask)
        bias = None if module.bias is None else module.bias.detach().clone()
        SparseLayer.__init__(layer, pattern, _active_values(module.weight, mask), bias)
        layer.in_features = module.in_features
        layer.out_features = module.out_features
        return layer.train(module.training)

    def to_dense(self) -> nn.Linear:
        """The dense layer with zeros in the place of inactive weights."""
        dense = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta", dtype=self.values.dtype
        ).to_empty(device="cpu")
        _fill_dense(dense, self)
        return dense

    @property
    def weight_shape(self) -> torch.Size:
        return torch.Size((self.out_features, self.in_features))

    def gradient_rows(self, batches: Sequence[tuple[Tensor, Tensor]]) -> ScoreRows:
        return LinearGradientRows(batches)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(f"the input must have {self.in_features} features, got {list(x.shape)}")
        output: Tensor = sparse_linear(x, self.values, self.bias, self._handle, self.out_features)
        return output

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"active={self.num_active}, sparsity={self.sparsity:.4f}"
        )


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

    def reset_parameters(self) -> None:
        """Draws values and bias anew; the topology stays."""
        _reset(self.values, self.bias, self._pattern.shape[1])

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
        pattern = _checked_pattern(module, mask)
        bias = None if module.bias is None else module.bias.detach().clone()
        SparseLayer.__init__(layer, pattern, _active_values(module.weight, mask), bias)
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
        return layer.train(module.training)

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
        _fill_dense(dense, self)
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


def _bound(fan_in: int) -> float:
    return 1.0 / math.sqrt(fan_in) if fan_in > 0 else 0.0


def _reset(values: Tensor, bias: Tensor | None, fan_in: int) -> None:
    bound = _bound(fan_in)
    with torch.no_grad():
        values.uniform_(-bound, bound)
        if bias is not None:
            bias.uniform_(-bound, bound)


def _checked_pattern(module: nn.Linear | nn.Conv2d, mask: Tensor) -> SparsePattern:
    if mask.shape != module.weight.shape:
        raise ValueError(f"the mask must be {list(module.weight.shape)} as the weight, got {list(mask.shape)}")
    return SparsePattern.from_mask(mask)


def _active_values(weight: Tensor, mask: Tensor) -> Tensor:
    return weight.detach().contiguous()[mask.to(weight.device, torch.bool)].clone()


def _fill_dense(dense: nn.Linear | nn.Conv2d, layer: SparseLayer) -> None:
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())
        if dense.bias is not None and layer.bias is not None:
            dense.bias.copy_(layer.bias)
    dense.train(layer.training)
