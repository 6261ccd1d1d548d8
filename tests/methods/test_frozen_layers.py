"""A layer that is frozen on the way: training goes on without it, whatever the method."""

from __future__ import annotations

import math

import pytest
import torch
from tests.methods.test_every_method import assert_zeros_are_exact, target_count
from tests.methods.workbench import TOTAL_STEPS, Run

from itop.methods import METHODS, PRESETS, Density

REWINDING = ("imp", "lth")
"""They take every weight back, frozen or not."""


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_frozen_on_the_way_keeps_its_weights_and_the_others_train_on(name: str) -> None:
    run = Run(name).train(10)
    frozen, free = run.model.fc1.weight.requires_grad_(False), run.model.fc2.weight
    before, active, others = frozen.detach().clone(), run.engine.mask("fc1.weight"), free.detach().clone()
    run.train(TOTAL_STEPS - 10, assert_zeros_are_exact)
    assert all(math.isfinite(loss) for loss in run.losses)
    assert not torch.equal(free, others)
    if PRESETS[name].density in (Density.CONSTANT, Density.FINAL):
        assert sum(layer.num_active for layer in run.engine.layers) == target_count(run)
    if (
        name not in REWINDING
        and not run.engine.hides_weights
        and PRESETS[name].family.value != "trained masks and thresholds"
    ):
        kept = active & run.engine.mask("fc1.weight")
        if name != "obs":  # what goes is compensated for, frozen or not
            assert torch.equal(frozen[kept], before[kept])
