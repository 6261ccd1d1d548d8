"""The theory drawn in a report follows the drops a run really made."""

from __future__ import annotations

import pytest

from itop.training.records import LayerUpdate, UpdateRecord
from itop.training.theory import expected_exploration_of


def update(number: int, **grown: int) -> UpdateRecord:
    layers = {name: LayerUpdate(100, 0.2, 0.3, 0.1, count, count) for name, count in grown.items()}
    return UpdateRecord(number, 10 * number, 0.2, 0.3, 0.1, 0, 0, layers)


def test_random_growth_leaves_each_unexplored_site_out_by_chance() -> None:
    # 100 weights, 20 active: 80 unexplored. Ten drawn of 80 + 10 candidates leave 80 * 8/9, then 80 * (8/9)^2.
    expected = expected_exploration_of([update(1, fc1=10), update(2, fc1=10)])
    assert expected is not None
    assert expected.steps == (0, 10, 20)
    assert expected.random_growth == pytest.approx([0.2, 1 - 0.8 * 8 / 9, 1 - 0.8 * 64 / 81])
    assert expected.bound == pytest.approx([0.2, 0.3, 0.4])


def test_layers_are_weighted_by_their_size() -> None:
    expected = expected_exploration_of([update(1, fc1=10, fc2=0)])
    assert expected is not None
    assert expected.bound == pytest.approx([0.2, 0.25])


def test_nothing_is_claimed_without_updates_or_where_densities_move() -> None:
    moving = UpdateRecord(1, 10, 0.2, 0.3, 0.1, 5, 3, {"fc1": LayerUpdate(100, 0.2, 0.3, 0.1, 5, 3)})
    assert expected_exploration_of([]) is None
    assert expected_exploration_of([moving]) is None
