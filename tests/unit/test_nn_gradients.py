"""Gradients of truly sparse layers against finite differences, and every optimiser over their values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from itop.nn import SparseConv2d, SparseLayer, SparseLinear, SparsePattern
from itop.training.execution import limited_threads

SHAPES = [(1, 1, 1), (1, 9, 4), (3, 5, 1), (17, 12, 33)]
"""Batch, inputs, outputs."""

CONVOLUTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"stride": 2, "padding": 1}, id="stride"),
    pytest.param({"stride": (1, 3), "padding": (2, 0)}, id="oblong-stride"),
    pytest.param({"dilation": 2, "padding": 2}, id="dilation"),
    pytest.param({"groups": 2}, id="groups"),
    pytest.param({"groups": 4, "padding": 1}, id="depthwise"),
    pytest.param({"kernel_size": 1, "stride": 2}, id="1x1"),
    pytest.param({"kernel_size": (3, 1), "padding": (1, 0)}, id="oblong-kernel"),
    pytest.param({"bias": False}, id="no-bias"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Thousands of products of a few weights each: waking other threads would be most of the time."""
    with limited_threads(1):
        yield


def check(layer: SparseLayer, x: Tensor) -> None:
    def run(x: Tensor, values: Tensor, *bias: Tensor) -> Tensor:
        parameters = {"values": values, **({"bias": bias[0]} if bias else {})}
        return torch.func.functional_call(layer, parameters, x)

    bias = () if layer.bias is None else (layer.bias,)
    assert torch.autograd.gradcheck(run, (x.double().requires_grad_(), layer.values, *bias))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.6])
def test_a_linear_layer_passes_gradcheck(shape: tuple[int, int, int], sparsity: float) -> None:
    batch, inputs, outputs = shape
    torch.manual_seed(0)
    layer = SparseLinear(inputs, outputs, sparsity=sparsity if inputs * outputs > 2 else 0.0, dtype=torch.float64)
    check(layer, torch.randn(batch, inputs))


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_convolution_passes_gradcheck(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = SparseConv2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, "sparsity": 0.6, **options}, dtype=torch.float64)  # type: ignore[arg-type]  # fmt: skip
    check(layer, torch.randn(2, 4, 6, 5))


def test_empty_rows_and_columns_pass_gradcheck() -> None:
    mask = torch.zeros(6, 7, dtype=torch.bool)
    mask[1, [0, 3]] = mask[4, 3] = True
    layer = SparseLinear.from_pattern(SparsePattern.from_mask(mask), dtype=torch.float64)
    check(layer, torch.randn(3, 7))
    convolution = nn.Conv2d(2, 3, 3, dtype=torch.float64)
    channels = torch.zeros(3, 2, 3, 3, dtype=torch.bool)
    channels[1, 0, 1] = True
    check(SparseConv2d.from_dense(convolution, channels), torch.randn(2, 2, 5, 5))


def optimisers() -> list[type[torch.optim.Optimizer]]:
    members = [member for _, member in inspect.getmembers(torch.optim, inspect.isclass)]
    kinds = [kind for kind in members if issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer]
    # SparseAdam takes gradients in torch's own sparse layout, Muon matrices only.
    return [kind for kind in kinds if kind.__name__ not in ("SparseAdam", "Muon")]


@pytest.mark.parametrize("kind", optimisers())
def test_every_optimiser_steps_values_as_it_steps_the_dense_weight(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    layer = SparseLinear(20, 12, sparsity=0.7)
    dense = layer.to_dense()
    mask, x = layer.mask(), torch.randn(16, 20)
    # Rules that normalise over a whole tensor see other tensors; all others treat each weight by itself.
    by_itself = kind.__name__ not in ("Adafactor", "LBFGS")
    options = {} if kind.__name__ == "Adafactor" else {"lr": 0.01}
    sparse_optimizer, dense_optimizer = kind(layer.parameters(), **options), kind(dense.parameters(), **options)

    def loss(module: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        value = module(x).square().mean()
        value.backward()
        if module is dense:
            dense.weight.grad.mul_(mask)  # type: ignore[union-attr]
        return value

    before = loss(layer, sparse_optimizer).item()
    for _ in range(4):
        sparse_optimizer.step(lambda: loss(layer, sparse_optimizer))
        dense_optimizer.step(lambda: loss(dense, dense_optimizer))
    assert loss(layer, sparse_optimizer).item() < before
    most = sum(parameter.numel() for parameter in layer.parameters())  # LBFGS keeps vectors over all of them
    for key, state in sparse_optimizer.state[layer.values].items():
        assert not isinstance(state, Tensor) or state.numel() <= most, key
    if by_itself:
        torch.testing.assert_close(layer.values, dense.weight[mask], rtol=1e-4, atol=1e-5)
