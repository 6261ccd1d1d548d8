"""Choosing the update interval dT and the drop fraction P for a wanted exploration rate, before any training.

More updates explore more; longer intervals let a grown weight train before it is judged. So the advice is the longest
interval that still reaches the wanted R_s. Both R_s(dT) and R_s(P) are monotone: every update of a longer interval
comes later in the annealing, and a falling P never drops more for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from itop.analysis.exploration import (
    Curve,
    ExplorationCurve,
    Growth,
    UpdatePlan,
    cosine_drop_fraction,
    expected_exploration,
    expected_final_rate,
)
from itop.analysis.layer import Layer, check_layers

_MOST_TIMES_LONGER = 64  # no advice to train longer than this many times the planned epochs


@final
@dataclass(frozen=True, slots=True)
class Training:
    """How long a training is.

    Args:
        num_samples: Training samples of an epoch, at least 1.
        batch_size: Samples of an optimiser step, at least 1.
        epochs: At least 1.
        drop_last: Whether an incomplete last batch is left out.

    Raises:
        ValueError: If a number is below 1, or an epoch has no full batch and incomplete ones are left out.
    """

    num_samples: int
    batch_size: int
    epochs: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("num_samples", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.steps_per_epoch < 1:
            raise ValueError(f"batch_size must be at most num_samples={self.num_samples}, got {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        if self.drop_last:
            return self.num_samples // self.batch_size
        return -(-self.num_samples // self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs


@final
@dataclass(frozen=True, slots=True)
class DropFractionChoice:
    """The drop fractions that advice may choose from: ``preferred`` unless only a larger one reaches the goal.

    Args:
        preferred: Initial P, in (0, largest]. 0.5 is the paper's.
        largest: Initial P never exceeds this, at most 1.
        final: P at the end of the training, in [0, preferred].
        anneal: ``anneal(initial, final, horizon)`` maps an optimiser step to P, never rising with the step.
    """

    preferred: float = 0.5
    largest: float = 0.9
    final: float = 0.005
    anneal: Callable[[float, float, int], Callable[[int], float]] = cosine_drop_fraction

    def __post_init__(self) -> None:
        if not 0.0 <= self.final <= self.preferred <= self.largest <= 1.0 or self.preferred == 0.0:
            raise ValueError(
                "drop fractions must hold 0 <= final <= preferred <= largest <= 1 and preferred > 0, "
                f"got {self.final}, {self.preferred} and {self.largest}"
            )


@final
@dataclass(frozen=True, slots=True)
class Advice:
    """A schedule that reaches the wanted exploration rate.

    Attributes:
        update_every: dT in optimiser steps, the longest that reaches the goal.
        drop_fraction: Initial P.
        final_drop_fraction: P at the end.
        total_steps: Optimiser steps of the training.
        num_updates: Topology updates in it.
        exploration_rate: Predicted R_s at the end.
        standard_error: Standard deviation of one run around it, NaN where the growth rule has no theory of it.
        curve: Predicted R_s(t), for the network and each layer.
    """

    update_every: int
    drop_fraction: float
    final_drop_fraction: float
    total_steps: int
    num_updates: int
    exploration_rate: float
    standard_error: float
    curve: ExplorationCurve


@final
@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the goal is out of reach, and what is not.

    Attributes:
        wanted_rate: The R_s that was asked for.
        min_update_every: The steps between updates that were asked for.
        drop_fraction: The largest initial P allowed; what follows is reached with it.
        largest_rate: The largest R_s of the planned training at ``min_update_every``.
        epochs_needed: The fewest epochs that reach the goal, or None if 64 times the planned ones do not.
        longest_update_every: The longest dT that reaches the goal in the planned epochs, or None if even 1 does not.
    """

    wanted_rate: float
    min_update_every: int
    drop_fraction: float
    largest_rate: float
    epochs_needed: int | None
    longest_update_every: int | None

    @property
    def message(self) -> str:
        """One sentence for a person."""
        could = [f"{self.largest_rate:.4f} as it is"]
        if self.epochs_needed is not None:
            could.append(f"the wanted rate in {self.epochs_needed} epochs")
        if self.longest_update_every is not None:
            could.append(f"the wanted rate with {self.longest_update_every} steps between updates")
        return (
            f"an exploration rate of {self.wanted_rate} with at least {self.min_update_every} steps between updates "
            f"cannot be reached; a drop fraction of {self.drop_fraction} reaches " + ", or ".join(could)
        )


