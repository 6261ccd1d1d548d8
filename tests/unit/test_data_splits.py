"""Validation samples are held out exactly, class by class, and never trained on."""

from __future__ import annotations

import numpy as np
import pytest

from itop.data import DataSetError, Holdout
from itop.data.randomness import Purpose, random_order


def test_every_class_gives_its_exact_share() -> None:
    labels = np.repeat(np.arange(3), [10, 20, 30])
    kept, held_out = Holdout(fraction=0.1).split(labels)
    assert np.bincount(labels[held_out]).tolist() == [1, 2, 3]
    assert np.bincount(labels[kept]).tolist() == [9, 18, 27]
    assert sorted([*kept, *held_out]) == list(range(60))


def test_shares_that_are_no_integers_go_to_the_largest_remainders() -> None:
    # 7 of 20: exact shares 1.05, 2.45, 3.5; the whole parts sum to 6, the seventh goes to the remainder 0.5.
    labels = np.repeat(np.arange(3), [3, 7, 10])
    _, held_out = Holdout(size=7).split(labels)
    assert np.bincount(labels[held_out]).tolist() == [1, 2, 4]


def test_equal_remainders_go_to_the_lower_class() -> None:
    labels = np.repeat(np.arange(4), 5)
    _, held_out = Holdout(size=6).split(labels)
    assert np.bincount(labels[held_out]).tolist() == [2, 2, 1, 1]


def test_a_class_keeps_its_last_sample() -> None:
    labels = np.array([0, 1, 1, 1, 1])
    kept, _ = Holdout(size=3).split(labels)
    assert np.bincount(labels[kept]).tolist() == [1, 1]


def test_the_seed_decides_which_samples_and_nothing_else_does() -> None:
    labels = np.arange(200) % 4
    first, again, other = (Holdout(fraction=0.25, seed=seed).split(labels)[1] for seed in (7, 7, 8))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_the_split_and_the_order_of_a_seed_are_pinned_for_all_time() -> None:
    _, held_out = Holdout(size=4, seed=1).split(np.arange(12) % 2)
    assert held_out.tolist() == [5, 8, 10, 11]
    assert random_order(6, Purpose.ORDER, seed=1, epoch=2).tolist() == [4, 2, 0, 1, 5, 3]


def test_a_fraction_of_nothing_holds_nothing_out_and_any_other_at_least_one() -> None:
    labels = np.array([0, 0, 1, 1])
    assert len(Holdout(fraction=0.0).split(labels)[1]) == 0
    assert len(Holdout(fraction=0.01).split(labels)[1]) == 1


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"validation_fraction must be in \[0, 1\), got"):
        Holdout(fraction=fraction)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="validation_size must be at least 0, got -1"):
        Holdout(size=-1)


def test_holding_out_a_whole_class_is_refused() -> None:
    with pytest.raises(
        DataSetError, match="holding 3 of 4 training images out leaves one of the 2 classes without any"
    ):
        Holdout(size=3).split(np.array([0, 0, 1, 1]))
