"""Values of a sparse checkpoint that an engine's first masks would lose.

Who resumes in a loop of their own may load the model and the optimiser first, make the engine, and load its state last. The
engine then begins with fresh masks, which are zero where the checkpoint is not. What they displace is kept until the
engine's state is loaded, or the first step shows that none will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from itop.topology import Topology

_FEWEST_ZEROS = 0.01  # of a tensor: fresh weights are hardly ever exactly zero


@final
class DisplacedValues:
    """The non-zero entries of weights that are sparse already, and of optimiser state that is.

    Takes these values and one bool for each entry of such a tensor; nothing of a fresh model and optimiser. Of truly sparse
    layers their values, positions and state.

    Args:
        topology: Before its first masks are set.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._kept: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._versions: list[tuple[int, int]] = []
        self._put_patterns_back = topology.keep_patterns()
        for i, layer in enumerate(topology.layers):
            if layer.is_compressed:
                continue
            for tensor in (topology.local(i), *topology.optimizer_state.states(layer)):
                is_nonzero = tensor != 0
                values = tensor[is_nonzero]
                if values.numel() < (1.0 - _FEWEST_ZEROS) * tensor.numel():
                    self._kept.append((i, tensor, is_nonzero, values))

    def masks_are_set(self) -> None:
        """The first masks have displaced what they displace; whatever is written from here on is somebody else's."""
        self._versions = [self._version(i, tensor) for i, tensor, _, _ in self._kept]

    def _version(self, layer: int, tensor: Tensor) -> tuple[int, int]:
        """Of the tensor and, for a shard may be written by way of its DTensor, of the layer's parameter."""
        return tensor._version, self._topology.layers[layer].parameter._version

    def put_back(self, active: Sequence[Tensor | None]) -> None:
        """Writes the values where nobody has written since; the masks that are loaded next decide which of them stay.

        Whether somebody has shows in the tensor itself, which the first masks left in a known state: not every way of
        loading a checkpoint shows in a tensor's version. Where the version tells of a write that changed nothing, as it
        may be of an untrained layer, the values were the checkpoint's only if they lie in its masks.

        Args:
            active: The masks that are loaded next, of the parts held here; None for layers that are truly sparse.
        """
        for (i, tensor, is_nonzero, values), version in zip(self._kept, self._versions, strict=True):
            before = torch.zeros_like(tensor)
            before[is_nonzero] = values
            left = before.masked_fill(~self._topology.active.to_tensor(i).to(tensor.device), 0)
            mask = active[i]
            is_of_others = (
                self._version(i, tensor) != version
                and mask is not None
                and bool((is_nonzero & ~mask.to(tensor.device)).any())
            )
            if torch.equal(tensor, left) and not is_of_others:
                tensor.copy_(before)
        self._kept = []
        self._put_patterns_back()
