"""What truly sparse layers share: values and indices of their active weights, nothing of the others."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from itop import _core
from itop.compressed_weight import CompressedWeight
from itop.nn.derived_indices import chosen_layouts
from itop.nn.growth import ScoreRows
from itop.nn.lent_memory import lent_tensor
from itop.nn.pattern import PatternUpdate, SparsePattern, TieKeys, select_entries
from itop.optimizer_group import OptimizerGroup

__all__ = ["SparseLayer"]


class SparseLayer(CompressedWeight):
    """A layer with one weight, of which it holds a vector of values and their positions.

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

    def _take_weights(self, module: nn.Linear | nn.Conv2d, mask: Tensor) -> None:
        """The constructor of a layer that begins with the weights of a dense one where ``mask`` is True."""
        weight = module.weight.detach()
        if mask.shape != weight.shape:
            raise ValueError(f"the mask must have the weight's shape {list(weight.shape)}, got {list(mask.shape)}")
        SparseLayer.__init__(
            self,
            SparsePattern.from_mask(mask),
            weight.contiguous()[mask.to(weight.device, torch.bool)].clone(),
            None if module.bias is None else module.bias.detach().clone(),
        )
        self.values.requires_grad_(module.weight.requires_grad)
        if self.bias is not None and module.bias is not None:
            self.bias.requires_grad_(module.bias.requires_grad)
        self.train(module.training)

    def _give_weights(self, dense: nn.Linear | nn.Conv2d) -> None:
        """Fills a dense layer of the same shape; its inactive weights become zero."""
        with torch.no_grad():
            dense.weight.copy_(self.dense_weight())
            if dense.bias is not None and self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        dense.weight.requires_grad_(self.values.requires_grad)
        dense.train(self.training)

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

    def reset_parameters(self) -> None:
        """Draws values and bias anew from torch's generator, in the range of the dense layer; the topology stays."""
        bound = self._initial_bound()
        with torch.no_grad():
            self.values.uniform_(-bound, bound)
            if self.bias is not None:
                self.bias.uniform_(-bound, bound)

    def _initial_bound(self) -> float:
        fan_in = self._pattern.shape[1]
        return 1.0 / math.sqrt(fan_in) if fan_in > 0 else 0.0

    def fresh_values(self, count: int) -> Tensor:
        """So many initial values from torch's generator, in the range of :meth:`reset_parameters`."""
        bound = self._initial_bound()
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
            raise ValueError(
                f"the pattern must be of a matrix {list(self._pattern.shape)}, got one of {list(update.pattern.shape)}"
            )
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
