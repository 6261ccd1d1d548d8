"""NNSTD, by cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from itop.analysis import (
    PackedMask,
    connection_costs,
    layer_topology_distance,
    sources_by_shape,
    topology_distance,
    topology_distance_matrix,
)
from itop.analysis import packed_mask as packed_mask_module


def mask(*rows: str) -> Tensor:
    return torch.tensor([[bit == "1" for bit in row] for row in rows])


def test_cost_is_the_part_of_connections_only_one_of_two_units_has() -> None:
    costs = connection_costs(mask("1100", "0000"), mask("0110", "0000"))
    assert costs.tolist() == [[pytest.approx(2 / 3), 1.0], [1.0, 0.0]]


def test_the_same_units_in_another_order_are_no_distance() -> None:
    first = mask("1100", "0011", "1010")
    distance = layer_topology_distance(first, first[[2, 0, 1]])
    assert distance.distance == 0.0
    assert distance.matching.tolist() == [1, 2, 0]


def test_disjoint_topologies_are_at_distance_one() -> None:
    assert layer_topology_distance(mask("1100", "1100"), mask("0011", "0011")).distance == 1.0


def test_distance_is_the_mean_over_matched_units() -> None:
    # Units 0 match exactly; units 1 share one of three connections.
    distance = layer_topology_distance(mask("111000", "000110"), mask("111000", "000011"))
    assert distance.unit_distances.tolist() == pytest.approx([0.0, 2 / 3])
    assert distance.distance == pytest.approx(1 / 3)


def test_the_matching_reorders_the_next_layers_inputs() -> None:
    first = {"a": mask("110", "011"), "b": mask("10", "11")}
    swapped = {"a": first["a"][[1, 0]], "b": first["b"][:, [1, 0]]}
    assert topology_distance(first, swapped).distance == 0.0
    # Without the matching carried on, 10 meets 01 or 11: row costs 0 (11 = 11) and 1 (10 against 01).
    unmatched = topology_distance(first, swapped, sources={"a": None, "b": None})
    assert unmatched.layers["b"].distance == 0.5
    assert unmatched.distance == 0.25


def test_a_linear_layer_after_a_convolution_reads_flattened_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = torch.rand(4, 2, 3, 3, generator=generator) < 0.3
    linear = torch.rand(5, 4 * 6, generator=generator) < 0.3
    order = torch.tensor([2, 0, 3, 1])
    moved = {"conv": convolution[order], "fc": linear.reshape(5, 4, 6)[:, order].reshape(5, 24)}
    assert topology_distance({"conv": convolution, "fc": linear}, moved).distance == 0.0


def test_convolutions_carry_the_matching_over_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(shape, generator=generator) < 0.3 for shape in ((4, 2, 3, 3), (6, 4, 3, 3)))
    order = torch.tensor([2, 0, 3, 1])
    moved = {"b": second[:, order], "a": first[order]}
    assert topology_distance({"a": first, "b": second}, moved).distance == 0.0


def test_snapshots_of_a_run_are_compared_pair_by_pair() -> None:
    snapshots = [{"a": mask("1100")}, {"a": mask("0110")}, {"a": mask("0011")}]
    expected = np.array([[0, 2 / 3, 1], [2 / 3, 0, 2 / 3], [1, 2 / 3, 0]])
    np.testing.assert_allclose(topology_distance_matrix(snapshots), expected)


def test_layers_that_do_not_fit_are_named() -> None:
    ones = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="b must read whole units of its source, got 4 inputs for 3 units"):
        topology_distance({"a": ones, "b": ones}, {"a": ones, "b": ones})
    with pytest.raises(ValueError, match="got b on one of them only"):
        topology_distance({"a": ones}, {"a": ones, "b": ones})
    with pytest.raises(ValueError, match="earlier layer for a, got b"):
        topology_distance({"a": ones, "b": ones}, {"a": ones, "b": ones}, sources={"a": "b"})
    with pytest.raises(ValueError, match="at least one layer"):
        topology_distance({}, {})
    with pytest.raises(ValueError, match=r"mask must be a bool tensor, got torch\.float32"):
        layer_topology_distance(ones.float(), ones.float())


@pytest.mark.parametrize("numel", [0, 1, 63, 64, 65, 200])
def test_packed_masks_keep_every_bit(numel: int) -> None:
    bits = torch.rand(numel, generator=torch.Generator().manual_seed(numel)) < 0.5
    packed = PackedMask.pack(bits)
    assert packed.words.nbytes == -(-numel // 64) * 8
    assert torch.equal(packed.unpack(), bits)
    assert packed.count() == int(bits.sum())


def test_bits_are_counted_the_same_with_and_without_numpys_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**64, size=(3, 5), dtype=np.uint64)
    expected = [[bin(int(word)).count("1") for word in row] for row in words]
    assert packed_mask_module.count_bits(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert packed_mask_module.count_bits(words).tolist() == expected
    assert packed_mask_module.count_bits(words[:, ::2]).tolist() == [row[::2] for row in expected]


def test_layers_read_the_one_before_where_all_shapes_fit_and_else_keep_the_order_of_their_inputs() -> None:
    def layers(*shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {f"layer{i}": torch.zeros(shape, dtype=torch.bool) for i, shape in enumerate(shapes)}

    # 12 features of 3 channels, flattened: whole units of the convolution.
    assert sources_by_shape(layers((3, 1, 3, 3), (5, 12), (2, 5))) == {
        "layer0": None,
        "layer1": "layer0",
        "layer2": "layer1",
    }
    # A shortcut from 4 to 8 channels does not read the 8 before it.
    assert set(sources_by_shape(layers((8, 4, 3, 3), (8, 8, 3, 3), (8, 4, 1, 1))).values()) == {None}
