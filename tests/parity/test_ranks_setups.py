"""Training setups of two ranks: whatever optimiser, precision or wrapper, ranks stay alike and zeros stay zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

import itop.optim
from itop import SparseEngine
from itop.grown_state import OwnStepCount
from itop.methods import METHODS
from optimizers_of_others import Lars
from rank_pool import RankPool


class Net(nn.Module):
    """A convolution and odd matrices, one of them in two places."""

    def __init__(self, is_checkpointed: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 5, 3, bias=False)
        self.first, self.twice, self.last = nn.Linear(80, 23), nn.Linear(23, 23, bias=False), nn.Linear(23, 7)
        self.again = nn.Linear(23, 23, bias=False)
        self.again.weight = self.twice.weight
        self.is_checkpointed = is_checkpointed

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.first(F.relu(self.conv(images)).flatten(1)))
        x = F.relu(checkpoint(self.twice, x, use_reentrant=False) if self.is_checkpointed else self.twice(x))
        return self.last(F.relu(self.again(x)))  # type: ignore[no-any-return]


def make_model(is_checkpointed: bool = False) -> Net:
    torch.manual_seed(3)
    return Net(is_checkpointed)


def wrapped(model: nn.Module, wrap: str, **options: Any) -> nn.Module:
    if wrap == "DDP":
        return nn.parallel.DistributedDataParallel(model)
    fully_shard(model, **options)
    return model


def loss_of(model: nn.Module, step: int) -> Tensor:
    """On this rank's own data."""
    generator = torch.Generator().manual_seed(100 * step + dist.get_rank())
    images, labels = torch.randn(8, 1, 6, 6, generator=generator), torch.randint(7, (8,), generator=generator)
    return F.cross_entropy(model(images).float(), labels)


def assert_exact(engine: SparseEngine) -> None:
    """Weights and all state of their shape are zero where inactive."""
    topology = engine.topology
    for i, mask in enumerate(topology.active.to_tensors()):
        assert not topology.local(i)[~mask].count_nonzero()
        for state in topology.optimizer_state.states(topology.layers[i]):
            assert not state[~mask].count_nonzero()


def attach(model: nn.Module, optimizer: Optimizer | list[Optimizer], method: str = "rigl-itop", **options: Any) -> Any:
    return SparseEngine(model, optimizer, METHODS[method](update_every=2), sparsity=0.8, total_steps=100, **options)


def train(
    model: nn.Module,
    engine: SparseEngine,
    optimizers: list[Any],
    steps: int = 6,
    before_step: Callable[[], object] = lambda: None,
) -> bytes:
    """Steps with an update every second time; the digest of the topology in the end."""
    for _ in range(steps):
        model.zero_grad()
        loss_of(model, engine.steps).backward()
        before_step()
        for optimizer in optimizers:
            optimizer.step()
        assert_exact(engine)
    engine.check_sync()
    assert engine.num_updates == engine.steps // 2 >= 3
    digest = engine.topology.digest()
    engine.detach()
    return digest


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.01, **options)


def train_with(wrap: str, setup: str) -> bytes:
    model = wrapped(make_model(is_checkpointed=setup == "activation checkpointing"), wrap)
    run = torch.compile(model, backend="aot_eager") if setup == "compiled" else model
    optimizer = adamw(model)
    return train(run, attach(run, optimizer), [optimizer])


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["compiled", "activation checkpointing"])
@pytest.mark.parametrize("wrap", ["DDP", "FSDP2"])
def test_what_changes_no_gradient_changes_no_mask(ranks: RankPool, wrap: str, setup: str) -> None:
    assert ranks.run(train_with, wrap, setup, timeout=200) == ranks.run(train_with, wrap, "nothing")


def with_muon(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW([p for p in model.parameters() if p.dim() != 2])]


OPTIMIZERS: dict[str, Callable[[nn.Module], list[Any]]] = {
    "AdamW": lambda model: [adamw(model, amsgrad=True)],
    "fused AdamW": lambda model: [adamw(model, fused=True)],
    "itop's AdamW": lambda model: [itop.optim.AdamW(model.parameters(), lr=0.01)],
    "LARS": lambda model: [Lars(model.parameters())],
    "Muon and AdamW": with_muon,
}


def train_by(name: str, wrap: str) -> None:
    model = wrapped(make_model(), wrap)
    optimizers = OPTIMIZERS[name](model)
    train(model, attach(model, optimizers if len(optimizers) > 1 else optimizers[0], "rigl"), optimizers)


@pytest.mark.parametrize("wrap", ["DDP", "FSDP2"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_keeps_ranks_alike(ranks: RankPool, name: str, wrap: str) -> None:
    if "Muon" in name and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    ranks.run(train_by, name, wrap)


def train_by_zero(is_zero: bool) -> bytes:
    model = wrapped(make_model(), "DDP")
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01) if is_zero else adamw(model)
    engine = attach(model, optimizer)
    held = optimizer.optim.state if is_zero else optimizer.state

    def moments_are_zero() -> None:
        for layer in engine.topology.layers:
            for state in held.get(layer.parameter, {}).values():
                assert state.dim() == 0 or not state[~engine.mask(layer.name)].any(), layer.name

    engine.on_update(lambda report: moments_are_zero())
    return train(model, engine, [optimizer], steps=10)


def test_an_optimiser_whose_state_is_shared_out_between_ranks_trains_as_one_that_has_it_whole(ranks: RankPool) -> None:
    assert ranks.run(train_by_zero, True) == ranks.run(train_by_zero, False)


def train_in_bfloat16(reduces_in: torch.dtype | None) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=reduces_in)
    model = wrapped(make_model(), "FSDP2", mp_policy=policy)
    optimizer = adamw(model)
    train(model, attach(model, optimizer, sparse_gradients=True), [optimizer])


