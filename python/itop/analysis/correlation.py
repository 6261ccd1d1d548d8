"""The hypothesis as a number: how closely accuracy follows exploration over the runs of a study.

Reference:
    Bonett and Wright, Sample Size Requirements for Estimating Pearson, Kendall and Spearman Correlations,
    Psychometrika 2000 (the variance of Spearman's coefficient under Fisher's transformation).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

Values = NDArray[np.float64]


class Coefficient(ABC):
    """A correlation coefficient of two samples."""

    @abstractmethod
    def of(self, x: Values, y: Values) -> float:
        """The coefficient in [-1, 1]; NaN where a sample is constant."""

    @abstractmethod
    def fisher_error(self, value: float, num_points: int) -> float:
        """Standard error of artanh of the coefficient, for at least four points."""


@final
@dataclass(frozen=True, slots=True)
class Pearson(Coefficient):
    """Linear correlation."""

    def of(self, x: Values, y: Values) -> float:
        if np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
            return math.nan
        dx, dy = x - x.mean(), y - y.mean()
        dx, dy = dx / np.abs(dx).max(), dy / np.abs(dy).max()  # squares of tiny differences would underflow
        return float(np.clip(dx @ dy / math.sqrt((dx @ dx) * (dy @ dy)), -1.0, 1.0))

    def fisher_error(self, value: float, num_points: int) -> float:
        return 1.0 / math.sqrt(num_points - 3)


@final
@dataclass(frozen=True, slots=True)
class Spearman(Coefficient):
    """Rank correlation: Pearson's of the ranks, equal values sharing their mean rank."""

    def of(self, x: Values, y: Values) -> float:
        return Pearson().of(rankdata(x), rankdata(y))

    def fisher_error(self, value: float, num_points: int) -> float:
        return math.sqrt((1.0 + value**2 / 2.0) / (num_points - 3))


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a correlation."""

    low: float
    high: float


@final
@dataclass(frozen=True, slots=True)
class Correlation:
    """A correlation with its uncertainty.

    Attributes:
        value: The coefficient.
        num_points: Points it was computed from.
        confidence: Level of both intervals.
        fisher: By Fisher's transformation, for independent points; [-1, 1] with fewer than four.
        bootstrap: Percentiles over resamples of whole groups.
    """

    value: float
    num_points: int
    confidence: float
    fisher: Interval
    bootstrap: Interval


@final
@dataclass(frozen=True, slots=True)
class HypothesisTest:
    """Accuracy against what was explored, and against what was explored reliably."""

    exploration: Correlation
    reliable: Correlation


def correlate(
    x: Sequence[float],
    y: Sequence[float],
    coefficient: Coefficient | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Correlation of two samples with a Fisher and a bootstrap confidence interval.

    Args:
        x: At least three finite values, not all equal.
        y: As many, likewise.
        coefficient: ``Spearman()`` by default.
        groups: Points of one group are resampled together, such as the seeds of one cell of a study, which share their
            R_s and so are not independent. By default each point is its own group.
        confidence: Level of the intervals, in (0, 1).
        num_resamples: Of the bootstrap, at least 1; those in which a sample is constant have no coefficient and are
            left out. With none left the interval is [-1, 1].
        seed: Of the bootstrap: the same seed gives the same interval.

    Raises:
        ValueError: If an argument is not as said.
    """
    a, b = _checked("x", x), _checked("y", y)
    if len(a) != len(b):
        raise ValueError(f"x and y must have the same length, got {len(a)} and {len(b)}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    if groups is not None and len(groups) != len(a):
        raise ValueError(f"groups must have one entry a point, got {len(groups)} for {len(a)}")
    measure = coefficient or Spearman()
    value = measure.of(a, b)
    return Correlation(
        value=value,
        num_points=len(a),
        confidence=confidence,
        fisher=_fisher_interval(measure, value, len(a), confidence),
        bootstrap=_bootstrap_interval(measure, a, b, _members(groups, len(a)), confidence, num_resamples, seed),
    )


def correlate_hypothesis(
    accuracy: Sequence[float],
    exploration_rate: Sequence[float],
    reliable_rate: Sequence[float],
    coefficient: Coefficient | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> HypothesisTest:
    """Correlation of accuracy with R_s and with R_r over the runs of a study; arguments as in ``correlate``."""
    against_explored, against_reliable = (
        correlate(
            rate,
            accuracy,
            coefficient,
            groups=groups,
            confidence=confidence,
            num_resamples=num_resamples,
            seed=seed,
        )
        for rate in (exploration_rate, reliable_rate)
    )
    return HypothesisTest(against_explored, against_reliable)


def _checked(name: str, values: Sequence[float]) -> Values:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 3:
        raise ValueError(f"{name} must be a sequence of at least three values, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite values, got {array[~np.isfinite(array)][0]}")
    if np.ptp(array) == 0.0:
        raise ValueError(f"{name} must not be constant: a correlation with a constant is not defined")
    return array


def _fisher_interval(measure: Coefficient, value: float, num_points: int, confidence: float) -> Interval:
    if num_points < 4:
        return Interval(-1.0, 1.0)
    if abs(value) == 1.0:
        return Interval(value, value)
    reach = float(norm.ppf((1.0 + confidence) / 2.0)) * measure.fisher_error(value, num_points)
    return Interval(math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach))


def _members(groups: Sequence[Hashable] | None, num_points: int) -> list[NDArray[np.int64]]:
    members: dict[Hashable, list[int]] = {}
    for point in range(num_points):
        members.setdefault(point if groups is None else groups[point], []).append(point)
    return [np.array(points, dtype=np.int64) for points in members.values()]


def _bootstrap_interval(
    measure: Coefficient,
    x: Values,
    y: Values,
    members: list[NDArray[np.int64]],
    confidence: float,
    num_resamples: int,
    seed: int,
) -> Interval:
    generator = np.random.default_rng(seed)
    values = np.empty(num_resamples)
    for i in range(num_resamples):
        drawn = generator.integers(len(members), size=len(members))
        points = np.concatenate([members[group] for group in drawn])
        values[i] = measure.of(x[points], y[points])
    defined = values[~np.isnan(values)]
    if not len(defined):
        return Interval(-1.0, 1.0)
    low, high = np.quantile(defined, [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return Interval(float(low), float(high))
