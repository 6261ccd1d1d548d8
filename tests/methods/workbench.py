"""A small real training that every method can take part in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itop import SparseEngine
from itop.methods import METHODS, Method

TOTAL_STEPS = 48
SPARSITY = 0.8

_SHORT: dict[str, Any] = {"update_every": 8, "check_every": 4, "report_every": 8, "rounds": 3}
"""Options that make a method act within a run of 48 steps, for those that have them."""

_SHORTER: dict[str, dict[str, Any]] = {
    "force": {"rounds": 6},
    "iter-snip": {"rounds": 6},
    "synflow": {"rounds": 10},
}


def short(name: str) -> Method:
    """A preset with intervals that fit the run."""
    parameters = inspect.signature(METHODS[name]).parameters
    options = {key: value for key, value in _SHORT.items() if key in parameters}
    return METHODS[name](**{**options, **_SHORTER.get(name, {})})


class Network(nn.Module):
    """Two convolutions with batch normalisation, three linear layers: something for every method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(12)
        self.fc1 = nn.Linear(12 * 9, 30)
        self.fc2 = nn.Linear(30, 20)
        self.fc3 = nn.Linear(20, 5)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.norm1(self.conv1(images)))
        features = torch.relu(self.norm2(self.conv2(features)))
        hidden = torch.relu(self.fc1(features.flatten(1)))
        return self.fc3(torch.relu(self.fc2(hidden)))


def batches(count: int = 8, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Images [size, 1, 6, 6] whose class is the brightest of five places."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for _ in range(count):
        images = torch.randn(size, 1, 6, 6, generator=generator)
        made.append((images, images.flatten(1)[:, :5].argmax(1)))
    return made


BATCHES = batches()

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
}


class Run:
    """A model, its optimiser and an engine, made anew from a seed."""

    def __init__(self, method: str | Method, optimizer: str = "sgd", *, seed: int = 0, **options: Any) -> None:
        torch.manual_seed(seed)
        self.model = options.pop("model", None) or Network()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.engine = SparseEngine(
            self.model,
            self.optimizer,
            short(method) if isinstance(method, str) else method,
            **{"sparsity": SPARSITY, "total_steps": TOTAL_STEPS, "seed": seed, "batches": BATCHES, **options},
        )
        self.batches = options.get("batches", BATCHES)
        self.losses: list[float] = []

    def train(self, steps: int, after: Callable[[Run], None] | None = None) -> Run:
        self.model.train()
        for _ in range(steps):
            images, labels = self.batches[self.engine.steps % len(self.batches)]
            loss = F.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())
            if after is not None:
                after(self)
        return self

    def masks(self) -> dict[str, Tensor]:
        return {layer.name: self.engine.mask(layer.name) for layer in self.engine.layers}

    def target(self) -> int:
        total = sum(layer.numel for layer in self.engine.layers)
        return total - int(-(-(self.engine_sparsity() * total - 0.5) // 1))

    def engine_sparsity(self) -> float:
        return SPARSITY
