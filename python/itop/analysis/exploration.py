"""The exploration rate R_s that theory expects of a schedule of topology updates.

R_s is the part of all sparsifiable weights that was active at least once. With exact counts and uniform growth the
number of weights never explored is a chain of hypergeometric draws, so its mean and its variance have closed forms and
nothing has to be simulated.

Reference:
    Liu et al., Do We Actually Need Dense Over-Parameterization?, ICML 2021, section 3.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from itop.analysis.layer import Layer, check_layers

Curve = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """When the topology changes, and what part of the active weights each update drops.

    Args:
        steps: Optimiser steps of the updates, ascending, the first at least 1.
        drop_fractions: P at each of them, in [0, 1].

    Raises:
        ValueError: If lengths differ or an entry is outside its range.
    """

    steps: tuple[int, ...]
    drop_fractions: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.drop_fractions):
            raise ValueError(
                f"drop_fractions must have one entry an update, got {len(self.drop_fractions)} for {len(self.steps)}"
            )
        if any(later <= earlier for earlier, later in zip((0, *self.steps), self.steps, strict=False)):
            raise ValueError(f"steps must be ascending and start at 1 or later, got {self.steps}")
        outside = [fraction for fraction in self.drop_fractions if not 0.0 <= fraction <= 1.0]
        if outside:
            raise ValueError(f"drop_fractions must be in [0, 1], got {outside[0]}")

    @classmethod
    def every(
        cls,
        update_every: int,
        total_steps: int,
        drop_fraction: Callable[[int], float],
        last_step: int | None = None,
    ) -> UpdatePlan:
        """Updates at dT, 2 dT, ... up to and including ``last_step``, by default ``total_steps``.

        Args:
            update_every: dT in optimiser steps, at least 1.
            total_steps: Optimiser steps of the whole training, at least 0.
            drop_fraction: Maps an optimiser step to P.
            last_step: No update after this step.
        """
        if update_every < 1:
            raise ValueError(f"update_every must be at least 1, got {update_every}")
        if total_steps < 0:
            raise ValueError(f"total_steps must not be negative, got {total_steps}")
        stop = total_steps if last_step is None else min(total_steps, last_step)
        steps = tuple(range(update_every, stop + 1, update_every))
        return cls(steps, tuple(drop_fraction(step) for step in steps))


def cosine_drop_fraction(initial: float, final: float, horizon: int) -> Callable[[int], float]:
    """P(t) = final + (initial - final) / 2 * (1 + cos(pi t / horizon)), and ``final`` after the horizon."""
    if not 0.0 <= final <= initial <= 1.0:
        raise ValueError(f"drop fractions must hold 0 <= final <= initial <= 1, got {final} and {initial}")
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")

    def fraction(step: int) -> float:
        return final + (initial - final) / 2 * (1 + math.cos(math.pi * min(step, horizon) / horizon))

    return fraction


class Growth(ABC):
    """How a growth rule uncovers weights that were never explored."""

    @abstractmethod
    def mean_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        """Expected number of weights never explored, [updates + 1], index 0 before the first update.

        Args:
            numel: Weights of the layer.
            num_active: Active weights, the same after every update.
            num_grown: Weights dropped and grown by each update, [updates], each at most ``num_active``.
        """

    @abstractmethod
    def variance_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        """Variance of that number over runs, [updates + 1]; NaN where nothing is known of it."""


@final
@dataclass(frozen=True, slots=True)
class RandomGrowth(Growth):
    """Uniform growth of an exact count over the inactive sites.

    An update draws k of m candidates without replacement. A never-explored site is left out with probability
    ``1 - k/m``, two of them together with ``(m - k)(m - k - 1) / (m (m - 1))``: mean and second factorial moment of the
    number left are products over the updates.

    Args:
        regrow_just_dropped: Whether the sites dropped by this very update are candidates: m = n - a + k, or else
            m = n - a and k is at most that.
    """

    regrow_just_dropped: bool = True

    def mean_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        grown, candidates = self._draws(numel - num_active, num_grown)
        return (numel - num_active) * _cumulative_product(1.0 - _ratio(grown, candidates))

    def variance_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        inactive = numel - num_active
        grown, candidates = self._draws(inactive, num_grown)
        mean = self.mean_unexplored(numel, num_active, num_grown)
        if inactive <= 0.0:
            return mean
        # E[U (U - 1)] / E[U]^2 - 1, through logarithms: the difference of two large moments would lose all digits.
        pairs = np.concatenate(([1.0 / inactive], _ratio(grown, (candidates - 1.0) * (candidates - grown))))
        with np.errstate(divide="ignore"):
            excess: Curve = np.expm1(np.cumsum(np.log1p(-np.clip(pairs, 0.0, 1.0))))
        variance: Curve = np.maximum(mean + mean**2 * excess, 0.0)
        return variance

    def _draws(self, inactive: float, num_grown: Curve) -> tuple[Curve, Curve]:
        if self.regrow_just_dropped:
            return num_grown, inactive + num_grown
        return np.minimum(num_grown, inactive), np.full_like(num_grown, inactive)


@final
@dataclass(frozen=True, slots=True)
class UnexploredFirstGrowth(Growth):
    """Growth that takes never-explored sites while they last: no rule explores more, so this is the bound of R_s."""

    def mean_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        grown_so_far = np.concatenate(([0.0], np.cumsum(num_grown)))
        return np.maximum(numel - num_active - grown_so_far, 0.0)

    def variance_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        return np.zeros(len(num_grown) + 1)


@final
@dataclass(frozen=True, slots=True)
class GradientGrowth(Growth):
    """Growth by gradient, as random growth slowed down: it returns to the same sites, so fewer are new.

    Theory says nothing of gradients; ``efficiency`` has to be measured, and ``fit_efficiency`` reads it from a run. The
    four RigL-ITOP runs on ImageNet of the paper's table correspond to 0.39 to 0.55.

    Args:
        efficiency: How likely a never-explored site is chosen, relative to random growth, in (0, 1].
    """

    efficiency: float

    def __post_init__(self) -> None:
        if not 0.0 < self.efficiency <= 1.0:
            raise ValueError(f"efficiency must be in (0, 1], got {self.efficiency}")

    def mean_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        inactive = numel - num_active
        return inactive * _cumulative_product(1.0 - self.efficiency * _ratio(num_grown, inactive + num_grown))

    def variance_unexplored(self, numel: float, num_active: float, num_grown: Curve) -> Curve:
        return np.full(len(num_grown) + 1, np.nan)


@final
@dataclass(frozen=True, slots=True)
class ExplorationCurve:
    """R_s(t) of a network and of its layers; index 0 is before the first update.

    Attributes:
        steps: Optimiser steps, [updates + 1], the first 0.
        rate: Expected R_s over all weights, [updates + 1].
        standard_error: Standard deviation of one run's R_s around ``rate``, [updates + 1]; NaN where the growth rule
            has no theory of it.
        layer_rates: Expected R_s of each layer by name, [updates + 1] each.
        layer_standard_errors: The same of ``standard_error``.
    """

    steps: NDArray[np.int64]
    rate: Curve
    standard_error: Curve
    layer_rates: Mapping[str, Curve]
    layer_standard_errors: Mapping[str, Curve]

    @property
    def final_rate(self) -> float:
        """Expected R_s after the last update."""
        return float(self.rate[-1])

    def rate_at(self, step: int) -> float:
        """Expected R_s after ``step`` optimiser steps, at least 0; R_s only changes at updates."""
        if step < 0:
            raise ValueError(f"step must not be negative, got {step}")
        return float(self.rate[np.searchsorted(self.steps, step, side="right") - 1])

    def monte_carlo_error(self, num_runs: int = 1) -> float:
        """Standard error of the mean of ``num_runs`` independent runs' final R_s."""
        if num_runs < 1:
            raise ValueError(f"num_runs must be at least 1, got {num_runs}")
        return float(self.standard_error[-1]) / math.sqrt(num_runs)


