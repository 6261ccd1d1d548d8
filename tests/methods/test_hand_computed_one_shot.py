"""Pruning before training, by hand: what is left of a few weights."""

from __future__ import annotations

import pytest
import torch
from tests.methods.by_hand import ByHand
from tests.methods.pins import pins
from torch import Tensor, nn

from itop import SparseEngine
from itop.criteria.one_shot import geometric_count
from itop.methods import METHODS

INPUTS = torch.tensor([[1.0, 2.0]])


def linear_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """``sum(targets * outputs)``: its gradient by the outputs is the targets."""
    return (outputs * targets).sum()


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum() / 2


@pins("random")
def test_random_keeps_the_same_share_of_every_layer() -> None:
    run = ByHand("random", [[1.0] * 8], [[1.0]] * 4)
    assert [sum(map(sum, run.active(i))) for i in range(2)] == [4, 2]
    others = {str(ByHand("random", [[1.0] * 8], seed=seed).active()) for seed in range(8)}
    assert len(others) > 1


@pins("magnitude")
def test_magnitude_keeps_the_largest_of_each_layer_or_of_all() -> None:
    layers = [[[9.0, -8.0, 7.0, 6.0]], [[5.0, -4.0, 3.0, 2.0]]]
    each, together = (ByHand(METHODS["magnitude"](across_layers=across), *layers) for across in (False, True))
    assert [each.active(0), each.active(1)] == [[[1, 1, 0, 0]], [[1, 1, 0, 0]]]
    assert [together.active(0), together.active(1)] == [[[1, 1, 1, 1]], [[0, 0, 0, 0]]]
    assert each.weights(0).tolist() == [[9.0, -8.0, 0.0, 0.0]]


@pins("snip")
def test_snip_keeps_the_largest_products_of_weight_and_gradient_over_all_layers() -> None:
    # Hidden units 1*1 + 0.5*2 = 2 and 3*1 - 1*2 = 1; output 4*2 + 0.1*1. With dL/d output = 1 the gradients are
    # 4 and 0.1 times the inputs below, 2 and 1 above. Products: 4, 4, 0.3, -0.2 and 8, 0.1.
    run = ByHand(
        "snip", [[1.0, 0.5], [3.0, -1.0]], [[4.0, 0.1]], batches=[(INPUTS, torch.ones(1, 1))], loss=linear_loss
    )
    assert run.active(0) == [[1, 1], [0, 0]]
    assert run.active(1) == [[1, 0]]
    assert run.weights(0).tolist() == [[1.0, 0.5], [0.0, 0.0]]


@pins("snip")
def test_snip_averages_gradients_not_products_over_batches() -> None:
    # Gradients of the two batches: (1, 2) and (-1, 1): the mean (0, 1.5) of two, the first alone (1, 2).
    batches = [(torch.tensor([[1.0, 2.0]]), torch.ones(1, 1)), (torch.tensor([[-1.0, 1.0]]), torch.ones(1, 1))]
    one, two = (ByHand(METHODS["snip"](num_batches=n), [[3.0, 1.0]], batches=batches, loss=linear_loss) for n in (1, 2))
    assert (one.active(), two.active()) == ([[1, 0]], [[0, 1]])


@pins("snip-isometry")
def test_snip_isometry_starts_orthogonal_and_ends_nearer_to_an_isometry() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(16, 8), torch.randn(16, 8))]
    rough, smooth = (
        ByHand(METHODS["snip-isometry"](isometry_steps=steps), [[7.0] * 8] * 8, batches=batches, loss=half_square)
        for steps in (0, 500)
    )
    assert rough.active() == smooth.active()

    def distance(weight: Tensor) -> float:
        return float((weight @ weight.t() - torch.eye(8)).square().sum())

    full = ByHand(
        METHODS["snip-isometry"](isometry_steps=0), [[7.0] * 8] * 8, sparsity=0.0, batches=batches, loss=half_square
    )
    assert distance(full.weights()) == pytest.approx(0.0, abs=1e-9)
    assert distance(smooth.weights()) < distance(rough.weights()) / 2


@pins("snip-isometry")
def test_snip_isometry_of_one_active_weight_a_row_takes_it_to_one() -> None:
    # A 1 x 2 matrix with one active weight: C W (C W)^T = w^2, the nearest isometry has w = +-1.
    run = ByHand("snip-isometry", [[1.0, 1.0]], batches=[(INPUTS, torch.ones(1, 1))], loss=linear_loss)
    left = run.weights()
    assert int((left != 0).sum()) == 1
    assert left.abs().max().item() == pytest.approx(1.0, abs=1e-3)


