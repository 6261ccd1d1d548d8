"""An update of every dynamic method on the weight tensors of ResNet-50, beside RigL's in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from itop import SparseEngine
from itop.benchmarks.measure import Row, Suite, milliseconds
from itop.methods import METHODS
from itop.methods.hidden_weights import HiddenWeights
from itop.models import build_model

SPARSITY = 0.9
REPETITIONS = 3
TOTAL_STEPS = 100
BASELINE = "rigl"
MEASURED = (
    "set", "set-itop", "rigl-itop", "snfs", "dsr", "deep-r", "mest", "mest-soft", "dst-ee", "granet", "selfish-rnn",
    "nest", "edst", "srigl", "nm", "block", "gmp", "taylor", "obd", "omp", "imp", "group-lasso", "early-bird",
)  # fmt: skip
COMPOSED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "rigl, fan-in": ("rigl", {"pattern": "fan-in"}),
    "rigl, dense to sparse": ("rigl", {"initial_density": 1.0}),
}
"""Of one method with a part of another: its name, the preset, its options."""
CHOOSE_IN_A_STEP = ("top-kast", "swat", "surgery")
"""Hidden weights: their sets are chosen in the optimiser's step, not in an update."""
LIMITED = (
    "str", "trainable-thresholds", "l0", "bernoulli-gates", "continuous-sparsification", "autoprune", "probmask",
    "variational-dropout",
)  # fmt: skip
"""Trained masks, which each step chooses; at some a ramp takes away of what they keep and a report is made."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "nest": {"neurons": 0},
    "mest-soft": {"update_every": 1},
    "top-kast": {"update_every": 1},
}
"""So that each update is one: ResNet-50 has no hidden neurons to wake."""


def measure() -> Iterator[Row]:
    """The rows of the suite."""
    model = build_model("resnet50", num_classes=1000, input_shape=(3, 224, 224))
    baseline = _median_update(model, BASELINE, {})
    cases: dict[str, tuple[str, Mapping[str, Any]]] = {
        name: (name, OPTIONS.get(name, {})) for name in (*MEASURED, *CHOOSE_IN_A_STEP)
    }
    for label, (name, options) in {**cases, **COMPOSED}.items():
        seconds = _median_update(model, name, options)
        yield Row(
            f"{label} {'sets' if name in CHOOSE_IN_A_STEP else 'update'}",
            milliseconds(seconds),
            f"{milliseconds(baseline)} {BASELINE}",
            seconds / baseline,
            "<= 3",
        )
    for name in LIMITED:
        seconds = _more_than_a_step(model, name)
        yield Row(
            f"{name} ramp and report",
            milliseconds(seconds),
            f"{milliseconds(baseline)} {BASELINE}",
            seconds / baseline,
            "<= 3",
        )


def _more_than_a_step(model: nn.Module, name: str) -> float:
    """By how much a step that goes down the ramp and reports takes longer than one that does not."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter)
    optimizer = SGD(model.parameters(), lr=1e-3)
    engine = SparseEngine(model, optimizer, METHODS[name](), sparsity=SPARSITY, total_steps=10 * TOTAL_STEPS)
    method, context = engine.method, engine._context
    assert isinstance(method, HiddenWeights)
    times: dict[bool, list[float]] = {False: [], True: []}
    for i in range(2 * (REPETITIONS + 1)):
        reports = i % 2 == 0
        context.step = 5 * TOTAL_STEPS + 5 * i
        assert method.schedule.is_update_step(context.step, context.total_steps) == reports
        with torch.no_grad():
            for layer, hidden in zip(engine.topology.layers, method.hidden_weights(context), strict=True):
                layer.parameter.copy_(hidden)
        start = time.perf_counter()
        method.after_step(context)
        if reports:
            engine.update()
        times[reports].append(time.perf_counter() - start)
    engine.detach()
    return max(0.0, statistics.median(times[True][1:]) - statistics.median(times[False][1:]))


def _median_update(model: nn.Module, name: str, options: Mapping[str, Any]) -> float:
    torch.manual_seed(0)
    weights = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
        nn.init.normal_(weight)
    values = [weight.detach().clone() for weight in weights]
    optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9)
    engine = SparseEngine(model, optimizer, METHODS[name](**options), sparsity=SPARSITY, total_steps=TOTAL_STEPS)
    times = []
    for _ in range(REPETITIONS + 1):
        engine._context.step += 1
        if isinstance(engine.method, HiddenWeights):
            hidden = engine.method.hidden_weights(engine._context)
            start = time.perf_counter()
            engine.method.after_optimizer(engine._context, hidden)
        else:
            _refresh(engine, values)
            engine.method.before_step(engine._context)
            start = time.perf_counter()
            engine.update()
        times.append(time.perf_counter() - start)
    engine.detach()
    return statistics.median(times[1:])


def _refresh(engine: SparseEngine, values: list[Tensor]) -> None:
    """Trained weights are not zero: grown ones get values between updates."""
    with torch.no_grad():
        for layer, value in zip(engine.topology.layers, values, strict=True):
            layer.parameter.copy_(value)
    engine.topology.apply()


SUITE = Suite("methods", "Topology update of each method on ResNet-50, beside RigL's, density 0.1", measure)
