"""Sets of positions, and what the truly sparse execution refuses, counts and keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from itop import SparseEngine
from itop.nn import SparseLinear
from itop.nn.position_set import CompressedPositions, PositionSet


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(9, 7, generator=generator) < 0.3, torch.rand(9, 7, generator=generator) < 0.5


def test_sets_and_their_complements_combine_as_masks_do() -> None:
    one, two = masks()
    a, b = PositionSet.from_mask(one), PositionSet.from_mask(two)
    for x, mask_x in ((a, one), (~a, ~one)):
        for y, mask_y in ((b, two), (~b, ~two)):
            assert torch.equal((x & y).to_mask(), mask_x & mask_y)
            assert torch.equal((x | y).to_mask(), mask_x | mask_y)
            assert torch.equal((x - y).to_mask(), mask_x & ~mask_y)
            assert torch.equal((x ^ y).to_mask(), mask_x ^ mask_y)
            assert (x & y).count == int((mask_x & mask_y).sum())
    assert (~a).listed() == PositionSet.from_mask(~one)
    assert PositionSet.from_indices((9, 7), a.indices()) == a


def test_a_compressed_set_counts_what_is_new_and_comes_back_from_its_bytes() -> None:
    one, two = masks()
    explored = CompressedPositions((9, 7))
    assert explored.insert(PositionSet.from_mask(one)) == int(one.sum())
    assert explored.insert(PositionSet.from_mask(two)) == int((two & ~one).sum())
    back = CompressedPositions.from_bytes((9, 7), explored.to_bytes())
    assert torch.equal(back.to_set().to_mask(), one | two)
    with pytest.raises(ValueError, match="no set of positions"):
        CompressedPositions.from_bytes((9, 7), explored.to_bytes()[:-1])


def network() -> nn.Module:
    return nn.Sequential(SparseLinear(30, 40, sparsity=0.5), nn.ReLU(), SparseLinear(40, 4, sparsity=0.5))


@pytest.mark.parametrize("method", ["mest", "deep-r", "granet", "swat", "dense"])
def test_a_method_that_looks_at_inactive_weights_is_refused_in_one_sentence(method: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=r"truly sparse|not hold"):
        SparseEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), method, total_steps=10)


def test_the_engine_gives_the_layers_the_density_it_was_asked_for() -> None:
    model = network()
    engine = SparseEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), "set", sparsity=0.9)
    assert [layer.name for layer in engine.layers] == ["0.weight", "2.weight"]
    assert engine.density == pytest.approx(0.1, abs=1e-3)
    assert model[0].values.abs().min() > 0  # weights that were not held so far are drawn, not zero


def test_state_of_an_optimiser_follows_its_weights_and_is_zero_where_they_are_new() -> None:
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    engine = SparseEngine(model, optimizer, "set", sparsity=0.8)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 30)).square().sum().backward()
        optimizer.step()
    layer = model[0]
    before = dict(
        zip(layer.pattern.positions().tolist(), optimizer.state[layer.values]["exp_avg"].tolist(), strict=True)
    )
    held = dict(zip(layer.pattern.positions().tolist(), layer.values.tolist(), strict=True))
    assert engine.update() is not None
    state = optimizer.state[layer.values]
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == layer.values.shape
    moved = 0
    for position, value, moment in zip(
        layer.pattern.positions().tolist(), layer.values.tolist(), state["exp_avg"].tolist(), strict=True
    ):
        if value != 0.0:
            assert (value, moment) == (held[position], before[position])
            moved += 1
        else:
            assert moment == 0.0
    assert 0 < moved < len(held)


def test_growth_in_a_matrix_that_nobody_could_enumerate_keeps_counts_exact() -> None:
    model = nn.Sequential(SparseLinear(200_000, 200_000, bias=False, sparsity=1 - 2.5e-7))
    engine = SparseEngine(
        model, torch.optim.SGD(model.parameters(), lr=0.1), "set", sparsity=1 - 2.5e-7, allocation="uniform"
    )
    report = engine.update()
    assert report is not None
    (layer,) = engine.layers
    assert layer.num_active == 10_000
    assert report.dropped == report.grown == 3000
    assert layer.num_explored >= 13_000 - 10  # two draws of 10^4 among 4 * 10^10 hardly ever meet
    assert engine.num_topology_bytes() < 1 << 28
