"""Advice on dT and P."""

from __future__ import annotations

import pytest

from itop.analysis import (
    Advice,
    DropFractionChoice,
    GradientGrowth,
    Layer,
    Refusal,
    Training,
    UnexploredFirstGrowth,
    UpdatePlan,
    advise,
    cosine_drop_fraction,
    expected_exploration,
)

LAYERS = [Layer("fc1", (100, 300), 0.04), Layer("fc2", (10, 100), 0.3)]
TRAINING = Training(num_samples=45_000, batch_size=128, epochs=20)


def rate(update_every: int, drop_fraction: float, training: Training = TRAINING) -> float:
    total = training.total_steps
    plan = UpdatePlan.every(update_every, total, cosine_drop_fraction(drop_fraction, 0.005, total))
    return expected_exploration(LAYERS, plan).final_rate


def test_steps_count_the_incomplete_batch_unless_it_is_dropped() -> None:
    assert TRAINING.total_steps == 352 * 20
    assert Training(45_000, 128, 20, drop_last=True).total_steps == 351 * 20


def test_the_interval_is_the_longest_that_reaches_the_goal() -> None:
    advice = advise(LAYERS, TRAINING, wanted_rate=0.5, min_update_every=20)
    assert isinstance(advice, Advice)
    assert advice.drop_fraction == 0.5
    assert advice.exploration_rate == rate(advice.update_every, 0.5) >= 0.5
    assert rate(advice.update_every + 1, 0.5) < 0.5
    assert advice.num_updates == TRAINING.total_steps // advice.update_every
    assert advice.curve.final_rate == advice.exploration_rate
    assert 0 < advice.standard_error < 0.01


def test_the_drop_fraction_rises_only_as_far_as_it_must() -> None:
    longest = advise(LAYERS, TRAINING, wanted_rate=0.5)
    assert isinstance(longest, Advice)
    advice = advise(LAYERS, TRAINING, wanted_rate=0.5, min_update_every=longest.update_every + 20)
    assert isinstance(advice, Advice)
    assert advice.update_every == longest.update_every + 20
    assert 0.5 < advice.drop_fraction <= 0.9
    assert (
        rate(advice.update_every, advice.drop_fraction) >= 0.5 > rate(advice.update_every, advice.drop_fraction - 1e-3)
    )


def test_what_cannot_be_reached_is_refused_with_what_could() -> None:
    refusal = advise(LAYERS, TRAINING, wanted_rate=0.9, min_update_every=500)
    assert isinstance(refusal, Refusal)
    assert refusal.largest_rate == rate(500, 0.9) < 0.9
    assert refusal.epochs_needed is not None
    longer, shorter = (Training(45_000, 128, refusal.epochs_needed - less) for less in (0, 1))
    assert rate(500, 0.9, longer) >= 0.9 > rate(500, 0.9, shorter)
    assert refusal.longest_update_every is not None
    assert rate(refusal.longest_update_every, 0.9) >= 0.9 > rate(refusal.longest_update_every + 1, 0.9)
    assert refusal.message.startswith("an exploration rate of 0.9 with at least 500 steps between updates cannot")
    assert f"in {refusal.epochs_needed} epochs" in refusal.message
    assert f"with {refusal.longest_update_every} steps between" in refusal.message


def test_following_the_refusal_is_accepted() -> None:
    refusal = advise(LAYERS, TRAINING, wanted_rate=0.9, min_update_every=500)
    assert isinstance(refusal, Refusal)
    assert refusal.epochs_needed is not None
    assert refusal.longest_update_every is not None
    longer = Training(45_000, 128, refusal.epochs_needed)
    assert isinstance(advise(LAYERS, longer, 0.9, min_update_every=500), Advice)
    assert isinstance(advise(LAYERS, TRAINING, 0.9, min_update_every=refusal.longest_update_every), Advice)


def test_a_network_whose_layers_drop_less_than_a_weight_is_refused_for_good() -> None:
    refusal = advise(
        [Layer("w", (100,), 0.01)], Training(100, 10, 2), wanted_rate=0.5, drop_fractions=DropFractionChoice(0.1, 0.4)
    )
    assert isinstance(refusal, Refusal)
    assert refusal.largest_rate == pytest.approx(0.01)
    assert refusal.epochs_needed is None
    assert refusal.longest_update_every is None


def test_growth_that_explores_more_gets_a_longer_interval() -> None:
    intervals = []
    for growth in (GradientGrowth(0.5), None, UnexploredFirstGrowth()):
        advice = advise(LAYERS, TRAINING, wanted_rate=0.5, growth=growth)
        assert isinstance(advice, Advice)
        intervals.append(advice.update_every)
    assert intervals == sorted(set(intervals))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wanted_rate": 0.01}, "wanted_rate must be above the density 0.0484 and at most 1, got 0.01"),
        ({"wanted_rate": 1.2}, "at most 1, got 1.2"),
        ({"wanted_rate": 0.5, "min_update_every": 0}, "min_update_every must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advise(LAYERS, TRAINING, **arguments)  # type: ignore[arg-type]


def test_impossible_trainings_and_fractions_are_named() -> None:
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        Training(10, 5, 0)
    with pytest.raises(ValueError, match="batch_size must be at most num_samples=10, got 20"):
        Training(10, 20, 1, drop_last=True)
    with pytest.raises(ValueError, match=r"got 0\.6, 0\.5 and 0\.9"):
        DropFractionChoice(final=0.6)
