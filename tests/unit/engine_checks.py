"""What must hold of an engine after every step, and the small models and optimisers it is held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from itop import SparseEngine
from itop.methods import METHODS

SGD = {"lr": 0.05, "momentum": 0.9}


def optimizer_state(engine: SparseEngine, name: str) -> Iterator[tuple[str, Tensor]]:
    """The optimiser's tensors that go with a layer's weights: of its shape, or its slice of a flat vector over all."""
    parameters = [p for group in engine.optimizer.param_groups for p in group["params"]]
    layer = next(layer for layer in engine.topology.layers if layer.name == name)
    for key, value in engine.optimizer.state[layer.parameter].items():
        if isinstance(value, Tensor) and value.shape == layer.parameter.shape:
            yield key, value
    total, start = sum(p.numel() for p in parameters), 0
    for parameter in parameters:
        if parameter is layer.parameter:
            break
        start += parameter.numel()
    for state in engine.optimizer.state.values():
        for key, value in state.items():
            for i, vector in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(vector, Tensor) and vector.shape == (total,) and total > layer.numel:
                    yield f"{key}[{i}]", vector[start : start + layer.numel].view(layer.shape)


@dataclass
class InvariantCheck:
    """Call it after every step: the counts are exact, what is inactive is zero, explored and reliable only grow."""

    engine: SparseEngine
    num_active: dict[str, int] = field(init=False)
    explored: list[Tensor] = field(init=False)
    reliable: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.num_active = {layer.name: layer.num_active for layer in self.engine.layers}
        self.explored = self.engine.topology.explored.to_tensors()
        self.reliable = self.engine.topology.reliable.to_tensors()
        for layer, explored in zip(self.engine.layers, self.explored, strict=True):
            assert torch.equal(explored, self.engine.mask(layer.name)), "explored starts as the initial mask"
        assert not any(bits.any() for bits in self.reliable)
        self()

    def __call__(self) -> None:
        topology = self.engine.topology
        for layer, before in zip(topology.layers, self.num_active.items(), strict=True):
            mask = self.engine.mask(layer.name)
            assert before == (layer.name, int(mask.sum())), "the count of active weights is exact"
            inactive = ~mask
            assert not layer.parameter.detach()[inactive].any(), f"inactive weights of {layer.name} are zero"
            for key, value in optimizer_state(self.engine, layer.name):
                assert not value[inactive].any(), f"{key} of inactive weights of {layer.name} is zero"
        explored, reliable = topology.explored.to_tensors(), topology.reliable.to_tensors()
        for i, state in enumerate(self.engine.layers):
            mask = self.engine.mask(state.name)
            assert not (mask & ~explored[i]).any(), "active weights are explored"
            assert not (self.explored[i] & ~explored[i]).any(), "explored only grows"
            assert not (self.reliable[i] & ~reliable[i]).any(), "reliable only grows"
            assert not (reliable[i] & ~explored[i]).any(), "reliable weights are explored"
            assert (state.num_active, state.num_explored, state.num_reliable) == (
                int(mask.sum()),
                int(explored[i].sum()),
                int(reliable[i].sum()),
            )
        self.explored, self.reliable = explored, reliable


def small_mlp(seed: int = 0, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(9, 13, bias=bias), nn.ReLU(), nn.Linear(13, 7, bias=bias))


def small_convnet(seed: int = 0) -> nn.Sequential:
    """Plain, depthwise, grouped and 1x1 convolutions, a norm and a classifier; images [n, 4, 6, 6]."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=4),
        nn.Flatten(),
        nn.Linear(12 * 16, 5),
    )


def sgd_engine(
    model: nn.Module, method: str = "set-itop", every: int = 3, **options: Any
) -> tuple[Optimizer, SparseEngine]:
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    options = {"sparsity": 0.7, "total_steps": 100, **options}
    return optimizer, SparseEngine(model, optimizer, METHODS[method](update_every=every), **options)


Batch = tuple[Tensor, Tensor]


def batches(shape: tuple[int, ...] = (9,), classes: int = 7, seed: int = 1) -> Iterator[Batch]:
    """Endless random batches of 16."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(16, *shape, generator=generator), torch.randint(classes, (16,), generator=generator)


def backward(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    parameter = next(model.parameters())
    loss = nn.functional.cross_entropy(model(x.to(parameter.dtype)), y)
    loss.backward()
    return loss


def train(
    model: nn.Module,
    optimizer: Optimizer,
    data: Iterator[Batch],
    steps: int,
    after: Callable[[], object] = lambda: None,
) -> None:
    """A plain loop."""
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model, next(data))
        optimizer.step()
        after()


def masks(engine: SparseEngine) -> dict[str, Tensor]:
    return {layer.name: engine.mask(layer.name) for layer in engine.layers}


def everything(model: nn.Module, engine: SparseEngine) -> list[object]:
    """All that a refusal must leave as it was: weights, masks, optimiser state, positions, hooks."""
    state: list[object] = [(name, tensor.clone()) for name, tensor in model.state_dict().items()]
    for parameter_state in engine.optimizer.state.values():
        state += [(k, v.clone() if isinstance(v, Tensor) else v) for k, v in parameter_state.items()]
    saved = engine.state_dict()
    state += list(saved.pop("layers").items())
    state += [*saved.items(), *hooks(model, engine.optimizer)]
    return state


def hooks(model: nn.Module, optimizer: Optimizer) -> list[object]:
    return [
        list(optimizer._optimizer_step_pre_hooks),
        list(optimizer._optimizer_step_post_hooks),
        list(model._forward_pre_hooks),
    ]
