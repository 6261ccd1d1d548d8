"""A whole topology update on the 54 weight tensors of ResNet-50 (25.5 M weights, density 0.1), beside the usual way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import SGD

from itop import SparseEngine
from itop.benchmarks.full_sort import FullSortMasking
from itop.benchmarks.measure import Row, Suite, milliseconds, seconds_of
from itop.criteria import RandomGrowth
from itop.methods import DropAndGrow, RigLITOP
from itop.models import build_model
from itop.schedules import ConstantDropFraction, Never

DENSITY = 0.1
DROP_FRACTION = 0.3


def measure() -> Iterator[Row]:
    """The rows of the suite."""
    model = build_model("resnet50", num_classes=1000, input_shape=(3, 224, 224))
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
        nn.init.normal_(weight)
    baseline = FullSortMasking(
        [weight.detach().clone() for weight in weights], [torch.randn_like(w) for w in weights], DENSITY
    )
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat_weights = torch.cat([weight.detach().view(-1) for weight in weights])
    flat_gradients = torch.cat([gradient.view(-1) for gradient in gradients])

    def engine_of(grows_by_gradient: bool) -> SparseEngine:
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        for weight in weights:
            optimizer.state[weight]["momentum_buffer"] = torch.randn_like(weight)
        method = DropAndGrow(
            label="benchmark",
            update_schedule=Never(),
            drop_fraction=ConstantDropFraction(DROP_FRACTION),
            grow=RigLITOP().grow if grows_by_gradient else RandomGrowth(),
        )
        return SparseEngine(model, optimizer, method, sparsity=1 - DENSITY, attach=False)

    by_gradient, at_random = engine_of(True), engine_of(False)

    def refresh(engine: SparseEngine) -> None:
        """Trained weights are not zero: grown ones get values between updates."""
        with torch.no_grad():
            for i, layer in enumerate(engine.topology.layers):
                layer.parameter.copy_(flat_like(layer.parameter, i))
        engine.step()

    noise = torch.randn(max(weight.numel() for weight in weights))

    def flat_like(parameter: torch.Tensor, shift: int) -> torch.Tensor:
        return noise[: parameter.numel()].roll(shift).view(parameter.shape)

    times: dict[str, list[float]] = {"read": [], "random": [], "gradient": []}
    for _ in range(9):
        for name, engine in (("random", at_random), ("gradient", by_gradient)):
            refresh(engine)
            start = time.perf_counter()
            engine.update()
            times[name].append(time.perf_counter() - start)
        start = time.perf_counter()
        flat_weights.sum()
        flat_gradients.sum()
        times["read"].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    peer = seconds_of(
        {
            "random": lambda: baseline.update_random(DROP_FRACTION),
            "gradient": lambda: baseline.update_gradient(DROP_FRACTION, gradients),
            "apply": baseline.apply,
        },
        repetitions=2,
    )
    ours_apply = seconds_of({"apply": at_random.topology.apply}, repetitions=7)["apply"]
    read = median["read"]
    for name, times_faster in (("random", 45), ("gradient", 120)):
        yield Row(
            f"{name} update, speed-up",
            milliseconds(median[name]),
            f"{milliseconds(peer[name])} full sort",
            peer[name] / median[name],
            f">= {times_faster}",
        )
        yield Row(
            f"{name} update / reading weights and gradients",
            milliseconds(median[name]),
            f"{milliseconds(read)} read",
            median[name] / read,
            "<= 4.5",
        )
    yield Row(
        "masks on weights and momentum, speed-up",
        milliseconds(ours_apply),
        f"{milliseconds(peer['apply'])} float masks",
        peer["apply"] / ours_apply,
        "> 1",
    )
    numel = sum(weight.numel() for weight in weights)
    ours_bits, peer_bits = at_random.num_topology_bytes() * 8 / numel, baseline.num_bytes() * 8 / numel
    yield Row(
        "topology state, times smaller",
        f"{ours_bits:.3f} bits a weight",
        f"{peer_bits:.0f} bits a weight",
        peer_bits / ours_bits,
        "3 bits",
    )


SUITE = Suite("update", "Topology update of ResNet-50: 54 tensors, 25.5 M weights, density 0.1", measure)
