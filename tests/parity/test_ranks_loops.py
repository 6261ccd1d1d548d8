"""Loops of several ranks: accumulation with and without ``no_sync``, clipping of sharded gradients, scaled gradients."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from itop import SparseEngine
from itop.methods import METHODS
from rank_models import LAYOUTS, attach, make_model, masks, samples_of, train, whole
from rank_pool import RankPool


def accumulate(layout: str, syncs_once: bool) -> dict[str, Any]:
    """Each rank sums the gradients of two halves of its samples; ``no_sync`` spares the first all-reduce."""
    model = LAYOUTS[layout][0](make_model())
    engine = attach(model, "rigl")
    for step in range(6):
        engine.optimizer.zero_grad()
        first, second = samples_of(step, 2).chunk(2)
        postponed = model.no_sync() if syncs_once and layout == "DDP on 2" else nullcontext()  # type: ignore[operator]
        if syncs_once and layout == "FSDP2 on 2":
            model.set_requires_gradient_sync(False)  # type: ignore[operator]
        with postponed:
            (model(first) * 2).backward()
        if syncs_once and layout == "FSDP2 on 2":
            model.set_requires_gradient_sync(True)  # type: ignore[operator]
        (model(second) * 2).backward()
        engine.optimizer.step()
    engine.check_sync()
    result = masks(engine)
    engine.detach()
    return result


@pytest.mark.parametrize("syncs_once", [True, False], ids=["no_sync", "sync"])
@pytest.mark.parametrize("layout", ["DDP on 2", "FSDP2 on 2"])
def test_accumulated_gradients_grow_what_one_process_grows(ranks: RankPool, layout: str, syncs_once: bool) -> None:
    model = make_model()
    alone = attach(model, "rigl")
    before = masks(alone)
    train(model, alone, 6)
    for result in ranks.run(accumulate, layout, syncs_once):
        for name, mask in masks(alone).items():
            assert np.array_equal(result[name], mask), name
            assert not np.array_equal(before[name], mask), name


def clip(layout: str) -> tuple[float, float]:
    """The norm that clipping sees, and that of the whole gradients under the masks."""
    model = LAYOUTS[layout][0](make_model())
    engine = attach(model, "set-itop", sparse_gradients=True)
    train(model, engine, 3, 2)
    engine.optimizer.zero_grad()
    (model(samples_of(9, 2)) * 2).backward()
    gradients = {name.removeprefix("module."): whole(p.grad) for name, p in model.named_parameters()}  # type: ignore[arg-type]
    expected = sum(float((gradients[name] * mask).square().sum()) for name, mask in masks(engine).items()) ** 0.5
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    engine.optimizer.step()
    engine.detach()
    return float(norm), expected


@pytest.mark.parametrize("layout", ["DDP on 2", "FSDP2 on 2"])
def test_clipping_sees_the_norm_of_the_sparse_network(ranks: RankPool, layout: str) -> None:
    for norm, expected in ranks.run(clip, layout):
        assert expected > 0.0
        assert norm == pytest.approx(expected, rel=1e-6)  # sums in another order


def scale(fused: bool) -> tuple[int, int, dict[str, Any]]:
    model = nn.parallel.DistributedDataParallel(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=1 / 64, fused=fused)
    engine = SparseEngine(model, optimizer, METHODS["rigl"](update_every=2), sparsity=0.7, total_steps=100)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(6):
        optimizer.zero_grad()
        loss: Tensor = model(samples_of(step, 2)) * 2
        if step == 3 and dist.get_rank() == 1:  # on one rank only; the reduced gradient carries it to all
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    engine.check_sync()
    return engine.steps, engine.num_updates, masks(engine)


@pytest.mark.parametrize("fused", [False, True], ids=["for each", "fused"])
def test_an_overflow_on_one_rank_is_no_step_on_any(ranks: RankPool, fused: bool) -> None:
    (steps, updates, first), (_, _, second) = ranks.run(scale, fused)
    assert (steps, updates) == (5, 2)
    assert all(np.array_equal(mask, second[name]) for name, mask in first.items())
