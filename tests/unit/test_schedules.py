"""When the topology is updated and how much of it, worked by hand."""

from __future__ import annotations

import math

import pytest

from itop.methods import METHODS
from itop.schedules import ConstantDropFraction, CosineDropFraction, Every, Never


def test_updates_come_every_interval_from_the_first_full_one() -> None:
    assert list(Every(3).update_steps(10)) == [3, 6, 9]
    assert list(Every(1).update_steps(3)) == [1, 2, 3]
    assert list(Every(20).update_steps(10)) == []
    assert list(Never().update_steps(10)) == []


def test_the_last_step_may_be_left_out() -> None:
    assert list(Every(5, last_step=False).update_steps(10)) == [5]
    assert list(Every(5, last_step=False).update_steps(11)) == [5, 10]


def test_updates_stop_before_their_end() -> None:
    assert list(Every(100, until=0.75).update_steps(1000)) == [100, 200, 300, 400, 500, 600, 700]
    assert list(Every(250, until=0.75).update_steps(1000)) == [250, 500]


def test_without_a_horizon_updates_go_on() -> None:
    assert Every(5).is_update_step(5_000_000, None)
    assert not Every(5).needs_total_steps
    assert Every(5, until=0.5).needs_total_steps


def test_the_cosine_goes_from_initial_to_final_over_its_horizon() -> None:
    fraction = CosineDropFraction(0.5, 0.005)
    assert fraction(0, 1000) == 0.5
    assert fraction(500, 1000) == pytest.approx(0.2525)
    assert fraction(250, 1000) == pytest.approx(0.005 + 0.2475 * (1 + math.sqrt(0.5)))
    assert fraction(1000, 1000) == 0.005
    assert fraction(2000, 1000) == 0.005
    until = CosineDropFraction(0.3, until=0.75)
    assert until(375, 1000) == pytest.approx(0.15)
    assert until(750, 1000) == until(900, 1000) == 0.0


def test_a_constant_fraction_is_constant() -> None:
    assert ConstantDropFraction(0.3)(1, None) == ConstantDropFraction(0.3)(10**9, 10) == 0.3


@pytest.mark.parametrize(
    ("preset", "interval", "first", "last"),
    [("set-itop", 1500, 0.5, 0.005), ("rigl-itop", 4000, 0.5, 0.005), ("rigl", 100, 0.3, 0.0)],
)
def test_presets_have_the_papers_schedules(preset: str, interval: int, first: float, last: float) -> None:
    method = METHODS[preset]()
    steps = list(method.schedule.update_steps(20_000))
    assert steps[:2] == [interval, 2 * interval]
    assert (steps[-1] < 15_000) == (preset == "rigl")
    assert method.drop_fraction(0, 20_000) == first  # type: ignore[attr-defined]
    assert method.drop_fraction(20_000, 20_000) == last  # type: ignore[attr-defined]


def test_set_updates_each_epoch_but_not_after_the_last() -> None:
    method = METHODS["set"]().for_loop(steps_per_epoch=10)
    assert list(method.schedule.update_steps(30)) == [10, 20]
    assert method.drop_fraction(7, 30) == 0.3  # type: ignore[attr-defined]
