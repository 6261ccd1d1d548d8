"""What an engine's updates did to its topology, kept as they happen: churn and the lives of grown weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, final

from torch import Tensor

from itop.analysis.layer import Engine, masks_of
from itop.analysis.packed_mask import PackedMask
from itop.analysis.survival import SurvivalCurve, SurvivalTracker, TopologyChange, packed_churn

__all__ = ["TopologyHistory", "UpdatingEngine"]


class UpdatingEngine(Engine, Protocol):
    """An engine that tells of its topology updates."""

    def on_update(self, callback: Callable[[Any], object], /) -> Callable[[], None]: ...


@final
class TopologyHistory:
    """Follows an engine from now on; :meth:`close` ends it.

    The history is one of topologies: a weight that one update drops and grows again was never gone. Memory: a bit a
    weight, 12 bytes for each grown weight that is alive, two numbers an update.

    Attributes:
        steps: Optimiser step of each update.
        churn: ``|M_t xor M_(t-1)|`` of each update, over all layers.
    """

    def __init__(self, engine: UpdatingEngine) -> None:
        self._engine = engine
        self._masks = self._present()
        self._tracker = SurvivalTracker()
        self.steps: list[int] = []
        self.churn: list[int] = []
        self._close = engine.on_update(self._record)

    def survival(self, end_step: int | None = None) -> SurvivalCurve:
        """How long weights grown since the history began have lived.

        Args:
            end_step: The last step until which the topology is known to have kept, by default the last update's.
        """
        return self._tracker.curve(end_step)

    def close(self) -> None:
        """Follows no further updates."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors. The masks are not among them: they are the engine's."""
        return {"steps": list(self.steps), "churn": list(self.churn), "survival": self._tracker.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved history; the engine must have been restored before."""
        self.steps, self.churn = list(state["steps"]), list(state["churn"])
        self._tracker.load_state_dict(state["survival"])
        self._masks = self._present()

    def _present(self) -> dict[str, PackedMask]:
        masks: Mapping[str, Tensor] = masks_of(self._engine)
        return {name: PackedMask.pack(mask) for name, mask in masks.items()}

    def _record(self, report: Any) -> None:
        if self.steps and report.step <= self.steps[-1]:
            return  # a second update at one step: the next one's changes hold it
        before, self._masks = self._masks, self._present()
        self.steps.append(report.step)
        self.churn.append(sum(packed_churn(before, self._masks).values()))
        self._tracker.record(TopologyChange.between(before, self._masks, report.step))
