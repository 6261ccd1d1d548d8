"""After every step of every optimiser, inactive weights and their state are exactly zero and counts are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from engine_checks import InvariantCheck, backward, batches, optimizer_state, small_convnet, small_mlp, train
from torch import Tensor, nn
from torch.optim import Optimizer

import itop.optim
from itop import SparseEngine
from itop.methods import METHODS, Method

Make = Callable[[Iterable[nn.Parameter]], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "sgd momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4, dampening=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "sgd foreach": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True),
    "sgd maximize": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adam amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True, weight_decay=0.1),
    "adam foreach": lambda p: torch.optim.Adam(p, 0.01, foreach=True, maximize=True),
    "adam fused": lambda p: torch.optim.Adam(p, 0.01, fused=True, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "adamw fused": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "rmsprop centered": lambda p: torch.optim.RMSprop(p, 0.01, centered=True, momentum=0.9, weight_decay=0.01),
    "rmsprop foreach": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, foreach=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, initial_accumulator_value=0.5, weight_decay=0.01),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, 0.05, initial_accumulator_value=0.5, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, 0.01, weight_decay=0.01, decoupled_weight_decay=True),
    "radam": lambda p: torch.optim.RAdam(p, 0.01, weight_decay=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1.0, weight_decay=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, 0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, 0.01),
    "asgd": lambda p: torch.optim.ASGD(p, 0.01, t0=0.0),
    "rprop": lambda p: torch.optim.Rprop(p, 0.01),
    "itop sgd": lambda p: itop.optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "itop sgd without momentum": lambda p: itop.optim.SGD(p, 0.05),
    "itop sgd fused by torch": lambda p: itop.optim.SGD(p, 0.05, momentum=0.9, fused=True),
    "itop adam": lambda p: itop.optim.Adam(p, 0.01),
    "itop adam amsgrad": lambda p: itop.optim.Adam(p, 0.01, amsgrad=True),
    "itop adamw": lambda p: itop.optim.AdamW(p, 0.01, weight_decay=0.1),
}

WITHOUT_EPSILON: dict[str, Make] = {
    "adam without epsilon": lambda p: torch.optim.Adam(p, 0.01, eps=0.0),
    "rmsprop without epsilon": lambda p: torch.optim.RMSprop(p, 0.01, eps=0.0),
    "adagrad without epsilon": lambda p: torch.optim.Adagrad(p, 0.05, eps=0.0),
    "adadelta without epsilon": lambda p: torch.optim.Adadelta(p, 1.0, eps=0.0),
    "itop adam without epsilon": lambda p: itop.optim.Adam(p, 0.01, eps=0.0),
}

METHODS_UNDER_TEST: dict[str, Method] = {
    "static": METHODS["static"](),
    "set": METHODS["set"](update_every=3),
    "set-itop": METHODS["set-itop"](update_every=3),
    "rigl": METHODS["rigl"](update_every=3),
    "rigl-itop": METHODS["rigl-itop"](update_every=3),
}


@pytest.mark.parametrize("method", METHODS_UNDER_TEST.values(), ids=METHODS_UNDER_TEST)
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_inactive_is_exactly_zero_after_every_step(make: Make, method: Method) -> None:
    model = small_convnet()
    optimizer = make(model.parameters())
    engine = SparseEngine(model, optimizer, method, sparsity=0.7, total_steps=24)
    check = InvariantCheck(engine)
    train(model, optimizer, batches((4, 6, 6), 5), 20, check)
    assert engine.steps == 20
    assert engine.num_updates == (0 if method.name == "static" else 5 if method.name == "rigl" else 6)
    for parameter in model.parameters():
        assert parameter.isfinite().all()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_grown_weight_starts_at_zero_with_zero_state(make: Make) -> None:
    model = small_mlp()
    optimizer = make(model.parameters())
    engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=4), sparsity=0.5, total_steps=100)
    num_grown = 0
    before = {layer.name: engine.mask(layer.name) for layer in engine.layers}

    def grown_are_zero(report: object) -> None:
        nonlocal num_grown
        for layer in engine.topology.layers:
            grown = engine.mask(layer.name) & ~before[layer.name]
            num_grown += int(grown.sum())
            assert not layer.parameter.detach()[grown].any()
            for key, value in optimizer_state(engine, layer.name):
                assert not value[grown].any(), key
            before[layer.name] = engine.mask(layer.name)

    engine.on_update(grown_are_zero)
    train(model, optimizer, batches(), 20)
    assert num_grown > 50


@pytest.mark.parametrize("make", WITHOUT_EPSILON.values(), ids=WITHOUT_EPSILON)
def test_an_epsilon_of_zero_makes_no_nan_of_what_is_inactive(make: Make) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 13), nn.Tanh(), nn.Linear(13, 7))
    optimizer = make(model.parameters())
    engine = SparseEngine(
        model,
        optimizer,
        METHODS["set-itop"](update_every=3),
        sparsity=0.5,
        total_steps=30,
        exclude="2",  # so that every hidden unit counts and no gradient is exactly zero
    )
    train(model, optimizer, batches(), 10, InvariantCheck(engine))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_muon_keeps_inactive_weights_at_zero() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    model = small_mlp(bias=False)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.02)
    engine = SparseEngine(model, optimizer, METHODS["rigl-itop"](update_every=3), sparsity=0.6, total_steps=50)
    train(model, optimizer, batches(), 15, InvariantCheck(engine))
    assert engine.num_updates == 5


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
@pytest.mark.parametrize("method", ["static", "set-itop", "rigl-itop", "rigl"])
def test_lbfgs_evaluates_only_sparse_models_and_remembers_nothing_of_inactive_weights(
    method: str, line_search: str | None
) -> None:
    model = small_mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), 0.5, max_iter=5, history_size=4, line_search_fn=line_search)
    chosen = METHODS[method]() if method == "static" else METHODS[method](update_every=2)
    engine = SparseEngine(model, optimizer, chosen, sparsity=0.6, total_steps=20)
    check = InvariantCheck(engine)
    data = batches()
    for _ in range(8):
        batch = next(data)
        evaluations = 0

        def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            for layer in engine.topology.layers:
                assert not layer.parameter.detach()[~engine.mask(layer.name)].any(), evaluations
            optimizer.zero_grad()
            return backward(model, batch)

        optimizer.step(closure)
        check()
        assert evaluations > 1
    assert engine.steps == 8
    assert engine.num_updates == (0 if method == "static" else 4 if method != "rigl" else 3 + 1)


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_is_called_once_and_its_loss_returned(as_keyword: bool) -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    engine = SparseEngine(model, optimizer, METHODS["rigl"](update_every=2), sparsity=0.5, total_steps=100)
    check = InvariantCheck(engine)
    data = batches()
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses.append(backward(model, next(data)))
        return losses[-1]

    for step in range(1, 7):
        returned = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
        check()
        assert len(losses) == step
        assert returned is losses[-1]
    assert engine.num_updates == 3


def test_a_closure_gives_the_weights_that_a_plain_loop_gives() -> None:
    results = []
    for with_closure in (False, True):
        model = small_mlp()
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        engine = SparseEngine(model, optimizer, METHODS["rigl-itop"](update_every=3), sparsity=0.5, total_steps=100)
        data = batches()
        for _ in range(10):
            if with_closure:

                def closure(model: nn.Module = model, optimizer: Optimizer = optimizer) -> Tensor:
                    optimizer.zero_grad()
                    return backward(model, next(data))  # noqa: B023

                optimizer.step(closure)
            else:
                train(model, optimizer, data, 1)
        assert engine.num_updates == 3
        results.append(model.state_dict())
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name]), name


@pytest.mark.parametrize("make", [OPTIMIZERS["nesterov"], OPTIMIZERS["adamw"], OPTIMIZERS["itop sgd"]])
def test_every_parameter_group_is_kept_sparse_with_its_own_options(make: Make) -> None:
    model = small_mlp()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 1e-4, "weight_decay": 0.2}]
    optimizer = make(groups)  # type: ignore[arg-type]
    engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), sparsity=0.8, total_steps=50)
    train(model, optimizer, batches(), 10, InvariantCheck(engine))
    extra = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [extra]})
    extra.grad = torch.ones(3)
    train(model, optimizer, batches(), 4)
    assert engine.num_updates == 7


def test_an_optimiser_of_ones_own_is_kept_sparse_whatever_it_does() -> None:
    class Noisy(Optimizer):
        """Writes noise to weights and to nested state."""

        def __init__(self, params: Iterable[nn.Parameter]) -> None:
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p += torch.randn_like(p)
                    self.state[p] = {"noise": torch.randn_like(p), "history": [torch.randn_like(p)], "count": 3}

    model = small_mlp()
    optimizer = Noisy(model.parameters())
    engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), sparsity=0.8, total_steps=50)
    check = InvariantCheck(engine)
    for _ in range(6):
        optimizer.step()
        check()
        for layer in engine.topology.layers:
            (nested,) = optimizer.state[layer.parameter]["history"]
            assert not nested[~engine.mask(layer.name)].any()
    assert engine.num_updates == 3
