"""Sparse to sparse, by hand: which weights go, which come, what they start with."""

from __future__ import annotations

import math

import pytest
import torch
from tests.methods.by_hand import ByHand, preset
from tests.methods.pins import pins
from torch import nn

from itop import SparseEngine
from itop.methods import SNTASGD


@pins("dense")
def test_dense_keeps_and_trains_every_weight_whatever_the_sparsity() -> None:
    run = ByHand("dense", [[1.0, 0.0], [-2.0, 3.0]], lr=1.0)
    run.step([[0.5, 1.0], [0.0, -1.0]])
    assert run.active() == [[1, 1], [1, 1]]
    assert run.weights().tolist() == [[0.5, -1.0], [-2.0, 4.0]]


@pins("static")
def test_static_never_changes_its_masks_and_trains_within_them() -> None:
    run = ByHand("static", [[1.0, 2.0], [3.0, 4.0]], masks=[[[1, 0], [0, 1]]], lr=1.0)
    for _ in range(3):
        run.step([[1.0, 9.0], [9.0, -1.0]])
    assert run.active() == [[1, 0], [0, 1]]
    assert run.weights().tolist() == [[-2.0, 0.0], [0.0, 7.0]]
    assert run.engine.num_updates == 0


@pins("fixed")
def test_fixed_takes_the_weights_that_are_not_zero() -> None:
    run = ByHand("fixed", [[1.0, 0.0], [0.0, -1e-20]], lr=1.0)
    run.step([[1.0, 9.0], [9.0, -1.0]])
    assert run.active() == [[1, 0], [0, 1]]
    assert run.weights().tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pins("small-dense")
def test_small_dense_keeps_the_first_units_and_scales_for_their_smaller_fan_in() -> None:
    ones_in, ones_out = [[1.0, 1.0]] * 4, [[1.0] * 4] * 2
    run = ByHand("small-dense", ones_in, ones_out)
    # u hidden units have 2 u + 2 u weights; of 16 there are to be 8: u = 2. The first layer's fan-in stays 2, that of the
    # second falls from 4 to 2: times sqrt(2).
    assert run.active(0) == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert run.active(1) == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert run.weights(0)[0].tolist() == [1.0, 1.0]
    assert run.weights(1)[0].tolist() == pytest.approx([math.sqrt(2), math.sqrt(2), 0.0, 0.0])


@pins("set")
def test_set_drops_a_share_of_the_smallest_positive_and_of_the_largest_negative_weights() -> None:
    weights = [[0.1, 0.2, 0.3, 0.4, 0.0, 0.0], [-5.0, -6.0, -7.0, -8.0, 0.0, 0.0]]
    method = preset("set", update_every=1, drop_fraction=0.5)
    run = ByHand(method, weights, masks=[[[1, 1, 1, 1, 0, 0]] * 2], allocation="uniform")
    report = run.step()
    # Half of four positive ones: 0.1 and 0.2. Half of four negative ones: -5 and -6. By magnitude alone every positive
    # weight would have gone. Four grow anywhere, at zero.
    assert report is not None
    assert (report.dropped, report.grown) == (4, 4)
    left = run.weights()
    assert left[left != 0].tolist() == pytest.approx([0.3, 0.4, -7.0, -8.0])
    assert torch.tensor(run.active()).sum() == 8


@pins("set")
def test_set_leaves_the_output_layer_dense_where_it_is_asked_to() -> None:
    run = ByHand(preset("set", dense_output=True), [[1.0] * 4] * 4, [[1.0] * 4] * 2)
    # Half of 24 weights: the output layer's 8, and 4 of the 16 before it.
    assert [sum(sum(row) for row in run.active(layer)) for layer in (0, 1)] == [4, 8]


@pins("set")
def test_set_updates_every_epoch_but_not_after_the_last() -> None:
    schedule = preset("set").for_loop(steps_per_epoch=10).schedule
    assert list(schedule.update_steps(40)) == [10, 20, 30]


