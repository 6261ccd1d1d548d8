"""Truly sparse modules under data parallelism: their values are parameters like any others while the topology rests."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itop import SparseEngine
from itop.nn import SparseConv2d, SparseLinear
from rank_pool import RankPool


def make_model() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        SparseConv2d(2, 6, 3, padding=1, sparsity=0.5, seed=1),
        nn.ReLU(),
        nn.Flatten(),
        SparseLinear(6 * 36, 20, sparsity=0.8, seed=2),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


def train(model: nn.Module, share: slice) -> list[Tensor]:
    """Three steps; every rank sees its share of each batch of eight."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        images = torch.randn(8, 2, 6, 6, generator=generator)[share]
        labels = torch.randint(4, (8,), generator=generator)[share]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def train_rank() -> list[Tensor]:
    model = nn.parallel.DistributedDataParallel(make_model())
    return train(model, slice(dist.get_rank(), None, dist.get_world_size()))


def test_two_processes_learn_what_one_does(ranks: RankPool) -> None:
    first, second = ranks.run(train_rank)
    expected = train(make_model(), slice(None))
    for one, other, alone in zip(first, second, expected, strict=True):
        assert torch.equal(one, other)
        # Means over halves of a batch are summed in another order.
        torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-6)


def attach() -> None:
    model = nn.parallel.DistributedDataParallel(make_model())
    SparseEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), "set", sparsity=0.8)


def test_a_topology_that_moves_is_refused_on_every_rank(ranks: RankPool) -> None:
    for message in ranks.errors(attach):
        assert "truly sparse layers train in one process" in message
