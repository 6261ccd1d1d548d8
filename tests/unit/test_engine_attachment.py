"""An engine without hooks, detached, beside another one; and what is refused of a model that changed under it."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from engine_checks import SGD, InvariantCheck, batches, everything, hooks, masks, sgd_engine, small_mlp, train
from torch import nn
from torch.nn.utils.prune import l1_unstructured

import itop.optim
from itop import SparseEngine
from itop.methods import METHODS
from same_bits import assert_same


@pytest.mark.parametrize("method", ["set-itop", "rigl-itop"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, itop.optim.SGD])
def test_a_loop_without_hooks_that_calls_step_gives_the_same_masks_and_weights(kind: Any, method: str) -> None:
    results = []
    for attach in (True, False):
        model = small_mlp()
        optimizer = kind(model.parameters(), **SGD)
        engine = SparseEngine(
            model, optimizer, METHODS[method](update_every=3), sparsity=0.6, total_steps=100, attach=attach
        )
        check = InvariantCheck(engine)
        data = batches()
        for _ in range(10):
            train(model, optimizer, data, 1)
            report = engine.step()
            assert report is engine.last_update
            check()
        assert (engine.steps, engine.num_updates) == (10, 3)
        results.append((dict(model.state_dict()), masks(engine)))
    assert_same(results[0], results[1])


def test_with_hooks_step_changes_nothing() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, every=1)
    train(model, optimizer, batches(), 3)
    before = everything(model, engine)
    assert engine.step() is engine.last_update
    assert_same(before, everything(model, engine))


def test_a_detached_model_keeps_its_zeros_and_no_hook() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    without = hooks(model, optimizer)
    engine = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=3), sparsity=0.7, total_steps=100)
    train(model, optimizer, batches(), 4)
    engine.detach()
    engine.detach()
    assert hooks(model, optimizer) == without
    assert not optimizer._optimizer_load_state_dict_post_hooks
    assert model[0].weight.detach()[~engine.mask("0.weight")].count_nonzero() == 0
    before = engine.state_dict()
    train(model, optimizer, batches(), 2)
    assert_same(before, engine.state_dict())


def test_an_engine_goes_when_it_was_detached() -> None:
    import weakref

    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    train(model, optimizer, batches(), 1)
    engine.detach()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None


def test_a_second_engine_on_the_same_layers_is_refused_until_the_first_is_detached() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model)
    train(model, optimizer, batches(), 2)
    before = everything(model, engine)
    with pytest.raises(ValueError, match=r"already has a SparseEngine, for 0\.weight, 2\.weight; call its detach\(\)"):
        SparseEngine(model, optimizer, "static", sparsity=0.5)
    assert_same(before, everything(model, engine))
    engine.detach()
    second = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), sparsity=0.9, total_steps=10, seed=1)
    train(model, optimizer, batches(), 4, InvariantCheck(second))
    assert engine.steps == 2


def test_two_engines_share_an_optimiser_where_their_layers_differ() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    options: dict[str, Any] = {"sparsity": 0.7, "total_steps": 100}
    first = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), include="0", **options)
    second = SparseEngine(model, optimizer, METHODS["set-itop"](update_every=3), include="2", **options)
    checks = InvariantCheck(first), InvariantCheck(second)
    train(model, optimizer, batches(), 6, lambda: [check() for check in checks])
    assert (first.num_updates, second.num_updates) == (3, 2)


def test_callbacks_hear_every_update_until_they_are_ended() -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, every=2)
    heard: list[Any] = []
    end = engine.on_update(heard.append)
    train(model, optimizer, batches(), 5)
    assert [(report.update, report.step) for report in heard] == [(1, 2), (2, 4)]
    assert heard[-1] is engine.last_update
    end()
    train(model, optimizer, batches(), 2)
    assert len(heard) == 2


# --- what a model must not do under an engine ----------------------------------------------------------------------------


def new_layer(model: nn.Module) -> None:
    model[0] = nn.Linear(9, 13)


REPLACED: dict[str, Any] = {
    "a new layer": new_layer,
    "assigned": lambda model: model.load_state_dict(small_mlp(3).state_dict(), assign=True),
    "a new parameter": lambda model: setattr(model[0], "weight", nn.Parameter(torch.randn(13, 9))),
    "weight norm": lambda model: nn.utils.parametrizations.weight_norm(model[0]),
}


@pytest.mark.parametrize("attaches", [True, False])
@pytest.mark.parametrize("replace", REPLACED.values(), ids=REPLACED)
def test_a_parameter_that_was_replaced_under_the_engine_is_named_at_the_next_step(replace: Any, attaches: bool) -> None:
    model = small_mlp()
    optimizer, engine = sgd_engine(model, attach=attaches)
    train(model, optimizer, batches(), 2, engine.step)
    replace(model)
    before = everything(model, engine)
    for act in (lambda: train(model, optimizer, batches(), 1, engine.step), engine.update):
        with pytest.raises(
            RuntimeError,
            match=r"^the parameter of layer '0\.weight' is not the model's any more, .* engine after that$",
        ):
            act()
    if attaches:
        assert_same(before, everything(model, engine))
    assert engine.steps == 2


def test_a_replaced_layer_of_a_large_model_is_found_within_some_steps() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(5, 5)) for _ in range(40)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = SparseEngine(model, optimizer, "static", sparsity=0.5)
    model[33][0] = nn.Linear(5, 5)
    steps = iter(optimizer.step, object())
    with pytest.raises(RuntimeError, match=r"layer '33\.0\.weight' is not the model's any more"):
        list(itertools.islice(steps, 10))
    assert 0 < engine.steps < 10


def test_layers_that_are_gone_wrapped_or_computed_from_since_are_no_error() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.other = nn.Linear(9, 13), nn.Linear(13, 7), nn.Linear(9, 9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).relu())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Net()
    optimizer, engine = sgd_engine(model, every=2)
    check, data = InvariantCheck(engine), batches()
    train(model, optimizer, data, 2, check)
    del model.other
    train(model, optimizer, data, 2, check)
    model.last = nn.Sequential(model.last)  # type: ignore[assignment]
    train(model, optimizer, data, 2, check)
    l1_unstructured(model.first, "weight", 0.2)
    train(model, optimizer, data, 2, check)
    assert engine.num_updates == 4


def test_of_two_engines_over_one_layer_the_newer_one_acts_until_it_is_detached() -> None:
    model = small_mlp()
    optimizers = [torch.optim.SGD(model.parameters(), **SGD) for _ in range(2)]
    engines = [
        SparseEngine(model, optimizer, METHODS["set-itop"](update_every=2), sparsity=0.7, total_steps=100, seed=seed)
        for seed, optimizer in enumerate(optimizers)
    ]
    train(model, optimizers[1], batches(), 3, InvariantCheck(engines[1]))
    before = everything(model, engines[1])
    with pytest.raises(RuntimeError, match=r"^a newer SparseEngine keeps layer '0\.weight' sparse; detach\(\) the one"):
        optimizers[0].step()
    assert_same(before, everything(model, engines[1]))
    engines[1].detach()
    train(model, optimizers[0], batches(), 1)
    for layer in engines[0].topology.layers:
        assert not layer.parameter.detach()[~engines[0].mask(layer.name)].any()


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, pickle.dumps, lambda engine: torch.save(engine, io.BytesIO())]
)
def test_an_engine_is_neither_copied_nor_pickled(duplicate: Any) -> None:
    _, engine = sgd_engine(small_mlp())
    with pytest.raises(
        TypeError, match=r"^a SparseEngine can be neither copied nor pickled, .*; save state_dict\(\), and load"
    ):
        duplicate(engine)


def test_engines_that_are_told_when_to_act_take_turns_over_one_model() -> None:
    model = small_mlp()
    engines = [
        SparseEngine(
            model, torch.optim.SGD(model.parameters(), lr=0.1), "set", sparsity=0.5, total_steps=100, attach=False
        )
        for _ in range(2)
    ]
    for engine in engines * 2:
        for layer in engine.topology.layers:
            nn.init.ones_(layer.parameter)
        engine.step()
        assert all(torch.equal(x.parameter != 0, engine.mask(x.name)) for x in engine.topology.layers)
        assert engine.update() is not None
