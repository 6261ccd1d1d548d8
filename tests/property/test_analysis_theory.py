"""What holds of expected exploration, of advice and of correlations whatever the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from itop.analysis import (
    Advice,
    Growth,
    Layer,
    Pearson,
    RandomGrowth,
    Spearman,
    Training,
    UnexploredFirstGrowth,
    UpdatePlan,
    advise,
    closed_form_exploration,
    cosine_drop_fraction,
    expected_exploration,
    exploration_bound,
)

fractions = st.lists(st.floats(0.0, 1.0), max_size=12).map(tuple)
layers = st.lists(st.tuples(st.integers(1, 400), st.floats(0.0, 1.0)), min_size=1, max_size=4).map(
    lambda sizes: [Layer(str(i), (numel,), density) for i, (numel, density) in enumerate(sizes)]
)
growths = st.sampled_from([RandomGrowth(), RandomGrowth(regrow_just_dropped=False), UnexploredFirstGrowth()])


def exact_distribution(numel: int, num_active: int, counts: list[int]) -> np.ndarray:
    """Probabilities of the number of never-explored weights, step by step through hypergeometric draws."""
    chances = np.zeros(numel - num_active + 1)
    chances[-1] = 1.0
    for count in filter(None, counts):
        candidates = numel - num_active + count
        after = np.zeros_like(chances)
        for left, chance in enumerate(chances):
            for new in range(min(left, count) + 1):
                after[left - new] += chance * stats.hypergeom.pmf(new, candidates, left, count)
        chances = after
    return chances


@settings(max_examples=100, deadline=None)
@given(layers, fractions, growths)
def test_rates_only_grow_and_stay_below_the_bound(network: list[Layer], drops: tuple[float, ...], rule: Growth) -> None:
    plan = UpdatePlan(tuple(range(1, len(drops) + 1)), drops)
    curve, bound = closed_form_exploration(network, plan, rule), exploration_bound(network, plan)
    whole = expected_exploration(network, plan, rule)
    for rates in (curve.rate, whole.rate, *whole.layer_rates.values()):
        assert (np.diff(rates) >= -1e-12).all()
        assert (rates <= 1 + 1e-12).all()
    assert (curve.rate <= bound.rate + 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 14), st.integers(0, 14), st.lists(st.integers(0, 6), max_size=4))
def test_mean_and_variance_are_those_of_the_exact_distribution(numel: int, num_active: int, counts: list[int]) -> None:
    num_active = min(numel, num_active)
    counts = [min(count, num_active) for count in counts]
    plan = UpdatePlan(
        tuple(range(1, len(counts) + 1)), tuple(count / num_active if num_active else 0.0 for count in counts)
    )
    curve = expected_exploration([Layer("w", (numel,), num_active / numel)], plan)
    chances = exact_distribution(numel, num_active, counts)
    left = np.arange(len(chances))
    mean = chances @ left
    assert curve.final_rate == pytest.approx(1 - mean / numel, abs=1e-9)
    assert (curve.monte_carlo_error() * numel) ** 2 == pytest.approx(chances @ (left - mean) ** 2, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.floats(0.02, 0.6), st.floats(0.05, 0.95), st.integers(1, 40))
def test_advice_keeps_what_it_promises_and_longer_intervals_explore_less(
    epochs: int, density: float, wanted: float, min_update_every: int
) -> None:
    network = [Layer("w", (40, 50), density), Layer("v", (30,), density)]
    assume(wanted > density + 0.02)
    training = Training(1000, 20, epochs)
    advice = advise(network, training, wanted, min_update_every)

    def rate(update_every: int, initial: float) -> float:
        fraction = cosine_drop_fraction(initial, 0.005, training.total_steps)
        return expected_exploration(network, UpdatePlan.every(update_every, training.total_steps, fraction)).final_rate

    if isinstance(advice, Advice):
        assert advice.update_every >= min_update_every
        assert advice.exploration_rate == rate(advice.update_every, advice.drop_fraction) >= wanted
        for longer in range(advice.update_every + 1, advice.update_every + 30):
            assert rate(longer, 0.5) < wanted
    else:
        assert advice.largest_rate == rate(min_update_every, 0.9) < wanted
        for longer in range(min_update_every, min_update_every + 30):
            assert rate(longer, 0.9) < wanted


values = st.lists(st.integers(-5, 5), min_size=3, max_size=20)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_coefficients_are_scipys_with_any_ties(data: st.DataObject) -> None:
    x = np.array(data.draw(values), dtype=np.float64)
    y = np.array(data.draw(st.lists(st.integers(-5, 5), min_size=len(x), max_size=len(x))), dtype=np.float64)
    assume(np.ptp(x) > 0 and np.ptp(y) > 0)
    assert Spearman().of(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert Pearson().of(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
