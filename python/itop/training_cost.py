"""What a run costs: densities over its steps, and the FLOPs that follow from them (PAPER section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from itop.analysis.flops import forward_flops
from itop.analysis.training_flops import SparseTraining, TrainingFlops, TrainingPhase, VaryingTraining
from itop.layers import Layer
from itop.methods import Method


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one sample, 2 for each multiply-add; normalisation, activations and mask updates do not count.

    Attributes:
        forward: Of a forward pass at the present density.
        forward_dense: Of a forward pass with every weight.
        training: Of a training step, by the method's own account (PAPER section 4), at the densities of the layers
            averaged over the steps so far; at the present ones before the first step.
    """

    forward: float
    forward_dense: float
    training: float

    @property
    def training_dense(self) -> float:
        """Of a dense training step: three forward passes."""
        return 3.0 * self.forward_dense

    @property
    def forward_factor(self) -> float:
        """Inference against dense."""
        return self.forward / self.forward_dense

    @property
    def training_factor(self) -> float:
        """Training against dense."""
        return self.training / self.training_dense


class DensityRecord:
    """Active weights of each layer, summed over the optimiser steps of a run and over those in which the rule acted."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._sums = np.zeros(len(layers), dtype=np.int64)
        self._acting_sums = np.zeros(len(layers), dtype=np.int64)
        self._steps = 0
        self._acting_steps = 0

    def add(self, active_counts: npt.NDArray[np.int64], acts: bool) -> None:
        """A step was taken with so many active weights a layer; ``acts`` says whether the method's rule acted in it."""
        self._steps += 1
        self._sums += active_counts
        if acts:
            self._acting_steps += 1
            self._acting_sums += active_counts

    @property
    def mean_densities(self) -> dict[str, float] | None:
        """The density of each layer averaged over the steps; None before the first."""
        return self._densities(self._sums, self._steps) if self._steps else None

    def training_flops(self, method: Method, macs: Mapping[str, float], present: Mapping[str, float]) -> TrainingFlops:
        """What a step costs by the method's account, averaged over the steps.

        Args:
            method: Whose account.
            macs: Multiply-adds of each layer for one sample, dense.
            present: The layers' densities now, for a run that has not begun.
        """
        # Forward FLOPs are linear in the layers' densities: the mean over steps follows from the mean densities.
        dense = forward_flops(macs)
        if self._acting_steps == self._steps:
            return method.training_flops(forward_flops(macs, self.mean_densities or present), dense)
        acting = self._densities(self._acting_sums, max(1, self._acting_steps))
        resting_steps = self._steps - self._acting_steps
        resting = self._densities(self._sums - self._acting_sums, resting_steps)
        phases = (
            TrainingPhase(self._acting_steps, method.training_flops(forward_flops(macs, acting), dense)),
            TrainingPhase(resting_steps, SparseTraining(forward_flops(macs, resting))),
        )
        return VaryingTraining(phases)

    def _densities(self, sums: npt.NDArray[np.int64], steps: int) -> dict[str, float]:
        return {layer.name: int(total) / (steps * layer.numel) for layer, total in zip(self._layers, sums, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """The sums, for the engine's state."""
        return {
            "active_step_sums": self._sums.tolist(),
            "acting_step_sums": self._acting_sums.tolist(),
            "acting_steps": self._acting_steps,
        }

    def check(self, state: Mapping[str, Any]) -> None:
        """Raises a ValueError if :meth:`load` cannot read the engine's saved state."""
        for name in ("active_step_sums", "acting_step_sums"):
            sums = state.get(name, [0] * len(self._layers))
            if len(sums) != len(self._layers) or not all(isinstance(total, int) for total in sums):
                raise ValueError(f"the engine state is damaged: {name} must be a whole number for each layer")
        if not isinstance(state.get("acting_steps", 0), int):
            raise ValueError("the engine state is damaged: acting_steps must be a whole number")

    def load(self, state: Mapping[str, Any], steps: int) -> None:
        """Continues from the engine's saved state after ``steps`` steps; what older versions did not save is zero."""
        sums = state.get("active_step_sums", [0] * len(self._layers))
        self._sums = np.array(sums, dtype=np.int64)
        self._acting_sums = np.array(state.get("acting_step_sums", sums), dtype=np.int64)
        self._acting_steps = int(state.get("acting_steps", steps))
        self._steps = steps
