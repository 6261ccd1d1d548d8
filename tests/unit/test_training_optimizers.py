"""The optimiser of a run: its groups and their rates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from itop.methods import METHODS
from itop.models import build_model
from itop.nn import sparsify
from itop.training.config import RunConfig
from itop.training.learning_rates import set_learning_rate
from itop.training.optimizers import build_optimizer


def rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    of_parameter = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of_parameter[id(parameter)] for name, parameter in model.named_parameters()}


def model_and_config(**changes: object) -> tuple[nn.Module, RunConfig]:
    config = RunConfig(model="mlp:200,100", learning_rate=0.1, sparsity=0.5, allocation="uniform").replace(**changes)
    return build_model(config.model, num_classes=10, input_shape=(1, 8, 8)), config


def test_layers_of_many_active_inputs_learn_slower_in_proportion() -> None:
    model, config = model_and_config(lr_fan_in=25.0)
    optimizer = build_optimizer(config, model, METHODS["set"]())
    # 64, 200 and 100 inputs, half of them active.
    assert rates(model, optimizer) == pytest.approx(
        {
            "fc1.weight": 0.1 * 25 / 32,
            "fc1.bias": 0.1,
            "fc2.weight": 0.1 * 25 / 100,
            "fc2.bias": 0.1,
            "fc3.weight": 0.1 * 25 / 50,
            "fc3.bias": 0.1,
        },
        rel=1e-2,
    )
    set_learning_rate(optimizer, 0.02)
    assert rates(model, optimizer)["fc2.weight"] == pytest.approx(0.02 * 25 / 100, rel=1e-2)
    assert rates(model, optimizer)["fc2.bias"] == 0.02


def test_both_executions_learn_at_the_same_rates() -> None:
    model, config = model_and_config(lr_fan_in=25.0)
    masked = rates(model, build_optimizer(config, model, METHODS["set"]()))
    sparsify(model, {name: torch.rand(p.shape) < 0.5 for name, p in model.named_parameters() if p.dim() == 2},
             memory_demands_it=True)  # fmt: skip
    sparse = rates(model, build_optimizer(config, model, METHODS["set"]()))
    assert {name.replace("values", "weight"): rate for name, rate in sparse.items()} == masked


def test_without_a_fan_in_there_is_one_rate() -> None:
    model, config = model_and_config()
    optimizer = build_optimizer(config, model, METHODS["set"]())
    assert set(rates(model, optimizer).values()) == {0.1}
    assert len(optimizer.param_groups) == 1


def test_vectors_that_do_not_decay_are_in_a_group_without_decay() -> None:
    model, config = model_and_config(lr_fan_in=40.0, decay_vectors=False, weight_decay=0.01)
    optimizer = build_optimizer(config, model, METHODS["set"]())
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decays[id(p)] for name, p in model.named_parameters()} == {
        name: 0.0 if name.endswith("bias") else 0.01 for name, _ in model.named_parameters()
    }
