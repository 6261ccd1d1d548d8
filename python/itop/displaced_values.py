"""Values of a sparse checkpoint that an engine's first masks would lose.

Who resumes in a loop of their own may load the model and the optimiser first, make the engine, and load its state last. The
engine then begins with fresh masks, which are zero where the checkpoint is not. What they displace is kept until the
engine's state is loaded, or the first step shows that none will be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

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
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._versions: list[int] = []
        self._put_patterns_back = topology.keep_patterns()
        for i, layer in enumerate(topology.layers):
            if layer.is_compressed:
                continue
            for tensor in (topology.local(i), *topology.optimizer_state.states(layer)):
                is_nonzero = tensor != 0
                values = tensor[is_nonzero]
                if values.numel() < (1.0 - _FEWEST_ZEROS) * tensor.numel():
                    self._kept.append((tensor, is_nonzero, values))

    def masks_are_set(self) -> None:
        """From here on, whoever writes to a tensor replaces what is kept of it."""
        self._versions = [tensor._version for tensor, _, _ in self._kept]

    def put_back(self) -> None:
        """Writes the values where nobody has written since; the masks that are loaded next decide which of them stay."""
        for (tensor, is_nonzero, values), version in zip(self._kept, self._versions, strict=True):
            if tensor._version == version:
                tensor[is_nonzero] = values
        self._kept, self._versions = [], []
        self._put_patterns_back()
