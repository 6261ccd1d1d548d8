"""A resumed run is the uninterrupted run, bit for bit."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from engine_checks import InvariantCheck, batches, masks, small_convnet, small_mlp, train
from torch import nn
from torch.optim import Optimizer

import itop
import itop.optim
from itop import SparseEngine
from itop.methods import METHODS
from same_bits import assert_same

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01),
    "itop adamw": lambda p: itop.optim.AdamW(p, 0.01),
}


def set_up(method: str, optimizer_name: str, seed: int = 5) -> tuple[nn.Module, Optimizer, SparseEngine]:
    model = small_convnet()
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    options: dict[str, Any] = {} if method in ("dense", "static") else {"update_every": 3}
    return (
        model,
        optimizer,
        SparseEngine(model, optimizer, METHODS[method](**options), sparsity=0.7, total_steps=20, seed=seed),
    )


def through_a_file(state: object) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


PRESETS = ["dense", "static", "set", "set-itop", "rigl", "rigl-itop"]


@pytest.mark.parametrize("optimizer_name", OPTIMIZERS)
@pytest.mark.parametrize("method", PRESETS)
@pytest.mark.parametrize("order", ["model, optimiser, engine", "engine, optimiser, model"])
def test_a_resumed_run_equals_an_uninterrupted_one(order: str, method: str, optimizer_name: str) -> None:
    model, optimizer, engine = set_up(method, optimizer_name)
    data = batches((4, 6, 6), 5)
    train(model, optimizer, data, 7)
    saved = through_a_file(
        {"model": model.state_dict(), "optimiser": optimizer.state_dict(), "engine": engine.state_dict()}
    )
    train(model, optimizer, data, 9)

    resumed, its_optimizer, its_engine = set_up(method, optimizer_name)
    train(resumed, its_optimizer, batches((4, 6, 6), 5, seed=99), 2)  # whatever it did before is gone
    parts = {"model": resumed, "optimiser": its_optimizer, "engine": its_engine}
    for part in order.split(", "):
        parts[part].load_state_dict(saved[part])  # type: ignore[attr-defined]
    data = batches((4, 6, 6), 5)
    for _ in range(7):
        next(data)
    train(resumed, its_optimizer, data, 9)
    assert_same(dict(model.state_dict()), dict(resumed.state_dict()))
    assert_same(optimizer.state_dict()["state"], its_optimizer.state_dict()["state"])
    assert_same(engine.state_dict(), its_engine.state_dict())
    assert (its_engine.steps, its_engine.num_updates) == (16, engine.num_updates)
    assert its_engine.exploration_rate == engine.exploration_rate
    assert its_engine.reliable_rate == engine.reliable_rate
    assert its_engine.layers == engine.layers


def test_what_fresh_masks_displaced_is_not_put_back_over_weights_that_were_written_or_trained() -> None:
    model, optimizer, engine = set_up("rigl-itop", "nesterov")
    train(model, optimizer, batches((4, 6, 6), 5), 7)
    saved = through_a_file({"model": model.state_dict(), "engine": engine.state_dict()})
    for writes in (True, False):
        resumed = small_convnet()
        resumed.load_state_dict(saved["model"])
        its_optimizer = OPTIMIZERS["nesterov"](resumed.parameters())
        its_engine = SparseEngine(
            resumed, its_optimizer, METHODS["rigl-itop"](update_every=3), sparsity=0.7, total_steps=20, seed=5
        )
        if writes:
            with torch.no_grad():
                for layer in its_engine.layers:
                    resumed.get_parameter(layer.name).fill_(7.0)
        else:
            train(resumed, its_optimizer, batches((4, 6, 6), 5, seed=99), 1)
        before = {name: value.clone() for name, value in resumed.state_dict().items()}
        its_engine.load_state_dict(saved["engine"])
        for layer in its_engine.layers:
            weight = resumed.get_parameter(layer.name)
            assert torch.equal(weight, before[layer.name] * its_engine.mask(layer.name))


def test_untrained_weights_of_a_checkpoint_are_not_taken_for_those_that_fresh_masks_left() -> None:
    """Updates alone, of a layer that had zeros to drop: its weights are what fresh masks leave, under other masks."""

    def make() -> tuple[nn.Module, SparseEngine]:
        model = nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.arange(32).view(4, 8) % 4)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return model, SparseEngine(model, optimizer, METHODS["set-itop"](), sparsity=0.5, total_steps=10)

    model, engine = make()
    fresh = model.weight.detach().clone()
    topology = engine.topology
    topology.begin_update(1)
    zeros = topology.where([model.weight.detach()], limit=0.5, magnitude=True) & topology.active
    hidden = ~topology.active & topology.from_tensors([torch.arange(32).view(4, 8) % 4 == 3])
    moved = min(zeros.counts()[0], hidden.counts()[0])
    topology.commit(topology.select(zeros, [moved]), topology.select(hidden, [moved]))
    assert moved > 0
    assert torch.equal(model.weight, fresh)
    resumed, its_engine = make()
    resumed.load_state_dict(model.state_dict())
    its_engine.load_state_dict(engine.state_dict())
    assert torch.equal(resumed.weight, model.weight)


def test_a_saved_state_is_a_snapshot() -> None:
    model, optimizer, engine = set_up("set-itop", "nesterov")
    state = engine.state_dict()
    copy = through_a_file(state)
    train(model, optimizer, batches((4, 6, 6), 5), 7)
    assert_same(copy, state)


def test_a_state_moves_between_memory_formats() -> None:
    model, optimizer, engine = set_up("set-itop", "nesterov")
    train(model, optimizer, batches((4, 6, 6), 5), 7)
    other = small_convnet().to(memory_format=torch.channels_last)
    its_optimizer = OPTIMIZERS["nesterov"](other.parameters())
    its_engine = SparseEngine(
        other, its_optimizer, METHODS["set-itop"](update_every=3), sparsity=0.7, total_steps=20, seed=5
    )
    its_engine.load_state_dict(engine.state_dict())
    assert_same(masks(engine), {name: mask.contiguous() for name, mask in masks(its_engine).items()})
    assert_same(engine.state_dict(), its_engine.state_dict())


@pytest.mark.parametrize("method", PRESETS)
def test_the_same_seed_gives_the_same_masks_for_any_number_of_threads_and_memory_format(method: str) -> None:
    results = []
    for threads, memory_format in (
        (1, torch.contiguous_format),
        (2, torch.contiguous_format),
        (7, torch.contiguous_format),
        (2, torch.channels_last),
    ):
        itop.set_num_threads(threads)
        try:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(30, 60, 3), nn.Conv2d(60, 50, 1), nn.Conv2d(50, 50, 3, groups=50))
            model.to(memory_format=memory_format)
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            options: dict[str, Any] = {} if method in ("dense", "static") else {"update_every": 2}
            engine = SparseEngine(model, optimizer, METHODS[method](**options), sparsity=0.8, total_steps=20, seed=9)
            generator = torch.Generator().manual_seed(1)
            for _ in range(9):
                for p in model.parameters():
                    p.grad = torch.randn(p.shape, generator=generator)
                optimizer.step()
            results.append((engine.state_dict(), dict(model.state_dict())))
        finally:
            itop.set_num_threads(2)
    for result in results[1:]:
        assert_same(results[0], result)


def test_another_seed_gives_other_masks() -> None:
    a, b = set_up("static", "nesterov")[2], set_up("static", "nesterov", seed=6)[2]
    assert any(not torch.equal(x, y) for x, y in zip(masks(a).values(), masks(b).values(), strict=True))


def test_masks_depend_neither_on_torchs_generator_nor_disturb_it() -> None:
    results = []
    for torch_seed in (1, 2):
        model = small_mlp()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        torch.manual_seed(torch_seed)
        before = torch.get_rng_state()
        engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=1), sparsity=0.7, total_steps=20)
        train(model, optimizer, batches(), 3, InvariantCheck(engine))
        assert torch.equal(before, torch.get_rng_state())
        results.append(masks(engine))
    assert_same(results[0], results[1])