def closed_form_exploration(
    layers: Sequence[Layer], plan: UpdatePlan, growth: Growth | None = None
) -> ExplorationCurve:
    """R_s(t) from densities and fractions alone, as if weights could be split.

    For random growth ``u_i = u_(i-1) (1 - P_i d / (1 - d + P_i d))``, ``u_0 = 1 - d``, ``R_s = 1 - u_n`` in each layer.

    Args:
        layers: At least one.
        plan: When the topology changes and by how much.
        growth: ``RandomGrowth()`` by default.
    """
    counts = {layer.name: _Counts(layer.density * layer.numel, plan.drop_fractions) for layer in layers}
    return _curve(layers, plan, growth or RandomGrowth(), counts)


def expected_exploration(
    layers: Sequence[Layer],
    plan: UpdatePlan,
    growth: Growth | None = None,
    num_dropped: Callable[[Curve], Curve] = np.rint,
) -> ExplorationCurve:
    """R_s(t) with the whole numbers a run drops and grows: exact in expectation, also for layers of a few weights.

    Args:
        layers: At least one; their ``num_active`` counts.
        plan: When the topology changes and by how much.
        growth: ``RandomGrowth()`` by default.
        num_dropped: Turns the array ``P num_active`` [updates] into whole counts; beyond ``num_active`` they are cut.
    """
    counts = {layer.name: _whole_counts(layer, plan, num_dropped) for layer in layers}
    return _curve(layers, plan, growth or RandomGrowth(), counts)