@pins("grasp")
def test_grasp_keeps_the_largest_products_of_weight_and_hessian_times_gradient() -> None:
    # Loss (w.x/T - y)^2 / 2 with T = 200: g = (w.x/T - y) x / T, H = x x^T / T^2, H g = (w.x/T - y) |x|^2 x / T^3.
    # w = (400, 100), x = (1, 2), y = 0: everything positive: w * H g ~ (400 * 1, 100 * 2): the first stays. With y = 10 the
    # factor is 3 - 10 < 0, so the products are (-400, -200): the second stays. SNIP would keep the first both times.
    kept = {
        target: ByHand(
            "grasp", [[400.0, 100.0]], batches=[(INPUTS, torch.tensor([[target]]))], loss=half_square
        ).active()
        for target in (0.0, 10.0)
    }
    assert kept == {0.0: [[1, 0]], 10.0: [[0, 1]]}


@pins("synflow")
def test_synflow_keeps_the_paths_of_largest_flow_round_by_round_without_data() -> None:
    # Two inputs of ones, two hidden units. Flow through a weight: abs(w) times the sum over the other side.
    # Round 1 of 2 leaves 6 * (1/2)^(1/2) = 4.24 -> 4 of six weights: in-weights 1*5, 1*5, 4*1, 3*1, out-weights 5*2, 1*7.
    # The 4 * 1 and 3 * 1 go. Round 2 leaves 3: now unit 1 has no input, its out-weight no flow: it goes.
    first, second = [[1.0, -1.0], [4.0, 3.0]], [[5.0, -1.0]]
    batches = [(torch.zeros(1, 2), torch.zeros(1, 1))]
    run = ByHand(METHODS["synflow"](rounds=2), first, second, batches=batches)
    assert run.active(0) == [[1, 1], [0, 0]]
    assert run.active(1) == [[1, 0]]
    # All at once it keeps the dead out-weight: 5, 5, 4, 3 and 10, 7 have 10, 7 and 5 on top.
    once = ByHand(METHODS["synflow"](rounds=1), first, second, batches=batches)
    assert once.active(1) == [[1, 1]]


@pins("synflow")
@pytest.mark.parametrize(("token", "left"), [(0, [[0, 1]]), (1, [[1, 0]])])
def test_synflow_leaves_tokens_as_they_are(token: int, left: list[list[int]]) -> None:
    model = nn.Sequential(nn.Embedding(2, 2), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [-3.0, 1.0]]))
        model[1].weight.copy_(torch.tensor([[-1.0, 2.0]]))
    # The flow through the two weights is 1 * 1 and 2 * 2 for token 0, 3 * 1 and 1 * 2 for token 1.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.full((4,), token), torch.zeros(4, 1))]
    engine = SparseEngine(model, optimizer, METHODS["synflow"](rounds=2), sparsity=0.5, batches=batches)
    assert engine.mask("1.weight").int().tolist() == left


@pins("force", "iter-snip")
@pytest.mark.parametrize(("name", "left"), [("force", [[1, 1, 0], [0, 0, 0]]), ("iter-snip", [[1, 0, 0], [0, 0, 1]])])
def test_what_was_removed_returns_with_force_and_stays_away_with_iter_snip(name: str, left: list[list[int]]) -> None:
    # Outputs 3 - 2.9 = 0.1 and 1, both to be 0: these are the gradients too. Products of weight and gradient: 0.3, 0.29, 1.
    # Five rounds leave 6 * 3^(-k/5): 5, 4, 3, 2 and 2 weights: after the fourth, the 3 and the 1. Now the first output is 3,
    # and so is its gradient. FORCE multiplies it by the dense weights: 9, 8.7, and 1: the -2.9 returns for the 1.
    # Iter-SNIP chooses among what is left.
    batches = [(torch.ones(1, 3), torch.zeros(1, 2))]
    run = ByHand(
        METHODS[name](rounds=5),
        [[3.0, -2.9, 0.0], [0.0, 0.0, 1.0]],
        sparsity=2 / 3,
        batches=batches,
        loss=half_square,
    )
    assert run.active() == left
    assert run.weights()[0, 1].item() == pytest.approx(-2.9 * left[0][1]), "it returns with its own weight"


@pins("force", "iter-snip")
def test_rounds_leave_geometrically_fewer() -> None:
    # exp(k/T ln rho) of 1000 at rho = 0.01: after 1 of 2 rounds a tenth.
    assert [geometric_count(1000, 10, progress) for progress in (0.0, 0.5, 1.0)] == [1000, 100, 10]
