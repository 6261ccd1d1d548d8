"""What sparsity costs or saves in a training step: an MLP 3072-4000-1000-4000-10, batch 128, density 0.1."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.utils import prune
from torch.optim import SGD, AdamW, Optimizer

import itop.optim
from itop import SparseEngine
from itop.benchmarks.measure import Row, Suite, milliseconds
from itop.models import build_model

SPARSITY = 0.9
BATCH = 128
REPETITIONS = 25


class _Step:
    """A training step of a model of its own, timed."""

    def __init__(
        self,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        prepare: Callable[[nn.Module, Optimizer], Callable[[], None]],
    ) -> None:
        torch.manual_seed(0)
        self.model = build_model("mlp:4000,1000,4000", num_classes=10, input_shape=(3, 32, 32))
        self.optimizer = optimizer(list(self.model.parameters()))
        self.after_step = prepare(self.model, self.optimizer)
        self.images = torch.randn(BATCH, 3, 32, 32)
        self.labels = torch.randint(0, 10, (BATCH,))
        self.seconds: list[float] = []

    def run(self) -> None:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.after_step()
        self.seconds.append(time.perf_counter() - start)


def _nothing() -> None:
    pass


def _dense(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    return _nothing


def _engine(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    SparseEngine(model, optimizer, "static", sparsity=SPARSITY, allocation="uniform")  # the optimiser's hooks hold it
    return _nothing


def _float_masks(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """Research code's way: after each step weights and momentum times a float mask, out of place."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    masks = [(torch.rand_like(weight) > SPARSITY).float() for weight in weights]

    def apply() -> None:
        for weight, mask in zip(weights, masks, strict=True):
            weight.data = weight.data * mask
            optimizer.state[weight]["momentum_buffer"] *= mask

    return apply


def _torch_prune(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """torch's own way: a parametrisation that multiplies by the mask in every forward pass."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            prune.random_unstructured(module, "weight", amount=SPARSITY)  # type: ignore[no-untyped-call]
            original = module.weight_orig
            optimizer.add_param_group({"params": [original]}) if not _has(optimizer, original) else None
    return _nothing


def _has(optimizer: Optimizer, parameter: object) -> bool:
    return any(parameter is known for group in optimizer.param_groups for known in group["params"])


def measure() -> Iterator[Row]:
    """The rows of the suite."""

    def sgd(parameters: list[nn.Parameter]) -> Optimizer:
        return SGD(parameters, lr=0.01, momentum=0.9)

    steps = {
        "dense SGD": _Step(sgd, _dense),
        "masked": _Step(sgd, _engine),
        "float masks": _Step(sgd, _float_masks),
        "torch prune": _Step(sgd, _torch_prune),
        "fused SGD": _Step(lambda p: itop.optim.SGD(p, lr=0.01, momentum=0.9), _engine),
        "dense AdamW": _Step(lambda p: AdamW(p, lr=1e-3), _dense),
        "fused AdamW": _Step(lambda p: itop.optim.AdamW(p, lr=1e-3), _engine),
    }
    order = random.Random(0)
    for _ in range(REPETITIONS + 2):
        # In any order: nobody always comes after the one that leaves the worst behind.
        for step in order.sample(list(steps.values()), len(steps)):
            step.run()
    measured = {name: step.seconds[2:] for name, step in steps.items()}

    def row(title: str, ours: str, peer: str, limit: str) -> Row:
        # Of steps of the same turn: a machine that becomes slower meanwhile takes no side.
        ratio = statistics.median(a / b for a, b in zip(measured[ours], measured[peer], strict=True))
        return Row(
            title,
            milliseconds(statistics.median(measured[ours])),
            f"{milliseconds(statistics.median(measured[peer]))} {peer}",
            ratio,
            limit,
        )

    yield row("masked step with torch's SGD / dense step", "masked", "dense SGD", "<= 1.02")
    yield row("fused masked SGD step / dense step", "fused SGD", "dense SGD", "< 1")
    yield row("fused masked AdamW step / dense step", "fused AdamW", "dense AdamW", "< 1")
    yield row("float masks after the step / dense step", "float masks", "dense SGD", "(the usual way)")
    yield row("torch.nn.utils.prune / dense step", "torch prune", "dense SGD", "(torch's way)")
    yield overhead_row()


def overhead_row() -> Row:
    """Python's share of a step without an update: 54 tiny layers, so that nothing else counts."""
    layers = 54
    times: dict[bool, list[float]] = {}
    for sparse in (False, True):
        model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))
        optimizer = SGD(model.parameters(), lr=0.1)
        engine = SparseEngine(model, optimizer, "static", sparsity=0.5) if sparse else None
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        times[sparse] = []
        for _ in range(300):
            start = time.perf_counter()
            optimizer.step()
            times[sparse].append(time.perf_counter() - start)
        del engine
    overhead = statistics.median(times[True]) - statistics.median(times[False])
    limit = 50e-6 + layers * 1e-6
    return Row(
        "engine's overhead a step, 54 tiny layers / limit",
        f"{overhead * 1e6:.0f} us",
        f"{limit * 1e6:.0f} us limit",
        overhead / limit,
        "<= 1",
    )


SUITE = Suite(
    "masking", "Cost of masks in a training step: MLP 3072-4000-1000-4000-10, batch 128, density 0.1", measure
)
