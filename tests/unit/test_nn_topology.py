"""Patterns and their updates, worked by hand and against plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from itop import _core
from itop.nn import (
    ConvolutionGeometry,
    SparseLinear,
    SparsePattern,
    TieKeys,
    grow_candidates_by_gradient,
    grow_convolution_candidates_by_gradient,
)

# a . b .
# . . . .
# . c . d
MASK = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)


def test_a_pattern_of_a_mask_lists_its_columns_row_by_row() -> None:
    pattern = SparsePattern.from_mask(MASK)
    assert pattern.row_pointers.tolist() == [0, 2, 2, 4]
    assert pattern.columns.tolist() == [0, 2, 1, 3]
    assert pattern.rows().tolist() == [0, 0, 2, 2]
    assert pattern.positions().tolist() == [0, 2, 9, 11]
    assert torch.equal(pattern.to_mask(), MASK)
    for dtype in (torch.int32, torch.int64):
        rows, columns = (index.to(dtype) for index in MASK.nonzero(as_tuple=True))
        assert SparsePattern.from_coordinates((3, 4), rows, columns) == pattern


@pytest.mark.parametrize(
    ("pointers", "columns", "message"),
    [
        ([0, 2, 2, 4], [2, 0, 1, 3], "columns of row 0 must ascend"),
        ([0, 2, 2, 4], [0, 2, 1, 4], "columns of row 2 must ascend"),
        ([0, 2, 1, 4], [0, 2, 1, 3], "must not descend"),
        ([0, 2, 2, 3], [0, 2, 1, 3], "must run from 0 to 4"),
    ],
)
def test_a_pattern_checks_itself(pointers: list[int], columns: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparsePattern((3, 4), torch.tensor(pointers), torch.tensor(columns, dtype=torch.int32))


def test_an_index_beyond_32_bits_is_refused_not_wrapped() -> None:
    with pytest.raises(ValueError, match=r"columns must be in \[0, 4\)"):
        SparsePattern((1, 4), torch.tensor([0, 1]), torch.tensor([2**32 + 1]))


def test_an_update_carries_values_gradient_and_state_and_starts_grown_weights_at_zero() -> None:
    layer = SparseLinear.from_dense(nn.Linear(4, 3, bias=False), MASK)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9)
    with torch.no_grad():
        layer.values.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    layer.values.grad = torch.tensor([10.0, 20.0, 30.0, 40.0])
    optimizer.step()
    parameter = layer.values
    update = layer.update_topology(torch.tensor([True, False, False, True]), torch.tensor([1, 5, 8]), optimizer)
    assert update.sources.tolist() == [0, -1, -1, -1, 3]
    assert layer.pattern.positions().tolist() == [0, 1, 5, 8, 11]
    assert layer.values is parameter  # the optimiser holds it
    assert layer.values.tolist() == [1.0, 0.0, 0.0, 0.0, 4.0]
    assert layer.values.grad.tolist() == [10.0, 0.0, 0.0, 0.0, 40.0]
    assert optimizer.state[parameter]["momentum_buffer"].tolist() == [10.0, 0.0, 0.0, 0.0, 40.0]
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def test_a_weight_dropped_and_grown_in_one_update_keeps_its_value_only_on_request() -> None:
    for keeps, expected in ((True, [1.0, 2.0, 3.0, 4.0]), (False, [1.0, 0.0, 3.0, 4.0])):
        layer = SparseLinear.from_dense(nn.Linear(4, 3), MASK)
        with torch.no_grad():
            layer.values.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        layer.update_topology(torch.tensor([True, False, True, True]), torch.tensor([2]), regrown_keeps_value=keeps)
        assert layer.values.tolist() == expected


@pytest.mark.parametrize("grown", [[0], [12], [-1], [5, 1], [1, 1]])
def test_a_wrong_update_is_refused_and_changes_nothing(grown: list[int]) -> None:
    layer = SparseLinear.from_dense(nn.Linear(4, 3), MASK)
    values = layer.values.detach().clone()
    with pytest.raises(ValueError, match="grown"):
        layer.update_topology(torch.ones(4, dtype=torch.bool), torch.tensor(grown))
    assert torch.equal(layer.values, values)
    assert torch.equal(layer.mask(), MASK)


def tie_keys(keys: TieKeys, positions: list[int]) -> list[int]:
    return [_core.tie_key(keys.seed, keys.layer, keys.update, keys.draw, position) for position in positions]


def test_random_growth_takes_the_smallest_tie_keys_of_the_masked_execution() -> None:
    pattern = SparsePattern.random((37, 41), 300, TieKeys(1))
    free = (~pattern.to_mask()).flatten().nonzero().flatten().tolist()
    keys = TieKeys(7, 2, 5, 1)
    by_key = dict(zip(tie_keys(keys, free), free, strict=True))
    for k in (0, 1, 50, 900, len(free)):
        expected = sorted(by_key[key] for key in sorted(by_key)[:k])
        assert pattern.free_positions(k, keys).tolist() == expected
    with pytest.raises(ValueError, match="free positions"):
        pattern.free_positions(len(free) + 1, keys)


def test_random_growth_in_a_huge_matrix_needs_memory_of_what_grows_only() -> None:
    pattern = SparsePattern.random((2_000_000, 2_000_000), 50_000, TieKeys(1))
    grown = pattern.free_positions(50_000, TieKeys(2))
    assert grown.numel() == 50_000
    assert bool((grown[1:] > grown[:-1]).all())
    assert not torch.isin(grown, pattern.positions()).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [12, 300])
def test_dropping_the_smallest_is_exact_and_breaks_ties_by_the_keys_of_positions(dtype, size: int) -> None:
    layer = SparseLinear(size, size, sparsity=0.6, seed=2, dtype=dtype)
    with torch.no_grad():  # few distinct magnitudes of both signs
        layer.values.copy_(torch.randint(-3, 4, layer.values.shape))
    keys = TieKeys(5, 1, 3, 0)
    positions = layer.pattern.positions().tolist()
    order = sorted(zip(layer.values.abs().tolist(), tie_keys(keys, positions), range(layer.num_active), strict=True))
    for k in (0, 1, layer.num_active // 3, layer.num_active):
        dropped = (~layer.keep_all_but_smallest(k, keys)).nonzero().flatten().tolist()
        assert dropped == sorted(entry for *_, entry in order[:k])
    with pytest.raises(ValueError, match="entries"):
        layer.keep_all_but_smallest(layer.num_active + 1, keys)
    with torch.no_grad():
        layer.values[3] = float("nan")
    with pytest.raises(_core.NonFiniteError):
        layer.keep_all_but_smallest(1, keys)


def best_positions(gradient: Tensor, pattern: SparsePattern, k: int, keys: TieKeys) -> list[int]:
    """The rule by sorting: larger magnitude, smaller tie key, lower index."""
    free = (~pattern.to_mask()).flatten().nonzero().flatten().tolist()
    magnitudes = gradient.abs().flatten()[free].tolist()
    order = sorted(zip((-m for m in magnitudes), tie_keys(keys, free), free, strict=True))
    return sorted(position for *_, position in order[:k])


@pytest.mark.parametrize("k", [0, 1, 60, 1000])
def test_growth_by_gradient_is_exact_with_many_equal_scores(k: int) -> None:
    torch.manual_seed(0)
    x = torch.randint(-2, 3, (9, 45)).float()
    gradient = torch.randint(-2, 3, (9, 33)).float()
    pattern = SparsePattern.random((33, 45), 150, TieKeys(4))
    keys = TieKeys(3, 1, 2, 1)
    chosen = grow_candidates_by_gradient(x, gradient, k, pattern, keys=keys)
    assert chosen.tolist() == best_positions(gradient.t() @ x, pattern, k, keys)


@pytest.mark.parametrize("silent_sample", [False, True])
def test_growth_by_gradient_over_many_tiles_survives_a_bad_guess(monkeypatch, silent_sample: bool) -> None:
    from itop.nn import growth

    monkeypatch.setattr(growth, "_TILE_BYTES", 4 * 200 * 3)
    monkeypatch.setattr(growth, "_NUM_SAMPLED", 800)
    torch.manual_seed(0)
    x, gradient = torch.randn(6, 200), torch.randn(6, 150)
    if silent_sample:  # only the sampled rows have large gradients: the guess is far too high
        sampled = torch.linspace(0, 149, 4).long()[:3]
        gradient[:, [i for i in range(150) if i not in sampled.tolist()]] *= 1e-3
    pattern = SparsePattern.random((150, 200), 2000, TieKeys(4))
    chosen = grow_candidates_by_gradient(x, gradient, 3000, pattern)
    scores = (gradient.double().t() @ x.double()).abs().masked_fill(pattern.to_mask(), -1.0).flatten()
    threshold = scores.sort(descending=True).values[2999]
    assert chosen.numel() == 3000
    assert float(scores[chosen].min()) >= float(threshold) * (1 - 1e-5)
    assert not torch.isin(chosen, pattern.positions()).any()


@pytest.mark.parametrize("groups", [1, 2])
def test_growth_of_a_convolution_follows_its_dense_gradient(groups: int) -> None:
    torch.manual_seed(0)
    geometry = ConvolutionGeometry(4, 6, (3, 3), (2, 1), (1, 0), (1, 1), groups)
    weight = torch.zeros(6, 4 // groups, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 4, 7, 8, dtype=torch.float64)
    y = nn.functional.conv2d(x, weight, None, (2, 1), (1, 0), 1, groups)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    pattern = SparsePattern.random((6, 36 // groups), 20, TieKeys(4))
    keys = TieKeys(1)
    chosen = grow_convolution_candidates_by_gradient(x, gradient, 25, pattern, geometry, keys=keys)
    assert chosen.tolist() == best_positions(weight.grad.view(6, -1), pattern, 25, keys)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    x, gradient = torch.randn(3, 5), torch.randn(3, 4)
    gradient[0, 2] = float("nan")
    with pytest.raises(_core.NonFiniteError):
        grow_candidates_by_gradient(x, gradient, 2, SparsePattern.empty((4, 5)))


def test_growth_checks_that_activations_fit_the_pattern() -> None:
    with pytest.raises(ValueError, match="an input of 5 and a gradient of 4"):
        grow_candidates_by_gradient(torch.randn(3, 5), torch.randn(3, 4), 2, SparsePattern.empty((5, 4)))
