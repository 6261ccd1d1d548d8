"""Memory in proportion to the active weights: the peak of a fresh process, with generous bounds."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, resource, torch
from itop.nn import SparseLinear, TieKeys, grow_candidates_by_gradient
torch.set_num_threads(1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

small = SparseLinear(64, 64, sparsity=0.9)   # everything is loaded and compiled by now
small(torch.randn(2, 64, requires_grad=True)).sum().backward()
before = peak()
{body}
print(peak() - before)
"""

TRAIN = """
layer = SparseLinear(100_000, 100_000, sparsity=1 - 2e-4)      # 2 million of 10 billion; dense: 40 GB
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
for _ in range(2):
    layer(torch.randn(4, 100_000, requires_grad=True)).sum().backward()
    optimizer.step()
    keep = torch.rand(layer.num_active) < 0.7
    kept = layer.pattern.updated(keep, torch.empty(0, dtype=torch.int64)).pattern
    layer.update_topology(keep, kept.free_positions(int((~keep).sum()), TieKeys(1)), optimizer)
    assert layer.num_active == 2_000_000
"""

GROW = """
pattern = SparseLinear(8000, 8000, sparsity=0.99).pattern      # its dense gradient: 256 MB
chosen = grow_candidates_by_gradient(torch.randn(8, 8000), torch.randn(8, 8000), 50_000, pattern)
assert chosen.numel() == 50_000
"""


@pytest.mark.parametrize(
    ("body", "megabytes"),
    [pytest.param(TRAIN, 250, id="training-and-updates"), pytest.param(GROW, 80, id="streamed-growth")],
)
def test_the_peak_of_a_fresh_process_follows_the_active_weights(body: str, megabytes: float) -> None:
    # Two million active weights: value, gradient, momentum, index and what an update holds for a moment, 8 bytes each
    # at most, are 96 MB; the bounds leave room for allocators.
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body)], capture_output=True, text=True, check=True, timeout=120
    )
    assert float(result.stdout) < megabytes
