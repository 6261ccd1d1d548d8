"""The paper's networks, by their shapes: predicted exploration rates and FLOPs to the digits given."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torchvision

from itop.analysis import (
    DenseTraining,
    Layer,
    UpdatePlan,
    closed_form_exploration,
    cosine_drop_fraction,
    count_macs,
    expected_exploration,
    exploration_bound,
    fit_efficiency,
    forward_flops,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """Shapes of the weights, and at how many positions of a sample each is applied."""

    shapes: tuple[Shape, ...]
    positions: tuple[int, ...]

    @property
    def macs(self) -> dict[str, float]:
        return {
            str(i): float(math.prod(shape) * positions)
            for i, (shape, positions) in enumerate(zip(self.shapes, self.positions, strict=True))
        }

    def layers(self, densities: list[float]) -> list[Layer]:
        return [Layer(str(i), shape, densities[i]) for i, shape in enumerate(self.shapes)]


def mlp() -> Network:
    return Network(((1024, 3072), (512, 1024), (10, 512)), (1, 1, 1))


def vgg_c() -> Network:
    """Convolutions with padding 1, also the 1x1 ones, and a max-pool after each group."""
    groups = [((64, 3),) * 2, ((128, 3),) * 2, *(((w, 3), (w, 3), (w, 1)) for w in (256, 512, 512))]
    shapes: list[Shape] = []
    positions = []
    channels, side = 3, 32
    for group in groups:
        for width, kernel in group:
            side += 2 - kernel + 1
            shapes.append((width, channels, kernel, kernel))
            positions.append(side * side)
            channels = width
        side //= 2
    return Network((*shapes, (512, 2048), (512, 512), (10, 512)), (*positions, 1, 1, 1))


def resnet34() -> Network:
    shapes: list[Shape] = [(64, 3, 3, 3)]
    positions = [32 * 32]
    channels, side = 64, 32
    for width, num_blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(num_blocks):
            shortcut = channels != width
            side = side // 2 if shortcut else side
            shapes += [(width, channels, 3, 3), (width, width, 3, 3)]
            positions += [side * side] * 2
            if shortcut:
                shapes.append((width, channels, 1, 1))
                positions.append(side * side)
            channels = width
    return Network((*shapes, (100, 512)), (*positions, 1))


def erk(shapes: tuple[Shape, ...], density: float) -> list[float]:
    """p_l = eps sum(shape) / prod(shape); layers above 1 become dense and eps is computed again."""
    numels = [math.prod(shape) for shape in shapes]
    dense: set[int] = set()
    while True:
        budget = density * sum(numels) - sum(numels[i] for i in dense)
        eps = budget / sum(sum(shape) for i, shape in enumerate(shapes) if i not in dense)
        densities = [1.0 if i in dense else eps * sum(shape) / numels[i] for i, shape in enumerate(shapes)]
        beyond = {i for i, value in enumerate(densities) if value > 1.0}
        if not beyond:
            return densities
        dense |= beyond


def uniform_with_dense_first(shapes: tuple[Shape, ...], density: float) -> list[float]:
    """The first layer dense and on top, all others at the density: what the paper's table holds."""
    return [1.0] + [density] * (len(shapes) - 1)


@pytest.mark.parametrize(
    ("network", "num_weights", "flops"),
    [(mlp(), 3_675_136, "7.35e+06"), (vgg_c(), 11_307_712, "6.22e+08"), (resnet34(), 21_311_168, "2.319e+09")],
    ids=["mlp", "vgg-c", "resnet34"],
)
def test_the_shapes_have_the_papers_counts(network: Network, num_weights: int, flops: str) -> None:
    assert sum(math.prod(shape) for shape in network.shapes) == num_weights
    assert forward_flops(network.macs) == pytest.approx(float(flops), rel=5e-4)


@pytest.mark.parametrize(
    ("network", "num_steps", "update_every", "rates"),
    [
        (mlp(), 88_000, 500, (0.985, 0.874, 0.558, 1.00, 1.00, 0.976)),
        (mlp(), 88_000, 1500, (0.784, 0.530, 0.252, 0.999, 0.965, 0.733)),
        (mlp(), 88_000, 4000, (0.478, 0.270, 0.113, 0.934, 0.739, 0.408)),
        (vgg_c(), 88_000, 1500, (0.632, 0.436, 0.232, 0.976, 0.864, 0.603)),
        (resnet34(), 97_750, 1500, (0.755, 0.514, 0.262, 0.996, 0.944, 0.718)),
    ],
    ids=["mlp-500", "mlp-1500", "mlp-4000", "vgg-c-1500", "resnet34-1500"],
)
def test_predicted_exploration_rates_are_the_papers(
    network: Network, num_steps: int, update_every: int, rates: tuple[float, ...]
) -> None:
    columns = [(times, density) for times in (1, 5) for density in (0.1, 0.05, 0.02)]
    for (times, density), rate in zip(columns, rates, strict=True):
        total = times * num_steps
        layers = network.layers(erk(network.shapes, density))
        plan = UpdatePlan.every(update_every, total, cosine_drop_fraction(0.5, 0.005, total))
        closed_form = closed_form_exploration(layers, plan).final_rate
        assert closed_form == pytest.approx(rate, abs=5.01e-4)
        # Whole numbers move the rate of networks of this size by less than the digits given.
        assert expected_exploration(layers, plan).final_rate == pytest.approx(closed_form, abs=5e-4)
        assert closed_form <= exploration_bound(layers, plan).final_rate


