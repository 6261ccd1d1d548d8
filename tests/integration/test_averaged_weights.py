"""Training with SNT-ASGD: told of validations, averages the weights, and ends with the averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import StopAt, final_state

from itop.training.config import RunConfig
from itop.training.interruption import Interrupted
from itop.training.loop import train_run
from itop.training.recipes import RECIPES

CONFIG = RECIPES["digits"].config.replace(
    method="selfish-rnn",
    method_options={"update_every": 40},
    model="mlp:24",
    epochs=14,
    optimizer="snt-asgd",
    learning_rate=2.0,
    lr_schedule="constant",
    train_fraction=0.5,
    probes=0,
)
"""At a rate so large that validation soon improves no more."""


def test_the_finished_network_is_that_of_the_averages(tmp_path: Path) -> None:
    summary = train_run(CONFIG, tmp_path)
    saved = final_state(tmp_path)
    (group,) = saved["optimizer"]["param_groups"]
    assert group["averages"], "validation stopped improving"
    assert len(saved["optimizer"]["history"]) == CONFIG.epochs
    for index, name in zip(group["params"], saved["model"], strict=True):
        state = saved["optimizer"]["state"][index]
        counted = state["count"] > 0
        assert counted.any()
        assert torch.equal(saved["model"][name][counted], state["average"][counted])
    weights = [value for name, value in saved["model"].items() if name.endswith("weight")]
    density = sum(int((weight != 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert density <= 1.0 - CONFIG.sparsity + 1e-3
    assert summary["test_accuracy"]["mean"] > 0.5


def test_averaging_goes_on_bit_for_bit_after_an_interruption(tmp_path: Path) -> None:
    train_run(CONFIG, tmp_path / "whole")
    steps = final_state(tmp_path / "whole")["engine"]["steps"]
    watcher = StopAt(round(0.9 * steps))
    with pytest.raises(Interrupted):
        train_run(CONFIG, tmp_path / "part", observer=watcher, stop=watcher.request)
    assert final_state(tmp_path / "part")["optimizer"]["param_groups"][0]["averages"]
    train_run(CONFIG, tmp_path / "part", resume=True)
    whole, part = final_state(tmp_path / "whole"), final_state(tmp_path / "part")
    for name, value in whole["model"].items():
        assert torch.equal(value, part["model"][name])
    assert whole["optimizer"]["history"] == part["optimizer"]["history"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"validation_fraction": 0.0},
            "'snt-asgd' averages once validation improves no more: validation_fraction must",
        ),
        ({"method": "str", "method_options": {}}, "'snt-asgd' would average the hidden weights of method 'str'"),
    ],
)
def test_averages_that_would_mean_nothing_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config: RunConfig = CONFIG.replace(**changes)
    with pytest.raises(ValueError, match=message):
        train_run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
