"""Bad input gets one sentence that names what was wrong, and nothing has changed afterwards."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine_checks import backward, batches, everything, hooks, small_mlp, train
from torch import Tensor, nn

import itop.optim
from itop import SparseEngine
from itop.allocation import ERK, Allocation
from itop.methods import METHODS, RigL
from itop.schedules import ConstantDropFraction, CosineDropFraction, Every
from same_bits import assert_same


def refuse(expected: type[Exception], match: str, model: nn.Module | None = None, **arguments: Any) -> None:
    """Making an engine raises, and leaves model, optimiser and hooks bit for bit as they were."""
    model = small_mlp() if model is None else model
    optimizer = arguments.pop("optimizer", None)
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    before = (
        [p.detach().clone() for p in model.parameters()],
        {i: dict(optimizer.state[p]) for i, p in enumerate(model.parameters()) if p in optimizer.state},
        hooks(model, optimizer),
    )
    arguments = {"method": "set-itop", "total_steps": 100} | arguments
    with pytest.raises(expected, match=match) as raised:
        SparseEngine(model, optimizer, **arguments)
    assert "\n" not in str(raised.value)
    after = (
        [p.detach().clone() for p in model.parameters()],
        {i: dict(optimizer.state[p]) for i, p in enumerate(model.parameters()) if p in optimizer.state},
        hooks(model, optimizer),
    )
    for a, b in zip(before[0], after[0], strict=True):
        assert torch.equal(a, b) or not a.isfinite().all()
    assert_same(before[1:], after[1:])


@pytest.mark.parametrize("sparsity", [1.0, 1.3, -0.1, float("nan"), float("inf"), "0.9", None, True])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity: object) -> None:
    shown = repr(sparsity).replace(".", r"\.")
    refuse(ValueError, rf"^sparsity must be in \[0, 1\), got {shown}$", sparsity=sparsity)


@pytest.mark.parametrize(
    ("name", "nearest"), [("set_itop", "set-itop"), ("RigL", "rigl"), ("sett", "set"), ("riglitop", "rigl-itop")]
)
def test_an_unknown_method_is_refused_with_the_nearest_name(name: str, nearest: str) -> None:
    refuse(ValueError, rf"^unknown method '{name}'; did you mean '{nearest}'\? known: dense, ", method=name)


def test_something_that_is_no_method_is_refused() -> None:
    refuse(TypeError, "^method must be a preset's name or a Method, got int$", method=3)


def test_something_that_is_no_model_or_optimiser_is_refused() -> None:
    optimizer = torch.optim.SGD(small_mlp().parameters(), 0.1)
    with pytest.raises(TypeError, match=r"^model must be a torch\.nn\.Module, got dict$"):
        SparseEngine({}, optimizer, "static")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^optimizer must be a torch\.optim\.Optimizer or a list of them, got dict$"):
        SparseEngine(small_mlp(), {"sgd": optimizer}, "static")  # type: ignore[arg-type]


@pytest.mark.parametrize("total_steps", [0, -3, 1.5, "many", True])
def test_a_horizon_that_is_no_number_of_steps_is_refused(total_steps: object) -> None:
    refuse(
        ValueError, f"^total_steps must be a whole number, at least 1, got {total_steps!r}$", total_steps=total_steps
    )


@pytest.mark.parametrize("method", ["set-itop", "rigl", "rigl-itop"])
def test_a_method_that_needs_its_horizon_says_so(method: str) -> None:
    refuse(
        ValueError,
        f"^method '{method}' needs total_steps, the number of optimiser steps",
        method=method,
        total_steps=None,
    )


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "0", None])
def test_a_seed_out_of_range_is_refused(seed: object) -> None:
    refuse(ValueError, r"^seed must be a whole number in \[0, 2\^64\), got ", seed=seed)


def test_a_parameter_that_is_not_in_the_optimiser_is_named() -> None:
    model = small_mlp()
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    refuse(
        ValueError, r"^parameter '2\.weight' is not in the optimiser; .*exclude the layer$", model, optimizer=optimizer
    )


def test_a_model_without_a_sparsifiable_layer_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.PReLU())
    refuse(ValueError, r"^the model has no sparsifiable layer: expected the weight of a Linear, Conv1d-3d", model)


@pytest.mark.parametrize("include", ["fc*", nn.Conv2d, ["0", "nowhere.weight"]])
def test_an_include_rule_that_matches_nothing_is_refused(include: Any) -> None:
    refuse(ValueError, "^include matches no sparsifiable weight of the model: ", include=include)


def test_a_rule_that_is_no_rule_is_refused() -> None:
    refuse(TypeError, "^include and exclude take globs, module types or callables, got 3 of type int$", exclude=[3])


def test_a_lazy_layer_without_shape_is_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(
        ValueError, match=r"^parameter '0\.weight' is not initialised; run a batch through the model first$"
    ):
        SparseEngine(model, optimizer, "static")
    model(torch.zeros(1, 3))
    SparseEngine(model, torch.optim.SGD(model.parameters(), 0.1), "static")


@pytest.mark.parametrize(
    ("allocation", "match"),
    [
        ("erdos", "^allocation must be one of erk, er, uniform, an Allocation or a mapping, got 'erdos'$"),
        (["erk"], r"^allocation must be one of erk, er, uniform, an Allocation or a mapping, got \['erk'\]$"),
        ({"fc.weight": 0.5}, r"^the allocation names layer 'fc\.weight', which the model does not have; .*0\.weight"),
        ({"0.weight": 1.5}, r"^the sparsity of layer '0\.weight' must be in \[0, 1\), got 1\.5$"),
        ({"0.weight": 0.0}, r"^the allocation cannot be met: at sparsity 0\.9 the layers it does not name"),
        (
            {"0.weight": 0.5, "2.weight": 0.5},
            r"^the allocation cannot be met: its layers hold 105 active .*asks for 21$",
        ),
    ],
)
def test_an_allocation_that_cannot_be_met_is_refused(allocation: Any, match: str) -> None:
    refuse(ValueError, match, allocation=allocation)


@pytest.mark.parametrize("densities", [[0.0, 0.0], [-1.0, 1.0], [float("nan"), 1.0], [1.0]])
def test_an_allocation_of_ones_own_that_makes_no_sense_is_refused(densities: list[float]) -> None:
    class Odd(Allocation):
        def relative_densities(self, layers: Any) -> list[float]:
            return densities

    refuse(ValueError, "allocation|density", allocation=Odd())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_at_the_start(value: float) -> None:
    model = small_mlp()
    with torch.no_grad():
        model[2].weight[3, 4] = value
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    refuse(ValueError, r"^the weights of layer '2\.weight' hold NaN or infinity$", model, optimizer=optimizer)


def test_weights_that_hold_no_values_or_cannot_be_trained_are_refused() -> None:
    with torch.device("meta"):
        model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"^parameter '0\.weight' is on the meta device and holds no values; "):
        SparseEngine(model, optimizer, "static")
    with torch.inference_mode():
        model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^parameter '0\.weight' was made in torch\.inference_mode\(\) and cannot be"):
        SparseEngine(model, optimizer, "static")
    assert_same(dict(before), dict(model.state_dict()))


def test_optimisers_that_have_a_parameter_twice_are_refused() -> None:
    model = small_mlp()
    first, second = torch.optim.SGD(model.parameters(), 0.1), torch.optim.SGD(model[0].parameters(), 0.1)
    with pytest.raises(
        ValueError, match=r"^parameter '0\.weight' is in two of the optimisers; several under one engine"
    ):
        SparseEngine(model, [first, second], "static")
    with pytest.raises(ValueError, match=r"^optimizer lists the same optimiser twice$"):
        SparseEngine(model, [first, first], "static")
    assert not first._optimizer_step_pre_hooks


@pytest.mark.parametrize("attaches", [True, False])
def test_an_optimiser_that_cannot_be_hooked_is_refused_where_it_would_have_to_be(attaches: bool) -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self, inner: torch.optim.Optimizer) -> None:  # without super().__init__(), as some do
            self.inner, self.defaults = inner, inner.defaults
            self.param_groups, self.state = inner.param_groups, inner.state

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.inner.step()

    model = small_mlp()
    optimizer = Wrapper(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    if attaches:
        with pytest.raises(
            ValueError, match=r"^the optimiser Wrapper does not call hooks, .*; give the engine the optimiser"
        ):
            SparseEngine(model, optimizer, "static")
        assert model[0].weight.all()
        return
    engine = SparseEngine(model, optimizer, "static", attach=False)
    for _ in range(3):
        model.zero_grad()
        backward(model, next(batches()))
        optimizer.step()
        engine.step()
        assert not model[0].weight.detach()[~engine.mask("0.weight")].any()


def test_a_weight_whose_memory_has_gaps_is_refused() -> None:
    model = nn.Linear(5, 4)
    model.weight = nn.Parameter(torch.randn(4, 10)[:, :5])
    refuse(
        ValueError,
        "^layer 'weight' cannot be masked: its weight must fill its memory without gaps, got shape",
        model,
    )


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RigL(update_every=0), "^update_every must be a whole number of at least 1, got 0$"),
        (lambda: METHODS["set"](update_every=2.5), "^update_every must be .* got 2.5$"),
        (lambda: METHODS["set-itop"](drop_fraction=1.5), r"^drop_fraction must be in \[0, 1\], got 1.5$"),
        (lambda: ConstantDropFraction(float("nan")), r"^drop_fraction must be in \[0, 1\], got nan$"),
        (lambda: CosineDropFraction(0.1, 0.2), "^the final drop fraction must be at most the initial 0.1, got 0.2$"),
        (lambda: CosineDropFraction(0.1, until=0.0), r"^until must be in \(0, 1\], got 0.0$"),
        (lambda: Every(3, until=2.0), r"^until must be in \(0, 1\], got 2.0$"),
        (lambda: ERK(power=-1.0), "^power must not be negative, got -1.0$"),
    ],
)
def test_options_of_methods_are_checked_when_they_are_made(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


# --- at an update -------------------------------------------------------------------------------------------------------------


def trained(method: str) -> tuple[nn.Module, torch.optim.Optimizer, SparseEngine]:
    model = small_mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    engine = SparseEngine(model, optimizer, METHODS[method](update_every=4), sparsity=0.7, total_steps=100)
    train(model, optimizer, batches(), 3)
    optimizer.zero_grad()
    backward(model, next(batches()))
    return model, optimizer, engine


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", ["set", "set-itop", "rigl", "rigl-itop"])
def test_weights_that_are_not_finite_refuse_an_update(method: str, value: float) -> None:
    model, _, engine = trained(method)
    active = engine.mask("2.weight").nonzero()[0]
    with torch.no_grad():
        model[2].weight[active[0], active[1]] = value
    before = everything(model, engine)
    with pytest.raises(ValueError, match=r"^topology update 1 at step 3 refused: .*layer '2\.weight' hold NaN or inf"):
        engine.update()
    for a, b in zip(before, everything(model, engine), strict=True):
        assert a == b if not isinstance(a, tuple) else repr(a) == repr(b)
    assert engine.last_update is None


@pytest.mark.parametrize("is_active", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("method", ["rigl", "rigl-itop"])
def test_gradients_that_are_not_finite_refuse_an_update_wherever_they_are(
    method: str, value: float, is_active: bool
) -> None:
    model, optimizer, engine = trained(method)
    place = (engine.mask("0.weight") == is_active).nonzero()[0]
    model[0].weight.grad[place[0], place[1]] = value
    before = everything(model, engine)
    with pytest.raises(ValueError, match=r"^topology update 1 at step 3 refused: .*layer '0\.weight' hold NaN or inf"):
        engine.update()
    assert_same(before, everything(model, engine))
    if method == "rigl":  # the update comes before the step, which is then not taken
        with pytest.raises(ValueError, match="topology update 1 at step 4 refused"):
            optimizer.step()
        assert_same(before, everything(model, engine))
        model[0].weight.grad[place[0], place[1]] = 0.0
        optimizer.step()
        assert (engine.steps, engine.num_updates) == (4, 1)


# --- saved states ---------------------------------------------------------------------------------------------------------------


def damaged(state: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    copy = torch.load(file, weights_only=True)
    change(copy)
    return copy


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.clear(), "^this is not the state of a SparseEngine: expected the dictionary that state_dict"),
        (lambda s: s.pop("layers"), "^this is not the state of a SparseEngine"),
        (lambda s: s.update(version=99), "^the engine state has version 99, this release reads versions 1 to 3$"),
        (lambda s: s.update(seed=7), "^the engine state was saved with seed 7, this engine has seed 0$"),
        (lambda s: s.update(steps=-1), "^the engine state is damaged: steps must be a whole number, got -1$"),
        (lambda s: s.update(steps="x"), "^the engine state is damaged: steps must be a whole number, got 'x'$"),
        (lambda s: s.update(num_updates=None), "^the engine state is damaged: num_updates must be a whole number"),
        (
            lambda s: s.update(method_state=[1]),
            "^the engine state is damaged: what the method remembers cannot be read$",
        ),
        (lambda s: s.update(layers=[]), "^the engine state belongs to another model: layers 0.weight, 2.weight"),
        (lambda s: s["layers"].pop("0.weight"), "belongs to another model: layers 0.weight are not in both$"),
        (lambda s: s["layers"].update(extra={}), "belongs to another model: layers extra are not in both$"),
        (
            lambda s: s["layers"].update({"0.weight": 3}),
            "^the engine state is damaged: layer '0.weight' is not a tensor",
        ),
        (lambda s: s["layers"]["0.weight"].t_(), r"layer '0.weight' has shape \[9, 13\] there, \[13, 9\] here$"),
        (lambda s: s["layers"].update({"2.weight": torch.zeros(7, 13)}), "layer '2.weight' is not a tensor of bytes$"),
        (lambda s: s["layers"]["2.weight"].fill_(9), "layer '2.weight' has active or reliable weights that were never"),
        (lambda s: s["layers"]["2.weight"].fill_(1), "layer '2.weight' has active or reliable weights that were never"),
        (lambda s: s["layers"]["2.weight"].fill_(4), "layer '2.weight' has active or reliable weights that were never"),
        (
            lambda s: s.update(method_state=b"x"),
            "^the engine state is damaged: what the method remembers cannot be read$",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused(change: Callable[[dict[str, Any]], object], match: str) -> None:
    model, _, engine = trained("set-itop")
    state = damaged(engine.state_dict(), change)
    before = everything(model, engine)
    with pytest.raises(ValueError, match=match):
        engine.load_state_dict(state)
    assert_same(before, everything(model, engine))


def packed(sets: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(sets.numpy().reshape(-1), bitorder="little"))


def test_a_state_of_version_one_is_read() -> None:
    """Version 1 held the three sets of a layer as packed bits."""
    _, _, engine = trained("set-itop")
    state = engine.state_dict()
    old = {
        **{key: state[key] for key in ("seed", "steps", "num_updates", "total_steps", "method")},
        "version": 1,
        "method_state": {"kept": 3},
        "layers": {
            name: {
                "shape": list(codes.shape),
                **{key: packed(codes & bit != 0) for key, bit in (("active", 1), ("explored", 2), ("reliable", 4))},
            }
            for name, codes in state["layers"].items()
        },
    }
    digest = engine.topology.digest()
    _, _, other = trained("set-itop")
    other.update()
    assert other.topology.digest() != digest
    other.load_state_dict(old)
    assert other.topology.digest() == digest
    assert other.steps == engine.steps
    old["layers"]["0.weight"].pop("active")
    with pytest.raises(ValueError, match=r"the active bits of layer '0\.weight' are not 15 bytes"):
        other.load_state_dict(old)


def test_something_that_is_no_state_is_refused() -> None:
    model, _, engine = trained("set-itop")
    for state in (None, 3, [], Tensor(), model.state_dict()):
        with pytest.raises(ValueError, match=r"^this is not the state of a SparseEngine"):
            engine.load_state_dict(state)  # type: ignore[arg-type]


def test_a_layer_that_the_engine_does_not_keep_sparse_has_no_mask() -> None:
    _, _, engine = trained("set-itop")
    with pytest.raises(KeyError, match=r"no sparse layer is called '1\.weight'; there are 0\.weight, 2\.weight"):
        engine.mask("1.weight")


def test_flops_need_an_input() -> None:
    model = small_mlp()
    engine = SparseEngine(model, itop.optim.SGD(model.parameters(), 0.1), "static")
    with pytest.raises(RuntimeError, match=r"flops\(\) needs to know the model's input: call it after a batch"):
        engine.flops()


@pytest.mark.parametrize("num_threads", [0, -2])
def test_a_number_of_threads_below_one_is_refused(num_threads: int) -> None:
    with pytest.raises(ValueError, match="thread"):
        itop.set_num_threads(num_threads)
