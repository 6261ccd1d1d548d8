"""A small dense network inside a large one: the baseline that asks whether sparsity is worth it at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.method import Method
from itop.methods.start import warn_where_inexact
from itop.update_report import UpdateReport


@final
@dataclass(frozen=True, slots=True)
class SmallDense(Method):
    """A narrower dense network of as many weights: the first units and channels of every layer, densely connected.

    Widths shrink by one common factor, the largest whose weights fit the target; inputs of the network and outputs of
    its last layer stay. Since layers of equal width keep the same units, residual sums agree. The initial weights that
    stay are scaled for their smaller fan-in. Costs what the narrow network would cost.

    The count is the nearest below the target that whole units allow.

    Args:
        rescales: Whether to scale the initial weights by ``sqrt(fan-in / remaining fan-in)``.
    """

    rescales: bool = True

    @property
    def name(self) -> str:
        return "small-dense"

    @property
    def default_allocation(self) -> str:
        return "uniform"

    def initialise(self, context: Context) -> None:
        masks = self.widest(context)
        topology = context.topology
        if self.rescales:
            for weight, mask in zip(topology.weights(), masks, strict=True):
                remaining = int(mask.flatten(1).sum(1).max())
                weight.mul_((weight.numel() / len(weight) / max(1, remaining)) ** 0.5)
        topology.initialise(topology.from_tensors(masks))
        warn_where_inexact(context, self.name)

    def update(self, context: Context) -> UpdateReport | None:
        return None

    def widest(self, context: Context) -> list[Tensor]:
        """The masks of the widest network with at most the target's weights, bool."""
        low, high = 0.0, 1.0
        if sum(self._counts(context, 1.0)) <= context.target_total:
            low = 1.0
        else:
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (
                    (middle, high) if sum(self._counts(context, middle)) <= context.target_total else (low, middle)
                )
        return [
            self._mask(context, i, outputs, inputs) for i, (outputs, inputs) in enumerate(self._widths(context, low))
        ]

    def _widths(self, context: Context, factor: float) -> list[tuple[int, tuple[int, int, int]]]:
        """Of each layer: output units that stay; of its inputs, groups of (units, units that stay, inputs a unit)."""
        widths: list[tuple[int, tuple[int, int, int]]] = []
        layers = context.topology.layers
        produced: set[int] = set()
        last = 0
        for i, layer in enumerate(layers):
            outputs, inputs = layer.shape[0], layer.shape[1]
            is_last = i == len(layers) - 1
            if i == 0:
                kept = (inputs, inputs, 1)
            elif inputs in produced or last == 0 or inputs % last != 0:
                kept = (inputs, _narrowed(inputs, factor), 1)
            else:
                # A flattened feature map: all positions of a channel stay together.
                kept = (last, _narrowed(last, factor), inputs // last)
            widths.append((outputs if is_last else _narrowed(outputs, factor), kept))
            produced.add(outputs)
            last = outputs
        return widths

    def _counts(self, context: Context, factor: float) -> list[int]:
        counts = []
        for layer, (outputs, (_, kept, positions)) in zip(
            context.topology.layers, self._widths(context, factor), strict=True
        ):
            counts.append(outputs * kept * positions * (layer.numel // (layer.shape[0] * layer.shape[1])))
        return counts

    def _mask(self, context: Context, layer: int, outputs: int, inputs: tuple[int, int, int]) -> Tensor:
        weight = context.topology.local(layer)
        units, kept, positions = inputs
        mask = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
        mask[:outputs, : kept * positions if units > kept else weight.shape[1]] = True
        return mask

    def options(self) -> dict[str, Any]:
        return {"rescales": self.rescales}


def _narrowed(width: int, factor: float) -> int:
    return max(1, int(width * factor + 1e-9))
