"""A small network cut in every way torch.distributed knows, and training whose sums do not round.

Masks can only be the same bits for every world size where gradients are. Sums of floats depend on their order, so here
every value is a multiple of a power of two small enough for float32: inputs are integers, hidden units are 0 or 1, the
learning rate is a power of two. What is tested is then the selection, not the rounding of all-reduces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from itop import SparseEngine
from itop.methods import METHODS, Method

NUM_INPUTS, NUM_OUTPUTS = 12, 6
BATCH = 8  # samples of one optimiser step, over all ranks
LEARNING_RATE = 1 / 64


class StepNet(nn.Module):
    """Linear layers whose units pass on 0 or 1; calling it gives the loss. Each layer learns from its own output.

    It takes [samples, NUM_INPUTS + 1]: inputs, and the factor of each sample in the loss.
    """

    def __init__(self, hidden: tuple[int, int] = (28, 24)) -> None:
        super().__init__()
        self.first = nn.Linear(NUM_INPUTS, hidden[0], bias=False)
        self.second = nn.Linear(hidden[0], hidden[1], bias=False)
        self.last = nn.Linear(hidden[1], NUM_OUTPUTS, bias=False)

    def forward(self, samples: Tensor) -> Tensor:
        inputs, signal = samples[:, :-1], samples[:, -1]
        first = self.first(inputs)
        second = self.second((first.detach() > 0).float())
        last = self.last((second.detach() > 0).float())
        return sum((torch.relu(output).sum(dim=1) * signal).sum() for output in (first, second, last))  # type: ignore[return-value]


class StepConvNet(nn.Module):
    """The same of convolutions, odd sizes and a matrix in two places; samples have NUM_INPUTS inputs: three 2x2 images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 7, 3, padding=1, bias=False)
        self.second = nn.Conv2d(7, 5, 2, bias=False)
        self.third = nn.Linear(5, 13, bias=False)
        self.twice, self.again = nn.Linear(13, 13, bias=False), nn.Linear(13, 13, bias=False)
        self.again.weight = self.twice.weight

    def forward(self, samples: Tensor) -> Tensor:
        x, signal = samples[:, :-1].unflatten(1, (3, 2, 2)), samples[:, -1]
        loss = torch.zeros((), device=samples.device)
        for layer in (self.first, self.second, self.third, self.twice, self.again):
            output = layer(x)
            loss = loss + (torch.relu(output).flatten(1).sum(dim=1) * signal).sum()
            x = (output.detach() > 0).float()
            x = x.flatten(1) if layer is self.second else x
        return loss


def make_model(hidden: tuple[int, int] | None = (28, 24)) -> nn.Module:
    """Weights in multiples of 1/8, the same in every process. Convolutions where no hidden sizes are given."""
    model = StepNet(hidden) if hidden is not None else StepConvNet()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 8)
    return model


def plain(model: nn.Module) -> nn.Module:
    return model


def data_parallel(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def fsdp(model: nn.Module) -> nn.Module:
    """FSDP2 over all ranks, layer by layer; tied ones together with the rest, as it wants them."""
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    holders = Counter(id(parameter) for layer in model.children() for parameter in layer.parameters())
    for layer in model.children():
        if all(holders[id(parameter)] == 1 for parameter in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def hybrid(model: nn.Module) -> nn.Module:
    """Two replicas, each sharded over half of the ranks."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh)
    return model


def tensor_parallel(model: nn.Module) -> nn.Module:
    """The first two layers by columns and rows; the last one is whole on every rank."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return parallelize_module(model, mesh, {"first": ColwiseParallel(), "second": RowwiseParallel()})


def two_dimensional(model: nn.Module) -> nn.Module:
    """FSDP2 x tensor parallel, two by half; the last layer is sharded by FSDP2 alone."""
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], {"first": ColwiseParallel(), "second": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    return model


LAYOUTS: dict[str, tuple[Callable[[nn.Module], nn.Module], int, int]] = {
    # name: (wrap, ranks, in how many parts the batch is cut)
    "DDP on 2": (data_parallel, 2, 2),
    "FSDP2 on 2": (fsdp, 2, 2),
    "FSDP2 on 4": (fsdp, 4, 4),
    "tensor parallel on 2": (tensor_parallel, 2, 1),
    "HSDP 2x2": (hybrid, 4, 4),
    "FSDP2 x tensor parallel 2x2": (two_dimensional, 4, 2),
}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def masks(engine: SparseEngine) -> dict[str, Any]:
    """Every layer's whole mask, as NumPy arrays, which cross between processes."""
    return {layer.name: whole(engine.mask(layer.name)).cpu().numpy().copy() for layer in engine.layers}


def attach(model: nn.Module, method: str | Method = "set", **options: Any) -> SparseEngine:
    """An engine that updates at every step, over SGD without momentum, whose steps do not round."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    if isinstance(method, str):
        method = METHODS[method](update_every=1)
    return SparseEngine(model, optimizer, method, **{"sparsity": 0.7, "total_steps": 1000, **options})


def samples_of(step: int, parts: int = 1) -> Tensor:
    """This rank's part of a step's batch."""
    part = dist.get_rank() * parts // dist.get_world_size() if parts > 1 else 0
    generator = torch.Generator().manual_seed(step)
    return torch.randint(-2, 3, (BATCH, NUM_INPUTS + 1), generator=generator).float().chunk(parts)[part]


def train(model: nn.Module, engine: SparseEngine, steps: int, parts: int = 1) -> list[float]:
    """Trains on from the engine's step; losses of this rank's part of the batch."""
    losses = []
    device = next(model.parameters()).device
    for step in range(engine.steps, engine.steps + steps):
        engine.optimizer.zero_grad()
        loss = model(samples_of(step, parts).to(device))
        (loss * parts).backward()  # data parallelism averages over its parts; the sum is wanted
        engine.optimizer.step()
        losses.append(loss.item())
    return losses
