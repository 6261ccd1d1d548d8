"""Masks and thresholds that train, by hand: what the forward pass sees, what the gradient moves, what stays."""

from __future__ import annotations

import math

import pytest
import torch
from tests.methods.by_hand import ByHand, preset
from tests.methods.pins import pins
from torch import Tensor

from itop.methods.dropout import divergence
from itop.methods.prob_mask import project_to_sum


def hidden(run: ByHand) -> list[float]:
    (weights,) = run.state["hidden weights"]
    return weights.flatten().tolist()


def trained(run: ByHand, name: str) -> Tensor:
    """What the method trains beside the weights."""
    return run.engine._context.parameters[f"{name}/0.weight"].detach()


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@pins("surgery")
def test_surgery_switches_off_below_a_threshold_and_splices_back_above_a_higher_one() -> None:
    method = preset("surgery", c_rate=0.0, gamma=0.0, finish=None)
    run = ByHand(method, [[3.0, 1.0, 2.0, 2.0]], lr=1.0)
    # c = mean = 2: off at most 1.8, on above 2.2, in between as it was: all begin on.
    run.step()
    assert run.weights().tolist() == [[3.0, 0.0, 2.0, 2.0]]
    run.step([[0.0, -1.1, 0.0, 0.5]])
    # The hidden 1 has a gradient too: 2.1, in between, stays off; 1.5 goes off.
    assert run.weights().tolist() == [[3.0, 0.0, 2.0, 0.0]]
    run.step([[0.0, -0.2, 0.0, -0.6]])
    # 2.3 is spliced back with its hidden value; 2.1 stays off.
    assert run.weights()[0].tolist() == pytest.approx([3.0, 2.3, 2.0, 0.0])


@pins("surgery")
def test_surgery_without_a_rate_takes_the_smallest_of_the_largest_weights_as_its_threshold() -> None:
    run = ByHand(preset("surgery", gamma=0.0, finish=None), [[4.0, 3.0, 2.9, 1.0]])
    run.step()
    # Two of four: c = 3, off at most 2.7: the 2.9, in between, stays on until it falls further.
    assert run.active() == [[1, 1, 1, 0]]


@pins("surgery")
def test_surgery_finds_a_threshold_for_a_single_weight() -> None:
    run = ByHand(preset("surgery", c_rate=1.0, finish=None), [[3.0]], [[2.0, 4.0]], lr=1.0, sparsity=0.5)
    # One weight does not vary: c is its size, so that it stays. Of 2 and 4, c = 3 + 1.41.
    run.step()
    assert run.weights(0).tolist() == [[3.0]]
    assert run.weights(1).tolist() == [[0.0, 4.0]]


@pins("surgery")
def test_surgery_calms_down_with_time() -> None:
    run = ByHand(preset("surgery", gamma=1.0, power=60.0, finish=None), [[4.0, 3.0, 2.0, 1.0]])
    run.step()
    # (1 + 1)^-60: it will not act.
    assert run.active() == [[1, 1, 1, 1]]


@pins("str")
def test_str_shrinks_weights_by_a_trained_threshold() -> None:
    run = ByHand(preset("str", initial=0.0, finish=None), [[2.0, -1.0, 0.4, -0.5]], lr=1.0)
    # sigmoid(0) = 0.5.
    assert run.weights().tolist() == [[1.5, -0.5, 0.0, 0.0]]
    assert run.active() == [[1, 1, 0, 0]]
    run.step([[1.0, 2.0, 5.0, 5.0]])
    # dL/dw passes where active: 1 and -3. dL/ds = -sigmoid'(0) (1 * 1 - 2 * 1) = 0.25: s = -0.25.
    assert hidden(run) == pytest.approx([1.0, -3.0, 0.4, -0.5])
    assert trained(run, "threshold").item() == pytest.approx(-0.25)
    threshold = sigmoid(-0.25)
    assert run.weights()[0].tolist() == pytest.approx([1 - threshold, threshold - 3, 0.0, threshold - 0.5])


@pins("str")
def test_str_raises_the_threshold_by_weight_decay() -> None:
    run = ByHand(preset("str", initial=-2.0), [[1.0, 1.0]], lr=1.0, settings={"weight_decay": 0.1})
    run.step()
    assert trained(run, "threshold").item() == pytest.approx(-1.8)


