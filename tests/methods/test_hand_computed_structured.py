"""Sparse to sparse with a structure, or with sets of their own, by hand."""

from __future__ import annotations

import pytest
import torch
from tests.methods.by_hand import ByHand, preset
from tests.methods.pins import pins

from itop.methods.swat import largest_entries


@pins("top-kast")
def test_top_kast_runs_forward_with_a_trains_b_and_forgets_nothing_outside() -> None:
    method = preset("top-kast", update_every=2, extra_density=0.25, penalty=0.0)
    run = ByHand(method, [[4.0, 3.0, 2.5, 1.0]], lr=1.0)
    # A: the two largest; B: one more.
    assert run.weights().tolist() == [[4.0, 3.0, 0.0, 0.0]]
    run.step([[0.0, 1.0, -1.0, 9.0]])
    # Hidden weights: 4, 2, 3.5 and, outside B, 1. The sets are chosen anew at step 2 only.
    assert run.weights().tolist() == [[4.0, 2.0, 0.0, 0.0]]
    run.step()
    assert run.active() == [[1, 0, 1, 0]]
    assert run.weights().tolist() == [[4.0, 0.0, 3.5, 0.0]]


@pins("top-kast")
def test_top_kast_ends_with_weights_that_forward_passes_have_seen() -> None:
    method = preset("top-kast", update_every=2, extra_density=0.25, penalty=0.0)
    run = ByHand(method, [[4.0, 3.0, 2.5, 1.0]], lr=1.0, total_steps=4)
    for _ in range(2):
        run.step()
    for _ in range(2):
        run.step([[0.0, 0.0, -2.0, 0.0]])
    assert run.state["hidden weights"][0][0].tolist() == [4.0, 3.0, 6.5, 1.0]
    assert run.active() == [[1, 1, 0, 0]], "step 4 is the last"


@pins("top-kast")
def test_top_kast_pulls_the_rest_of_b_harder_by_one_over_the_density() -> None:
    method = preset("top-kast", update_every=100, extra_density=0.25, penalty=0.1)
    run = ByHand(method, [[4.0, 3.0, 2.0, 1.0]], lr=1.0)
    run.step()
    # 0.1 w on A, 0.1 w / 0.5 on B without A, nothing outside; hidden weights.
    (hidden,) = run.state["hidden weights"]
    assert hidden[0].tolist() == pytest.approx([3.6, 2.7, 1.6, 1.0])


@pins("top-kast")
def test_top_kast_lets_neither_momentum_nor_decay_reach_what_lies_outside_b() -> None:
    method = preset("top-kast", update_every=2, extra_density=0.25, penalty=0.0)
    run = ByHand(method, [[4.0, 3.0, 2.0, 1.0]], lr=1.0, settings={"momentum": 0.5, "weight_decay": 0.5})
    run.step([[0.0, 0.0, 1.2, 0.0]])
    # Decayed by half: 2, 1.5, and 2 - 1 - 1.2 = -0.2 on B; 1 outside. No step for it, though the optimiser decays it too.
    (hidden,) = run.state["hidden weights"]
    assert hidden[0].tolist() == pytest.approx([2.0, 1.5, -0.2, 1.0])
    run.step([[0.0, 1.25, 0.0, 0.0]])
    # Momenta 2, 1.5 and 2.2 halved, and half of each again: 2 - 1 - 1, 1.5 - 0.75 - 0.75 - 1.25, -0.2 - 1.1 + 0.1. Now the
    # largest two are -1.25 and -1.2, and the one that rested comes third.
    assert run.state["hidden weights"][0][0].tolist() == pytest.approx([0.0, -1.25, -1.2, 1.0])
    assert run.active() == [[0, 1, 1, 0]]


@pins("swat")
def test_swat_runs_with_the_largest_weights_and_trains_all() -> None:
    run = ByHand(preset("swat"), [[4.0, 3.0, 2.5, 1.0]], lr=1.0)
    assert run.weights().tolist() == [[4.0, 3.0, 0.0, 0.0]]
    run.step([[0.0, 1.0, -1.0, 0.5]])
    # 4, 2, 3.5, 0.5: the masks follow at once.
    assert run.weights().tolist() == [[4.0, 0.0, 3.5, 0.0]]


@pins("swat")
def test_swat_computes_the_weights_gradient_from_the_largest_activations_of_each_sample() -> None:
    activations = torch.tensor([[1.0, -5.0, 2.0, 0.5], [0.0, 3.0, -1.0, 4.0]])
    assert largest_entries(activations, 0.5).tolist() == [[0.0, -5.0, 2.0, 0.0], [0.0, 3.0, 0.0, 4.0]]
    run = ByHand(preset("swat", activation_density=0.5), [[1.0, 1.0, 1.0, 1.0]], sparsity=0.0)
    output = run.model(activations)
    assert output.flatten().tolist() == [-1.5, 6.0], "the forward pass sees all of them"
    output.sum().backward()
    (weight,) = run.model.parameters()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, -2.0, 2.0, 4.0]]


