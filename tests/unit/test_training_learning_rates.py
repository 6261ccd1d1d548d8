"""Learning-rate schedules at points worked out by hand."""

from __future__ import annotations

import pytest
import torch

from itop.training.learning_rates import Constant, Cosine, Milestones, WarmUp, set_learning_rate


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 1.0), (0.4999, 1.0), (0.5, 0.1), (0.7499, 0.1), (0.75, 0.01), (1.0, 0.01)]
)
def test_milestones_multiply_from_their_step_on(progress: float, factor: float) -> None:
    assert Milestones((0.5, 0.75), 0.1).factor(progress) == pytest.approx(factor)


def test_a_milestone_falls_on_its_epoch_exactly() -> None:
    steps_per_epoch, epochs = 391, 100
    schedule = Milestones((0.3, 0.6, 0.9), 0.1)
    for milestone in (30, 60, 90):
        first = milestone * steps_per_epoch
        total = epochs * steps_per_epoch
        assert schedule.factor(first / total) == pytest.approx(0.1 * schedule.factor((first - 1) / total))


def test_cosine_starts_at_one_is_half_way_at_half_and_ends_at_zero() -> None:
    assert [Cosine().factor(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_warm_up_rises_from_zero_and_then_leaves_the_schedule_alone() -> None:
    schedule = WarmUp(Constant(), 0.2)
    assert [schedule.factor(progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.9)] == pytest.approx([0, 0.25, 0.5, 1, 1])


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than the run"):
        WarmUp(Constant(), 1.0)


def test_a_rate_kept_in_a_tensor_is_changed_in_place() -> None:
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=rate, capturable=True)
    held = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == 0.25
