"""How many weights of each layer are active: exact sums, and the densities of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from itop import SparseEngine
from itop.allocation import ER, ERK, PerLayer, Uniform, as_allocation, target_count
from itop.allocation import LayerShape as Shape
from itop.layers import find_layers
from itop.models import build_model

MLP = [Shape("fc1", (1024, 3072)), Shape("fc2", (512, 1024)), Shape("fc3", (10, 512))]
TINY = [Shape(str(i), (1, n)) for i, n in enumerate([1, 2, 3, 5, 8, 13])]
CONVS = [Shape("conv", (64, 3, 7, 7)), Shape("dw", (64, 1, 3, 3)), Shape("pw", (128, 64, 1, 1)), Shape("fc", (10, 128))]


def network(name: str) -> list[Shape]:
    shape, classes = {
        "resnet50": ((3, 224, 224), 1000),
        "vgg-c": ((3, 32, 32), 10),
        "resnet34": ((3, 32, 32), 100),
        "mlp": ((3, 32, 32), 10),
    }[name]
    with torch.device("meta"):
        model = build_model(name, num_classes=classes, input_shape=shape)
    return [Shape(layer.name, layer.shape) for layer in find_layers(model)]


@pytest.mark.parametrize(
    ("numel", "sparsity", "active"),
    [(10, 0.9, 1), (25, 0.9, 3), (100, 0.95, 5), (3, 0.5, 2), (1, 0.5, 1), (1, 0.51, 0), (7, 0.0, 7), (5, 0.99, 0)],
)
def test_the_target_is_the_nearest_whole_number_of_active_weights(numel: int, sparsity: float, active: int) -> None:
    assert target_count(numel, sparsity) == active


@pytest.mark.parametrize("layers", [MLP, TINY, CONVS], ids=["mlp", "tiny", "convs"])
@pytest.mark.parametrize("allocation", [Uniform(), ER(), ERK(), ERK(0.5), ERK(0.0)])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.999])
def test_counts_sum_to_the_rounded_target_and_fit_their_layers(
    sparsity: float, allocation: ERK, layers: list[Shape]
) -> None:
    counts = allocation.counts(layers, sparsity)
    assert sum(counts) == target_count(sum(layer.numel for layer in layers), sparsity)
    assert all(0 <= count <= layer.numel for count, layer in zip(counts, layers, strict=True))


@pytest.mark.parametrize("sparsity", [0.8, 0.9, 0.95])
def test_counts_of_resnet50_sum_to_the_rounded_target(sparsity: float) -> None:
    for allocation in (Uniform(), ER(), ERK()):
        counts = allocation.counts(network("resnet50"), sparsity)
        assert sum(counts) == round((1 - sparsity) * 25_502_912)


def test_uniform_gives_every_layer_the_same_density() -> None:
    counts = Uniform().counts([Shape("a", (10, 10)), Shape("b", (20, 10)), Shape("c", (5, 4))], 0.9)
    assert counts == [10, 20, 2]


def test_a_dense_first_layer_leaves_less_for_the_others() -> None:
    counts = Uniform(first_layer_dense=True).counts(
        [Shape("a", (10, 10)), Shape("b", (20, 20)), Shape("c", (50, 10))], 0.8
    )
    assert counts[0] == 100
    assert sum(counts) == 200
    assert counts[1:] == [44, 56]  # 100 left for 900 weights: 400 / 9 = 44.4, 500 / 9 = 55.6


def test_a_first_layer_that_cannot_stay_dense_is_an_error() -> None:
    with pytest.raises(ValueError, match="the layers that must be dense hold"):
        Uniform(first_layer_dense=True).counts(MLP, 0.9)


def test_er_goes_by_channels_and_erk_by_kernels_too() -> None:
    layers = [Shape("a", (100, 50, 3, 3)), Shape("b", (100, 100))]
    total = 5_500
    er = ER().counts(layers, 0.9)
    # Densities in proportion to 150/5000 = 0.03 and 200/10000 = 0.02: 1350 and 200 parts.
    assert er == [round(total * 1350 / 1550), round(total * 200 / 1550)]
    erk = ERK().counts(layers, 0.9)
    # 156/45000 and 200/10000: 156 and 200 parts.
    assert erk == [round(total * 156 / 356), round(total * 200 / 356)]


def test_a_layer_whose_density_would_exceed_one_is_dense_and_the_others_share_the_rest() -> None:
    layers = [Shape("small", (2, 10)), Shape("a", (100, 100)), Shape("b", (200, 100))]
    counts = ERK().counts(layers, 0.8)
    assert counts[0] == 20
    assert sum(counts) == 6004
    # 5984 left; 200 and 300 parts.
    assert counts[1:] == [round(5984 * 200 / 500), round(5984 * 300 / 500)]


def test_a_power_of_zero_is_uniform() -> None:
    assert ERK(power=0.0).counts(MLP, 0.9) == Uniform().counts(MLP, 0.9)


def test_erk_counts_a_grouped_convolution_by_its_own_shape() -> None:
    depthwise, dense = ERK().relative_densities([Shape("dw", (64, 1, 3, 3)), Shape("conv", (64, 64, 3, 3))])
    assert depthwise == pytest.approx((64 + 1 + 3 + 3) / (64 * 9))
    assert dense == pytest.approx((64 + 64 + 3 + 3) / (64 * 64 * 9))


def test_erk_gives_resnet50_the_papers_densities() -> None:
    layers = network("resnet50")
    assert sum(layer.numel for layer in layers) == 25_502_912
    assert len(layers) == 54
    density = {layer.name: count / layer.numel for layer, count in zip(layers, ERK().counts(layers, 0.8), strict=True)}
    conv1 = layers[0].name
    classifier = layers[-1].name
    assert density[conv1] == pytest.approx(0.857, abs=5e-4)
    assert density[classifier] == pytest.approx(0.148, abs=5e-4)
    middle = [d for layer, d in zip(layers, density.values(), strict=True) if layer.shape == (256, 256, 3, 3)]
    assert middle[0] == pytest.approx(0.0874, abs=5e-5)
    assert sum(d == 1.0 for d in density.values()) == 8
    assert [sum(c == s.numel for c, s in zip(ERK().counts(layers, s), layers, strict=True)) for s in (0.9, 0.95)] == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("name", "sparsity", "num_dense"),
    [
        ("vgg-c", 0.9, 2),
        ("vgg-c", 0.95, 2),
        ("vgg-c", 0.98, 1),
        ("resnet34", 0.9, 4),
        ("resnet34", 0.95, 2),
        ("resnet34", 0.98, 1),
        ("mlp", 0.9, 1),
        ("mlp", 0.95, 1),
        ("mlp", 0.98, 1),
    ],
)
def test_erk_makes_the_layers_dense_that_the_paper_says(name: str, sparsity: float, num_dense: int) -> None:
    layers = network(name)
    counts = ERK().counts(layers, sparsity)
    assert sum(count == layer.numel for count, layer in zip(counts, layers, strict=True)) == num_dense


def test_named_layers_get_their_sparsity_and_the_others_share_the_rest_evenly() -> None:
    layers = [Shape("a", (10, 10)), Shape("b", (10, 10)), Shape("c", (20, 10))]
    assert PerLayer({"a": 0.5}).counts(layers, 0.8) == [50, 10, 20]
    assert PerLayer({"a": 0.0, "b": 0.9, "c": 0.95}).counts(layers, 0.7) == [100, 10, 10]


def test_an_allocation_is_known_by_name_by_mapping_or_itself() -> None:
    assert as_allocation("erk") == ERK()
    assert as_allocation({"a": 0.5}) == PerLayer({"a": 0.5})
    own = ER()
    assert as_allocation(own) is own


@pytest.mark.parametrize("allocation", ["erk", "er", "uniform"])
@pytest.mark.parametrize("sparsity", [0.0, 0.35, 0.9])
def test_an_engine_holds_exactly_what_was_allocated(sparsity: float, allocation: str) -> None:
    model = nn.Sequential(nn.Linear(17, 31), nn.Linear(31, 13), nn.Linear(13, 3))
    engine = SparseEngine(
        model, torch.optim.SGD(model.parameters(), 0.1), "static", sparsity=sparsity, allocation=allocation
    )
    total = sum(layer.numel for layer in engine.layers)
    assert sum(layer.num_active for layer in engine.layers) == total - math.ceil(sparsity * total - 0.5)
    assert engine.density == pytest.approx(1 - sparsity, abs=0.5 / total)
    assert engine.sparsity == pytest.approx(sparsity, abs=0.5 / total)
    assert engine.exploration_rate == engine.density
    assert engine.reliable_rate == 0.0


def test_dense_training_ignores_sparsity() -> None:
    model = nn.Sequential(nn.Linear(17, 31), nn.Linear(31, 13))
    engine = SparseEngine(model, torch.optim.SGD(model.parameters(), 0.1), "dense", sparsity=0.9)
    assert engine.density == engine.exploration_rate == 1.0
