"""Ranks that do not make an engine of the model they share are found out, instead of being waited for."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from itop import SparseEngine
from itop.distributed import meeting
from itop.methods import METHODS
from rank_models import attach, data_parallel, fsdp, make_model, train
from rank_pool import RankPool


def make_engine_sharded_on(rank: int, seconds_late: float, **options: Any) -> None:
    """The other rank's model is plain, and trains."""
    model = make_model()
    if dist.get_rank() == rank:
        time.sleep(seconds_late)
        fsdp(model)
        attach(model, **options)
        return
    engine = attach(model, **options)
    time.sleep(max(0.0, seconds_late - 1.0))
    train(model, engine, 1)


@pytest.mark.parametrize(
    ("rank", "seconds_late"), [(0, 0.0), (1, 0.0), (1, 5.0)], ids=["first", "second", "long after the plain one"]
)
def test_a_plain_model_beside_a_sharded_one_is_refused_on_both_ranks(
    ranks: RankPool, rank: int, seconds_late: float
) -> None:
    started = time.monotonic()
    first, second = ranks.errors(make_engine_sharded_on, rank, seconds_late)
    assert time.monotonic() - started < 30.0  # long before the process group's timeout
    assert first == second
    assert first == (
        f"ranks disagree about how the model is shared: rank {1 - rank} has a model of its own, others one that 2 ranks "
        "share; wrap or shard the model alike on every rank"
    )


def test_ranks_that_were_refused_meet_again(ranks: RankPool) -> None:
    ranks.errors(make_engine_sharded_on, 0, 0.0)
    ranks.run(make_sharded_engine)


def make_sharded_engine() -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model)
    train(model, engine, 2, parts=2)
    engine.check_sync()


def refuse_on_one_rank(kind: str) -> None:
    model = make_model()
    if dist.get_rank() == 0:
        attach(fsdp(model))
    elif kind == "no model":
        SparseEngine("model", torch.optim.SGD(model.parameters(), lr=0.1))  # type: ignore[arg-type]
    else:
        attach(model, sparsity=2.0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("no model", "model must be a torch.nn.Module, got str"), ("sparsity", "sparsity must be in [0, 1), got 2.0")],
)
def test_a_rank_that_makes_no_engine_because_of_its_arguments_is_not_waited_for(
    ranks: RankPool, kind: str, message: str
) -> None:
    first, second = ranks.outcomes(refuse_on_one_rank, kind)
    assert second.error == message
    assert first.error == f"rank 1 refused: {message}"


def wrong_on_one_rank(argument: str, value: Any) -> None:
    value = iter([]) if argument == "batches" else value
    attach(data_parallel(make_model()), **({argument: value} if dist.get_rank() == 1 else {}))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("total_steps", 0, "total_steps must be a whole number, at least 1, got 0"),
        ("seed", -1, "seed must be a whole number in [0, 2^64), got -1"),
        ("batches", "an iterator", "batches must be something that can be iterated anew"),
        ("method", METHODS["snip"](), "method 'snip' chooses its masks by training batches"),
    ],
)
def test_whatever_is_wrong_on_one_rank_is_refused_on_both(
    ranks: RankPool, argument: str, value: Any, message: str
) -> None:
    first, second = ranks.errors(wrong_on_one_rank, argument, value)
    assert second.startswith(message)
    assert first == f"rank 1 refused: {second}"


def train_alone(rank: int) -> int:
    """One rank trains a plain model by itself; then all train a shared one."""
    num_updates = 0
    if dist.get_rank() == rank:
        model = make_model((20, 16))
        engine = attach(model)
        train(model, engine, 3)
        num_updates = engine.num_updates
    make_sharded_engine()
    return num_updates


@pytest.mark.parametrize("rank", [0, 1])
def test_a_model_of_one_ranks_own_is_its_own_affair(ranks: RankPool, rank: int) -> None:
    assert ranks.run(train_alone, rank)[rank] == 3