@pins("swat")
def test_swat_gives_layers_by_momentum_where_it_redistributes() -> None:
    method = preset("swat", redistributes=True, redistribute_every=1, activation_density=1.0)
    run = ByHand(method, [[4.0, 3.0, 2.0, 1.0]], [[4.0], [3.0], [2.0], [1.0]], allocation="uniform")
    assert run.active(0) == [[1, 1, 0, 0]]
    run.step([[1.0, 1.0, 9.0, 9.0]], [[9.0], [9.0], [0.0], [0.0]])
    # P = 0.488: each layer gives one of its two. The averages of the active weights' gradients are 0.1 and 0.9, shares of
    # the two that were given 0.2 and 1.8: both go to the second layer. Magnitudes say which.
    assert run.active(0) == [[1, 0, 0, 0]]
    assert run.active(1) == [[1], [1], [1], [0]]
    assert run.weights(1).flatten().tolist() == [4.0, 3.0, 2.0, 0.0]


@pins("srigl")
def test_srigl_ablates_a_unit_without_salient_weights_and_shares_its_connections() -> None:
    method = preset("srigl", update_every=1, drop_fraction=0.5, ablation=0.75)
    # Fan-in 2 in a layer of three units; the second layer's is dense and, as the last, never ablated.
    first = [[9.0, 8.0, 0.0, 0.0], [7.0, 6.0, 0.0, 0.0], [0.2, 0.1, 0.0, 0.0]]
    mask = [[1, 1, 0, 0]] * 3
    run = ByHand(
        method, first, [[1.0, 1.0, 1.0]], masks=[mask, [[1, 1, 1]]], sparsity=0.4, allocation={"0.weight": 0.5}
    )
    run.step([[0.0, 0.0, 5.0, 1.0], [0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 0.1, 0.2]])
    # P = 0.25 (1 + cos(pi / 7.5)) = 0.478: of six, 2.87 -> 3 are dropped: 0.1, 0.2 and 6. The three largest gradients of what
    # is not kept are 5, 4 and 3. Salient: three of unit 0, three of unit 1, none of unit 2, fewer than 0.75 * 2: it is
    # ablated. Six connections for two units: fan-in 3. Unit 0 keeps 9, 8 and gains 5; unit 1 keeps 7 and gains 4 and 3.
    assert run.active(0) == [[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    assert run.weights(0).tolist() == [[9.0, 8.0, 0.0, 0.0], [7.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]


@pins("nm")
def test_nm_regrows_in_each_group_what_the_group_dropped() -> None:
    method = preset("nm", update_every=1, m=4, drop_fraction=0.5)
    weights = [[9.0, 1.0, 0.0, 0.0, 2.0, 8.0, 0.0, 0.0]]
    run = ByHand(method, weights, masks=[[[1, 1, 0, 0, 1, 1, 0, 0]]])
    run.step([[0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.6, 0.5]])
    # P = 0.478: two of four go, 1 and 2, of whatever group. Each group is two of four again: 4 in the one, 0.6 in the
    # other, although 3 is larger.
    assert run.active() == [[1, 0, 0, 1, 0, 1, 1, 0]]
    assert run.weights().tolist() == [[9.0, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0, 0.0]]


@pins("nm")
def test_nm_has_as_many_weights_as_asked_where_they_are_no_multiple_of_its_groups() -> None:
    run = ByHand(preset("nm", m=4, allocation="uniform"), [[1.0] * 10] * 3, sparsity=0.8)
    # Six of thirty, in nine groups of 4, 4 and 2: one each at most, in six of them. Steps of round(9 * 0.618) = 6, which
    # shares a factor with 9, so 7, pass them in the order 0 7 5 3 1 8 6 4 2; those numbered 0 to 5 have one.
    held = [[sum(row[:4]), sum(row[4:8]), sum(row[8:])] for row in run.active()]
    assert held == [[1, 0, 1], [1, 1, 0], [0, 1, 1]]


@pins("block")
def test_block_drops_and_grows_whole_blocks_by_the_sums_of_their_magnitudes() -> None:
    method = preset("block", update_every=1, rows=2, columns=2, drop_fraction=0.5)
    weights = [[3.0, 3.0, 9.0, 0.1, 0, 0, 0, 0], [3.0, 3.0, 0.1, 0.1, 0, 0, 0, 0]]
    mask = [[1, 1, 1, 1, 0, 0, 0, 0]] * 2
    run = ByHand(method, weights, masks=[mask])
    run.step([[0, 0, 0, 0, 5, 0, 2, 2], [0, 0, 0, 0, 0, 0, 2, 2]])
    # Sums 12, 9.3, then free blocks. P = 0.478 of two blocks: one goes, that with the 9. Sums of gradients 5 and 8.
    assert run.active() == [[1, 1, 0, 0, 0, 0, 1, 1]] * 2
    assert run.weights()[0].tolist() == [3.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
