"""When the topology is updated and how much of it. A step is one optimiser step; the first is step 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final


class UpdateSchedule(ABC):
    """At which steps the topology is updated."""

    @property
    def needs_total_steps(self) -> bool:
        """Whether the horizon of the run must be known."""
        return False

    @abstractmethod
    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        """Whether the topology is updated at this step (from 1)."""

    def update_steps(self, total_steps: int) -> Iterator[int]:
        """The update steps of a run, in order."""
        return (step for step in range(1, total_steps + 1) if self.is_update_step(step, total_steps))


@final
@dataclass(frozen=True, slots=True)
class Never(UpdateSchedule):
    """The topology stays as it is."""

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        return False


@final
@dataclass(frozen=True, slots=True)
class Every(UpdateSchedule):
    """Every ``interval`` steps (dT), while ``step <= until * total_steps``; with ``until`` 1 for the whole run.

    Args:
        interval: dT, at least 1.
        until: Fraction of the run after which the topology stays, in (0, 1].
        last_step: Whether an update may fall on the very last step, whose new weights are then never trained.
    """

    interval: int
    until: float = 1.0
    last_step: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.interval, bool) or not isinstance(self.interval, int) or self.interval < 1:
            raise ValueError(f"update_every must be a whole number of steps, at least 1, got {self.interval!r}")
        if not 0.0 < self.until <= 1.0:
            raise ValueError(f"until must be in (0, 1], got {self.until!r}")

    @property
    def needs_total_steps(self) -> bool:
        return self.until < 1.0

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        if step % self.interval != 0:
            return False
        if total_steps is None:
            return True
        if self.until < 1.0 and step >= self.until * total_steps:
            return False
        return self.last_step or step < total_steps


class DropFraction(ABC):
    """Which fraction of a layer's active weights is dropped at a step."""

    @property
    def needs_total_steps(self) -> bool:
        """Whether the horizon of the run must be known."""
        return False

    @abstractmethod
    def __call__(self, step: int, total_steps: int | None) -> float:
        """The fraction at this step, in [0, 1]."""


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


@final
@dataclass(frozen=True, slots=True)
class ConstantDropFraction(DropFraction):
    """The same fraction at every update (Mocanu et al., 2018: zeta)."""

    fraction: float

    def __post_init__(self) -> None:
        _check_fraction("drop_fraction", self.fraction)

    def __call__(self, step: int, total_steps: int | None) -> float:
        return self.fraction


@final
@dataclass(frozen=True, slots=True)
class CosineDropFraction(DropFraction):
    """Fraction of active weights to drop, annealed by a half cosine.

    ``fraction(t) = final + (initial - final) / 2 * (1 + cos(pi * t / horizon))``, with ``horizon = until * total_steps``.

    Args:
        initial: Fraction at step 0, in [0, 1].
        final: Fraction at the horizon and after, in [0, initial].
        until: Fraction of the run at which the horizon lies, in (0, 1].

    Raises:
        ValueError: If an argument is outside its range.

    Reference:
        Evci et al., Rigging the Lottery, ICML 2020, section 3; Liu et al., ICML 2021 (P from 0.5 to 0.005).
    """

    initial: float
    final: float = 0.0
    until: float = 1.0

    def __post_init__(self) -> None:
        _check_fraction("drop_fraction", self.initial)
        _check_fraction("final drop fraction", self.final)
        if self.final > self.initial:
            raise ValueError(f"the final drop fraction must be at most the initial {self.initial}, got {self.final}")
        if not 0.0 < self.until <= 1.0:
            raise ValueError(f"until must be in (0, 1], got {self.until!r}")

    @property
    def needs_total_steps(self) -> bool:
        return True

    def __call__(self, step: int, total_steps: int | None) -> float:
        assert total_steps is not None  # the engine checks `needs_total_steps` once
        progress = min(step / (self.until * total_steps), 1.0)
        return self.final + (self.initial - self.final) / 2 * (1 + math.cos(math.pi * progress))