@pins("set-itop")
def test_set_itop_drops_the_smallest_magnitudes_after_the_step_by_a_cosine() -> None:
    method = preset("set-itop", update_every=2)
    run = ByHand(method, [[5.0, -1.0, 2.0, -4.0, 0.0, 0.0]], masks=[[[1, 1, 1, 1, 0, 0]]], lr=1.0, sparsity=1 / 3)
    run.step([[0.0, -3.0, 1.0, 0.0, 9.0, 9.0]])
    assert run.weights().tolist() == [[5.0, 2.0, 1.0, -4.0, 0.0, 0.0]]
    report = run.step([[0.0, 1.5, 0.0, 0.0, 9.0, 9.0]])
    # The step comes first: 5, 0.5, 1, -4. P(2) = 0.005 + 0.495 / 2 (1 + cos(0.2 pi)) = 0.4527: of four, 1.8 -> 2 go.
    assert report is not None
    assert report.drop_fraction == pytest.approx(0.4527, abs=1e-4)
    assert report.dropped == report.grown == 2
    assert run.weights().tolist() == [[5.0, 0.0, 0.0, -4.0, 0.0, 0.0]]
    assert sum(run.active()[0]) == 4


@pins("rigl")
def test_rigl_grows_the_largest_gradients_keeps_what_it_regrows_and_takes_no_step() -> None:
    method = preset("rigl", update_every=2, drop_fraction=0.5)
    run = ByHand(method, [[5.0, -1.0, 2.0, -4.0, 0.0, 0.0]], masks=[[[1, 1, 1, 1, 0, 0]]], lr=1.0, sparsity=1 / 3)
    run.step()
    report = run.step([[7.0, 0.5, 9.0, 7.0, -8.0, 1.0]])
    # P = 0.25 (1 + cos(2 pi / 7.5)) = 0.417: of four, 1.67 -> 2 go: -1 and 2. Among the sites that were not kept the largest
    # gradients are 9, that of the 2, which keeps its value, and -8. There is no optimiser step.
    assert report is not None
    assert (report.dropped, report.grown, report.layers[0].regrown) == (2, 2, 1)
    assert run.active() == [[1, 0, 1, 1, 1, 0]]
    assert run.weights().tolist() == [[5.0, 0.0, 2.0, -4.0, 0.0, 0.0]]


@pins("rigl")
def test_rigl_leaves_the_first_layer_dense_where_the_others_are_uniform() -> None:
    first, second = [[1.0] * 2] * 4, [[1.0] * 4] * 4
    run = ByHand(preset("rigl", allocation="uniform", dense_first=True), first, second, sparsity=0.5)
    assert [layer.num_active for layer in run.engine.layers] == [8, 4]
    with pytest.raises(ValueError, match="a dense first layer goes with allocation 'uniform', got 'erk'"):
        preset("rigl", dense_first=True)


@pins("rigl-itop")
def test_rigl_itop_updates_after_the_step_and_starts_what_it_regrows_at_zero() -> None:
    method = preset("rigl-itop", update_every=1, drop_fraction=0.5, final_drop_fraction=0.5)
    run = ByHand(method, [[5.0, -1.0, 2.0, -4.0, 0.0, 0.0]], masks=[[[1, 1, 1, 1, 0, 0]]], lr=0.1, sparsity=1 / 3)
    run.step([[7.0, 0.5, 9.0, 7.0, -8.0, 1.0]])
    # The step: 4.3, -1.05, 1.1, -4.7. The two smallest go; the gradients 9 and -8 come, both at zero.
    assert run.active() == [[1, 0, 1, 1, 1, 0]]
    assert run.weights()[0].tolist() == pytest.approx([4.3, 0.0, 0.0, -4.7, 0.0, 0.0])


