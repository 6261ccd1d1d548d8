"""When the topology is updated and how much of it. A step is one optimiser step; the first is step 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from itop.ranges import FRACTION, NOT_NEGATIVE, POSITIVE_FRACTION, require_count


class UpdateSchedule(ABC):
    """At which steps the topology is updated."""

    @property
    def needs_total_steps(self) -> bool:
        """Whether the horizon of the run must be known."""
        return False

    @abstractmethod
    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        """Whether the topology is updated at this step (from 1)."""

    def mean_interval(self, total_steps: int | None) -> float | None:
        """Steps between updates, dT, on average; None where there are none or nobody can tell."""
        return None

    def for_loop(self, steps_per_epoch: int) -> UpdateSchedule:
        """The schedule once the training loop is known; itself by default."""
        return self

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
        require_count("update_every", self.interval)
        POSITIVE_FRACTION.require("until", self.until)

    @property
    def needs_total_steps(self) -> bool:
        return self.until < 1.0

    def mean_interval(self, total_steps: int | None) -> float | None:
        return float(self.interval)

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        if step % self.interval != 0:
            return False
        if total_steps is None:
            return True
        if self.until < 1.0 and step >= self.until * total_steps:
            return False
        return self.last_step or step < total_steps


@final
@dataclass(frozen=True, slots=True)
class EveryEpoch(UpdateSchedule):
    """Every few epochs, but not at the end of the last; what an epoch is follows from the training loop.

    Args:
        epochs: Between updates, above 0.
        steps_per_epoch: Until the loop is known; 390 is an epoch of CIFAR-10 at batch 128.
    """

    epochs: float = 1.0
    steps_per_epoch: int = 390

    def __post_init__(self) -> None:
        if not 0.0 < self.epochs < math.inf:
            raise ValueError(f"epochs between updates must be above 0, got {self.epochs!r}")

    @property
    def interval(self) -> int:
        """dT in steps, at least 1."""
        return max(1, round(self.epochs * self.steps_per_epoch))

    def for_loop(self, steps_per_epoch: int) -> UpdateSchedule:
        return replace(self, steps_per_epoch=steps_per_epoch)

    def mean_interval(self, total_steps: int | None) -> float | None:
        return float(self.interval)

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        return step % self.interval == 0 and (total_steps is None or step < total_steps)


@final
@dataclass(frozen=True, slots=True)
class TimesARun(UpdateSchedule):
    """So many times a run, evenly; at every step of a shorter run, every 100 steps where its length is not known.

    Args:
        times: At least 1.
    """

    times: int = 100

    def __post_init__(self) -> None:
        require_count("times", self.times)

    def mean_interval(self, total_steps: int | None) -> float | None:
        return None if total_steps is None else max(1.0, total_steps / self.times)

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        if total_steps is None:
            return step % 100 == 0
        return step * self.times // total_steps != (step - 1) * self.times // total_steps


@final
@dataclass(frozen=True, slots=True)
class AtFractions(UpdateSchedule):
    """At given fractions of the run: ``step = ceil(fraction * total_steps)``, at least 1."""

    fractions: tuple[float, ...]

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            FRACTION.require("a fraction of the run", fraction)

    @property
    def needs_total_steps(self) -> bool:
        return True

    def mean_interval(self, total_steps: int | None) -> float | None:
        return None if total_steps is None else total_steps / max(1, len(self.fractions))

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        assert total_steps is not None  # the engine checks `needs_total_steps` once
        return any(step == step_at(fraction, total_steps) for fraction in self.fractions)


def step_at(fraction: float, total_steps: int) -> int:
    """The step at a fraction of the run: rounded up, at least 1."""
    return max(1, math.ceil(fraction * total_steps - 1e-9))


@final
@dataclass(frozen=True, slots=True)
class EitherOf(UpdateSchedule):
    """When any of several schedules says so."""

    schedules: tuple[UpdateSchedule, ...]

    @property
    def needs_total_steps(self) -> bool:
        return any(schedule.needs_total_steps for schedule in self.schedules)

    def for_loop(self, steps_per_epoch: int) -> UpdateSchedule:
        return EitherOf(tuple(schedule.for_loop(steps_per_epoch) for schedule in self.schedules))

    def mean_interval(self, total_steps: int | None) -> float | None:
        known = [interval for schedule in self.schedules if (interval := schedule.mean_interval(total_steps))]
        return min(known, default=None)

    def is_update_step(self, step: int, total_steps: int | None) -> bool:
        return any(schedule.is_update_step(step, total_steps) for schedule in self.schedules)


@final
@dataclass(frozen=True, slots=True)
class DensityRamp:
    """A density that changes over time, from dense to sparse or from sparse to sparse.

    ``d(t) = d_final + (d_initial - d_final) * (1 - (t - start) / (end - start)) ** power``; with power 3 the cubic ramp.

    Args:
        initial: Density until ``start``, in (0, 1]; 1 is dense.
        start, end: Fractions of the run, ``0 <= start < end <= 1``.
        power: At least 0; 1 is linear.

    Reference:
        Zhu & Gupta, To prune, or not to prune, 2017, equation 1.
    """

    initial: float = 1.0
    start: float = 0.0
    end: float = 0.75
    power: float = 3.0

    def __post_init__(self) -> None:
        POSITIVE_FRACTION.require("initial_density", self.initial)
        FRACTION.require("the start of a ramp", self.start)
        FRACTION.require("the end of a ramp", self.end)
        NOT_NEGATIVE.require("the power of a ramp", self.power)
        if not self.start < self.end:
            raise ValueError(f"a ramp needs start < end, got start {self.start!r}, end {self.end!r}")

    def count(self, initial: int, final: int, step: int, total_steps: int) -> int:
        """Active weights at a step on the way from an initial to a final number; exact at both ends."""
        first, last = self.start * total_steps, step_at(self.end, total_steps)
        if step >= last:
            return final
        progress = max(0.0, (step - first) / (last - first))
        return final + round(float((initial - final) * (1.0 - progress) ** self.power))

    def updates(self, schedule: UpdateSchedule) -> UpdateSchedule:
        """The schedule with an update where the ramp ends, so that the final density is reached exactly."""
        return EitherOf((schedule, AtFractions((self.end,))))


class DropFraction(ABC):
    """Which fraction of a layer's active weights is dropped at a step."""

    @property
    def needs_total_steps(self) -> bool:
        """Whether the horizon of the run must be known."""
        return False

    @abstractmethod
    def __call__(self, step: int, total_steps: int | None) -> float:
        """The fraction at this step, in [0, 1]."""


