"""Every preset on networks of other kinds: grouped and depthwise convolutions, attention, layers of a few weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tests.methods.workbench import OPTIMIZERS, short
from torch import Tensor, nn

from itop import SparseEngine
from itop.methods import METHODS, PRESETS, Density

TOTAL_STEPS = 16


class Grouped(nn.Module):
    """Depthwise, pointwise and grouped convolutions with batch normalisation; two linear layers of a few weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.pointwise = nn.Conv2d(12, 18, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(18)
        self.grouped = nn.Conv2d(18, 18, 3, padding=1, groups=3)
        self.norm4 = nn.BatchNorm2d(18)
        self.narrow = nn.Linear(18, 3)
        self.out = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.norm1(self.stem(images)))
        features = F.relu(self.norm2(self.depthwise(features)))
        features = F.relu(self.norm3(self.pointwise(features)))
        features = features + F.relu(self.norm4(self.grouped(features)))
        return self.out(torch.tanh(self.narrow(features.mean((2, 3)))))


class Attention(nn.Module):
    """Two blocks of a transformer; the last layer sees one vector a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(6, 20)
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(20, 4, 33, dropout=0.0, batch_first=True) for _ in range(2))
        )
        self.out = nn.Linear(20, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.blocks(self.embedding(tokens)).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "grouped": (Grouped, (3, 6, 6)),
    "attention": (Attention, (7, 6)),
}

REFUSED = {
    ("swat", "attention"): r"linear and convolution layers only; exclude 'blocks\.0\.self_attn\.in_proj_weight'",
    ("early-bird", "attention"): "the model has no sparse layer followed by one",
}
"""Preset and network -> what the error says."""


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize(("network", "sparsity", "optimizer"), [("grouped", 0.9, "sgd"), ("attention", 0.8, "adam")])
def test_every_preset_trains_other_networks(name: str, network: str, sparsity: float, optimizer: str) -> None:
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    model = make()
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 16, *shape, generator=generator)
    batches = [(batch, batch.flatten(1)[:, :5].argmax(1)) for batch in inputs]
    stepper = OPTIMIZERS[optimizer](model.parameters())

    def attach() -> SparseEngine:
        return SparseEngine(model, stepper, short(name), sparsity=sparsity, total_steps=TOTAL_STEPS, batches=batches)

    if (name, network) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, network]):
            attach()
        return
    engine = attach()
    for step in range(TOTAL_STEPS):
        images, labels = batches[step % len(batches)]
        loss = F.cross_entropy(model(images), labels)
        stepper.zero_grad()
        loss.backward()
        stepper.step()
        assert math.isfinite(loss.item())
    for layer in engine.topology.layers:
        assert not layer.parameter[~engine.mask(layer.name)].any()
    numel = sum(layer.numel for layer in engine.layers)
    active = sum(layer.num_active for layer in engine.layers)
    if engine.method.is_dense or PRESETS[name].density is Density.GIVEN:
        assert active == numel
    elif PRESETS[name].density is not Density.NEAREST:
        assert active == numel - math.ceil(sparsity * numel - 0.5)
    else:
        assert 0.5 < active / ((1.0 - sparsity) * numel) < 1.6
