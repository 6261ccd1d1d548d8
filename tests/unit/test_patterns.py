"""Groups and blocks: what the core chooses is what torch chooses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from itop.criteria import block_quota, group_quota
from itop.criteria.block_quota import BlockQuota, BlockSets
from itop.criteria.group_quota import GroupQuota, row_counts
from itop.layers import find_layers
from itop.optimizer_state import OptimizerState
from itop.selection import BitSet, Scores
from itop.topology import Topology


def topology_of(*shapes: tuple[int, ...]) -> Topology:
    torch.manual_seed(0)
    modules = [
        nn.Linear(shape[1], shape[0], bias=False)
        if len(shape) == 2
        else nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
        for shape in shapes
    ]
    model = nn.Sequential(*modules)
    layers = find_layers(model, None, None)
    return Topology(layers, OptimizerState(torch.optim.SGD(model.parameters(), lr=0.1), layers), seed=3)


def some(topology: Topology, share: float) -> BitSet:
    return topology.from_tensors([torch.rand(weight.shape) < share for weight in topology.weights()])


def masks(bits: BitSet) -> list[list[bool]]:
    return [mask.flatten().tolist() for mask in bits.to_tensors()]


SHAPES = ((37, 61), (13, 5, 3, 3), (4, 700))


@pytest.fixture(params=["continuous", "ties"])
def scores(request: pytest.FixtureRequest) -> list[Tensor]:
    torch.manual_seed(1)
    values = [torch.randn(shape) for shape in SHAPES]
    return [value.round() for value in values] if request.param == "ties" else values


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("prefers", [False, True])
def test_groups_are_chosen_by_the_core_as_by_torch(
    scores: list[Tensor], signed: bool, largest: bool, prefers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = topology_of(*SHAPES)
    candidates, present, preferred = some(topology, 0.7), some(topology, 0.1), some(topology, 0.2)
    sizes = [16, 7, 700]
    targets = [torch.randint(0, 4, (37, 4)), torch.randint(0, 4, (13, 7)), torch.randint(0, 90, (4, 1))]
    quota = GroupQuota(sizes, [target.to(torch.int32) for target in targets], present)

    def chosen() -> list[list[bool]]:
        first = preferred if prefers else None
        return masks(topology.select(candidates, quota, Scores(scores, signed), largest=largest, preferred=first))

    native = chosen()
    monkeypatch.setattr(group_quota, "is_by_rows_on_host", lambda topology: False)
    assert chosen() == native
    assert any(map(any, native))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("prefers", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_blocks_are_chosen_by_the_core_as_by_torch(
    scores: list[Tensor], signed: bool, prefers: bool, scored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(block_quota, "is_by_rows_on_host", lambda topology: False)
        topology = topology_of(*SHAPES)
        candidates, preferred = some(topology, 0.02), some(topology, 0.01)
        quota = BlockQuota(4, 3, [9, 5, 40])
        given = Scores(scores, signed) if scored else None
        chosen.append(masks(topology.select(candidates, quota, given, preferred=preferred if prefers else None)))
    assert chosen[0] == chosen[1]
    assert any(map(any, chosen[0]))


def test_sums_of_blocks_have_the_same_bits_by_the_core_and_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    topology = topology_of(*SHAPES)
    values = Scores([torch.randn(shape) for shape in SHAPES])
    native = BlockSets(topology, 4, 4).sums(values)
    monkeypatch.setattr(block_quota, "is_by_rows_on_host", lambda topology: False)
    assert all(map(torch.equal, native, BlockSets(topology, 4, 4).sums(values)))


def test_weights_of_an_unusual_memory_order_keep_their_pattern() -> None:
    topology = topology_of((8, 16, 3, 3))
    parameter = topology.layers[0].parameter
    parameter.data = parameter.data.to(memory_format=torch.channels_last)
    topology.move_if_needed()
    scores = Scores([torch.arange(8 * 16 * 9).reshape(8, 16, 3, 3).float() + 1])
    quota = GroupQuota([144], [torch.full((8, 1), 2, dtype=torch.int32)])
    (mask,) = topology.select(topology.full(), quota, scores).to_tensors()
    assert mask.flatten(1).nonzero()[:, 1].tolist() == [142, 143] * 8


def test_counts_of_rows_are_those_of_the_masks() -> None:
    topology = topology_of(*SHAPES)
    among = some(topology, 0.3)
    for counts, mask in zip(row_counts(topology, among), among.to_tensors(), strict=True):
        assert counts.tolist() == mask.flatten(1).sum(1).tolist()


def test_groups_refuse_scores_that_are_not_finite_by_the_name_of_the_layer() -> None:
    topology = topology_of((4, 8))
    values = torch.ones(4, 8)
    values[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"scores of layer '0\.weight' hold NaN or infinity"):
        topology.select(topology.full(), GroupQuota([8], [torch.ones(4, 1, dtype=torch.int32)]), Scores([values]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize("magnitude", [False, True])
def test_weights_beyond_a_limit_are_found_whatever_their_type(
    dtype: torch.dtype, greater: bool, magnitude: bool
) -> None:
    topology = topology_of(*SHAPES)
    values = [torch.randn(shape).mul(2).round().div(2).to(dtype) for shape in SHAPES]
    compared = [value.abs() if magnitude else value for value in values]
    expected = [value > 0.5 if greater else value < 0.5 for value in compared]
    found = topology.where(values, limit=0.5, greater=greater, magnitude=magnitude)
    assert all(map(torch.equal, found.to_tensors(), expected))


def test_sums_of_magnitudes_are_rounded_once_whatever_the_type() -> None:
    topology = topology_of(*SHAPES)
    among = some(topology, 0.4)
    values = [torch.randn(shape) * 10.0 ** torch.randint(-30, 3, shape) for shape in SHAPES]
    expected = topology.sums(value[mask].abs() for value, mask in zip(values, among.to_tensors(), strict=True))
    assert topology.sums_of_magnitudes(Scores(values), among) == expected
    assert topology.sums_of_magnitudes(Scores([value.double() for value in values]), among) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_may_have_limits_of_their_own_and_the_smallest_of_a_set_is_found(dtype: torch.dtype) -> None:
    topology = topology_of((37, 53), (300, 900), (8, 3, 3, 3))
    values = [torch.randn(layer.shape).to(dtype) for layer in topology.layers]
    limits = [0.25, 1.5, float("inf")]
    found = topology.where(values, limit=limits, greater=True, magnitude=True)
    for mask, value, limit in zip(found.to_tensors(), values, limits, strict=True):
        assert torch.equal(mask, value.abs() > limit)
    among = some(topology, 0.1) - topology.only([2])
    smallest = topology.smallest_magnitudes(values, among)
    for mask, value, least in zip(among.to_tensors()[:2], values, smallest, strict=False):
        assert least == float(value[mask].abs().min())
    assert smallest[2] == float("inf")