@pytest.mark.parametrize("reduces_in", [torch.float32, None])
def test_a_mixed_precision_policy_keeps_ranks_alike(ranks: RankPool, reduces_in: torch.dtype | None) -> None:
    ranks.run(train_in_bfloat16, reduces_in)


def train_by_own_step_counts() -> None:
    model = wrapped(make_model(), "FSDP2")
    optimizer = adamw(model)
    train(model, attach(model, optimizer, grown_state=OwnStepCount()), [optimizer])


def test_shards_count_the_steps_of_grown_weights(ranks: RankPool) -> None:
    ranks.run(train_by_own_step_counts)


def step_inside_backward() -> bytes:
    model = wrapped(make_model(), "FSDP2")
    optimizers = {p: torch.optim.SGD([p], lr=0.1, momentum=0.9) for p in model.parameters()}
    engine = attach(model, list(optimizers.values()))
    for parameter, optimizer in optimizers.items():

        def step_now(_: Tensor, optimizer: Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step_now)
    return train(model, engine, [])


def step_after_backward() -> bytes:
    model = wrapped(make_model(), "FSDP2")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return train(model, attach(model, optimizer), [optimizer])


def test_sharded_optimisers_that_step_inside_backward_train_as_one_does(ranks: RankPool) -> None:
    assert ranks.run(step_inside_backward) == ranks.run(step_after_backward)


def swap_in_averages() -> None:
    model = wrapped(make_model(), "FSDP2")
    optimizer = adamw(model)
    engine = attach(model, optimizer)
    averages = [parameter.detach().clone() for parameter in model.parameters()]

    def average() -> None:
        for mean, parameter in zip(averages, model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 0.1)

    for step in range(3):
        model.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        average()
    with torch.no_grad():
        for mean, parameter in zip(averages, model.parameters(), strict=True):
            parameter.copy_(mean)  # dropped weights fade in an average: it has values outside the mask
    train(model, engine, [optimizer], 5)


def test_averages_of_shards_may_take_the_place_of_the_weights(ranks: RankPool) -> None:
    ranks.run(swap_in_averages)


def scale(fused: bool, clips: bool) -> tuple[int, int, float]:
    """An overflow in the loss of one rank, then one in a single shard."""
    model = wrapped(make_model(), "FSDP2")
    optimizer = adamw(model, fused=fused)
    engine = attach(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for step in range(8):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        if step == 3 and dist.get_rank() == 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        if step == 5 and dist.get_rank() == 1:
            model.twice.weight.grad.to_local()[0, 0] = float("inf")  # type: ignore[union-attr, operator]
        if clips:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        before = engine.topology.digest()
        scaler.step(optimizer)
        scaler.update()
        assert_exact(engine)
        assert step not in (3, 5) or engine.topology.digest() == before
    engine.check_sync()
    return engine.steps, engine.num_updates, scaler.get_scale()


@pytest.mark.parametrize("clips", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("fused", [False, True], ids=["for each", "fused"])
def test_an_overflow_in_one_shard_is_no_step_on_any_rank(ranks: RankPool, fused: bool, clips: bool) -> None:
    for result in ranks.run(scale, fused, clips):
        assert result == (6, 3, 1.0)  # the scale was halved twice


def train_every_method(wrap: str) -> dict[str, str]:
    """Of each method that could not be used: why."""
    refused: dict[str, str] = {}
    for name, make in METHODS.items():
        model = wrapped(make_model(), wrap)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        try:
            method = make(update_every=2)
        except TypeError:  # it updates at no interval
            method = make()
        generator = torch.Generator().manual_seed(dist.get_rank())
        batch = torch.randn(8, 1, 6, 6, generator=generator), torch.randint(7, (8,), generator=generator)
        try:
            engine = SparseEngine(model, optimizer, method, sparsity=0.7, total_steps=40, batches=[batch])
        except ValueError as error:
            refused[name] = str(error)
            continue
        for step in range(5):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        try:
            engine.check_sync()
        except ValueError as error:
            raise AssertionError(f"{name}: {error}") from error
        digest = engine.topology.digest()
        engine.load_state_dict(engine.state_dict())
        assert engine.topology.digest() == digest, name
        engine.detach()
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["DDP", "FSDP2"])
def test_every_method_keeps_ranks_alike_or_says_that_it_needs_whole_layers(ranks: RankPool, wrap: str) -> None:
    for refused in ranks.run(train_every_method, wrap, timeout=250):
        refused.pop("early-bird", None)  # the model has no batch normalisation
        assert all("does not work on sharded" in reason for reason in refused.values()), refused
        assert not refused or wrap == "FSDP2"
        assert not refused.keys() & {"set", "rigl", "gmp", "snfs", "snip", "set-itop", "rigl-itop"}