@pins("trainable-thresholds")
def test_trainable_thresholds_move_by_the_long_tailed_estimator() -> None:
    run = ByHand(preset("trainable-thresholds", penalty=0.0, finish=None), [[2.0, -0.3], [0.7, 0.1]], lr=1.0)
    run.step([[1.0, 1.0], [1.0, 0.0]])
    # t = 0, so x = abs(w). Slopes 2 - 4 abs(x) to 0.4, then 0.4, 0 above 1: 0, 0.8 and 0.4, 1.6. dL/dt = -sum(g w slope):
    # 0.24 and -0.28: t = -0.24 and 0.28. dL/dw = g (1 + w sign(w) slope) = 1, 1.24 and 1.28.
    assert trained(run, "threshold").tolist() == pytest.approx([-0.24, 0.28])
    assert hidden(run) == pytest.approx([1.0, -1.54, -0.58, 0.1])
    assert run.weights().flatten().tolist() == pytest.approx([1.0, -1.54, -0.58, 0.0])


@pins("trainable-thresholds")
def test_a_unit_that_would_lose_all_its_weights_gets_its_threshold_back_to_zero() -> None:
    run = ByHand(preset("trainable-thresholds", penalty=0.0), [[2.0, -0.3], [0.7, 0.1]])
    with torch.no_grad():
        run.engine._context.parameters["threshold/0.weight"].copy_(torch.tensor([1.0, 0.9]))
    run.step()
    assert trained(run, "threshold").tolist() == [1.0, 0.0]
    assert run.active() == [[1, 0], [1, 1]]


@pins("trainable-thresholds")
def test_trainable_thresholds_rise_by_the_penalty() -> None:
    run = ByHand(preset("trainable-thresholds", penalty=0.5), [[2.0]], lr=1.0)
    run.step()
    # -d/dt 0.5 exp(-t) = 0.5 at t = 0.
    assert trained(run, "threshold").tolist() == pytest.approx([0.5])


@pins("targeted-dropout")
def test_targeted_dropout_drops_only_the_smallest_and_evaluates_without_them() -> None:
    method = preset("targeted-dropout", rate=1.0, warm_up=0.2, finish=1.0)
    run = ByHand(method, [[4.0, 3.0, 2.0, 1.0]])
    run.step()
    # Half of the warm-up of 2 steps: half of the two are targeted: the 1.
    assert run.weights().tolist() == [[4.0, 3.0, 2.0, 0.0]]
    run.step()
    assert run.weights().tolist() == [[4.0, 3.0, 0.0, 0.0]]
    run.model.train()
    assert run.model(torch.ones(1, 4)).item() == 7.0, "at rate 1 training sees none of the targeted either"
    gentle = ByHand(preset("targeted-dropout", rate=0.0, warm_up=0.1, finish=1.0), [[4.0, 3.0, 2.0, 1.0]])
    gentle.step()
    gentle.model.train()
    assert gentle.model(torch.ones(1, 4)).item() == 10.0, "at rate 0 training sees them all"


@pins("l0")
def test_l0_gates_are_stretched_and_clamped_and_pulled_by_the_probability_to_be_open() -> None:
    run = ByHand(preset("l0", penalty=0.3, gate_speed=1.0, finish=None), [[2.0, 2.0, 2.0]], lr=1.0)
    # log alpha 0: sigmoid 0.5, stretched 0.5 * 1.2 - 0.1 = 0.5.
    assert run.weights()[0].tolist() == pytest.approx([1.0, 1.0, 1.0])
    with torch.no_grad():
        run.engine._context.parameters["gate/0.weight"].copy_(torch.tensor([[-3.0, 0.0, 3.0]]))
    run.step()
    # dL/dlog alpha = 0.3 p (1 - p), p = sigmoid(log alpha - beta log(-gamma / zeta)) = sigmoid(log alpha + 1.5986).
    p = [sigmoid(x + 1.598597) for x in (-3.0, 0.0, 3.0)]
    gates = [x - 0.3 * q * (1 - q) for x, q in zip((-3.0, 0.0, 3.0), p, strict=True)]
    assert trained(run, "gate")[0].tolist() == pytest.approx(gates, abs=1e-5)
    # sigmoid(-3) * 1.2 - 0.1 < 0 is shut, sigmoid(3) * 1.2 - 0.1 > 1 wide open.
    assert run.active() == [[0, 1, 1]]
    assert run.weights()[0, 2] == 2.0


