"""Expected exploration by theory, against hand-worked cases and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from itop.analysis import (
    GradientGrowth,
    Growth,
    Layer,
    RandomGrowth,
    UnexploredFirstGrowth,
    UpdatePlan,
    closed_form_exploration,
    cosine_drop_fraction,
    expected_exploration,
    expected_final_rate,
    exploration_bound,
)


def simulated_rates(
    numel: int, num_active: int, counts: list[int], num_runs: int, regrow_just_dropped: bool = True
) -> np.ndarray:
    """R_s of runs that drop the first active weights, whose choice cannot matter, and grow at random."""
    generator = np.random.default_rng(7)
    rates = np.empty(num_runs)
    for run in range(num_runs):
        active = np.zeros(numel, dtype=bool)
        active[generator.choice(numel, num_active, replace=False)] = True
        explored = active.copy()
        for count in counts:
            dropped = np.flatnonzero(active)[:count]
            forbidden = active.copy()
            active[dropped] = False
            candidates = np.flatnonzero(~active if regrow_just_dropped else ~forbidden)
            active[generator.choice(candidates, count, replace=False)] = True
            explored |= active
        rates[run] = explored.mean()
    return rates


def test_one_update_explores_the_part_of_the_candidates_it_takes() -> None:
    # 10 weights, 4 active, 2 dropped: 8 candidates, of which 6 are new; 2 drawn, 1.5 new expected.
    curve = expected_exploration([Layer("w", (10,), 0.4)], UpdatePlan((5,), (0.5,)))
    assert curve.steps.tolist() == [0, 5]
    assert curve.rate.tolist() == pytest.approx([0.4, 0.55])
    # Hypergeometric variance: 2 * 6/8 * 2/8 * 6/7.
    assert curve.standard_error.tolist() == pytest.approx([0.0, math.sqrt(2 * 6 / 8 * 2 / 8 * 6 / 7) / 10])


def test_without_regrowth_of_the_just_dropped_only_the_inactive_are_candidates() -> None:
    curve = expected_exploration(
        [Layer("w", (10,), 0.4)], UpdatePlan((5, 9), (0.5, 0.5)), RandomGrowth(regrow_just_dropped=False)
    )
    # 2 of 6 candidates, all new; then 2 of 6, of which 4 are new.
    assert curve.rate.tolist() == pytest.approx([0.4, 0.6, 0.6 + 0.1 * 2 * 4 / 6])


def test_fractional_closed_form_is_the_recursion() -> None:
    density, fractions = 0.13, (0.5, 0.31, 0.02)
    unexplored = 1 - density
    for fraction in fractions:
        unexplored *= 1 - fraction * density / (1 - density + fraction * density)
    curve = closed_form_exploration([Layer("w", (7, 3), density)], UpdatePlan((1, 2, 3), fractions))
    assert curve.final_rate == pytest.approx(1 - unexplored, abs=1e-14)


def test_network_rate_weighs_layers_by_their_size_and_dense_layers_count_with_one() -> None:
    layers = [Layer("a", (30,), 0.2), Layer("b", (10,), 1.0)]
    curve = closed_form_exploration(layers, UpdatePlan((1,), (0.5,)))
    expected_a = 1 - 0.8 * (1 - 0.1 / 0.9)
    assert curve.layer_rates["a"][-1] == pytest.approx(expected_a)
    assert curve.layer_rates["b"].tolist() == [1.0, 1.0]
    assert curve.rate[-1] == pytest.approx((30 * expected_a + 10) / 40)
    assert curve.layer_standard_errors["b"].tolist() == [0.0, 0.0]


def test_unexplored_first_meets_the_bound_until_all_is_explored() -> None:
    layers = [Layer("w", (100,), 0.3)]
    plan = UpdatePlan((1, 2, 3, 4), (0.5, 0.5, 1.0, 1.0))
    curve = expected_exploration(layers, plan, UnexploredFirstGrowth())
    assert curve.rate.tolist() == pytest.approx([0.3, 0.45, 0.6, 0.9, 1.0])
    assert exploration_bound(layers, plan).rate.tolist() == pytest.approx(curve.rate.tolist())


@pytest.mark.parametrize(
    "growth", [RandomGrowth(), RandomGrowth(regrow_just_dropped=False)], ids=["all", "not-dropped"]
)
def test_mean_and_standard_error_agree_with_simulation(growth: RandomGrowth) -> None:
    numel, num_active, counts = 120, 30, [15, 12, 9, 5, 2]
    plan = UpdatePlan((1, 2, 3, 4, 5), tuple(count / num_active for count in counts))
    curve = expected_exploration([Layer("w", (numel,), num_active / numel)], plan, growth)
    rates = simulated_rates(numel, num_active, counts, 4000, growth.regrow_just_dropped)
    error = curve.monte_carlo_error(num_runs=len(rates))
    assert abs(rates.mean() - curve.final_rate) < 4 * error
    # The standard deviation of 4000 runs is within 4/sqrt(2 * 4000) = 4.5 % of the true one.
    assert rates.std(ddof=1) == pytest.approx(curve.monte_carlo_error(), rel=0.05)


def test_standard_error_keeps_its_digits_in_large_layers() -> None:
    numel, num_active, num_updates = 10_000_000, 1_000_000, 400
    plan = UpdatePlan(tuple(range(1, num_updates + 1)), (0.1,) * num_updates)
    curve = expected_exploration([Layer("w", (numel,), 0.1)], plan)
    # The recursion of the law of total variance, in exact rational steps of double precision.
    mean, variance, grown = float(numel - num_active), 0.0, 100_000
    candidates = numel - num_active + grown
    for _ in range(num_updates):
        drawn = grown * (candidates - grown) / (candidates * (candidates - 1))
        variance = (1 - grown / candidates) ** 2 * variance + drawn * (mean - (variance + mean**2) / candidates)
        mean *= 1 - grown / candidates
    assert curve.monte_carlo_error() == pytest.approx(math.sqrt(variance) / numel, rel=1e-6)


def test_gradient_growth_uncovers_by_its_efficiency_and_claims_no_error() -> None:
    curve = closed_form_exploration([Layer("w", (10,), 0.4)], UpdatePlan((5,), (0.5,)), GradientGrowth(0.5))
    assert curve.final_rate == pytest.approx(1 - 0.6 * (1 - 0.5 * 2 / 8))
    assert math.isnan(curve.monte_carlo_error())


def test_whole_counts_matter_in_layers_of_a_few_weights() -> None:
    layers = [Layer("w", (20,), 0.1)]
    plan = UpdatePlan((1, 2, 3), (0.2, 0.2, 0.2))
    assert expected_exploration(layers, plan).final_rate == pytest.approx(0.1)  # round(0.4) = 0 weights move
    assert expected_exploration(layers, plan, num_dropped=np.ceil).final_rate > 0.2
    assert closed_form_exploration(layers, plan).final_rate > 0.13


def test_updates_come_every_dt_up_to_the_last_step() -> None:
    plan = UpdatePlan.every(10, 40, lambda step: step / 100)
    assert plan.steps == (10, 20, 30, 40)
    assert plan.drop_fractions == (0.1, 0.2, 0.3, 0.4)
    assert UpdatePlan.every(10, 40, lambda step: 0.1, last_step=29).steps == (10, 20)
    assert UpdatePlan.every(50, 40, lambda step: 0.1).steps == ()


def test_rate_at_a_step_is_that_of_the_last_update() -> None:
    curve = expected_exploration([Layer("w", (10,), 0.4)], UpdatePlan((5,), (0.5,)))
    assert [curve.rate_at(step) for step in (0, 4, 5, 99)] == pytest.approx([0.4, 0.4, 0.55, 0.55])


def test_cosine_starts_halves_and_ends_where_it_should() -> None:
    fraction = cosine_drop_fraction(0.5, 0.1, 100)
    assert [fraction(step) for step in (0, 50, 100, 150)] == pytest.approx([0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize(
    "growth", [RandomGrowth(), RandomGrowth(False), UnexploredFirstGrowth(), GradientGrowth(0.3)], ids=repr
)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
def test_extreme_densities_and_fractions_stay_rates(growth: Growth, density: float) -> None:
    layers = [Layer("w", (20,), density), Layer("one", (1,), density)]
    plan = UpdatePlan((1, 2, 3), (1.0, 0.0, 1.0))
    for curve in (expected_exploration(layers, plan, growth), closed_form_exploration(layers, plan, growth)):
        assert ((curve.rate >= 0) & (curve.rate <= 1)).all()
        assert (np.diff(curve.rate) >= 0).all()
        assert not (curve.standard_error < 0).any()
    assert expected_final_rate(layers, plan, growth) == pytest.approx(
        expected_exploration(layers, plan, growth).final_rate
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UpdatePlan((1, 2), (0.1,)), "one entry an update, got 1 for 2"),
        (lambda: UpdatePlan((2, 2), (0.1, 0.1)), "steps must be ascending"),
        (lambda: UpdatePlan((0,), (0.1,)), "steps must be ascending and start at 1"),
        (lambda: UpdatePlan((1,), (1.1,)), r"drop_fractions must be in \[0, 1\], got 1.1"),
        (lambda: UpdatePlan.every(0, 10, lambda step: 0.1), "update_every must be at least 1, got 0"),
        (lambda: cosine_drop_fraction(0.1, 0.2, 10), "0 <= final <= initial <= 1, got 0.2 and 0.1"),
        (lambda: GradientGrowth(0.0), r"efficiency must be in \(0, 1\], got 0.0"),
        (lambda: Layer("w", (3, 0), 0.1), r"shape of w must hold positive sizes, got \(3, 0\)"),
        (lambda: Layer("w", (3,), 1.5), r"density of w must be in \[0, 1\], got 1.5"),
        (lambda: expected_exploration([], UpdatePlan((), ())), "at least one layer"),
        (lambda: expected_exploration([Layer("w", (3,), 0.1)] * 2, UpdatePlan((), ())), "got w more than once"),
    ],
)
def test_bad_input_is_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
