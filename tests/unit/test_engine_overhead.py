"""What an engine adds to a step without an update, counted rather than timed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

import itop.optim
from itop import SparseEngine


def python_calls(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Function calls of itop's Python code in one step."""
    for _ in range(3):
        optimizer.step()
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_globals.get("__name__", "").startswith("itop.")

    sys.setprofile(count)
    try:
        optimizer.step()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
def test_a_step_without_update_calls_python_a_bounded_number_of_times_a_layer(kind: Any) -> None:
    calls = []
    for num_layers in (10, 50):
        model = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(num_layers))
        optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
        engine = SparseEngine(model, optimizer, "set-itop", sparsity=0.5, total_steps=1000)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with_engine = python_calls(model, optimizer)
        engine.detach()
        calls.append(with_engine - python_calls(model, optimizer))
    assert calls[0] < 60
    assert calls[1] - calls[0] <= 2 * 40


def test_a_step_allocates_nothing_that_grows_with_the_weights() -> None:
    tensor_bytes = []
    for size in (100, 1000):
        model = nn.Linear(size, size)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        SparseEngine(model, optimizer, "set-itop", sparsity=0.9, total_steps=1000)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            optimizer.step()
        tensor_bytes.append(sum(max(event.self_cpu_memory_usage, 0) for event in profile.events()))
    assert tensor_bytes[1] <= tensor_bytes[0]


def test_the_topology_takes_three_bits_a_weight_rounded_up_to_words() -> None:
    model = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(7, 9, bias=False), nn.Linear(5, 13, bias=False))
    engine = SparseEngine(model, torch.optim.SGD(model.parameters(), 0.1), "static", sparsity=0.5)
    words = [157, 1, 2]
    assert engine.num_topology_bytes() == 3 * 8 * sum(words)
