"""Norm of the gradient over active weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from itop.analysis import GradientFlow, GradientFlowChange, gradient_flow, gradient_flow_around, measure_gradient_flow


def test_only_active_weights_count() -> None:
    gradients = {"a": torch.tensor([3.0, 100.0, 4.0]), "b": torch.tensor([[12.0]]), "bias": torch.tensor([7.0])}
    masks = {"a": torch.tensor([True, False, True]), "b": torch.tensor([[True]])}
    flow = gradient_flow(gradients, masks)
    assert flow.layers == {"a": 5.0, "b": 12.0}
    assert flow.total == 13.0


def test_a_layer_without_active_weights_has_no_flow() -> None:
    flow = gradient_flow({"a": torch.ones(3)}, {"a": torch.zeros(3, dtype=torch.bool)})
    assert flow == GradientFlow(0.0, {"a": 0.0})


def test_measuring_gives_the_gradient_of_the_loss_and_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    masks = {"0.weight": torch.rand(4, 3) < 0.5, "3.weight": torch.ones(1, 4, dtype=torch.bool)}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()

    flow = measure_gradient_flow(model, masks, lambda: model(inputs).square().mean())

    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    model(inputs).square().mean().backward()  # the same random state, so the same dropout
    for name, layer in (("0.weight", model[0]), ("3.weight", model[3])):
        assert flow.layers[name] == pytest.approx(float((layer.weight.grad * masks[name]).norm()), rel=1e-5)


def test_flow_around_an_update_is_read_with_the_masks_of_the_time() -> None:
    layer = nn.Linear(3, 1, bias=False)
    masks = {"weight": torch.tensor([[True, False, False]])}
    inputs = torch.tensor([[1.0, 2.0, 2.0]])

    def update() -> None:
        masks["weight"] = torch.tensor([[True, True, True]])

    change = gradient_flow_around(update, layer, lambda: masks, lambda: layer(inputs).sum())
    assert (change.before.total, change.after.total, change.ratio) == (1.0, 3.0, 3.0)


def test_a_compiled_model_is_measured_under_its_own_names() -> None:
    layer = nn.Linear(3, 1, bias=False)
    compiled = torch.compile(layer, backend="eager")
    masks = {"weight": torch.tensor([[True, False, True]])}
    flow = measure_gradient_flow(compiled, masks, lambda: compiled(torch.tensor([[3.0, 1.0, 4.0]])).sum())
    assert flow.total == 5.0


def test_no_flow_before_has_no_ratio() -> None:
    nothing = GradientFlow(0.0, {})
    assert math.isnan(GradientFlowChange(nothing, nothing).ratio)


@pytest.mark.parametrize(
    ("gradients", "message"),
    [({}, "got none for a"), ({"a": torch.ones(2)}, r"gradient of a must have the mask's shape \(3,\), got \(2,\)")],
)
def test_gradients_that_do_not_fit_are_named(gradients: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_flow(gradients, {"a": torch.ones(3, dtype=torch.bool)})


def test_masks_of_no_parameter_are_named() -> None:
    with pytest.raises(ValueError, match="masks must name parameters of the model, got odd"):
        measure_gradient_flow(nn.Linear(2, 1), {"odd": torch.ones(1)}, lambda: torch.zeros(()))
