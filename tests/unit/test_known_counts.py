"""Counts that follow from how a set was made are not asked of the device, where each question would be a wait."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from itop import SparseEngine, _core


def make_engine(method: str) -> tuple[nn.Module, SparseEngine]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, SparseEngine(model, optimizer, method, sparsity=0.7, total_steps=100, seed=1)


@pytest.mark.parametrize("method", ["set-itop", "rigl-itop", "rigl"])
def test_an_update_asks_for_no_count_but_the_commits(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = make_engine(method)
    model(torch.randn(8, 30)).square().sum().backward()
    asked = []
    count = _core.BitSets.count

    def counted(self: _core.BitSets, stream: int) -> list[int]:
        asked.append(stream)
        return count(self, stream)

    monkeypatch.setattr(_core.BitSets, "count", counted)
    report = engine.update()
    assert report is not None
    assert report.dropped > 0
    assert asked == []
    assert engine.topology.active.counts() == engine.topology.num_active
    assert len(asked) == 1


def test_known_counts_are_those_of_the_bits() -> None:
    _, engine = make_engine("set-itop")
    topology = engine.topology
    for k in ([5, 7], [10_000, 0], [-3, 10_000]):
        chosen = topology.select(topology.active, k)
        assert chosen.counts() == chosen.native.count(0)
        free = topology.select(~topology.active, k)
        assert free.counts() == free.native.count(0)
