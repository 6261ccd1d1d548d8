"""Learning-rate schedules: pure functions of how far training is, so that nothing about them needs a checkpoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch

__all__ = ["Constant", "Cosine", "LearningRateSchedule", "Milestones", "WarmUp", "set_learning_rate"]


class LearningRateSchedule(ABC):
    """What the base learning rate is multiplied by."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The multiplier at `progress` in [0, 1]: optimiser steps taken over all steps of the run."""


@final
@dataclass(frozen=True, slots=True)
class Constant(LearningRateSchedule):
    """The base learning rate throughout."""

    def factor(self, progress: float) -> float:
        return 1.0


@final
@dataclass(frozen=True, slots=True)
class Milestones(LearningRateSchedule):
    """Multiplies the rate by `gamma` at each milestone.

    Args:
        milestones: Fractions of the whole run, increasing, in (0, 1). Fractions rather than epochs, so that extended
            training stretches them with the run.
        gamma: Multiplier at each milestone, in (0, 1].
    """

    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        increasing = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        if not increasing or any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ValueError(f"lr_milestones must be increasing fractions in (0, 1), got {list(self.milestones)}")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"lr_gamma must be in (0, 1], got {self.gamma}")

    def factor(self, progress: float) -> float:
        return self.gamma ** sum(progress >= milestone for milestone in self.milestones)


@final
@dataclass(frozen=True, slots=True)
class Cosine(LearningRateSchedule):
    """Half a cosine from the base rate to zero."""

    def factor(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


@final
@dataclass(frozen=True, slots=True)
class WarmUp(LearningRateSchedule):
    """Rises linearly from zero over the first `fraction` of the run, on top of `schedule`."""

    schedule: LearningRateSchedule
    fraction: float

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"a warm-up must be shorter than the run, got {self.fraction:g} of it")

    def factor(self, progress: float) -> float:
        ramp = progress / self.fraction if progress < self.fraction else 1.0
        return ramp * self.schedule.factor(progress)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every parameter group, in place where it is a tensor (captured and compiled steps keep it).

    A group may have an ``"lr_factor"`` of its own.
    """
    for group in optimizer.param_groups:
        own = rate * group.get("lr_factor", 1.0)
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own