@pins("snfs")
def test_snfs_gives_layers_and_sites_by_momentum() -> None:
    weights = [[8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]]
    mask = [[1, 1, 1, 1, 0, 0, 0, 0]]
    method = preset("snfs", update_every=2, drop_fraction=0.5, final_drop_fraction=0.5)
    run = ByHand(method, weights, weights, masks=[mask, mask])
    run.step([[3.0] * 4 + [0.0, 0.0, 0.0, 4.0]], [[0.0] * 8])
    run.step([[3.0] * 4 + [9.0, 1.0, -2.0, 0.0]], [[0.0, 0.0, 1.9, 3.8, 0.5, 7.0, 0.4, 0.3]])
    # Averages 0.09 g1 + 0.1 g2: first layer 0.57 on its active weights, then 0.9, 0.1, -0.2, 0.36; second layer 0, 0, 0.19,
    # 0.38, then 0.05, 0.7, 0.04, 0.03. Each drops two: 6 and 5. The means over what was active before are 0.57 and
    # 0.1425: of four new connections, 3.2 and 0.8: three and one. Just-dropped sites may be taken: the first layer takes
    # 0.9, 0.57 and 0.57, the second 0.7.
    assert run.active(0) == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert run.active(1) == [[1, 1, 0, 0, 0, 1, 0, 0]]
    assert run.weights(0).tolist() == [[8.0, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]


@pins("snfs")
def test_snfs_beside_adam_divides_the_average_by_the_root_of_the_averaged_square() -> None:
    method = preset("snfs", update_every=2, drop_fraction=0.5, final_drop_fraction=0.5)
    run = ByHand(method, [[8.0, 7.0, 0.0, 0.0]], masks=[[[1, 1, 0, 0]]], optimizer=torch.optim.Adam)
    run.step([[0.0, 0.0, 10.0, 1.0]])
    run.step([[0.0, 0.0, -9.0, 1.0]])
    # m = 0.09 g1 + 0.1 g2: 0 and 0.19 on the free sites, 0 on the dropped: a steady small gradient wins over a large one
    # that changes its sign. The plain average of squares would say the opposite.
    assert run.active() == [[1, 0, 0, 1]]


@pins("dsr")
def test_dsr_prunes_below_one_threshold_grows_by_survivors_and_moves_the_threshold() -> None:
    method = preset("dsr", update_every=1, fraction=0.5, threshold=1.0, doubles_at=())
    first, second = [[9.0, 8.0, 7.0, 0.5, 0.0, 0.0, 0.0]], [[6.0, 0.4, -0.3, 0.2, 0.0]]
    run = ByHand(method, first, second, masks=[[[1, 1, 1, 1, 0, 0, 0]], [[1, 1, 1, 1, 0]]], sparsity=1 / 3)
    run.step()
    # 0.5 goes from the first layer, three weights from the second; three and one survive, so of four new connections the
    # first layer gets three, the second one: all sites but the just-pruned.
    assert run.active(0) == [[1, 1, 1, 0, 1, 1, 1]]
    assert run.active(1) == [[1, 0, 0, 0, 1]]
    assert run.weights(0).tolist() == [[9.0, 8.0, 7.0, 0.0, 0.0, 0.0, 0.0]]
    # Aimed at 0.5 * 8 = 4, pruned 4: between 3.6 and 4.4, the threshold stays.
    assert run.state["threshold"] == 1.0
    run.set_weights([[9.0, 8.0, 7.0, 0.0, 5.0, 5.0, 5.0]], [[6.0, 0.0, 0.0, 0.0, 5.0]])
    run.step()
    # Nothing is below it: fewer than 3.6, it doubles.
    assert run.state["threshold"] == 2.0
    run.set_weights([[1.0] * 7], [[1.0] * 5])
    run.step()
    # All eight are: more than 4.4, it halves. There were four free sites only, so four of the eight stay.
    assert run.state["threshold"] == 1.0
    assert sum(layer.num_active for layer in run.engine.layers) == 8


@pins("dsr")
def test_dsr_waits_twice_as_long_after_each_boundary() -> None:
    schedule = preset("dsr", update_every=10, doubles_at=(0.25, 0.5)).schedule
    assert list(schedule.update_steps(160)) == [10, 20, 30, 40, 60, 80, 120, 160]


@pins("deep-r")
def test_deep_r_drops_what_changes_its_sign_and_wakes_as_many_at_a_trace_of_theirs() -> None:
    method = preset("deep-r", l1=0.1, temperature=0.0)
    run = ByHand(method, [[0.5, -0.3, 0.2]], masks=[[[1, 1, 0]]], lr=1.0, sparsity=1 / 3)
    run.state["positive signs"] = [torch.tensor([[True, False, False]])]
    run.step([[0.1, -0.2, 5.0]])
    # Gradient: 0.4, -0.1. The pull of l1 towards zero: 0.3, 0.0. Nobody has crossed.
    assert run.weights()[0].tolist() == pytest.approx([0.3, 0.0, 0.0], abs=1e-7)
    assert run.active() == [[1, 1, 0]]
    run.set_weights([[0.3, -0.2, 0.0]])
    run.step([[0.0, -0.5, 5.0]])
    # -0.2 + 0.5 = 0.3, less 0.1: positive, but its sign is negative. It goes; the only dormant one wakes, with its sign.
    assert run.active() == [[1, 0, 1]]
    assert run.weights()[0].tolist() == pytest.approx([0.2, 0.0, -1e-12], rel=1e-5)


@pins("deep-r")
def test_deep_r_walks_by_the_root_of_twice_rate_and_temperature() -> None:
    run = ByHand(preset("deep-r", l1=0.0, temperature=2.0), [[100.0] * 1000] * 10, lr=0.25, sparsity=0.0)
    run.step()
    # sqrt(2 * 0.25 * 2) = 1, of ten thousand draws.
    change = run.weights() - 100.0
    assert float(change.std()) == pytest.approx(1.0, abs=0.03)
    assert float(change.mean()) == pytest.approx(0.0, abs=0.03)


@pins("mest")
def test_mest_drops_the_smallest_sum_of_magnitude_and_gradient() -> None:
    method = preset("mest", update_every=1, drop_fraction=0.34, gradient_weight=2.0)
    run = ByHand(method, [[3.0, -1.0, 2.0, 0.0]], masks=[[[1, 1, 1, 0]]], sparsity=0.25)
    report = run.step([[0.0, 4.0, 0.25, 9.0]])
    # 3 + 0, 1 + 8, 2 + 0.5: the 2 goes although 1 is smaller. It or the free site grows, at zero.
    assert report is not None
    assert report.dropped == 1
    assert run.weights().tolist() == [[3.0, -1.0, 0.0, 0.0]]
    assert sum(run.active()[0]) == 3


@pins("mest")
def test_mest_drops_half_as_much_later_and_nothing_in_the_end() -> None:
    method = preset("mest", drop_fraction=0.05, halves_at=0.5, stops_at=0.8)
    fractions = [method.options()["drop_fraction"](step, 100) for step in (50, 51, 80, 81)]
    assert fractions == [0.05, 0.025, 0.025, 0.0]


@pins("mest-soft")
def test_mest_soft_grows_first_and_prunes_at_the_next_update() -> None:
    method = preset("mest-soft", update_every=2, drop_fraction=0.5, gradient_weight=1.0, halves_at=0.8, stops_at=0.9)
    run = ByHand(method, [[4.0, 3.0, 0.0]], masks=[[[1, 1, 0]]], sparsity=1 / 3)
    run.step()
    report = run.step()
    # Two are aimed at and there: nothing goes, half of two, one, comes: the only free site.
    assert report is not None
    assert (report.dropped, report.grown) == (0, 1)
    assert run.active() == [[1, 1, 1]]
    run.set_weights([[4.0, 1.0, 2.0]])
    run.step()
    run.step([[0.0, 1.5, 0.0]])
    # One too many: 4, 1 + 1.5, 2. The newcomer goes. Then one grows: the only site that was free at the start of the
    # update is none, so nothing comes beside it.
    assert run.active() == [[1, 1, 0]]
    assert run.weights().tolist() == [[4.0, 1.0, 0.0]]


@pins("dst-ee")
def test_dst_ee_prefers_sites_that_were_rarely_active() -> None:
    grown = {}
    for bonus in (0.0, 1.0):
        method = preset("dst-ee", update_every=2, drop_fraction=0.5, bonus=bonus, epsilon=1.0)
        run = ByHand(method, [[4.0, 1.0, 0.0]], masks=[[[1, 1, 0]]], sparsity=1 / 3)
        run.step()
        run.step([[0.0, 0.5, 0.2]])
        grown[bonus] = run.active()
    # P = 0.417: one of two goes, the 1. By gradient alone it comes back, 0.5 > 0.2. With the bonus ln(2) / (n + 1), n = 1
    # and 0: 0.5 + 0.347 < 0.2 + 0.693.
    assert grown == {0.0: [[1, 1, 0]], 1.0: [[1, 0, 1]]}


@pins("granet")
def test_granet_prunes_all_layers_to_the_ramp_then_regenerates_by_gradient() -> None:
    method = preset("granet", update_every=2, end=0.4, drop_fraction=0.5, final_drop_fraction=0.5)
    run = ByHand(method, [[8.0, 7.0, 6.0, 5.0]], [[4.0, 3.0, 2.0, 1.0]], allocation="uniform")
    assert run.active(0) == run.active(1) == [[1, 1, 1, 1]]
    run.step()
    run.step([[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 2.0]])
    # Half way to step 4 the ramp is at 4 + round(4 / 8) = 4: the four smallest go, all of the second layer. The first is
    # dense, nothing is explored there; the second has nothing to drop.
    assert run.active(0) == [[1, 1, 1, 1]]
    assert run.active(1) == [[0, 0, 0, 0]]


@pins("granet")
def test_granet_goes_on_dropping_and_growing_by_gradient_at_its_target() -> None:
    method = preset("granet", update_every=1, initial_density=0.5, end=0.1, drop_fraction=0.5, final_drop_fraction=0.5)
    run = ByHand(method, [[4.0, 3.0, 0.0, 0.0]], masks=[[[1, 1, 0, 0]]])
    run.step([[0.0, 0.0, 1.0, -2.0]])
    assert run.active() == [[1, 0, 0, 1]]
    assert run.weights().tolist() == [[4.0, 0.0, 0.0, 0.0]]


@pins("selfish-rnn")
def test_selfish_rnn_moves_connections_between_the_gates_of_a_cell() -> None:
    torch.manual_seed(0)
    cell = nn.LSTM(2, 1, bias=False)
    optimizer = torch.optim.SGD(cell.parameters(), lr=1e-30)
    method = preset("selfish-rnn", update_every=1, drop_fraction=0.5, final_drop_fraction=0.5)
    engine = SparseEngine(cell, optimizer, method, sparsity=0.5, total_steps=10, exclude=["weight_hh_l0"])
    topology = engine.topology
    # Rows are the gates i, f, g, o: each has one of its two weights.
    topology.initialise(topology.from_tensors([torch.tensor([[1, 0]] * 4).bool()]))
    with torch.no_grad():
        cell.weight_ih_l0[:, 0] = torch.tensor([0.1, 0.2, 3.0, -4.0])
    for parameter in cell.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # Half of the cell's four go, the smallest of all gates together: i and f lose theirs, g and o keep theirs.
    weights = cell.weight_ih_l0.detach()
    assert weights[weights != 0].tolist() == [3.0, -4.0]
    assert int(engine.mask("weight_ih_l0").sum()) == 4


@pins("selfish-rnn")
def test_snt_asgd_averages_each_weight_over_the_steps_since_it_was_grown() -> None:
    weight = nn.Parameter(torch.tensor([4.0, 0.0]))
    optimizer = SNTASGD([weight], lr=1.0, patience=1)
    for loss in (1.0, 1.0, 2.0):
        averages = optimizer.trigger(loss)
    assert averages
    for gradient in ([1.0, 0.0], [1.0, -2.0], [1.0, -2.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    # The first weight is 3, 2, 1: average 2. The second is absent in the first step, then 2 and 4: average 3, not 2.
    with optimizer.averaged():
        assert weight.tolist() == [2.0, 3.0]
    assert weight.tolist() == [1.0, 4.0]
    with torch.no_grad():
        weight[1] = 0.0  # dropped
    weight.grad = torch.tensor([0.0, 0.0])
    optimizer.step()
    with optimizer.averaged():
        assert weight[1] == 0.0


@pins("nest")
def test_nest_grows_by_averaged_gradient_at_one_gradient_step_and_prunes_all_layers_by_magnitude() -> None:
    method = preset("nest", update_every=2, seed_density=0.5, growth=0.25, neurons=0, grow_until=0.4, prune_until=0.8)
    mask = [[[1, 0, 0, 0]], [[1, 0, 0, 0]]]
    run = ByHand(method, [[4.0, 0, 0, 0]], [[3.0, 0, 0, 0]], masks=mask, lr=0.5)
    run.step([[0.0, 2.0, 0.0, -1.0]], [[0.0, 0.0, 0.0, 1.0]])
    run.step([[0.0, -2.0, 0.0, -1.0]], [[0.0, 0.0, 6.0, 1.0]])
    # Averages 0.09 g1 + 0.1 g2: -0.02, 0, -0.19 and 0, 0.6, 0.19. A quarter of four weights grows, at -0.5 times that.
    assert run.active(0) == [[1, 0, 0, 1]]
    assert run.active(1) == [[1, 0, 1, 0]]
    assert run.weights(0)[0].tolist() == pytest.approx([4.0, 0.0, 0.0, 0.095])
    assert run.weights(1)[0].tolist() == pytest.approx([3.0, 0.0, -0.3, 0.0])
    run.engine.topology.initialise(run.engine.topology.full())
    run.set_weights([[9.0, 8.0, 7.0, 6.0]], [[5.0, 4.0, 3.0, 2.0]])
    counts = []
    for _ in range(6):
        run.step()
        counts.append(sum(layer.num_active for layer in run.engine.layers))
    # From step 4 it prunes to four of eight by step 8, in equal parts at 4, 6 and 8: 2, 1, 1. The smallest of both.
    assert counts == [8, 6, 6, 5, 5, 4]
    assert run.active(0) == [[1, 1, 1, 1]]
    assert run.active(1) == [[0, 0, 0, 0]]


@pins("nest")
def test_nest_wakes_a_neuron_where_the_bridging_gradient_is_largest() -> None:
    method = preset("nest", update_every=1, seed_density=1.0, growth=0.0, neurons=1, bridge=0.25)
    # 2 inputs, 2 hidden units of which the second has no connection, 2 outputs.
    run = ByHand(
        method,
        [[1.0, 1.0], [0.0, 0.0]],
        [[1.0, 0.0], [1.0, 0.0]],
        masks=[[[1, 1], [0, 0]], [[1, 0], [1, 0]]],
    )
    inputs = torch.tensor([[2.0, 1.0]])
    run.model.train()
    outputs = run.model(inputs)
    (outputs * torch.tensor([[3.0, -8.0]])).sum().backward()
    run.optimizer.step()
    # G = dL/d output x input: [[6, 3], [-16, -8]]. The largest quarter is -16, from input 0 to output 1. Its root is scaled
    # to the mean magnitude of the active weights below, 1: in 1, out -sign(-16) = +1.
    assert run.active(0) == [[1, 1], [1, 0]]
    assert run.active(1) == [[1, 0], [1, 1]]
    assert run.weights(0)[1].tolist() == pytest.approx([1.0, 0.0])
    assert run.weights(1)[:, 1].tolist() == pytest.approx([0.0, 1.0])