def train_another_model_while_others_wait() -> tuple[int, list[str]]:
    """Rank 1 trains a plain model of other layers for longer than others take for chance, then comes after all."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("itop.distributed.meeting")
    logger.addHandler(handler)
    num_steps = 0
    try:
        if dist.get_rank() == 1:
            model = make_model((20, 16))
            engine = attach(model)
            for _ in range(16):
                train(model, engine, 1)
                time.sleep(0.3)
            num_steps = engine.steps
        make_sharded_engine()
    finally:
        logger.removeHandler(handler)
    return num_steps, messages


def test_whoever_waits_for_a_rank_with_another_model_says_so_at_once_and_waits_on(ranks: RankPool) -> None:
    waiting, training = ranks.run(train_another_model_while_others_wait)
    assert training[0] == 16
    assert waiting[1] == [
        "rank 1 made an engine of another model; rank 0 waits up to 60 s for it to make one of the model that 2 ranks share"
    ]
    assert training[1] == [
        "rank 0 waits for an engine of the model that 2 ranks share, while rank 1 trains one of its own with other layers"
    ]


def train_another_model_for_good(own: int, leeway: float) -> float:
    """One rank trains a plain model of other layers and never comes."""
    meeting._LEEWAY = leeway
    start = time.monotonic()
    try:
        if dist.get_rank() != own:
            make_sharded_engine()
        model = make_model((20, 16))
        engine = attach(model)
        while time.monotonic() < start + 60:
            train(model, engine, 1)
    except ValueError as refusal:
        raise ValueError(f"{time.monotonic() - start:.3f} {refusal}") from None
    finally:
        meeting._LEEWAY = 60.0
    raise AssertionError("nobody refused")


@pytest.mark.parametrize("own", [0, 1])
def test_a_rank_that_goes_on_training_another_model_is_refused_on_both_sides(own: int) -> None:
    pool = RankPool(2)
    try:
        errors = pool.errors(train_another_model_for_good, own, 2.0)
    finally:
        pool.stop()
    for error in errors:
        seconds, _, words = error.partition(" ")
        assert words == (
            f"rank {own} trains another model while rank {1 - own} waits for it to make an engine of the one that 2 ranks share; "
            "make the same engines in the same order on every rank"
        )
        assert 2.0 < float(seconds) < 40.0  # long before the group's timeout, however busy the machine


def wrap_on_one_rank_only() -> list[str]:
    """Rank 0 waits in the constructor of torch, where no engine can see it; rank 1 has a plain model."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("itop.distributed.meeting").addHandler(handler)
    model = make_model()
    if dist.get_rank() == 0:
        with contextlib.suppress(RuntimeError):
            data_parallel(model)
        return messages
    train(model, attach(model), 2)
    return messages


def test_who_makes_an_engine_while_others_make_none_hears_where_they_may_wait() -> None:
    pool = RankPool(2, group_timeout=6.0)
    try:
        outcomes = pool.run(wrap_on_one_rank_only)
    finally:
        pool.stop()
    assert outcomes == [
        [],
        [
            "rank 1 makes an engine of a model of its own, and rank 0 made none within 3 s; where they wait in "
            "DistributedDataParallel, fully_shard or parallelize_module, wrap the model here as well"
        ],
    ]


def make_engine_on(rank: int) -> None:
    model = make_model()
    fsdp(model)
    if dist.get_rank() == rank:
        attach(model)


def train_plain_models_of_all_sizes() -> int:
    hidden = 16 + 4 * dist.get_rank()
    model = make_model((hidden, hidden))
    engine = attach(model)
    train(model, engine, 3)
    return engine.num_updates


def test_plain_models_in_a_process_group_train_as_they_like(ranks: RankPool) -> None:
    assert ranks.run(train_plain_models_of_all_sizes) == [3, 3]


@pytest.mark.parametrize("rank", [0, 1])
def test_an_engine_that_others_do_not_make_is_refused_after_the_groups_timeout(rank: int) -> None:
    pool = RankPool(2, group_timeout=6.0)
    try:
        outcomes = pool.outcomes(make_engine_on, rank)
    finally:
        pool.stop()
    assert outcomes[rank].error == (
        f"no engine was made on rank {1 - rank} within 6 s, where 2 ranks share the model; make it on every rank"
    )
    assert outcomes[1 - rank].error is None
