"""An early-bird ticket drawn in a real training: digits, convolutions with batch normalisation."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from itop import SparseEngine
from itop.methods import EarlyBird

SPARSITY = 0.75
EPOCHS, BATCH = 12, 32


@pytest.mark.parametrize("seed", [0, 1])
def test_an_early_bird_ticket_is_drawn_early_and_learns_digits(seed: int) -> None:
    torch.manual_seed(seed)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels))
    train, test = order[:1500], order[1500:]
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    steps_per_epoch = len(train) // BATCH
    total_steps = EPOCHS * steps_per_epoch
    method = EarlyBird(penalty=1e-3).for_loop(steps_per_epoch)
    engine = SparseEngine(model, optimizer, method, sparsity=SPARSITY, total_steps=total_steps, seed=seed)
    drawn = 0
    for step in range(1, total_steps + 1):
        batch = train[torch.randint(len(train), (BATCH,))]
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        if engine.density < 1.0 and drawn == 0:
            drawn = step
    assert 5 * steps_per_epoch <= drawn <= total_steps // 2, "not before five masks were compared, not later than asked"
    assert engine.density <= 1 - SPARSITY
    # Whole channels: a filter has all of its weights or none, and so has what it feeds.
    filters = engine.topology.active.to_tensor(0).flatten(1)
    assert torch.equal(filters.any(1), filters.all(1))
    model.eval()
    with torch.no_grad():
        accuracy = float((model(images[test]).argmax(1) == labels[test]).float().mean())
    # Chance is 10 %; a dense network of this size comes to 98 or 99 %.
    assert accuracy > 0.9
