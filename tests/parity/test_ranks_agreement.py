"""Ranks that do not fit together are refused on every rank, in one sentence, without a hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from itop import SparseEngine, _core
from itop.methods import RigL
from rank_models import attach, data_parallel, fsdp, make_model, plain, train
from rank_pool import RankPool

WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {"DDP": data_parallel, "FSDP2": fsdp}


def make_engine_with(wrap: str, argument: str, values: tuple[Any, ...]) -> None:
    attach(WRAPS[wrap](make_model()), **{argument: values[dist.get_rank()]})


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    ("argument", "values", "message"),
    [
        ("seed", (0, 1), r"ranks disagree about seed: rank 0 has 0, rank 1 has 1"),
        ("method", ("set", "rigl"), r"ranks disagree about the method: rank 0 has set\("),
        ("method", (RigL(1), RigL(2)), r"ranks disagree about the method"),
        ("sparsity", (0.5, 0.6), r"ranks disagree about active weights per layer"),
        ("total_steps", (10, 20), r"ranks disagree about total_steps: rank 0 has 10, rank 1 has 20"),
        ("exclude", ((), ("last",)), r"ranks disagree about the layers"),
    ],
)
def test_different_arguments_are_refused_when_the_engine_is_made(
    ranks: RankPool, wrap: str, argument: str, values: tuple[Any, ...], message: str
) -> None:
    first, second = ranks.errors(make_engine_with, wrap, argument, values)
    assert first == second
    with pytest.raises(ValueError, match=message):
        raise ValueError(first)


def test_an_argument_that_is_wrong_on_one_rank_is_refused_on_both(ranks: RankPool) -> None:
    first, second = ranks.errors(make_engine_with, "FSDP2", "sparsity", (0.5, 1.5))
    assert first == "rank 1 refused: sparsity must be in [0, 1), got 1.5"
    assert second == "sparsity must be in [0, 1), got 1.5"


def make_engine_of_another_model(wrap: str) -> None:
    hidden = ((28, 24), (28, 25))[dist.get_rank()]
    if wrap == "plain":
        attach(plain(make_model(hidden))).check_sync()
    else:
        attach(WRAPS[wrap](make_model(hidden)))


@pytest.mark.parametrize("wrap", ["FSDP2", "plain"])
def test_different_models_are_refused(ranks: RankPool, wrap: str) -> None:
    first, second = ranks.errors(make_engine_of_another_model, wrap)
    assert first == second
    assert first.startswith("ranks disagree about the layers: rank 0 has ")


def make_engine_of_another_version() -> None:
    info = {**_core.build_info(), "version": f"9.{dist.get_rank()}"}
    original, _core.build_info = _core.build_info, lambda: info
    try:
        attach(data_parallel(make_model()))
    finally:
        _core.build_info = original


def test_different_versions_are_refused(ranks: RankPool) -> None:
    for error in ranks.errors(make_engine_of_another_version):
        assert error.startswith("ranks disagree about the version of itop: rank 0 has 9.0, rank 1 has 9.1")


def make_engine_cut_otherwise() -> None:
    mesh = init_device_mesh("cpu", (2,))
    model = nn.Linear(8, 8, bias=False)
    placement = Shard(dist.get_rank())
    local = model.weight.detach().chunk(2, dist.get_rank())[dist.get_rank()].contiguous()
    model.weight = nn.Parameter(DTensor.from_local(local, mesh, [placement], run_check=False))
    attach(model)


def test_ranks_that_cut_a_layer_differently_are_refused(ranks: RankPool) -> None:
    for error in ranks.errors(make_engine_cut_otherwise):
        assert error.startswith("ranks disagree about how layers are cut: rank 0 has weight S(0) over 2 ranks, rank 1")


def make_engine_over_other_worlds() -> None:
    alone = init_device_mesh("cpu", (2, 1), mesh_dim_names=("each", "alone"))
    together = init_device_mesh("cpu", (2,))
    model = make_model()
    fully_shard(model, mesh=alone if dist.get_rank() == 0 else together)
    attach(model)


def test_ranks_that_share_a_model_with_different_numbers_of_ranks_are_refused(ranks: RankPool) -> None:
    for error in ranks.errors(make_engine_over_other_worlds):
        assert error.startswith("ranks disagree about how layers are cut: rank 0 has first.weight")
        assert "over 2x1 ranks" in error
        assert "over 2 ranks" in error


def load_a_state_of_another_version() -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model)
    newer = {"version": 99} if dist.get_rank() == 1 else {}
    engine.load_state_dict({**engine.state_dict(), **newer})


def test_a_state_of_another_version_on_one_rank_is_refused_on_both(ranks: RankPool) -> None:
    for error in ranks.errors(load_a_state_of_another_version):
        assert "the engine state has version 99, this release reads versions 1 to 3" in error


def check_plain_models_with_seeds() -> None:
    attach(plain(make_model()), seed=dist.get_rank()).check_sync()


def test_plain_models_are_compared_when_asked_for(ranks: RankPool) -> None:
    for error in ranks.errors(check_plain_models_with_seeds):
        assert error.startswith("ranks disagree about seed")


def tamper_and_check() -> None:
    model = data_parallel(make_model())
    engine = attach(model, "rigl")
    train(model, engine, 3, parts=2)
    engine.check_sync()
    if dist.get_rank() == 1:
        topology = engine.topology
        words = topology.active.native.words(1, 0)
        words[0] ^= 1
        topology.active.native.set_words(1, words, 0)
    engine.check_sync()


def test_check_sync_names_the_layer_that_differs_on_every_rank(ranks: RankPool) -> None:
    for error in ranks.errors(tamper_and_check):
        assert error.startswith("layer 'second.weight' is out of sync: rank 1 holds another topology than rank 0")


def tamper_with_a_replica() -> None:
    from rank_models import hybrid

    model = make_model()
    hybrid(model)
    engine = attach(model)
    engine.check_sync()
    if dist.get_rank() == 3:
        words = engine.topology.explored.native.words(0, 0)
        words[0] ^= 2
        engine.topology.explored.native.set_words(0, words, 0)
    engine.check_sync()


def test_replicas_of_a_shard_are_compared() -> None:
    pool = RankPool(4)
    try:
        for error in pool.errors(tamper_with_a_replica):
            assert error.startswith("layer 'first.weight' is out of sync: rank 3 holds another topology than rank 1")
    finally:
        pool.stop()


def join_with_other_masks() -> None:
    other = attach(make_model(), "set", seed=5)
    train(make_model(), other, 0)
    model = data_parallel(make_model())
    engine = attach(model, "set", seed=5)
    if dist.get_rank() == 1:
        state = other.state_dict()
        moved = {**state["layers"]}
        moved["last.weight"] = moved["last.weight"].flip(0)
        engine.load_state_dict({**state, "layers": moved})
    train(model, engine, 1, parts=2)


def test_a_rank_that_joins_with_other_masks_is_refused_at_the_first_step(ranks: RankPool) -> None:
    for error in ranks.errors(join_with_other_masks):
        assert error.startswith("layer 'last.weight' is out of sync: rank 1")


def join_at_another_step() -> None:
    model = data_parallel(make_model())
    engine = attach(model)
    if dist.get_rank() == 1:
        engine.load_state_dict({**engine.state_dict(), "steps": 7})
    train(model, engine, 1, parts=2)


def test_a_rank_that_joins_at_another_step_is_refused(ranks: RankPool) -> None:
    for error in ranks.errors(join_at_another_step):
        assert error.startswith("ranks disagree about steps: rank 0 has 0, rank 1 has 7")


def optimizer_before_fully_shard() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fsdp(model)
    SparseEngine(model, optimizer, "set")


def test_an_optimiser_made_before_fully_shard_is_refused(ranks: RankPool) -> None:
    for error in ranks.errors(optimizer_before_fully_shard):
        assert "'first.weight' is not in the optimiser; make the optimiser after fully_shard" in error


def wrap_in_fsdp1() -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(make_model(), device_id=torch.device("cpu"), use_orig_params=True)
    SparseEngine(model, torch.optim.SGD(model.parameters(), lr=0.1), "set")


def test_fsdp1_is_refused(ranks: RankPool) -> None:
    for error in ranks.errors(wrap_in_fsdp1):
        assert "FSDP1" in error
        assert "fully_shard" in error


def not_a_number_on_one_shard() -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model, "rigl")
    train(model, engine, 1, parts=2)
    before = engine.topology.digest()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if dist.get_rank() == 1:
        model.second.weight.grad.to_local()[0, 0] = float("nan")
    try:
        engine.update()
    finally:
        assert engine.topology.digest() == before


def test_nan_in_one_ranks_shard_is_refused_on_every_rank(ranks: RankPool) -> None:
    for error in ranks.errors(not_a_number_on_one_shard):
        assert "layer 'second.weight' hold NaN" in error


def nan_weights_on_one_shard() -> None:
    model = make_model()
    fsdp(model)
    if dist.get_rank() == 1:
        with torch.no_grad():
            model.last.weight.to_local()[0, 0] = float("inf")
    attach(model)


def test_an_engine_refuses_weights_that_are_not_finite_on_any_rank(ranks: RankPool) -> None:
    first, second = ranks.errors(nan_weights_on_one_shard)
    assert second == "the weights of layer 'last.weight' hold NaN or infinity"
    assert first == f"rank 1 refused: {second}"


def load_damaged_shard() -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model)
    state = engine.state_dict()
    if dist.get_rank() == 1:
        state["layers"]["first.weight"].to_local()[0, 0] = 9
    engine.load_state_dict(state)


def test_a_state_that_is_damaged_on_one_rank_is_refused_on_both(ranks: RankPool) -> None:
    for error in ranks.errors(load_damaged_shard):
        assert "layer 'first.weight' has active or reliable weights that were never explored" in error
