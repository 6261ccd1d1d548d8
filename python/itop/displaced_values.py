"""Values of a sparse checkpoint that an engine's first masks would lose.

Who resumes in a loop of their own may load the model and the optimiser first, make the engine, and load its state last. The
engine then begins with fresh masks, which are zero where the checkpoint is not. What they displace is kept until the
engine's state is loaded, or the first step shows that none will be.
"""

from __future__ import annotations

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
        self._put_patterns_back = topology.keep_patterns()
        for i, layer in enumerate(topology.layers):
            if layer.is_compressed:
                continue
            for tensor in (topology.local(i), *topology.optimizer_state.states(layer)):
                is_nonzero = tensor != 0
                values = tensor[is_nonzero]
                if values.numel() < (1.0 - _FEWEST_ZEROS) * tensor.numel():
                    self._kept.append((i, tensor, is_nonzero, values))

    def put_back(self) -> None:
        """Writes the values where nobody has written since; the masks that are loaded next decide which of them stay.

        Whether somebody has shows in the tensor itself, which the first masks left in a known state: not every way of
        loading a checkpoint shows in a tensor's version.
        """
        for i, tensor, is_nonzero, values in self._kept:
            before = torch.zeros_like(tensor)
            before[is_nonzero] = values
            left = before.masked_fill(~self._topology.active.to_tensor(i), 0)
            if torch.equal(tensor, left):
                tensor.copy_(before)
        self._kept = []
        self._put_patterns_back()
