"""What a module is that holds the values of its active weights only: the base of the truly sparse layers."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn


class CompressedWeight(nn.Module):
    """A module with one weight, of which it holds the active part.

    Everything that counts layers, names them or measures them sees the weight it stands for: ``"fc1.weight"`` with its
    dense shape.

    Attributes:
        values: ``[active]``, the only weights.
    """

    values: nn.Parameter

    @property
    @abstractmethod
    def weight_shape(self) -> torch.Size:
        """The shape of the dense weight this module stands for; the first dimension is that of its outputs."""