@pins("l0")
def test_l0_samples_by_the_hard_concrete_distribution() -> None:
    run = ByHand(preset("l0", drop_rate=0.5), [[1.0] * 2000] * 10, sparsity=0.9)
    run.model.train()
    run.model(torch.zeros(1, 2000))
    gates = run.weights()
    # P(z = 0) = 1 - sigmoid(0 - beta log(-gamma / zeta)) = 1 - 0.8318, P(z = 1) the same by symmetry.
    assert float((gates == 0).float().mean()) == pytest.approx(0.168, abs=0.01)
    assert float((gates == 1).float().mean()) == pytest.approx(0.168, abs=0.01)


@pins("bernoulli-gates")
def test_bernoulli_gates_are_open_from_a_half_and_trained_straight_through() -> None:
    method = preset("bernoulli-gates", bimodal=0.0, penalty=0.01, gate_speed=1.0, finish=None)
    run = ByHand(method, [[2.0, 4.0]], lr=0.1)
    run.step([[1.0, 2.0]])
    # dL/dp = g w + penalty = 2.01 and 8.01: 0.75 - 0.201 = 0.549; 0.75 - 0.801 is clamped to 0.
    assert trained(run, "gate")[0].tolist() == pytest.approx([0.549, 0.0])
    assert run.active() == [[1, 0]]
    # The weights' own gradient passes the open gates: 2 - 0.1 and 4 - 0.2.
    assert hidden(run) == pytest.approx([1.9, 3.8])
    assert run.weights()[0].tolist() == pytest.approx([1.9, 0.0])


@pins("bernoulli-gates")
def test_bernoulli_gates_are_pulled_to_the_ends() -> None:
    method = preset("bernoulli-gates", bimodal=0.1, penalty=0.0, initial_probability=0.75, gate_speed=1.0, finish=None)
    run = ByHand(method, [[2.0]], lr=1.0)
    run.step()
    # d/dp 0.1 p (1 - p) = 0.1 (1 - 1.5) = -0.05.
    assert trained(run, "gate").item() == pytest.approx(0.8)


@pins("continuous-sparsification")
def test_continuous_sparsification_steepens_its_gates_until_they_are_steps() -> None:
    method = preset("continuous-sparsification", final_beta=16.0, penalty=0.1, gate_speed=1.0, finish=0.4)
    run = ByHand(method, [[2.0, 3.0, 1.0, 1.0]], lr=1.0)
    run.model.train()
    # beta 1 at the start: sigmoid(0) = 0.5 of 7.
    assert run.model(torch.ones(1, 4)).item() == pytest.approx(3.5)
    run.step([[1.0, -1.0, 0.0, 0.0]])
    # dL/ds = g w / 4 + 0.1 / 4: 0.525, -0.725, 0.025, 0.025. s >= 0 is open.
    assert trained(run, "gate")[0].tolist() == pytest.approx([-0.525, 0.725, -0.025, -0.025])
    run.model.train()
    # After one of four steps beta = 16^(1/4) = 2; the weights have moved by g / 2.
    expected = [1.5 * sigmoid(-1.05), 3.5 * sigmoid(1.45), sigmoid(-0.05), sigmoid(-0.05)]
    assert run.model(torch.ones(1, 4)).item() == pytest.approx(sum(expected), abs=1e-5)


@pins("autoprune")
def test_autoprune_moves_its_numbers_by_gradient_times_sign() -> None:
    run = ByHand(preset("autoprune", initial=0.1, penalty=0.01, finish=None), [[2.0, -2.0, 3.0]], lr=0.1)
    run.step([[1.5, 1.5, -1.0]])
    # dL/dm = g sign(w) + penalty: 1.51, -1.49, -0.99: m = -0.051, 0.249, 0.199. The first is shut.
    assert trained(run, "gate")[0].tolist() == pytest.approx([-0.051, 0.249, 0.199])
    assert run.weights()[0].tolist() == pytest.approx([0.0, -2.15, 3.1])
    run.step([[-4.0, 0.0, 0.0]])
    # Shut, its weight has no gradient, its number has: -0.051 + 0.4: open again with the weight it had, 1.85.
    assert run.weights()[0, 0].item() == pytest.approx(1.85)


