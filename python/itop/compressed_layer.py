"""One truly sparse layer of a topology: the pattern that its module holds, and what was explored of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from itop.nn.pattern import SparsePattern
from itop.nn.position_set import CompressedPositions, PositionSet
from itop.nn.sparse_layer import SparseLayer
from itop.optimizer_group import OptimizerGroup
from itop.optimizer_state import OptimizerState
from itop.saved_codes import SavedSets

__all__ = ["CompressedLayer"]


@final
class CompressedLayer:
    """The active, explored and reliable weights of a truly sparse layer, as positions.

    The active ones are the module's pattern, which others may replace too (a checkpoint that is loaded):
    :meth:`follow_pattern` notes it.

    Args:
        module: The layer.
        optimizer_state: Of the optimiser whose state moves along.
    """

    def __init__(self, module: SparseLayer, optimizer_state: OptimizerState) -> None:
        self.module = module
        self._optimizer_state = optimizer_state
        self._forget()
        self._initial: tuple[SparsePattern, int, dict[str, Tensor]] | None = None

    def _forget(self) -> None:
        self.explored = CompressedPositions(self.shape)
        self.reliable = CompressedPositions(self.shape)
        self._known: SparsePattern | None = None
        self.follow_pattern()

    def follow_pattern(self) -> None:
        """Somebody may have given the module another pattern: what is active was explored."""
        if self._known is not self.module.pattern:
            self._known = self.module.pattern
            self.explored.insert(self.active)

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weight as a matrix."""
        return self.module.pattern.shape

    @property
    def active(self) -> PositionSet:
        return PositionSet.of(self.module.pattern)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Active, explored and reliable weights."""
        return self.module.num_active, self.explored.count, self.reliable.count

    @property
    def num_bytes(self) -> int:
        return self.module.pattern.num_bytes() + self.explored.num_bytes + self.reliable.num_bytes

    # --- the initial pattern ------------------------------------------------------------------------------------------

    def initialise(self, positions: PositionSet) -> None:
        """Sets the initial pattern: explored holds it, nothing is reliable; weights not held so far are drawn anew."""
        if positions != self.active:
            new = self._become(positions) < 0
            with torch.no_grad():
                self.module.values[new] = self.module.fresh_values(int(new.sum()))
        self._forget()
        self._initial = (self.module.pattern, self.module.values._version, self._state())

    def keep(self) -> Callable[[], None]:
        """Before the initial pattern is set: the function returned gives the module what it held.

        The pattern and values only where nobody has loaded others since; likewise each tensor of the optimiser's state.
        """
        module = self.module
        positions, values, state = self.active, module.values.detach().clone(), self._state()

        def put_back() -> None:
            if self._initial is None:
                return
            pattern, version, moved = self._initial
            if module.pattern is pattern and module.values._version == version:
                self._become(positions, moves_state=False)
                with torch.no_grad():
                    module.values.copy_(values)
            now = self._optimizer.state.get(module.values) or {}
            for key, tensor in state.items():
                if now.get(key) is moved.get(key):
                    now[key] = tensor

        return put_back

    # --- updates --------------------------------------------------------------------------------------------------------

    def commit(
        self, dropped: PositionSet, grown: PositionSet, *, marks_reliable: bool, regrown_keeps_value: bool
    ) -> list[int]:
        """Drops and grows weights; arguments as of :meth:`Topology.commit`.

        Returns:
            The layer's row of counts: active, explored, reliable, dropped, grown, regrown.
        """
        held = self.active
        kept = held if dropped.count == 0 else held - dropped
        if marks_reliable:
            self.reliable.insert(kept)
        self.explored.insert(grown)
        num_regrown = 0
        if dropped.count or grown.count:
            update = self.module.update_topology(
                kept.members_among(held), grown.indices(), self._optimizer, regrown_keeps_value=regrown_keeps_value
            )
            self._known = update.pattern
            num_regrown = update.num_regrown
        return [*self.counts, dropped.count, grown.count, num_regrown]

    def _become(self, positions: PositionSet, *, moves_state: bool = True) -> Tensor:
        """Gives the module another pattern; its weights in both keep value and state, new ones are zero."""
        held = self.active
        grown = (positions - held).indices()
        optimizer = self._optimizer if moves_state else None
        return self.module.update_topology(positions.members_among(held), grown, optimizer).sources

    @property
    def _optimizer(self) -> Optimizer | OptimizerGroup:
        return self._optimizer_state.optimizer

    def _state(self) -> dict[str, Tensor]:
        """The optimiser's tensors that move with the values."""
        values = self.module.values
        state: Mapping[str, Any] = self._optimizer.state.get(values) or {}
        return {key: held for key, held in state.items() if isinstance(held, Tensor) and held.shape == values.shape}

    # --- saved form -----------------------------------------------------------------------------------------------------

    def to_bytes(self) -> dict[str, Tensor]:
        """``"active"``, ``"explored"`` and ``"reliable"``: each set as a vector of bytes."""
        self.follow_pattern()
        active = CompressedPositions(self.shape)
        active.insert(self.active)
        return {
            "active": active.to_bytes(),
            "explored": self.explored.to_bytes(),
            "reliable": self.reliable.to_bytes(),
        }

    def load(self, sets: SavedSets) -> None:
        """Takes the sets of a saved state; a weight that becomes active here is zero.

        Optimisers load their state by themselves, maybe before: where it fits the new pattern it stays as it is.
        """
        active = sets["active"].to_set()
        if active != self.active:
            self._become(active, moves_state=active.count != self.module.num_active)
        self.explored, self.reliable = sets["explored"], sets["reliable"]
        self._known = self.module.pattern