@pytest.mark.parametrize(
    ("network", "rows"),
    [
        (vgg_c(), {0.1: (0.1650, 0.1051), 0.05: (0.0849, 0.0554), 0.02: (0.0357, 0.0256)}),
        (resnet34(), {0.1: (0.2122, 0.1014), 0.05: (0.1056, 0.0514), 0.02: (0.0432, 0.0215)}),
    ],
    ids=["vgg-c", "resnet34"],
)
def test_sparse_forward_flops_are_the_papers(network: Network, rows: dict[float, tuple[float, float]]) -> None:
    dense = forward_flops(network.macs)
    for density, (with_erk, with_uniform) in rows.items():
        for allocate, expected in ((erk, with_erk), (uniform_with_dense_first, with_uniform)):
            densities = {str(i): value for i, value in enumerate(allocate(network.shapes, density))}
            assert forward_flops(network.macs, densities) / dense == pytest.approx(expected, abs=5.01e-5)


def test_the_mlp_is_as_cheap_as_it_is_sparse_and_its_first_layer_is_most_of_it() -> None:
    network = mlp()
    dense = forward_flops(network.macs)
    for density in (0.1, 0.05, 0.02):
        densities = {str(i): value for i, value in enumerate(erk(network.shapes, density))}
        assert forward_flops(network.macs, densities) / dense == pytest.approx(density, abs=1e-12)
    assert network.macs["0"] * 2 / dense == pytest.approx(0.86, abs=5e-3)


def test_resnet50_counted_by_hooks_has_the_papers_flops() -> None:
    model = torchvision.models.resnet50(weights=None)
    macs = count_macs(model, torch.zeros(1, 3, 224, 224))
    parameters = dict(model.named_parameters())
    shapes = tuple(tuple(parameters[name].shape) for name in macs)
    dense = forward_flops(macs)

    assert len(macs) == 54
    assert sum(math.prod(shape) for shape in shapes) == 25_502_912
    assert dense == pytest.approx(8.178e9, rel=1e-4)
    assert DenseTraining(dense).total(num_samples=4096, num_steps=32_000) == pytest.approx(3.216e18, rel=5e-4)
    rows = {0.2: (0.4138, 0.2231, 8), 0.1: (0.2418, 0.1260, 1), 0.05: (0.1217, 0.0774, 0)}
    for density, (with_erk, with_uniform, num_dense) in rows.items():
        densities = erk(shapes, density)
        assert densities.count(1.0) == num_dense
        assert forward_flops(macs, dict(zip(macs, densities, strict=True))) / dense == pytest.approx(with_erk, abs=5e-5)
        uniform = uniform_with_dense_first(shapes, density)
        assert forward_flops(macs, dict(zip(macs, uniform, strict=True))) / dense == pytest.approx(
            with_uniform, abs=5e-5
        )


def test_the_efficiency_of_gradient_growth_is_fitted_to_a_measured_rate() -> None:
    network, total = mlp(), 88_000
    layers = network.layers(erk(network.shapes, 0.1))
    plan = UpdatePlan.every(4000, total, cosine_drop_fraction(0.5, 0.005, total))
    growth = fit_efficiency(layers, plan, measured_rate=0.3)
    assert closed_form_exploration(layers, plan, growth).final_rate == pytest.approx(0.3, abs=1e-9)
    with pytest.raises(ValueError, match=r"measured_rate must be in \(0.1000, 0.4780\], got 0.6"):
        fit_efficiency(layers, plan, measured_rate=0.6)


@pytest.mark.parametrize("network", [vgg_c(), resnet34()], ids=["vgg-c", "resnet34"])
def test_the_shapes_by_hand_are_those_hooks_count(network: Network) -> None:
    """One convolution of each shape, run on its own: positions worked out above are the outputs torch gives."""
    for shape, positions in zip(network.shapes[:8], network.positions[:8], strict=True):
        side = math.isqrt(positions)
        padded = side + shape[-1] - 1
        convolution = torch.nn.Conv2d(shape[1], shape[0], shape[-1], bias=False)
        macs = count_macs(convolution, torch.zeros(1, shape[1], padded, padded))
        assert macs == {"weight": math.prod(shape) * positions}
