"""A state that an engine made with other things left: what is refused in a sentence, what is allowed, and what holds then."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_checks import batches, everything, small_mlp, train
from torch import nn
from torch.optim import Optimizer

from itop import SparseEngine
from itop.distributed.checkpoint import ModelAndOptimizer, load, save
from itop.grown_state import OwnStepCount, WarmUp
from itop.methods import METHODS, Method
from itop.schedules import CosineDropFraction
from itop.update_report import UpdateReport
from same_bits import assert_same


def engine_of(
    method: str | Method = "rigl", weights: int = 0, **options: Any
) -> tuple[nn.Module, Optimizer, SparseEngine]:
    model = small_mlp(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    method = METHODS[method](update_every=2) if method in ("rigl", "set", "gmp", "snfs", "set-itop") else method
    return model, optimizer, SparseEngine(model, optimizer, method, **{"sparsity": 0.7, "total_steps": 100, **options})


def trained(method: str | Method = "rigl", steps: int = 5, **options: Any) -> tuple[nn.Module, Optimizer, SparseEngine]:
    model, optimizer, engine = engine_of(method, **options)
    train(model, optimizer, batches(), steps)
    return model, optimizer, engine


def by_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "method": (
        {"method": "set"},
        "^the engine state was saved by method 'rigl', this engine has 'set'; make the engine with what it was saved with, or "
        'with method="fixed" to train on with the saved masks$',
    ),
    "static": ({"method": "static"}, "^the engine state was saved by method 'rigl', this engine has 'static'; "),
    "sparsity": (
        {"sparsity": 0.5},
        r"^the engine state comes to 62 active weights \(sparsity 0\.701923\), this engine to 104 \(sparsity 0\.5\); make the ",
    ),
    "allocation": (
        {"allocation": "uniform"},
        r"^the engine state has another allocation: layer '0\.weight' comes to \d+ active weights there, to 35 here; ",
    ),
    "horizon that is over": (
        {"total_steps": 4},
        "^the engine state was saved at step 5 of 100, this engine ends at total_steps 4; make it with a total_steps that is not",
    ),
    "seed": ({"seed": 1}, "^the engine state was saved with seed 0, this engine has seed 1$"),
}


@pytest.mark.parametrize("difference", OTHERS)
def test_what_would_change_the_masks_is_refused_before_anything_has_changed(difference: str) -> None:
    _, _, saved = trained()
    model, optimizer, engine = engine_of(**OTHERS[difference][0])
    train(model, optimizer, batches(seed=2), 3)
    before = everything(model, engine)
    for act in (engine.check_state_dict, engine.load_state_dict):
        with pytest.raises(ValueError, match=OTHERS[difference][1]) as refusal:
            act(by_file(saved.state_dict()))
        assert "\n" not in str(refusal.value)
        assert_same(before, everything(model, engine))


@pytest.mark.parametrize("difference", OTHERS)
def test_a_checkpoint_is_refused_before_torch_reads_it_into_the_model(difference: str, tmp_path: Path) -> None:
    saved_model, saved_optimizer, saved = trained()
    save(tmp_path, 5, {"training": ModelAndOptimizer(saved_model, saved_optimizer), "engine": saved})
    model, optimizer, engine = engine_of(**OTHERS[difference][0])
    train(model, optimizer, batches(seed=2), 3)
    before = everything(model, engine)
    with pytest.raises(ValueError, match=OTHERS[difference][1]):
        load(tmp_path / "step-0000000005", {"training": ModelAndOptimizer(model, optimizer), "engine": engine})
    assert_same(before, everything(model, engine))


def test_masks_of_one_pattern_are_none_of_another() -> None:
    _, _, saved = trained(METHODS["nm"](update_every=2, m=4), sparsity=0.5)
    _, _, engine = engine_of(METHODS["nm"](update_every=2, m=2), sparsity=0.5)
    with pytest.raises(
        ValueError, match=r"^the engine state has masks of pattern NofM\(m=4\), this engine of NofM\(m=2\); "
    ):
        engine.load_state_dict(saved.state_dict())


def test_weights_loaded_before_the_engine_was_made_are_not_put_back_by_a_state_that_is_refused() -> None:
    saved_model, _, saved = trained()
    model = small_mlp(1)
    model.load_state_dict(saved_model.state_dict())
    engine = SparseEngine(model, torch.optim.AdamW(model.parameters()), "set", sparsity=0.7, total_steps=100)
    before = everything(model, engine)
    with pytest.raises(ValueError, match="was saved by method 'rigl'"):
        engine.load_state_dict(saved.state_dict())
    assert_same(before, everything(model, engine))


@pytest.mark.parametrize("method", ["rigl", "gmp", "set-itop", "snfs"])
def test_fixed_trains_on_with_the_masks_of_any_method_at_any_sparsity(method: str, tmp_path: Path) -> None:
    saved_model, saved_optimizer, saved = trained(method, steps=7)
    states = {"training": ModelAndOptimizer(saved_model, saved_optimizer), "engine": saved}
    save(tmp_path, 7, states)
    model, optimizer, engine = engine_of("fixed", weights=1, sparsity=0.2, total_steps=3, allocation="uniform")
    load(tmp_path / "step-0000000007", {"training": ModelAndOptimizer(model, optimizer), "engine": engine})
    other_model, other_optimizer, other = engine_of("fixed", weights=2, total_steps=None)
    other_model.load_state_dict(saved_model.state_dict())
    other_optimizer.load_state_dict(saved_optimizer.state_dict())
    other.load_state_dict(by_file(saved.state_dict()))
    masks = {layer.name: saved.mask(layer.name) for layer in saved.layers}
    for tuned, steps, fixed in ((model, optimizer, engine), (other_model, other_optimizer, other)):
        assert all(torch.equal(p, q) for p, q in zip(tuned.parameters(), saved_model.parameters(), strict=True))
        train(tuned, steps, batches(seed=3), 4)
        for name, mask in masks.items():
            assert torch.equal(fixed.mask(name), mask)
            assert not tuned.get_parameter(name)[~mask].any()
    continued = engine_of("fixed", weights=3)[2]
    continued.load_state_dict(by_file(other.state_dict()))  # a fine-tuning goes on as such
    assert continued.topology.digest() == other.topology.digest()


def warnings_of(act: Callable[[], object], caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    act()
    return [record.getMessage() for record in caplog.records if record.name == "itop.engine"]


def test_another_horizon_holds_from_the_step_of_loading_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    saved_model, saved_optimizer, saved = trained(steps=8, total_steps=10)
    model, optimizer, engine = engine_of(total_steps=40)
    model.load_state_dict(saved_model.state_dict())
    optimizer.load_state_dict(saved_optimizer.state_dict())
    state = by_file(saved.state_dict())
    assert warnings_of(lambda: engine.load_state_dict(state), caplog) == [
        "from step 8 on the engine goes on with total_steps=40 instead of 10"
    ]
    num_active = [layer.num_active for layer in saved.layers]
    reports: list[UpdateReport] = []
    engine.on_update(reports.append)
    schedule, fraction = engine.method.schedule, CosineDropFraction(0.3, 0.0, 0.75)
    expected = [step for step in range(9, 41) if schedule.is_update_step(step, 40)]
    for _ in range(32):
        train(model, optimizer, batches(seed=4), 1)
        assert [layer.num_active for layer in engine.layers] == num_active
    assert [report.step for report in reports] == expected
    assert [report.drop_fraction for report in reports] == [fraction(step, 40) for step in expected]
    assert warnings_of(lambda: engine_of(total_steps=40)[2].load_state_dict(engine.state_dict()), caplog) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"method": METHODS["rigl"](update_every=3)},
            "schedule=Every(interval=3, until=0.75, last_step=True) instead of Every(interval=2, until=0.75, last_step=True)",
        ),
        ({"grown_state": WarmUp(5)}, "grown_state=WarmUp(steps=5) instead of OwnStepCount(horizon=2400)"),
    ],
)
def test_other_rules_for_the_steps_that_come_are_named(
    options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, saved = trained(grown_state=OwnStepCount())
    engine = engine_of(**{"grown_state": OwnStepCount(), **options})[2]
    said = warnings_of(lambda: engine.load_state_dict(by_file(saved.state_dict())), caplog)
    assert said == [f"from step 5 on the engine goes on with {words}"]
    assert engine.topology.digest() == saved.topology.digest()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"active_step_sums": [1]},
            "^the engine state is damaged: active_step_sums must be a whole number for each layer$",
        ),
        ({"acting_steps": "x"}, "^the engine state is damaged: acting_steps must be a whole number$"),
        ({"ages": {}}, r"^the engine state is damaged: it holds no age for each weight of layer '0\.weight'$"),
        (
            {"method_parameters": {"gate": torch.ones(3)}},
            "belongs to another method: what it trains .* differs in 'gate'$",
        ),
        ({"method_state": b""}, "^the engine state is damaged: what the method remembers cannot be read$"),
    ],
)
def test_whatever_is_damaged_in_a_state_nothing_has_changed_when_it_is_refused(
    change: dict[str, Any], match: str
) -> None:
    model, optimizer, engine = trained(grown_state=OwnStepCount())
    state = by_file(engine.state_dict())
    train(model, optimizer, batches(seed=2), 3)
    before = everything(model, engine)
    with pytest.raises(ValueError, match=match):
        engine.load_state_dict({**state, **change})
    assert_same(before, everything(model, engine))


def test_a_state_of_version_two_says_less_and_is_read() -> None:
    """It held what the method remembers by itself, and not what the engine was made with."""
    _, _, saved = trained("snfs")
    state = by_file(saved.state_dict())
    remembers = torch.load(io.BytesIO(state["method_state"]), weights_only=True)["remembers"]
    assert remembers
    packed = io.BytesIO()
    torch.save(remembers, packed)
    old = {**state, "version": 2, "method_state": packed.getvalue()}
    engine = engine_of("snfs")[2]
    engine.load_state_dict(old)
    assert engine.topology.digest() == saved.topology.digest()
    assert engine.state_dict()["method_state"] == state["method_state"]
    with pytest.raises(ValueError, match="was saved by method 'snfs', this engine has 'rigl'"):
        engine_of("rigl")[2].load_state_dict(old)
