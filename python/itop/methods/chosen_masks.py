"""Hidden weights seen through masks that the rule chooses itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.hidden_weights import HiddenWeights, straight_through
from itop.selection import BitSet

_MASKS = "masks"


class ChosenMasks(HiddenWeights):
    """A rule whose forward pass sees the hidden weights through masks that it chooses itself.

    The masks are kept as bool tensors, one byte a weight; gradients pass them as if they were not there, unless a
    subclass stops them. How dense they are is the rule's business on the way to ``finish`` too.
    """

    @property
    def has_limit(self) -> bool:
        return False

    @abstractmethod
    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        """The masks of the coming step, bool, one a layer.

        Args:
            masks: Those so far; None at the start.
        """

    def gradient_masks(self, context: Context, layer: int) -> Tensor | None:
        """Where hidden weights have a gradient; None: everywhere."""
        return None

    def masks(self, context: Context) -> list[Tensor]:
        """The masks of now."""
        masks: list[Tensor] = context.state[_MASKS]
        return masks

    def after_optimizer(self, context: Context, weights: Sequence[Tensor]) -> None:
        context.state[_MASKS] = self.choose_masks(context, weights, context.state.get(_MASKS))

    def kept(self, context: Context, effective: Sequence[Tensor]) -> BitSet:
        return context.topology.from_tensors(self.masks(context))

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        gradients = self.gradient_masks(context, layer)
        through = weight if gradients is None else torch.where(gradients, weight, weight.detach())
        return straight_through(weight * self.masks(context)[layer], through)

    def fix_masks(self, context: Context) -> None:
        HiddenWeights.fix_masks(self, context)
        del context.state[_MASKS]
