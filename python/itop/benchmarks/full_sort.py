"""The field's usual way of updating a topology, as a baseline: float masks, a full sort of each layer for a threshold.

Written for this comparison after the description of the method, as research code does it: per layer, ``torch.sort`` of the
magnitudes finds the drop threshold; growth sorts the dense gradient, or draws a random permutation of the free sites; all
masks are float tensors, applied by multiplication.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FullSortMasking:
    """Masks of a model's layers kept the usual way.

    Args:
        weights: One tensor a layer.
        momenta: Their momentum buffers.
        density: Of every layer.
    """

    def __init__(self, weights: Sequence[Tensor], momenta: Sequence[Tensor], density: float) -> None:
        self.weights = list(weights)
        self.momenta = list(momenta)
        self.masks = [(torch.rand_like(weight) < density).float() for weight in weights]
        self.explored = [mask.bool().to(torch.uint8) for mask in self.masks]
        self.apply()

    def apply(self) -> None:
        """The per-step mask application: out of place, weights and momentum."""
        for weight, momentum, mask in zip(self.weights, self.momenta, self.masks, strict=True):
            weight.data = weight.data * mask
            momentum.mul_(mask)

    def update_random(self, fraction: float) -> None:
        """Drops by a full sort, grows at random."""
        for i in range(len(self.weights)):
            num_dropped = self._drop(i, fraction)
            free = (self.masks[i].view(-1) == 0).nonzero().view(-1)
            chosen = free[torch.randperm(free.numel())[:num_dropped]]
            self._grow(i, chosen)
        self.apply()

    def update_gradient(self, fraction: float, gradients: Sequence[Tensor]) -> None:
        """Drops by a full sort, grows by a full sort of the gradient."""
        for i, gradient in enumerate(gradients):
            num_dropped = self._drop(i, fraction)
            scores = (gradient * (self.masks[i] == 0).float()).abs().view(-1)
            _, order = torch.sort(scores, descending=True)
            self._grow(i, order[:num_dropped])
        self.apply()

    def num_bytes(self) -> int:
        """Of masks and explored flags."""
        return sum(mask.numel() * mask.element_size() for mask in [*self.masks, *self.explored])

    def _drop(self, i: int, fraction: float) -> int:
        weight, mask = self.weights[i], self.masks[i]
        num_active = int(mask.sum().item())
        num_zeros = mask.numel() - num_active
        num_dropped = round(fraction * num_active)
        values, _ = torch.sort(weight.abs().view(-1))
        threshold = values[min(num_zeros + num_dropped, values.numel()) - 1].item()
        self.masks[i] = mask * (weight.abs() > threshold).float()
        return num_dropped

    def _grow(self, i: int, chosen: Tensor) -> None:
        self.masks[i].view(-1)[chosen] = 1.0
        self.explored[i] |= self.masks[i].bool().to(torch.uint8)