def advise(
    layers: Sequence[Layer],
    training: Training,
    wanted_rate: float,
    min_update_every: int = 1,
    growth: Growth | None = None,
    drop_fractions: DropFractionChoice | None = None,
    num_dropped: Callable[[Curve], Curve] = np.rint,
) -> Advice | Refusal:
    """The dT and P that reach ``wanted_rate`` and keep at least ``min_update_every`` steps between updates.

    The preferred P is kept where it suffices, with the longest dT; otherwise dT is ``min_update_every`` and P the
    smallest that suffices, to three digits.

    Args:
        layers: The network at the densities of the wanted sparsity.
        training: Its length.
        wanted_rate: R_s at the end, above the network's density (a static mask has that) and at most 1.
        min_update_every: At least 1.
        growth: ``RandomGrowth()`` by default.
        drop_fractions: ``DropFractionChoice()`` by default.
        num_dropped: The run's way to whole counts, as in ``expected_exploration``.

    Raises:
        ValueError: If an argument is outside its range.
    """
    check_layers(layers)
    density = sum(layer.num_active for layer in layers) / sum(layer.numel for layer in layers)
    if not density < wanted_rate <= 1.0:
        raise ValueError(f"wanted_rate must be above the density {density:.4f} and at most 1, got {wanted_rate}")
    if min_update_every < 1:
        raise ValueError(f"min_update_every must be at least 1, got {min_update_every}")
    choice = drop_fractions or DropFractionChoice()
    total = training.total_steps

    def plan(update_every: int, initial: float, total_steps: int) -> UpdatePlan:
        return UpdatePlan.every(update_every, total_steps, choice.anneal(initial, choice.final, total_steps))

    def rate(update_every: int, initial: float, total_steps: int = total) -> float:
        return expected_final_rate(layers, plan(update_every, initial, total_steps), growth, num_dropped)

    def raised(mills: int) -> float:
        return max(round(choice.largest - mills / 1000, 6), choice.preferred)

    if rate(min_update_every, choice.preferred) >= wanted_rate:
        initial = choice.preferred
        update_every = _last_true(min_update_every, total, lambda interval: rate(interval, initial) >= wanted_rate)
    elif rate(min_update_every, choice.largest) >= wanted_rate:
        update_every = min_update_every
        most = int((choice.largest - choice.preferred) * 1000)
        initial = raised(_last_true(0, most, lambda mills: rate(update_every, raised(mills)) >= wanted_rate))
    else:
        return _refusal(training, wanted_rate, min_update_every, choice.largest, rate)
    curve = expected_exploration(layers, plan(update_every, initial, total), growth, num_dropped)
    return Advice(
        update_every=update_every,
        drop_fraction=initial,
        final_drop_fraction=choice.final,
        total_steps=total,
        num_updates=len(curve.steps) - 1,
        exploration_rate=curve.final_rate,
        standard_error=curve.monte_carlo_error(),
        curve=curve,
    )


def _refusal(
    training: Training,
    wanted_rate: float,
    min_update_every: int,
    largest: float,
    rate: Callable[[int, float, int], float],
) -> Refusal:
    def missed_after(epochs: int) -> bool:
        return rate(min_update_every, largest, epochs * training.steps_per_epoch) < wanted_rate

    def reached_at(interval: int) -> bool:
        return rate(interval, largest, training.total_steps) >= wanted_rate

    times = 2
    while times < _MOST_TIMES_LONGER and missed_after(times * training.epochs):
        times *= 2
    epochs_needed = None
    if not missed_after(times * training.epochs):
        epochs_needed = _last_true(times // 2 * training.epochs, times * training.epochs, missed_after) + 1
    longest_update_every = _last_true(1, min_update_every, reached_at) if reached_at(1) else None
    return Refusal(
        wanted_rate=wanted_rate,
        min_update_every=min_update_every,
        drop_fraction=largest,
        largest_rate=rate(min_update_every, largest, training.total_steps),
        epochs_needed=epochs_needed,
        longest_update_every=longest_update_every,
    )


def _last_true(first: int, last: int, holds: Callable[[int], bool]) -> int:
    """The last number in [first, last] where a condition holds that is true at ``first`` and, once false, stays so."""
    low, high = first, last + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
