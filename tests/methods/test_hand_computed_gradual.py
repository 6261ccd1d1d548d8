"""From dense to sparse, by hand: ramps, curvature, groups, channels, rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.methods.by_hand import ByHand, preset
from tests.methods.pins import pins
from torch import nn

from itop import SparseEngine
from itop.methods.obs import compensate


@pins("gmp")
def test_gmp_prunes_the_smallest_magnitudes_of_each_layer_along_a_cubic_ramp() -> None:
    method = preset("gmp", update_every=2, end=0.4)
    run = ByHand(method, [[8.0, -7.0, 6.0, 5.0]], [[4.0, -3.0, 2.0, 1.0]], sparsity=0.75)
    counts, first = [], None
    for _ in range(6):
        run.step()
        counts.append(run.engine.layers[0].num_active)
        first = first or (run.active(0) if counts[-1] < 4 else None)
    # d(t) = 1 + 3 (1 - t/4)^3 of four: 1 + round(3/8) = 1 at step 2; the target, 1, at step 4.
    assert counts == [4, 1, 1, 1, 1, 1]
    assert run.active(0) == run.active(1) == [[1, 0, 0, 0]]
    assert run.weights(1).tolist() == [[4.0, 0.0, 0.0, 0.0]]
    linear = preset("gmp", update_every=1, start=0.2, end=0.6)
    ramp = linear.options()["ramp"]
    # 4 -> 1 between 0.2 and 0.6 of 100 steps: 4 until 20, at half of it 1 + 3/8, at 60 and after 1.
    assert [ramp.count(400, 100, step, 100) for step in (10, 20, 40, 60, 90)] == [400, 400, 138, 100, 100]


@pins("taylor")
def test_taylor_prunes_the_smallest_averaged_squares_of_gradient_times_weight_over_all_layers() -> None:
    method = preset("taylor", update_every=2, end=0.2, decay=0.5)
    run = ByHand(method, [[9.0, 1.0]], [[2.0, 3.0]])
    run.step([[0.1, 2.0]], [[1.0, 0.0]])
    run.step([[0.1, 0.0]], [[1.0, 1.0]])
    # (g w)^2: 0.81, 4 | 4, 0, then 0.81, 0 | 4, 9. Averages from 0 with decay 0.5, a/4 + b/2: 0.61, 1 | 3, 4.5. The largest
    # weight goes.
    assert (run.active(0), run.active(1)) == ([[0, 0]], [[1, 1]])


@pins("obd")
def test_obd_prunes_the_smallest_halves_of_curvature_times_squared_weight() -> None:
    method = preset("obd", update_every=2, end=0.2, decay=0.5)
    run = ByHand(method, [[9.0, 1.0]], [[2.0, 3.0]])
    run.step([[0.1, 2.0]], [[1.0, 0.0]])
    run.step([[0.1, 2.0]], [[-1.0, 0.2]])
    # h = a/4 + b/2 of squared gradients: 0.0075, 3, 0.75, 0.02; times w^2 / 2: 0.30, 1.5, 1.5, 0.09.
    assert (run.active(0), run.active(1)) == ([[0, 1]], [[1, 0]])


@pins("obs")
def test_obs_prunes_by_the_inverse_curvature_and_moves_the_others_to_compensate() -> None:
    method = preset("obs", update_every=1, end=0.1, block=2, damping=1.0)
    run = ByHand(method, [[1.0, 1.1]])
    run.step([[1.0, 1.0]])
    # H^-1 starts as the identity; one gradient g = (1, 1) of n = 1: H^-1 = I - g g^T / (1 + 2) = [[2, -1], [-1, 2]] / 3.
    # w^2 / (2 * 2/3): 0.75 and 0.9075: the first goes. The second receives -H^-1[1, 0] / H^-1[0, 0] * w_0 = 0.5.
    assert run.active() == [[0, 1]]
    assert run.weights()[0].tolist() == pytest.approx([0.0, 1.6])


@pins("obs")
def test_compensation_for_several_weights_of_a_block_at_once() -> None:
    curvature = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    inverse = torch.linalg.inv(curvature).repeat(3, 1, 1)
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 0.0, 8.0]])
    # Blocks of three run over rows: (1, 2, 3), (4, 5, 6), (0, 8), whose last place is empty.
    gone = torch.tensor([[True, False, True, False], [True, False, False, True]])
    active = torch.tensor([[True] * 4, [True, True, False, True]])
    compensate(weight, inverse, gone, active)
    # The minimum of d^T H d / 2 with d_0 = -1 and d_2 = -3: d_1 = -(H_10 d_0 + H_12 d_2) / H_11 = 4 / 2. In the second block
    # d_1 = -5, and d_0 = d_2 = 5 / 2. In the third the weight that is not active stays.
    assert weight.flatten().tolist() == pytest.approx([0.0, 4.0, 0.0, 6.5, 0.0, 8.5, 0.0, 0.0], abs=1e-5)


@pins("obs")
@pytest.mark.parametrize("to", [lambda w: w.double(), lambda w: w.to(memory_format=torch.channels_last)])
def test_compensation_reaches_weights_of_any_type_and_order(to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    plain = torch.randn(6, 4, 3, 3)
    exact = plain.double() + 1e-12
    root = torch.randn(14, 16, 16)
    inverse = root @ root.transpose(1, 2) + torch.eye(16)
    gone = torch.rand(plain.shape) < 0.1
    other = to(plain.clone())
    compensate(plain, inverse, gone, torch.ones_like(gone))
    compensate(other, inverse, gone, torch.ones_like(gone))
    assert torch.equal(other.float(), plain)
    assert plain[gone].abs().max() < 1e-4  # rounding of the systems
    before = exact.clone()
    compensate(exact, inverse, torch.zeros_like(gone).index_fill_(0, torch.tensor(0), True), torch.ones_like(gone))
    assert torch.equal(exact[2:], before[2:]), "what no pruned weight is coupled to keeps every digit"


@pins("group-lasso")
def test_group_lasso_keeps_the_strongest_rows_and_columns_together() -> None:
    weights = [[9.0, 8.0, 0.1, 7.0], [8.0, 9.0, 0.1, 7.0], [0.1, 0.1, 9.9, 0.1], [1.0, 1.0, 0.1, 1.0]]
    run = ByHand(preset("group-lasso", prune_at=0.1, penalty=0.0), weights, [[3.0, -4.0, 1.0, 2.0]], sparsity=0.7)
    # Six of the twenty: five of the first sixteen, by columns and rows: column norms 12.1, 12.1, 9.9, 10.0, row norms 13.9,
    # 13.9, 9.9, 1.7. The two strongest of each are four weights, the fifth is the first to come beside them. The single
    # weight 9.9 alone in its row and column goes. Of the last layer all rows stay: the strongest of its columns.
    run.step()
    first = torch.tensor(run.active(0))
    assert first.sum() == 5
    assert first[:2, :2].tolist() == [[1, 1], [1, 1]]
    assert first[3].sum() == 0
    assert run.active(1) == [[0, 1, 0, 0]]
    assert run.weights(0)[0, 0] == 9.0


@pins("group-lasso")
def test_group_lasso_pulls_each_weight_by_its_share_of_the_groups_norms() -> None:
    run = ByHand(preset("group-lasso", penalty=0.1), [[3.0, 0.0], [4.0, 0.0]], lr=1.0)
    run.step()
    # penalty * sqrt(2) * w / norm of the row, and of the column (norm 5): 3 - 0.1414 (1 + 3/5), 4 - 0.1414 (1 + 4/5).
    assert run.weights()[:, 0].tolist() == pytest.approx([3 - 0.141421 * 1.6, 4 - 0.141421 * 1.8], abs=1e-5)


@pins("early-bird")
def test_early_bird_draws_the_channels_of_largest_gamma_once_masks_agree() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    method = preset("early-bird", check_every=1, window=2, penalty=0.0)
    engine = SparseEngine(model, optimizer, method, sparsity=0.5, total_steps=10)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.1, -3.0, 2.0, 0.5]))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert engine.density == 1.0, "one mask is no agreement"
    optimizer.step()
    # 4 + 8 weights, 6 are to stay: c channels have 1 * c + 2 * c: two, those of gamma -3 and 2, with their outgoing weights.
    assert engine.mask("0.weight").flatten().int().tolist() == [0, 1, 1, 0]
    assert engine.mask("3.weight").int().tolist() == [[0, 1, 1, 0]] * 2
    optimizer.step()
    assert engine.num_updates == 1, "the ticket is drawn once"


@pins("omp")
def test_omp_prunes_once_over_all_layers() -> None:
    run = ByHand(preset("omp", prune_at=0.3), [[8.0, -1.0]], [[5.0, 4.0]])
    densities = []
    for _ in range(5):
        run.step()
        densities.append(run.engine.density)
    assert densities == [1.0, 1.0, 0.5, 0.5, 0.5]
    assert (run.active(0), run.active(1)) == ([[1, 0]], [[1, 0]])
    assert run.weights(1).tolist() == [[5.0, 0.0]]


@pins("imp")
def test_imp_prunes_a_share_of_what_is_left_and_starts_again_from_the_first_weights() -> None:
    run = ByHand(preset("imp", prune_fraction=0.25), [[4.0, 3.0, 2.0, 1.0]], lr=1.0, sparsity=0.5, total_steps=12)
    # From 4 to 2 by quarters: ln 0.5 / ln 0.75 = 2.4: three rounds, so prunings at steps 3, 6 and 9: to 3, 2 (0.5625 * 4 =
    # 2.25) and 2 weights.
    for _ in range(3):
        run.step([[1.0, 0.0, 0.0, -1.0]])
    # The weights had become 1, 3, 2, 4: the first is the smallest and goes. The others are what they were at the start.
    assert run.weights().tolist() == [[0.0, 3.0, 2.0, 1.0]]
    for _ in range(3):
        run.step([[0.0, 0.0, 0.5, -1.0]])
    # 3, 0.5, 4.
    assert run.weights().tolist() == [[0.0, 3.0, 0.0, 1.0]]
    for _ in range(6):
        run.step()
    assert run.active() == [[0, 1, 0, 1]]
    assert run.engine.num_updates == 3


@pins("imp")
def test_rewinding_forgets_the_optimisers_momentum() -> None:
    method = preset("imp", rounds=1)
    run = ByHand(method, [[4.0, 3.0]], lr=1.0, total_steps=4, settings={"momentum": 0.9})
    run.step([[1.0, 0.0]])
    run.step([[1.0, 5.0]])
    run.step()
    # Pruned at step 2: 4 - 1 - 1.9 against 3 - 5 = -2: the -2 stays, as 3 again, and stands still without a gradient.
    assert run.weights().tolist() == [[0.0, 3.0]]


@pins("lth")
def test_lth_rewinds_to_the_weights_of_early_training() -> None:
    method = preset("lth", rounds=1, rewind_to=0.5)
    run = ByHand(method, [[4.0, 3.0]], lr=1.0, total_steps=8)
    for _ in range(4):
        run.step([[1.0, 0.25]])
    # One pruning at step 4, when they are 0 and 2; the rewind point is step 2: 2 and 2.5.
    assert run.weights().tolist() == [[0.0, 2.5]]


@pins("lr-rewind")
def test_lr_rewind_keeps_the_weights_and_restarts_the_learning_rate() -> None:
    method = preset("lr-rewind", rounds=1)
    run = ByHand(method, [[4.0, 3.0]], lr=1.0, total_steps=8)
    for _ in range(4):
        run.step([[1.0, 0.25]])
    assert run.weights().tolist() == [[0.0, 2.0]]
    # Where a learning-rate schedule stands after so many steps: each half of the run is one of its own.
    progress = [run.engine.method.schedule_progress(step, 8) for step in (0, 2, 3, 4, 6, 8)]
    assert progress == pytest.approx([0.0, 0.5, 0.75, 0.0, 0.5, 1.0], abs=1e-6)
