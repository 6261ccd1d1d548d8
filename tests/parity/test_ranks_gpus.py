"""Processes with a GPU each, under NCCL, have the masks of one process on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from rank_models import attach, data_parallel, fsdp, make_model, masks, train
from rank_pool import RankPool

pytestmark = pytest.mark.gpu

WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {"DDP": data_parallel, "FSDP2": fsdp}
METHODS_TO_COMPARE = ("set", "rigl", "set-itop", "rigl-itop")
MOST_RANKS = 4  # a batch of eight is cut into as many parts as there are ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    world = max(n for n in (1, 2, 4) if n <= min(torch.cuda.device_count(), MOST_RANKS))
    pool = RankPool(world, backend="nccl")
    yield pool
    pool.stop()


def train_on_gpus(wrap: str | None, device: str) -> dict[str, dict[str, Any]]:
    results = {}
    for method in METHODS_TO_COMPARE:
        model: nn.Module = make_model().to(device)
        if wrap is not None:
            model = WRAPS[wrap](model)
        engine = attach(model, method)
        train(model, engine, 12, 1 if wrap is None else dist.get_world_size())
        engine.check_sync()
        results[method] = masks(engine)
        engine.detach()
    return results


@pytest.mark.parametrize("wrap", WRAPS)
def test_ranks_under_nccl_have_the_masks_of_one_process(ranks: RankPool, wrap: str) -> None:
    alone = train_on_gpus(None, "cpu")
    for of_rank in ranks.run(train_on_gpus, wrap, "cuda"):
        for method, result in of_rank.items():
            for name, mask in alone[method].items():
                assert np.array_equal(result[name], mask), (method, name)


def update_shards() -> tuple[int, int]:
    model = fsdp(make_model().cuda())
    engine = attach(model)
    train(model, engine, 2, dist.get_world_size())
    assert engine.last_update is not None
    return engine.last_update.num_reductions, engine.last_update.num_wire_bytes


def test_counts_of_shards_go_over_nccl(ranks: RankPool) -> None:
    for reductions, num_bytes in ranks.run(update_shards):
        assert (reductions > 0) == (ranks.world > 1)
        assert num_bytes < 3 * 4096  # of three layers
