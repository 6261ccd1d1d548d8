"""FLOPs of training, one small object for each way of spending them.

``f_S`` and ``f_D`` are the forward FLOPs of one sample, sparse and dense (``forward_flops``). A backward pass costs two
forward passes: one for the gradient of the inputs, one for that of the weights. Mask updates are not counted.

Reference:
    Evci et al., Rigging the Lottery, ICML 2020, appendix H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final


class TrainingFlops(ABC):
    """FLOPs of training by one sample for one optimiser step."""

    @property
    @abstractmethod
    def per_sample_step(self) -> float:
        """FLOPs per sample and step, averaged over the training."""

    def total(self, num_samples: int, num_steps: int) -> float:
        """FLOPs of ``num_steps`` steps with ``num_samples`` samples each."""
        return self.per_sample_step * num_samples * num_steps

    def factor_to_dense(self, dense: float) -> float:
        """FLOPs relative to dense training of a network with forward FLOPs ``dense``, for as many steps."""
        return self.per_sample_step / DenseTraining(dense).per_sample_step


@final
@dataclass(frozen=True, slots=True)
class DenseTraining(TrainingFlops):
    """``3 f_D``."""

    dense: float

    def __post_init__(self) -> None:
        _check(dense=self.dense)

    @property
    def per_sample_step(self) -> float:
        return 3.0 * self.dense


@final
@dataclass(frozen=True, slots=True)
class SparseTraining(TrainingFlops):
    """``3 f_S``: masks that are fixed, or grown without a dense gradient."""

    sparse: float

    def __post_init__(self) -> None:
        _check(sparse=self.sparse)

    @property
    def per_sample_step(self) -> float:
        return 3.0 * self.sparse


@final
@dataclass(frozen=True, slots=True)
class RigLTraining(TrainingFlops):
    """``(3 f_S dT + 2 f_S + f_D) / (dT + 1)``: every dT steps the weights' gradient is dense once."""

    sparse: float
    dense: float
    update_every: int

    def __post_init__(self) -> None:
        _check(sparse=self.sparse, dense=self.dense)
        if self.update_every < 1:
            raise ValueError(f"update_every must be at least 1, got {self.update_every}")

    @property
    def per_sample_step(self) -> float:
        sparse_steps = 3.0 * self.sparse * self.update_every
        return (sparse_steps + 2.0 * self.sparse + self.dense) / (self.update_every + 1)


@final
@dataclass(frozen=True, slots=True)
class SNFSTraining(TrainingFlops):
    """``2 f_S + f_D``: a dense gradient every step, for the momentum of inactive weights."""

    sparse: float
    dense: float

    def __post_init__(self) -> None:
        _check(sparse=self.sparse, dense=self.dense)

    @property
    def per_sample_step(self) -> float:
        return 2.0 * self.sparse + self.dense


@final
@dataclass(frozen=True, slots=True)
class TopKASTTraining(TrainingFlops):
    """``2 f_A + f_B``: forward and input gradient with set A, weight gradient with the larger set B."""

    forward_set: float
    backward_set: float

    def __post_init__(self) -> None:
        _check(forward_set=self.forward_set, backward_set=self.backward_set)

    @property
    def per_sample_step(self) -> float:
        return 2.0 * self.forward_set + self.backward_set


@final
@dataclass(frozen=True, slots=True)
class TrainingPhase:
    """A stretch of training whose cost does not change."""

    num_steps: int
    training: TrainingFlops

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError(f"num_steps must not be negative, got {self.num_steps}")


@final
@dataclass(frozen=True, slots=True)
class VaryingTraining(TrainingFlops):
    """The mean over phases, weighted by their steps: densities that ramp down, or move between layers.

    Args:
        phases: At least one with a step.
    """

    phases: tuple[TrainingPhase, ...]

    def __post_init__(self) -> None:
        if sum(phase.num_steps for phase in self.phases) < 1:
            raise ValueError("phases must hold at least one step, got none")

    @classmethod
    def of_sparse_steps(cls, forward_flops: Iterable[float]) -> VaryingTraining:
        """Gradual pruning: ``3 f_S(t)`` averaged over the f_S of each step."""
        return cls(tuple(TrainingPhase(1, SparseTraining(flops)) for flops in forward_flops))

    @property
    def per_sample_step(self) -> float:
        steps = sum(phase.num_steps for phase in self.phases)
        return sum(phase.training.per_sample_step * phase.num_steps for phase in self.phases) / steps


def _check(**flops: float) -> None:
    for name, value in flops.items():
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"{name} must be a finite number of FLOPs of at least 0, got {value}")
