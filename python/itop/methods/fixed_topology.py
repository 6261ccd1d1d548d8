"""Methods whose topology never changes: dense, static sparse, and training with masks that are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.initial import DenseMasks, RandomMasks
from itop.methods.method import Method


@final
@dataclass(frozen=True, slots=True)
class Dense(Method):
    """Every weight takes part; the baseline, by the same command as all others."""

    @property
    def name(self) -> str:
        return "dense"

    @property
    def is_dense(self) -> bool:
        return True

    @property
    def works_on_shards(self) -> bool:
        return True

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))

    def update(self, context: Context) -> None:
        return None


@final
@dataclass(frozen=True, slots=True)
class Static(Method):
    """Random masks that stay as they are (Mocanu et al., 2016; Evci et al., ICML 2020)."""

    allocation: AllocationLike = "erk"

    @property
    def name(self) -> str:
        return "static"

    @property
    def default_allocation(self) -> AllocationLike:
        return self.allocation

    @property
    def works_truly_sparse(self) -> bool:
        return True

    @property
    def works_on_shards(self) -> bool:
        return True

    def initialise(self, context: Context) -> None:
        context.topology.initialise(RandomMasks().masks(context))

    def update(self, context: Context) -> None:
        return None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fixed(Method):
    """Given masks that stay as they are: fine-tuning of a network that is sparse already.

    Args:
        masks: Layer name -> bool tensor of the whole layer's shape (``engine.mask(name)``), one for each sparse layer;
            None: the weights that are not zero. The sparsity asked for does not enter.
    """

    masks: Mapping[str, Tensor] | None = None

    @property
    def name(self) -> str:
        return "fixed"

    @property
    def works_on_shards(self) -> bool:
        return True

    @property
    def continues_any_method(self) -> bool:
        return True

    def check(self, context: Context) -> None:
        if self.masks is None:
            return
        if not isinstance(self.masks, Mapping):
            raise ValueError(f"masks must map layer names to bool tensors, got {self.masks!r}")
        shapes = {layer.name: layer.shape for layer in context.topology.layers}
        for name in shapes.keys() ^ self.masks.keys():
            raise ValueError(f"masks must name exactly the sparse layers {', '.join(shapes)}; '{name}' is not in both")
        for name, mask in self.masks.items():
            if mask.dtype != torch.bool or tuple(mask.shape) != shapes[name]:
                raise ValueError(
                    f"the mask of layer '{name}' must be a bool tensor of shape {list(shapes[name])}, got "
                    f"{mask.dtype} {list(mask.shape)}"
                )

    def initialise(self, context: Context) -> None:
        topology = context.topology
        if self.masks is None:
            masks = [weight != 0 for weight in topology.weights()]
        else:
            masks = [topology.part(i, self.masks[layer.name]) for i, layer in enumerate(topology.layers)]
        topology.initialise(topology.from_tensors([mask.to(topology.device) for mask in masks]))

    def update(self, context: Context) -> None:
        return None
