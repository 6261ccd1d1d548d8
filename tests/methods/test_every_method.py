"""What holds for every method, whatever its rule."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from tests.methods.workbench import BATCHES, SPARSITY, TOTAL_STEPS, Run, short
from torch import nn

from itop.methods import METHODS, PRESETS, Density

EVERY = pytest.mark.parametrize("name", list(METHODS))
OPTIMIZER = pytest.mark.parametrize("optimizer", ["sgd", "adam"])


def target_count(run: Run) -> int:
    total = sum(layer.numel for layer in run.engine.layers)
    return total if run.engine.method.is_dense else round((1 - SPARSITY) * total)


def assert_zeros_are_exact(run: Run) -> None:
    hides = run.engine.method.hides_weights(run.engine._context)
    for layer in run.engine.topology.layers:
        inactive = ~run.engine.mask(layer.name)
        assert not layer.parameter[inactive].any()
        if hides:
            continue
        for value in run.optimizer.state.get(layer.parameter, {}).values():
            if isinstance(value, torch.Tensor) and value.shape == layer.parameter.shape:
                assert not value[inactive].any()


@EVERY
@OPTIMIZER
def test_zeros_are_exact_losses_finite_and_counts_as_promised_at_every_step(name: str, optimizer: str) -> None:
    run = Run(name, optimizer)
    promise = PRESETS[name].density
    explored = run.engine.exploration_rate

    def look(run: Run) -> None:
        nonlocal explored
        assert_zeros_are_exact(run)
        active = sum(layer.num_active for layer in run.engine.layers)
        assert active == sum(int(mask.sum()) for mask in run.masks().values())
        if promise is Density.CONSTANT:
            assert active == target_count(run)
        assert run.engine.exploration_rate >= explored
        assert run.engine.reliable_rate <= run.engine.exploration_rate
        explored = run.engine.exploration_rate

    run.train(TOTAL_STEPS, look)
    assert all(math.isfinite(loss) for loss in run.losses)
    active = sum(layer.num_active for layer in run.engine.layers)
    if promise is Density.GIVEN:  # masks from the zeros of a dense network
        assert active == sum(layer.numel for layer in run.engine.layers)
    elif promise is Density.NEAREST:
        assert 0.5 * target_count(run) < active < 1.6 * target_count(run)
    else:
        assert active == target_count(run)


@EVERY
def test_the_same_seed_gives_the_same_run(name: str) -> None:
    first, second = (Run(name).train(TOTAL_STEPS) for _ in range(2))
    assert first.losses == second.losses
    assert first.engine.topology.digest() == second.engine.topology.digest()


@EVERY
@OPTIMIZER
@pytest.mark.parametrize("at", [5, 19, 40])
def test_a_resumed_run_equals_one_that_was_never_stopped(name: str, optimizer: str, at: int) -> None:
    whole = Run(name, optimizer).train(TOTAL_STEPS)
    stopped = Run(name, optimizer).train(at)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (stopped.model, stopped.optimizer, stopped.engine)], file)
    file.seek(0)
    resumed = Run(name, optimizer)
    resumed.train(3)  # what it did before must not matter
    model, state, engine = torch.load(file, weights_only=True)
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(state)
    resumed.engine.load_state_dict(engine)
    resumed.losses.clear()
    resumed.train(TOTAL_STEPS - at)
    assert resumed.losses == whole.losses[at:]
    assert resumed.engine.topology.digest() == whole.engine.topology.digest()
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.engine.mean_densities == whole.engine.mean_densities


@EVERY
def test_a_saved_state_stays_what_it_was_when_another_engine_goes_on_from_it(name: str) -> None:
    run = Run(name).train(9)
    saved = copy.deepcopy(run.engine.state_dict())
    other = Run(name)
    other.model.load_state_dict(run.model.state_dict())
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    other.engine.load_state_dict(saved)
    before = copy.deepcopy(saved)
    other.train(5)
    assert _equal(saved, before)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


@EVERY
def test_the_model_stays_an_ordinary_model(name: str) -> None:
    keys = list(Run("dense").model.state_dict())
    run = Run(name).train(10)
    assert list(run.model.state_dict()) == keys
    twin = copy.deepcopy(run.model).eval()
    run.model.eval()
    assert torch.equal(twin(BATCHES[0][0]), run.model(BATCHES[0][0]))
    groups = [len(group["params"]) for group in run.optimizer.param_groups]
    run.engine.detach()
    number = len(list(run.model.parameters()))
    assert sum(len(group["params"]) for group in run.optimizer.param_groups) == number <= sum(groups)
    zeros = {layer.name: ~run.engine.mask(layer.name) for layer in run.engine.layers}
    parameters = dict(run.model.named_parameters())
    assert all(not parameters[layer][mask].any() for layer, mask in zeros.items())
    # Nothing is left that would change a forward pass.
    assert torch.equal(run.model(BATCHES[0][0]), run.model(BATCHES[0][0]))


@EVERY
def test_schedulers_made_before_the_engine_go_on_working(name: str) -> None:
    torch.manual_seed(0)
    run = Run("dense")
    run.engine.detach()
    scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda epoch: 0.9**epoch)
    again = Run.__new__(Run)
    again.model, again.optimizer, again.losses, again.batches = run.model, run.optimizer, [], BATCHES
    from itop import SparseEngine

    again.engine = SparseEngine(
        run.model, run.optimizer, short(name), sparsity=SPARSITY, total_steps=TOTAL_STEPS, batches=BATCHES
    )
    for _ in range(4):
        again.train(2)
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(0.05 * 0.9**4)


@EVERY
def test_flops_follow_the_methods_account(name: str) -> None:
    run = Run(name).train(TOTAL_STEPS)
    flops = run.engine.flops(BATCHES[0][0])
    assert 0 < flops.forward <= flops.forward_dense
    assert 0 < flops.training <= flops.training_dense * 1.001
    assert flops.training >= min(3 * flops.forward, flops.training_dense) * 0.99 or run.engine.method.name == "swat"


@EVERY
def test_training_learns_something(name: str) -> None:
    run = Run(name).train(TOTAL_STEPS)
    assert sum(run.losses[-8:]) < sum(run.losses[:8])


@EVERY
def test_options_have_types_and_defaults(name: str) -> None:
    preset = PRESETS[name]
    for option in preset.parameters.values():
        assert option.default is not option.empty
        assert option.annotation is not option.empty
    assert preset.paper
    assert preset.cost
    assert (preset.factory.__doc__ or "").strip()
    assert preset.factory().name == name


@pytest.mark.parametrize("name", ["snip", "snip-isometry", "grasp", "synflow", "force", "iter-snip"])
def test_methods_that_look_at_data_say_so_when_there_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=rf"method '{name}' chooses its masks by training batches.*batches="):
        Run(name, batches=None)


def test_batches_that_can_be_read_once_only_are_refused() -> None:
    with pytest.raises(ValueError, match="batches must be something that can be iterated anew"):
        Run("snip", batches=iter(BATCHES))


def test_early_bird_says_that_it_needs_batch_normalisation() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.ReLU(), nn.Linear(20, 5))
    with pytest.raises(ValueError, match="'early-bird' ranks channels by batch normalisation"):
        Run("early-bird", model=model)


def test_swat_refuses_layers_other_than_linear_and_convolution() -> None:
    with pytest.raises(
        ValueError, match=r"'swat' sparsifies .* linear and convolution layers only; exclude 'weight_ih"
    ):
        Run("swat", model=nn.LSTM(4, 4))


def test_methods_that_act_before_a_step_refuse_a_loop_without_hooks() -> None:
    with pytest.raises(ValueError, match="acts before each optimiser step and needs the engine's hooks"):
        Run("str", attach=False)


def test_lottery_tickets_say_when_the_run_is_too_short() -> None:
    with pytest.raises(ValueError, match="'imp' trains 4 times; total_steps must be at least 8, got 7"):
        Run("imp", total_steps=7)
