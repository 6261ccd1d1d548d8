"""Numbers over seeds."""

from __future__ import annotations

from typing import Any

import pytest

from itop.training.summary import Spread, summarise_method


def run(seed: int, accuracy: float, rate: float, flops: float | None = 0.1) -> dict[str, Any]:
    return {
        "method": "set-itop",
        "target_sparsity": 0.9,
        "seeds": [seed],
        "test_accuracy": Spread((accuracy,)).to_dict(),
        "test_loss": Spread((1.0,)).to_dict(),
        "test_accuracy_of_best": None,
        "sparsity": 0.9,
        "exploration_rate": rate,
        "reliable_rate": 0.2,
        "num_updates": 10,
        "steps": 100,
        "train_flops_ratio": flops,
        "test_flops_ratio": flops,
        "seconds": 2.0,
        "environment": {"torch": "x"},
    }


def test_the_deviation_is_that_of_a_sample() -> None:
    assert Spread((0.9, 0.8, 0.7)).to_dict() == {
        "mean": pytest.approx(0.8),
        "std": pytest.approx(0.1),
        "values": [0.9, 0.8, 0.7],
    }


def test_one_run_has_no_deviation() -> None:
    assert Spread((0.9,)).std == 0.0


def test_a_method_keeps_each_seeds_accuracy_and_the_mean_of_its_rates() -> None:
    summary = summarise_method([run(0, 0.9, 0.5), run(1, 0.7, 0.7)])
    assert summary["seeds"] == [0, 1]
    assert summary["test_accuracy"]["values"] == [0.9, 0.7]
    assert summary["exploration_rate"] == pytest.approx(0.6)
    assert summary["test_accuracy_of_best"] is None


def test_an_unknown_figure_stays_unknown() -> None:
    assert summarise_method([run(0, 0.9, 0.5, flops=None)])["train_flops_ratio"] is None
