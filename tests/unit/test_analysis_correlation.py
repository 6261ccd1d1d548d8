"""Correlation with its confidence intervals, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from itop.analysis import Interval, Pearson, Spearman, correlate, correlate_hypothesis

X = [0.1, 0.3, 0.3, 0.5, 0.8, 0.9, 0.9, 0.95]
Y = [91.0, 92.0, 91.5, 93.0, 92.8, 93.0, 94.0, 93.9]


def test_coefficients_are_scipys_also_with_ties() -> None:
    assert correlate(X, Y).value == pytest.approx(stats.spearmanr(X, Y).statistic, abs=1e-14)
    assert correlate(X, Y, Pearson()).value == pytest.approx(stats.pearsonr(X, Y).statistic, abs=1e-14)


def test_ranks_of_a_worked_example() -> None:
    # Ranks 1, 2, 3, 4 against 1, 3, 2, 4: 1 - 6 * 2 / (4 * 15).
    assert correlate([1, 2, 3, 4], [10, 30, 20, 40]).value == pytest.approx(0.8)


def test_fishers_interval_of_pearson_is_scipys() -> None:
    interval = correlate(X, Y, Pearson(), confidence=0.9).fisher
    expected = stats.pearsonr(X, Y).confidence_interval(0.9)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_fishers_interval_of_ranks_is_wider_by_bonett_and_wright() -> None:
    result = correlate(X, Y)
    reach = stats.norm.ppf(0.975) * math.sqrt((1 + result.value**2 / 2) / (len(X) - 3))
    assert result.fisher.low == pytest.approx(math.tanh(math.atanh(result.value) - reach))
    assert result.fisher.high == pytest.approx(math.tanh(math.atanh(result.value) + reach))


def test_the_bootstrap_is_seeded_and_close_to_scipys() -> None:
    first, again, other = (correlate(X, Y, Pearson(), seed=seed).bootstrap for seed in (3, 3, 4))
    assert first == again != other
    reference = stats.bootstrap(
        (X, Y),
        lambda x, y: stats.pearsonr(x, y).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    # Two percentile bootstraps of 2000 and 1000 resamples differ by their own sampling error.
    assert (first.low, first.high) == pytest.approx((reference.low, reference.high), abs=0.06)


def test_points_of_a_group_are_resampled_together() -> None:
    # Three runs of each of four cells: resampling runs alone would pretend to twelve independent points.
    cells = [cell for cell in range(4) for _ in range(3)]
    x = [float(cell) for cell in cells]
    noise = np.random.default_rng(1).normal(size=12)
    y = [cell % 3 + 0.01 * noise[i] for i, cell in enumerate(cells)]
    alone, grouped = correlate(x, y).bootstrap, correlate(x, y, groups=cells).bootstrap
    assert grouped.high - grouped.low > alone.high - alone.low
    assert correlate(x, y, groups=cells).value == correlate(x, y).value


def test_perfect_order_is_one_with_a_closed_interval() -> None:
    result = correlate([1, 2, 3, 4, 5], [2, 3, 5, 7, 11])
    assert result.value == 1.0
    assert result.fisher == Interval(1.0, 1.0)


def test_three_points_bound_nothing() -> None:
    assert correlate([1, 2, 3], [1, 3, 2]).fisher == Interval(-1.0, 1.0)


def test_the_hypothesis_is_accuracy_against_both_rates() -> None:
    reliable = X[::-1]
    result = correlate_hypothesis(Y, X, reliable, Spearman())
    assert result.exploration == correlate(X, Y)
    assert result.reliable == correlate(reliable, Y)
    assert result.reliable.value < 0 < result.exploration.value


@pytest.mark.parametrize(
    ("x", "y", "arguments", "message"),
    [
        ([1, 2], [1, 2], {}, "x must be a sequence of at least three values"),
        ([1, 2, 3], [1, 2, 3, 4], {}, "same length, got 3 and 4"),
        ([1, 2, math.nan], [1, 2, 3], {}, "x must hold finite values, got nan"),
        ([1, 2, 3], [5, 5, 5], {}, "y must not be constant"),
        ([1, 2, 3], [1, 2, 3], {"confidence": 1.0}, r"confidence must be in \(0, 1\), got 1.0"),
        ([1, 2, 3], [1, 2, 3], {"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
        ([1, 2, 3], [1, 2, 3], {"groups": [1]}, "one entry a point, got 1 for 3"),
    ],
)
def test_bad_samples_are_named(x: list[float], y: list[float], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correlate(x, y, **arguments)