@pins("probmask")
def test_probmask_projects_probabilities_to_a_sum() -> None:
    values = [torch.tensor([0.9, 0.8]), torch.tensor([0.2, 1.4])]
    project_to_sum(values, 2.0)
    # clamp(s - v, 0, 1) sums to 2 at v = 0.25: 0.65, 0.55, 0 and 1 make 2.2; at 0.35: 0.55, 0.45, 0, 1.
    assert torch.cat(values).tolist() == pytest.approx([0.55, 0.45, 0.0, 1.0], abs=1e-6)
    small = [torch.tensor([0.3, 0.2])]
    project_to_sum(small, 2.0)
    assert small[0].tolist() == pytest.approx([0.3, 0.2])


@pins("probmask")
def test_probmask_keeps_the_most_probable_weights_at_the_end_of_its_ramp() -> None:
    run = ByHand(preset("probmask", gate_speed=1.0, finish=0.2), [[1.0, 1.0, 1.0, 1.0]], lr=0.1)
    run.step([[3.0, -1.0, 2.0, -4.0]])
    run.step()
    # Gates 1 - 0.1 g w: the second and the fourth rise, the others fall.
    assert run.active() == [[0, 1, 0, 1]]
    assert run.engine.density == 0.5


@pins("probmask")
def test_probmask_is_evaluated_with_as_many_weights_as_its_probabilities_sum_to() -> None:
    run = ByHand(preset("probmask", gate_speed=0.0, finish=1.0), [[1.0, 4.0, 3.0, 2.0]], sparsity=0.75, total_steps=4)
    counts = [sum(run.active()[0])]
    for _ in range(3):
        run.step()
        counts.append(sum(run.active()[0]))
    # 1 + 3 (1 - t / 4)^3: 4, 2.27, 1.375, 1.05. The probabilities stay alike, none of them at a half from the second step on,
    # so the weights decide.
    assert counts == [4, 2, 1, 1]
    assert run.active() == [[0, 1, 0, 0]]


@pins("variational-dropout")
def test_variational_dropout_switches_off_what_its_noise_drowns() -> None:
    run = ByHand(preset("variational-dropout", initial=-4.0, finish=None), [[1.0, 0.03, -0.02]])
    # log alpha = -4 - log w^2 = -4, 3.01, 3.82, against 3.
    assert run.active() == [[1, 0, 0]]


@pins("variational-dropout")
def test_the_divergence_is_that_of_the_paper() -> None:
    # 0.63576 (1 - sigmoid(1.8732 + 1.48695 log alpha)) + 0.5 log(1 + 1 / alpha).
    values = divergence(torch.tensor([-4.0, 0.0, 4.0])).tolist()
    expected = [
        0.63576 * (1 - sigmoid(1.87320 + 1.48695 * x)) + 0.5 * math.log1p(math.exp(-x)) for x in (-4.0, 0.0, 4.0)
    ]
    assert values == pytest.approx(expected, abs=1e-5)
    assert values[2] == pytest.approx(0.009, abs=1e-3)


@pins("variational-dropout")
def test_variational_dropout_trains_with_the_noise_of_its_variance() -> None:
    run = ByHand(preset("variational-dropout", initial=2.0 * math.log(0.5)), [[3.0] * 2000] * 10, sparsity=0.9)
    run.model.train()
    run.model(torch.zeros(1, 2000))
    noise = run.weights() - 3.0
    assert float(noise.std()) == pytest.approx(0.5, abs=0.01)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)


@pins("autoprune", "str")
def test_the_limit_takes_the_least_salient_of_what_the_rule_keeps_along_a_cubic_ramp() -> None:
    run = ByHand(preset("str", initial=-40.0, finish=0.4, report_every=1), [[8.0, 7, 6, 5, 4, 3, 2, 1]])
    counts = []
    for _ in range(5):
        run.step()
        counts.append(sum(run.active()[0]))
    # 4 + round(4 (1 - t/4)^3) of eight: 4 + 1.69, 4 + 0.5, 4 + 0.06, 4; the smallest go first.
    assert counts == [6, 4, 4, 4, 4]
    assert run.active() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    assert run.weights()[0].tolist() == pytest.approx([8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0])
