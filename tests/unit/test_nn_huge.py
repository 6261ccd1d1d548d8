"""A layer of 10^12 positions: exact counts, uniform choice, memory in proportion to what is active."""

from __future__ import annotations

import math
import subprocess
import sys

import torch
from torch import nn

from itop import SparseEngine
from itop.nn import SparseLinear, SparsePattern, TieKeys
from itop.nn.position_set import CompressedPositions, PositionSet

SIDE = 1_000_000


def chi_squared(positions: torch.Tensor, numel: int, num_bins: int) -> float:
    """Of the positions' numbers in equal bins, in standard deviations from what is expected of a uniform choice."""
    counts = torch.histc(positions.double() / numel, num_bins, 0.0, 1.0)
    expected = positions.numel() / num_bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (num_bins - 1)) / math.sqrt(2 * (num_bins - 1))


def test_positions_beyond_64_thousand_million_are_drawn_exactly_and_uniformly() -> None:
    pattern = SparsePattern.random((SIDE, SIDE), 200_000, TieKeys(1))
    positions = pattern.positions()
    assert positions.numel() == positions.unique().numel() == 200_000
    assert int(positions[0]) >= 0
    assert int(positions[-1]) < SIDE * SIDE
    # Rows, and columns: neither half of an index may be drawn unevenly.
    assert abs(chi_squared(positions, SIDE * SIDE, 512)) < 5
    assert abs(chi_squared(positions % SIDE, SIDE, 512)) < 5
    grown = pattern.free_positions(100_000, TieKeys(2))
    assert grown.unique().numel() == 100_000
    assert not torch.isin(grown, positions).any()
    assert abs(chi_squared(grown, SIDE * SIDE, 512)) < 5
    assert torch.equal(grown, pattern.free_positions(100_000, TieKeys(2)))
    assert not torch.equal(grown, pattern.free_positions(100_000, TieKeys(3)))


def test_growth_avoids_what_is_taken_where_little_is_free() -> None:
    # 70,000 x 70,000 are beyond 2^32 positions: a first row that is all but full must still be ranked right.
    side = 70_000
    columns = torch.arange(side, dtype=torch.int32)
    columns = columns[columns % 1000 != 7]
    pointers = torch.full((side + 1,), columns.numel(), dtype=torch.int64)
    pointers[0] = 0
    pattern = SparsePattern((side, side), pointers, columns)
    grown = pattern.free_positions(2_000_000, TieKeys(5))
    assert grown.unique().numel() == 2_000_000
    assert not torch.isin(grown, pattern.positions()).any()
    assert abs(chi_squared(grown, side * side, 256)) < 5


def test_explored_and_reliable_are_exact_beside_a_set_of_indices() -> None:
    sparsity = 1 - 2e-8  # 20,000 of 10^12
    model = nn.Sequential(SparseLinear(SIDE, SIDE, bias=False, sparsity=sparsity))
    engine = SparseEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        "set-itop",
        sparsity=sparsity,
        allocation="uniform",
        total_steps=100,
    )
    layer = model[0]
    explored = set(layer.pattern.positions().tolist())
    reliable: set[int] = set()
    for _ in range(3):
        before = set(layer.pattern.positions().tolist())
        report = engine.update()
        assert report is not None
        after = set(layer.pattern.positions().tolist())
        assert len(after) == layer.num_active == 20_000
        explored |= after
        reliable |= before & after
        (entry,) = engine.layers
        assert (entry.num_active, entry.num_explored) == (20_000, len(explored))
        assert entry.num_reliable >= len(reliable)
        assert engine.exploration_rate == len(explored) / SIDE**2
    # 24 bytes a row of pointers; a member of a set costs six bytes where it is alone in its stretch.
    assert engine.num_topology_bytes() < 40 * SIDE


def test_a_set_of_scattered_positions_costs_bytes_of_its_members() -> None:
    pattern = SparsePattern.random((SIDE, SIDE), 100_000, TieKeys(4))
    positions = CompressedPositions((SIDE, SIDE))
    positions.insert(PositionSet.of(pattern))
    assert positions.count == 100_000
    assert positions.num_bytes < 6 * 100_000 + (1 << 20)
    back = CompressedPositions.from_bytes((SIDE, SIDE), positions.to_bytes())
    assert back.to_set() == PositionSet.of(pattern)


SCRIPT = f"""
import resource, torch
from itop import SparseEngine
from itop.nn import SparseLinear
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = SparseLinear(64, 64, sparsity=0.9)
engine = SparseEngine(torch.nn.Sequential(small), torch.optim.SGD(small.parameters(), lr=0.1), "set", sparsity=0.9)
engine.update()
before = peak()
model = torch.nn.Sequential(SparseLinear({SIDE}, {SIDE}, bias=False, sparsity=1 - 1e-6))
engine = SparseEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), "set", sparsity=1 - 1e-6,
                      allocation="uniform")
for _ in range(2):
    model(torch.randn(1, {SIDE})).sum().backward()
    engine.optimizer.step()
    engine.update()
assert engine.layers[0].num_active == 1_000_000
print(peak() - before)
"""


def test_a_million_weights_of_a_million_million_train_in_memory_of_a_million() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=240)
    # A million values, positions, gradients and what an update holds for a moment; one bit a weight would be 125,000 MB.
    assert float(result.stdout) < 400