@final
@dataclass(frozen=True, slots=True)
class ConstantDropFraction(DropFraction):
    """The same fraction at every update (Mocanu et al., 2018: zeta)."""

    fraction: float

    def __post_init__(self) -> None:
        FRACTION.require("drop_fraction", self.fraction)

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
        FRACTION.require("drop_fraction", self.initial)
        FRACTION.require("final drop fraction", self.final)
        if self.final > self.initial:
            raise ValueError(f"the final drop fraction must be at most the initial {self.initial}, got {self.final}")
        POSITIVE_FRACTION.require("until", self.until)

    @property
    def needs_total_steps(self) -> bool:
        return True

    def __call__(self, step: int, total_steps: int | None) -> float:
        assert total_steps is not None  # the engine checks `needs_total_steps` once
        progress = min(step / (self.until * total_steps), 1.0)
        return self.final + (self.initial - self.final) / 2 * (1 + math.cos(math.pi * progress))


def falling_to(initial: float, final: float) -> CosineDropFraction:
    """A half cosine over the whole run, which does not rise where the initial fraction is the smaller one."""
    FRACTION.require("drop_fraction", initial)
    FRACTION.require("final_drop_fraction", final)
    return CosineDropFraction(initial, min(final, initial))


@final
@dataclass(frozen=True, slots=True)
class StepwiseDropFraction(DropFraction):
    """A fraction for each stretch of the run: ``fractions[i]`` until ``boundaries[i]`` (of the run), the last to the end.

    Args:
        fractions: One more than there are boundaries, each in [0, 1].
        boundaries: Increasing fractions of the run.
    """

    fractions: tuple[float, ...]
    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            FRACTION.require("drop_fraction", fraction)
        if len(self.fractions) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(
                f"a stepwise fraction needs increasing boundaries, one fewer than fractions, got {self.boundaries} for "
                f"{self.fractions}"
            )

    @property
    def needs_total_steps(self) -> bool:
        return bool(self.boundaries)

    def __call__(self, step: int, total_steps: int | None) -> float:
        passed = sum(step > boundary * (total_steps or 0) for boundary in self.boundaries)
        return self.fractions[passed]
