"""Any topology, history, network: what the analysis says is what scipy and plain torch say."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.stats import CensoredData, ecdf
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from itop import SparseEngine
from itop.analysis import (
    PackedMask,
    TopologyChange,
    churn,
    count_macs,
    forward_flops,
    gradient_flow_around,
    layer_topology_distance,
    survival_curve,
    topology_distance,
)
from itop.analysis.layer import masks_of
from itop.methods import METHODS
from itop.models import build_model

SEEDS = st.integers(0, 10_000)
ANY = settings(max_examples=40, deadline=None)


def random_mask(generator: torch.Generator, *shape: int) -> Tensor:
    density = float(torch.rand((), generator=generator))
    return torch.rand(*shape, generator=generator) < density


def plain_costs(first: Tensor, second: Tensor) -> Tensor:
    """The normalised Hamming distance of all pairs of output units, in dense arithmetic."""
    a, b = first.flatten(1).double(), second.flatten(1).double()
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None, :] - both
    return torch.where(either > 0, (either - both) / either.clamp(min=1), torch.zeros(()).double())


@ANY
@given(seed=SEEDS, units=st.integers(1, 6), inputs=st.integers(1, 90))
def test_a_layers_distance_is_the_least_over_all_permutations(seed: int, units: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = random_mask(generator, units, inputs), random_mask(generator, units, inputs)
    costs = plain_costs(first, second)
    least = min(float(costs[torch.arange(units), list(order)].sum()) for order in itertools.permutations(range(units)))
    assert layer_topology_distance(first, second).distance == pytest.approx(least / units, abs=1e-12)


@ANY
@given(seed=SEEDS, sizes=st.lists(st.integers(1, 12), min_size=3, max_size=4))
def test_a_networks_distance_carries_scipys_matching_from_layer_to_layer(seed: int, sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(outputs, inputs) for inputs, outputs in itertools.pairwise(sizes)]
    first = {f"l{i}": random_mask(generator, *shape) for i, shape in enumerate(shapes)}
    second = {f"l{i}": random_mask(generator, *shape) for i, shape in enumerate(shapes)}
    found = topology_distance(first, second)
    order: Tensor | None = None
    means = []
    for name, mask in first.items():
        moved = second[name] if order is None else second[name][:, order]
        costs = plain_costs(mask, moved).numpy()
        rows, columns = linear_sum_assignment(costs)
        means.append(costs[rows, columns].mean())
        # Where several matchings are best, the one that was taken decides what the next layer reads.
        order = torch.from_numpy(found.layers[name].matching)
        assert sorted(order.tolist()) == list(range(len(mask)))
        assert costs[np.arange(len(mask)), order.numpy()].mean() == pytest.approx(means[-1], abs=1e-12)
    assert found.distance == pytest.approx(np.mean(means), abs=1e-12)


@ANY
@given(seed=SEEDS, num_updates=st.integers(1, 12), extra=st.integers(0, 30))
def test_survival_is_scipys_product_limit_estimate_with_greenwoods_error(
    seed: int, num_updates: int, extra: int
) -> None:
    random = np.random.default_rng(seed)
    numel, step = 130, 0
    active = random.random(numel) < 0.4
    born: dict[int, int] = {}
    ended: list[int] = []
    history, before = [], torch.from_numpy(active.copy())
    for _ in range(num_updates):
        step += int(random.integers(1, 20))
        drop = active & (random.random(numel) < 0.3)
        grow = (~active | drop) & (random.random(numel) < 0.2)
        ended += [step - born.pop(site) for site in np.flatnonzero(drop) if site in born]
        born |= dict.fromkeys(np.flatnonzero(grow), step)
        active = (active & ~drop) | grow
        packed = [{"w": PackedMask.pack(torch.from_numpy(sites))} for sites in (drop, grow)]
        history.append(TopologyChange(step, *packed))
        after = torch.from_numpy(active.copy())
        assert churn({"w": before}, {"w": after}) == {"w": int((before != after).sum())}
        before = after
    end = step + extra
    curve = survival_curve(history, end_step=end)
    if not ended:
        assert len(curve.ages) == 0
        return
    # Lives that began with the last update have been watched for no time: scipy counts them at age 0, at risk nowhere.
    expected = ecdf(CensoredData(uncensored=ended, right=[end - since for since in born.values()])).sf
    at = np.flatnonzero(np.isin(expected.quantiles, curve.ages))
    assert curve.survival == pytest.approx(expected.probabilities[at])
    assert [curve.survival_at(int(age)) for age in expected.quantiles] == pytest.approx(expected.probabilities)
    assert curve.num_at_risk.tolist() == expected._n[at].tolist()
    assert curve.num_dropped.tolist() == expected._d[at].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an interval that has no value where nobody is left
        bound = expected.confidence_interval(confidence_level=0.6826894921370859, method="linear").high
    high = bound.probabilities[at]
    inside = (high < 1) & (curve.survival > 0)  # one standard deviation above, where scipy does not cut it off
    assert (curve.survival + curve.standard_error)[inside] == pytest.approx(high[inside], abs=1e-9)


@ANY
@given(seed=SEEDS)
def test_gradient_flow_around_an_update_is_autograds_norm_over_active_weights(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    engine = SparseEngine(model, optimizer, METHODS["set"](update_every=1), sparsity=0.6, total_steps=10, seed=seed)
    inputs, labels = torch.randn(16, 7), torch.randint(4, (16,))

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(inputs), labels)

    def plain() -> float:
        names = [layer.name for layer in engine.layers]
        gradients = torch.autograd.grad(loss(), [model.get_parameter(name) for name in names])
        squares = [(g * engine.mask(name)).double().square().sum() for name, g in zip(names, gradients, strict=True)]
        return float(torch.stack(squares).sum().sqrt())

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    wanted_before = plain()
    change = gradient_flow_around(step, model, lambda: masks_of(engine), loss)
    assert engine.num_updates == 1
    assert change.before.total == pytest.approx(wanted_before, rel=1e-5)
    assert change.after.total == pytest.approx(plain(), rel=1e-5)


@pytest.mark.parametrize("name", ["mlp:20,30", "lenet5", "vgg-d", "resnet34", "wrn-22-2"])
def test_forward_flops_of_a_dense_network_are_torchs_own_count(name: str) -> None:
    model = build_model(name, num_classes=10, input_shape=(3, 32, 32)).eval()
    image = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(image)
    assert forward_flops(count_macs(model, image)) == counter.get_total_flops()


@ANY
@given(seed=SEEDS, groups=st.sampled_from([1, 2, 3]), stride=st.integers(1, 3), size=st.integers(5, 11))
def test_flops_of_any_convolution_are_torchs_own_count(seed: int, groups: int, stride: int, size: int) -> None:
    kernel = 1 + seed % 3
    layer = nn.Conv2d(6, 12, kernel, stride=stride, padding=seed % 2, groups=groups, bias=bool(seed % 2))
    image = torch.zeros(1, 6, size, size + 1)
    with FlopCounterMode(display=False) as counter:
        layer(image)
    assert forward_flops(count_macs(layer, image)) == counter.get_total_flops()
