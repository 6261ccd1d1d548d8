"""Truly sparse layers beside the dense ones and torch's own sparse product.

The floor of a linear layer at density d is 1 / d: as many multiply-adds a second as the dense product. Dense is the better
of torch (both memory formats of a convolution) and NumPy's BLAS.
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD

from itop.allocation import ERK, LayerShape
from itop.benchmarks.measure import Row, Suite, milliseconds
from itop.engine import SparseEngine
from itop.methods.set import SETITOP
from itop.models import build_model
from itop.nn import (
    SparseConv2d,
    SparseLayer,
    SparseLinear,
    SparsePattern,
    TieKeys,
    grow_candidates_by_gradient,
    sparsify,
)
from itop.nn.position_set import PositionSet

FEATURES = 4096
BATCH = 128
LINEAR_TARGETS = {0.7: 1.0, 0.9: 4.0, 0.95: 8.0, 0.98: 16.0, 0.99: 30.0}
CONVOLUTION_TARGETS = {3: {0.8: 1.0, 0.9: 3.5, 0.95: 7.0, 0.98: 15.0}, 1: {0.8: 1.0, 0.9: 2.5, 0.95: 5.0, 0.98: 7.0}}
CONVOLUTIONS = ((128, 28), (256, 14), (512, 7))
IMAGES = 32
SETTLING_SECONDS = 0.15
Task = Callable[[], object]


def _seconds_of(tasks: dict[str, Task], repetitions: int) -> dict[str, float]:
    """The median of each task, every one after its own warm-up.

    Idle threads of a BLAS go on spinning for about a tenth of a second after its last product, on the cores of whoever
    comes next: as a training loop runs one library, so does a turn, and its first moments are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(3):
        for name, task in tasks.items():
            end = time.perf_counter() + SETTLING_SECONDS
            task()
            while time.perf_counter() < end:
                task()
            for _ in range(max(1, -(-repetitions // 3))):
                start = time.perf_counter()
                task()
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds_between_steps(update: Task, step: Task, train: Task | None = None) -> dict[str, float]:
    """Medians of an update and of a step, updates as training has them: what was grown has had steps to leave zero.

    Args:
        update: What is measured beside steps.
        step: Itself trains, or
        train: does so, which is not measured.
    """
    times: dict[str, list[float]] = {"update": [], "step": []}
    for _ in range(12):
        if train is not None:
            train()
        for name, task in (("step", step), ("step", step), ("step", step), ("update", update)):
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _forward_and_backward(module: nn.Module, x: Tensor, gradient: Tensor) -> Task:
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    inputs = [leaf, *module.parameters()]
    return lambda: torch.autograd.grad(module(leaf), inputs, gradient)


def _speed(name: str, seconds: dict[str, float], limit: float, whose: str) -> Row:
    peer = min((key for key in seconds if key != "ours"), key=seconds.__getitem__)
    return Row(
        name,
        milliseconds(seconds["ours"]),
        f"{milliseconds(seconds[peer])} {peer if whose == '' else whose}",
        seconds[peer] / seconds["ours"],
        f">= {limit:g}x",
    )


# --- linear -------------------------------------------------------------------------------------------------------------


def _csr(layer: SparseLinear, x: Tensor, gradient: Tensor) -> Task:
    """The same three products through ``torch.sparse``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is announced as beta
        weight = layer.dense_weight().to_sparse_csr()
        transposed = layer.dense_weight().t().contiguous().to_sparse_csr()
    x_columns, gradient_columns = x.t().contiguous(), gradient.t().contiguous()

    def run() -> None:
        torch.sparse.mm(weight, x_columns)
        torch.sparse.mm(transposed, gradient_columns)
        torch.sparse.sampled_addmm(weight, gradient_columns, x, beta=0.0)

    return run


def _linear() -> Iterator[Row]:
    torch.manual_seed(0)
    x, gradient = torch.randn(BATCH, FEATURES), torch.randn(BATCH, FEATURES)
    dense = nn.Linear(FEATURES, FEATURES)
    x_numpy, gradient_numpy, weight_numpy = x.numpy(), gradient.numpy(), dense.weight.detach().numpy()

    def blas() -> None:
        np.matmul(x_numpy, weight_numpy.T)
        np.matmul(gradient_numpy, weight_numpy)
        np.matmul(gradient_numpy.T, x_numpy)

    for sparsity, limit in LINEAR_TARGETS.items():
        layer = SparseLinear(FEATURES, FEATURES, sparsity=sparsity)
        tasks: dict[str, Task] = {
            "ours": _forward_and_backward(layer, x, gradient),
            "torch dense": _forward_and_backward(dense, x, gradient),
            "NumPy's BLAS": blas,
        }
        what = f"linear {FEATURES}x{FEATURES}, batch {BATCH}, forward and backward, {sparsity:.0%} sparse"
        seconds = _seconds_of(tasks, 9)
        row = _speed(what, seconds, limit, "")
        yield Row(row.name, row.ours, row.peer, row.ratio, f"{row.limit} (floor {1 / (1 - sparsity):.3g}x)")
        if sparsity >= 0.95:
            tasks = {"ours": tasks["ours"], "torch CSR": _csr(layer, x, gradient)}
            yield _speed(f"the same against torch.sparse, {sparsity:.0%}", _seconds_of(tasks, 5), 2.0, "torch CSR")
    layer = SparseLinear(FEATURES, FEATURES, sparsity=0.99)
    single = x[:1]
    with torch.inference_mode():
        tasks = {"ours": lambda: layer(single), "torch dense": lambda: dense(single)}
        yield _speed("linear, one sample, inference, 99% sparse", _seconds_of(tasks, 25), 10.0, "torch dense")


# --- convolution --------------------------------------------------------------------------------------------------------


def _convolutions() -> Iterator[Row]:
    torch.manual_seed(0)
    for kernel, targets in CONVOLUTION_TARGETS.items():
        for channels, size in CONVOLUTIONS:
            dense = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            last = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
            last = last.to(memory_format=torch.channels_last)
            x = torch.randn(IMAGES, channels, size, size)
            gradient = torch.randn_like(x)
            x_last = x.to(memory_format=torch.channels_last)
            gradient_last = gradient.to(memory_format=torch.channels_last)
            for sparsity, limit in targets.items():
                layer = SparseConv2d(channels, channels, kernel, padding=kernel // 2, bias=False, sparsity=sparsity)
                tasks: dict[str, Task] = {
                    "ours": _forward_and_backward(layer, x, gradient),
                    "torch NCHW": _forward_and_backward(dense, x, gradient),
                    "torch NHWC": _forward_and_backward(last, x_last, gradient_last),
                }
                what = f"convolution {kernel}x{kernel}, {channels} channels, {size}x{size}, {sparsity:.0%} sparse"
                yield _speed(what, _seconds_of(tasks, 5), limit, "")


# --- whole training steps -----------------------------------------------------------------------------------------------


def _training_step(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Task, SGD]:
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))
        optimizer.step()

    return step, optimizer


def _trained_bytes(model: nn.Module, optimizer: SGD) -> int:
    """Parameters, their gradients, optimiser state, and a sparse layer's indices."""
    total = 0
    for parameter in model.parameters():
        state = [value for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
        gradient = [] if parameter.grad is None else [parameter.grad]
        total += sum(tensor.nbytes for tensor in (parameter, *gradient, *state))
    return total


def _index_bytes(model: nn.Module) -> int:
    return sum(module.pattern.num_bytes() for module in model.modules() if isinstance(module, SparseLayer))


def _mlp() -> Iterator[Row]:
    torch.manual_seed(0)
    sizes = (3072, 4000, 1000, 4000, 10)
    pairs = list(itertools.pairwise(sizes))

    def network(make: Callable[[int, int], nn.Module]) -> nn.Sequential:
        layers = [module for pair in pairs for module in (make(*pair), nn.ReLU())]
        return nn.Sequential(*layers[:-1])

    images, labels = torch.randn(BATCH, sizes[0]), torch.randint(0, 10, (BATCH,))
    dense = network(nn.Linear)
    sparse = network(lambda inputs, outputs: SparseLinear(inputs, outputs, sparsity=0.95))
    dense_step, dense_optimizer = _training_step(dense, images, labels)
    sparse_step, sparse_optimizer = _training_step(sparse, images, labels)
    name = "-".join(map(str, sizes))
    seconds = _seconds_of({"ours": sparse_step, "torch dense": dense_step}, 9)
    yield _speed(f"training step of an MLP {name}, SGD with momentum, 95%", seconds, 6.0, "torch dense")
    ours, theirs = _trained_bytes(sparse, sparse_optimizer), _trained_bytes(dense, dense_optimizer)
    indices = _index_bytes(sparse)
    yield Row(
        "its parameters, gradients and optimiser state (ours / dense)",
        f"{ours / 1e6:.3g} MB + {indices / 1e6:.3g} MB of indices",
        f"{theirs / 1e6:.3g} MB dense",
        ours / theirs,
        "<= 0.08x",
    )
    method = SETITOP(drop_fraction=0.3, allocation="uniform")
    engine = SparseEngine(sparse, sparse_optimizer, method, sparsity=0.95, total_steps=1_000_000)
    seconds = _seconds_between_steps(engine.update, sparse_step)
    yield Row(
        "its SET-ITOP update by the engine (update / training step)",
        milliseconds(seconds["update"]),
        f"{milliseconds(seconds['step'])} a step",
        seconds["update"] / seconds["step"],
        "<= 1x",
    )


def _streamed_update() -> Iterator[Row]:
    torch.manual_seed(0)
    layer = SparseLinear(FEATURES, FEATURES, sparsity=0.95)
    x, gradient = torch.randn(BATCH, FEATURES), torch.randn(BATCH, FEATURES)
    step = _forward_and_backward(layer, x, gradient)

    def update() -> None:
        k = layer.num_active * 3 // 10
        keep = layer.keep_all_but_smallest(k, TieKeys())
        kept = PositionSet.of(layer.pattern).only(keep)
        layer.update_topology(keep, grow_candidates_by_gradient(x, gradient, k, kept))

    seconds = _seconds_between_steps(update, step, layer.reset_parameters)
    yield Row(
        f"streamed RigL update, {FEATURES}x{FEATURES}, 95% (update / forward and backward)",
        milliseconds(seconds["update"]),
        f"{milliseconds(seconds['step'])} a step",
        seconds["update"] / seconds["step"],
        "<= 3x",
    )


def _resnet() -> Iterator[Row]:
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(0, 100, (IMAGES,))
    for sparsity, limit in ((0.95, 3.0), (0.98, 5.0)):
        torch.manual_seed(0)
        dense = build_model("resnet34", num_classes=100, input_shape=(3, 32, 32))
        sparse = build_model("resnet34", num_classes=100, input_shape=(3, 32, 32))
        sparsify(sparse, _erk_masks(sparse, sparsity), images)
        tasks = {
            "ours": _training_step(sparse, images, labels)[0],
            "torch dense": _training_step(dense, images, labels)[0],
        }
        name = f"training step of ResNet-34 for CIFAR-100, ERK, batch {IMAGES}, {sparsity:.0%}"
        yield _speed(name, _seconds_of(tasks, 3), limit, "torch dense")


def _erk_masks(model: nn.Module, sparsity: float) -> dict[str, Tensor]:
    weights = {
        f"{name}.weight": cast("Any", module).weight
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    counts = ERK().counts([LayerShape(name, tuple(weight.shape)) for name, weight in weights.items()], sparsity)
    masks = {}
    for place, (name, weight) in enumerate(weights.items()):
        shape = (weight.shape[0], weight[0].numel())
        masks[name] = SparsePattern.random(shape, counts[place], TieKeys(0, place)).to_mask().view(weight.shape)
    return masks


def measure() -> Iterator[Row]:
    """All figures, the quick ones first."""
    yield from _linear()
    yield from _mlp()
    yield from _streamed_update()
    yield from _convolutions()
    yield from _resnet()


SUITE = Suite("sparse", "Truly sparse layers against dense ones, in time and memory", measure)
