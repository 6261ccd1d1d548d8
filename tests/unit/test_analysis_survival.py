"""Survival of grown weights and churn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itop.analysis import PackedMask, SurvivalTracker, TopologyChange, churn, packed_churn, survival_curve


def sites(*indices: int, numel: int = 70) -> PackedMask:
    mask = torch.zeros(numel, dtype=torch.bool)
    mask[list(indices)] = True
    return PackedMask.pack(mask)


def change(step: int, dropped: tuple[int, ...], grown: tuple[int, ...]) -> TopologyChange:
    return TopologyChange(step, {"w": sites(*dropped)}, {"w": sites(*grown)})


HISTORY = (
    change(10, (0, 1, 2, 3), (64, 65, 66, 67)),
    change(20, (64,), (0,)),  # 64 lived 10 steps
    change(30, (65, 0), (1, 2)),  # 65 lived 20, 0 lived 10
)


def test_the_curve_is_the_product_limit_estimate() -> None:
    curve = survival_curve(HISTORY, end_step=40)
    # Lives: 10, 10, 20 ended; 66 and 67 seen for 30, 1 and 2 for 10 steps. At risk at 10: all 7; at 20: 65, 66, 67.
    assert curve.ages.tolist() == [10, 20]
    assert curve.num_at_risk.tolist() == [7, 3]
    assert curve.num_dropped.tolist() == [2, 1]
    assert curve.survival.tolist() == pytest.approx([5 / 7, 5 / 7 * 2 / 3])
    greenwood = [2 / (7 * 5), 2 / (7 * 5) + 1 / (3 * 2)]
    assert curve.standard_error.tolist() == pytest.approx(list(curve.survival * np.sqrt(greenwood)))
    assert [curve.survival_at(age) for age in (0, 9, 10, 19, 20, 99)] == pytest.approx(
        [1, 1, 5 / 7, 5 / 7, 10 / 21, 10 / 21]
    )


def test_by_default_the_last_update_is_the_end() -> None:
    curve = survival_curve(iter(HISTORY))
    # 1 and 2 were just grown and are at risk nowhere.
    assert curve.num_at_risk.tolist() == [5, 3]


def test_regrowth_by_the_same_update_ends_one_life_and_begins_another() -> None:
    curve = survival_curve([change(1, (), (5,)), change(4, (5,), (5,)), change(5, (5,), ())])
    assert curve.ages.tolist() == [1, 3]
    assert curve.num_at_risk.tolist() == [2, 1]
    assert curve.survival.tolist() == [0.5, 0.0]
    assert curve.standard_error[-1] == 0.0


def test_layers_are_pooled_and_layers_may_be_absent_from_a_change() -> None:
    tracker = SurvivalTracker()
    tracker.record(TopologyChange(1, {}, {"a": sites(1), "b": sites(2)}))
    tracker.record(TopologyChange(3, {"b": sites(2)}, {}))
    assert tracker.curve(end_step=3).survival.tolist() == [0.5]


def test_dropped_weights_of_the_initial_topology_are_not_counted() -> None:
    curve = survival_curve([change(1, (0,), (1,)), change(2, (2,), (0,))])
    assert len(curve.ages) == 0
    assert curve.survival_at(100) == 1.0


def test_memory_follows_the_grown_weights_that_live() -> None:
    tracker = SurvivalTracker()
    for step in range(1, 200):
        tracker.record(change(step, (step % 2,) if step > 1 else (), (1 - step % 2,)))
    assert sum(array.nbytes for array in (*tracker._sites.values(), *tracker._births.values())) <= 24


def test_histories_that_cannot_be_are_refused() -> None:
    tracker = SurvivalTracker()
    tracker.record(change(5, (), (1,)))
    with pytest.raises(ValueError, match="step must be after 5, got 5"):
        tracker.record(change(5, (), ()))
    with pytest.raises(ValueError, match="grown weights of w must have been inactive"):
        tracker.record(change(6, (), (1,)))
    with pytest.raises(ValueError, match="end_step must be at least 5, got 4"):
        tracker.curve(end_step=4)


def test_churn_counts_dropped_and_grown() -> None:
    before = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([True])}
    after = {"b": torch.tensor([True]), "a": torch.tensor([True, False, True, False])}
    assert churn(before, after) == {"a": 2, "b": 0}
    packed = [{name: PackedMask.pack(mask) for name, mask in masks.items()} for masks in (before, after)]
    assert packed_churn(*packed) == {"a": 2, "b": 0}


class OnAnotherDevice:
    """A tensor that was loaded onto a GPU, as far as NumPy is concerned."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def cpu(self) -> torch.Tensor:
        return self._tensor

    def numpy(self) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_a_state_goes_on_from_whatever_device_a_checkpoint_was_loaded_to() -> None:
    tracker, resumed = SurvivalTracker(), SurvivalTracker()
    for one in HISTORY[:2]:
        tracker.record(one)
    state = tracker.state_dict()
    for name in ("sites", "births"):
        state[name] = {layer: OnAnotherDevice(tensor) for layer, tensor in state[name].items()}
    resumed.load_state_dict(state)
    for one in (tracker, resumed):
        one.record(HISTORY[2])
    assert resumed.curve(40).survival.tolist() == tracker.curve(40).survival.tolist()
