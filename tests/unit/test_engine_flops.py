"""The paper's FLOPs through an engine (PAPER section 4)."""

from __future__ import annotations

import math

import pytest
import torch
from engine_checks import backward, batches, small_mlp

from itop import SparseEngine
from itop.layers import find_layers
from itop.methods import METHODS
from itop.models import build_model

INPUTS = {
    "resnet50": ((3, 224, 224), 1000),
    "vgg-c": ((3, 32, 32), 10),
    "resnet34": ((3, 32, 32), 100),
    "mlp": ((3, 32, 32), 10),
}


@pytest.mark.parametrize(
    ("name", "dense", "rows"),
    [
        ("mlp", 7.35e6, [(0.1, 0.100, None), (0.05, 0.050, None), (0.02, 0.020, None)]),
        ("vgg-c", 0.622e9, [(0.1, 0.1650, 0.1051), (0.05, 0.0849, 0.0554), (0.02, 0.0357, 0.0256)]),
        ("resnet34", 2.319e9, [(0.1, 0.2122, 0.1014), (0.05, 0.1056, 0.0514), (0.02, 0.0432, 0.0215)]),
        ("resnet50", 8.178e9, [(0.2, 0.4138, 0.2231), (0.1, 0.2418, 0.1260), (0.05, 0.1217, 0.0774)]),
    ],
)
def test_forward_flops_of_the_papers_networks(
    name: str, dense: float, rows: list[tuple[float, float, float | None]]
) -> None:
    shape, classes = INPUTS[name]
    model = build_model(name, num_classes=classes, input_shape=shape).eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    image = torch.zeros(1, *shape)
    first, *others = [(layer.name, math.prod(layer.shape)) for layer in find_layers(model)]
    numel = first[1] + sum(size for _, size in others)
    for density, erk, uniform in rows:
        # The column "uniform" keeps every other layer at d, so that the whole network is a little denser than d.
        sparsities = {first[0]: 0.0, **{name: 1 - density for name, _ in others}}
        overall = 1 - (first[1] + sum(round(density * size) for _, size in others)) / numel
        for allocation, sparsity, factor in (("erk", 1 - density, erk), (sparsities, overall, uniform)):
            if factor is None:
                continue
            engine = SparseEngine(model, optimizer, "static", sparsity=sparsity, allocation=allocation)
            flops = engine.flops(image)
            engine.detach()
            digits = 3 if name == "mlp" else 4
            assert flops.forward_factor == pytest.approx(factor, abs=0.6 * 10**-digits)
            assert flops.training_factor == pytest.approx(flops.forward_factor)
    assert flops.forward_dense == pytest.approx(dense, rel=1e-3)
    assert flops.training_dense == 3 * flops.forward_dense


def test_training_flops_follow_the_methods_own_account() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sample = torch.zeros(1, 9)
    for preset, interval in (("rigl", 100), ("rigl-itop", 4000), ("set-itop", None), ("dense", None)):
        options = {} if interval is None else {"update_every": interval}
        engine = SparseEngine(model, optimizer, METHODS[preset](**options), sparsity=0.9, total_steps=10_000)
        flops = engine.flops(sample)
        engine.detach()
        f_s, f_d = flops.forward, flops.forward_dense
        assert f_d == 2 * (9 * 13 + 13 * 7)
        if preset == "dense":
            assert flops.training == 3 * f_d
        elif interval is None:
            assert flops.training == pytest.approx(3 * f_s)
        else:
            assert flops.training == pytest.approx((3 * f_s * interval + 2 * f_s + f_d) / (interval + 1))


def test_an_engine_knows_the_input_once_a_batch_went_through() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = SparseEngine(model, optimizer, "static", sparsity=0.5)
    backward(model, next(batches()))
    assert engine.flops().forward_dense == 2 * (9 * 13 + 13 * 7)
    assert engine.flops() == engine.flops(torch.zeros(3, 9))
    assert not model._forward_pre_hooks