def expected_final_rate(
    layers: Sequence[Layer],
    plan: UpdatePlan,
    growth: Growth | None = None,
    num_dropped: Callable[[Curve], Curve] = np.rint,
) -> float:
    """The last rate of ``expected_exploration``, without the rest of the curve."""
    check_layers(layers)
    rule = growth or RandomGrowth()
    left = 0.0
    for layer in layers:
        counts = _whole_counts(layer, plan, num_dropped)
        left += float(rule.mean_unexplored(layer.numel, counts.num_active, counts.num_grown)[-1])
    return 1.0 - left / sum(layer.numel for layer in layers)


def exploration_bound(layers: Sequence[Layer], plan: UpdatePlan) -> ExplorationCurve:
    """What no growth rule exceeds: ``R_s(t) <= min(1, d (1 + sum of P_i))`` in each layer."""
    return closed_form_exploration(layers, plan, UnexploredFirstGrowth())


def fit_efficiency(layers: Sequence[Layer], plan: UpdatePlan, measured_rate: float) -> GradientGrowth:
    """The growth whose closed form ends at the R_s measured after this plan.

    Args:
        layers: At least one.
        plan: When the topology changed and by how much.
        measured_rate: R_s of a run, above the initial density and at most that of random growth.

    Raises:
        ValueError: If no efficiency in (0, 1] gives the measured rate.
    """
    slowest = closed_form_exploration(layers, UpdatePlan((), ())).final_rate
    fastest = closed_form_exploration(layers, plan).final_rate
    if not slowest < measured_rate <= fastest:
        raise ValueError(f"measured_rate must be in ({slowest:.4f}, {fastest:.4f}], got {measured_rate}")
    lowest, highest = 0.0, 1.0
    for _ in range(60):
        middle = (lowest + highest) / 2
        reached = closed_form_exploration(layers, plan, GradientGrowth(middle)).final_rate
        lowest, highest = (middle, highest) if reached < measured_rate else (lowest, middle)
    return GradientGrowth(highest)


class _Counts:
    """Active weights of a layer and what each update grows, whole or fractional."""

    def __init__(self, num_active: float, drop_fractions: Sequence[float]) -> None:
        self.num_active = num_active
        self.num_grown: Curve = np.asarray(drop_fractions, dtype=np.float64) * num_active


def _whole_counts(layer: Layer, plan: UpdatePlan, num_dropped: Callable[[Curve], Curve]) -> _Counts:
    counts = _Counts(float(layer.num_active), plan.drop_fractions)
    counts.num_grown = np.minimum(num_dropped(counts.num_grown), counts.num_active)
    return counts


def _curve(
    layers: Sequence[Layer], plan: UpdatePlan, growth: Growth, counts: Mapping[str, _Counts]
) -> ExplorationCurve:
    check_layers(layers)
    total = sum(layer.numel for layer in layers)
    left = np.zeros(len(plan.steps) + 1)
    variance = np.zeros(len(plan.steps) + 1)
    rates: dict[str, Curve] = {}
    errors: dict[str, Curve] = {}
    for layer in layers:
        drawn = counts[layer.name]
        layer_left = growth.mean_unexplored(layer.numel, drawn.num_active, drawn.num_grown)
        layer_variance = growth.variance_unexplored(layer.numel, drawn.num_active, drawn.num_grown)
        left += layer_left
        variance += layer_variance
        rates[layer.name] = 1.0 - layer_left / layer.numel
        errors[layer.name] = np.sqrt(layer_variance) / layer.numel
    steps = np.array((0, *plan.steps), dtype=np.int64)
    return ExplorationCurve(steps, 1.0 - left / total, np.sqrt(variance) / total, rates, errors)


def _ratio(part: Curve, whole: Curve) -> Curve:
    """part / whole, and 0 where the whole is not positive: no candidates, nothing chosen."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0.0)


def _cumulative_product(factors: Curve) -> Curve:
    return np.concatenate(([1.0], np.cumprod(factors)))
