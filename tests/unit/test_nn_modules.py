"""The sparse modules against the dense ones, and as citizens of torch."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from itop.nn import SparseConv2d, SparseLinear, densify, sparsify


def linear(**options: object) -> SparseLinear:
    torch.manual_seed(0)
    return SparseLinear(24, 18, sparsity=0.7, seed=1, **options)  # type: ignore[arg-type]


def convolution(**options: object) -> SparseConv2d:
    torch.manual_seed(0)
    return SparseConv2d(4, 6, 3, stride=2, padding=1, groups=2, sparsity=0.5, seed=1, **options)  # type: ignore[arg-type]


CASES = [
    pytest.param(linear, (7, 24), id="linear"),
    pytest.param(linear, (2, 3, 24), id="linear-3d"),
    pytest.param(linear, (1, 24), id="linear-single"),
    pytest.param(convolution, (3, 4, 9, 8), id="conv2d"),
    pytest.param(convolution, (17, 4, 5, 5), id="conv2d-many"),
]


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_outputs_and_gradients_equal_the_dense_module_with_zeros(make, shape) -> None:
    layer = make()
    dense = layer.to_dense()
    x = torch.randn(shape, requires_grad=True)
    dense_x = x.detach().clone().requires_grad_()
    y, dense_y = layer(x), dense(dense_x)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (dense_y * weights).sum().backward()
    torch.testing.assert_close(y, dense_y)
    torch.testing.assert_close(x.grad, dense_x.grad)
    torch.testing.assert_close(layer.values.grad, dense.weight.grad[layer.mask()], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "shape"), [(linear, (5, 24)), (convolution, (2, 4, 7, 6))])
def test_gradients_pass_gradcheck_in_float64(make, shape) -> None:
    layer = make(dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"values": values, "bias": bias}, x)

    assert torch.autograd.gradcheck(run, (x, layer.values, layer.bias))


@pytest.mark.parametrize("make", [linear, convolution])
def test_operators_satisfy_torch_library(make) -> None:
    layer = make()
    x = torch.randn(3, 24, requires_grad=True) if make is linear else torch.randn(2, 4, 5, 5, requires_grad=True)
    if make is linear:
        torch.library.opcheck(
            torch.ops.itop.sparse_linear.default, (x, layer.values, layer.bias, layer._handle, layer.out_features)
        )
    else:
        torch.library.opcheck(
            torch.ops.itop.sparse_conv2d.default, (x, layer.values, layer.bias, layer._handle, layer._flat_geometry)
        )


def operator_of(layer: SparseLinear | SparseConv2d, x: Tensor) -> Tensor:
    if isinstance(layer, SparseLinear):
        return torch.ops.itop.sparse_linear(x, layer.values, layer.bias, layer._handle, layer.out_features)
    return torch.ops.itop.sparse_conv2d(x, layer.values, layer.bias, layer._handle, layer._flat_geometry)


@pytest.mark.parametrize(("make", "shape"), CASES)
def test_eager_code_and_the_operator_give_the_same_bits(make, shape) -> None:
    layer = make()
    results = []
    for call in (layer, lambda x: operator_of(layer, x)):
        torch.manual_seed(1)
        x = torch.randn(shape, requires_grad=True)
        y = call(x)
        results.append((y, *torch.autograd.grad(y, [x, layer.values, layer.bias], torch.randn_like(y))))
    assert all(torch.equal(eager, other) for eager, other in zip(*results, strict=True))


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("make", "shape"), [(linear, (5, 24)), (convolution, (2, 4, 7, 6))])
def test_who_watches_operators_sees_one(make, shape) -> None:
    layer = make()
    with Seen() as seen:
        layer(torch.randn(shape, requires_grad=True)).sum().backward()
    kind = "sparse_linear" if make is linear else "sparse_conv2d"
    assert [name for name in seen.names if "itop" in name] == [f"itop.{kind}.default", f"itop.{kind}_backward.default"]


@pytest.mark.parametrize(("make", "shape"), [(linear, (5, 24)), (convolution, (2, 4, 7, 6))])
def test_a_gradient_has_no_gradient_and_a_frozen_parameter_none(make, shape) -> None:
    layer = make()
    layer.bias.requires_grad_(False)
    x = torch.randn(shape, requires_grad=True)
    gradient, _ = torch.autograd.grad(layer(x).square().sum(), [x, layer.values], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    layer(x.detach()).sum().backward()
    assert layer.bias.grad is None
    assert layer.values.grad is not None


def test_the_number_of_active_weights_is_exact() -> None:
    assert SparseLinear(100, 100, sparsity=0.9).num_active == 1000
    assert SparseLinear(7, 9, sparsity=0.5).num_active == 32
    assert SparseConv2d(4, 8, 3, sparsity=0.75).num_active == 72
    assert SparseLinear(5, 5, sparsity=0.0).mask().all()


def test_the_seed_decides_the_topology_and_torch_the_values() -> None:
    torch.manual_seed(3)
    one, other = SparseLinear(30, 30, sparsity=0.8, seed=5), SparseLinear(30, 30, sparsity=0.8, seed=5)
    assert one.pattern == other.pattern
    assert not torch.equal(one.values, other.values)
    assert one.pattern != SparseLinear(30, 30, sparsity=0.8, seed=6).pattern
    assert one.values.abs().max() <= 30**-0.5


@pytest.mark.parametrize("dense", [nn.Linear(12, 9), nn.Linear(12, 9, bias=False), nn.Conv2d(4, 6, 3, 2, 1, groups=2)])
def test_from_dense_and_to_dense_are_inverse_where_the_mask_is_true(dense: nn.Linear | nn.Conv2d) -> None:
    mask = torch.rand(dense.weight.shape) < 0.4
    mask[0] = False
    kind = SparseLinear if isinstance(dense, nn.Linear) else SparseConv2d
    layer = kind.from_dense(dense, mask)  # type: ignore[arg-type]
    assert torch.equal(layer.mask(), mask)
    back = layer.to_dense()
    assert torch.equal(back.weight, dense.weight * mask)
    assert (back.bias is None) == (dense.bias is None)
    assert back.bias is None or torch.equal(back.bias, dense.bias)
    assert repr(back) == repr(dense)


def test_an_empty_layer_and_an_empty_batch_work() -> None:
    layer = SparseLinear.from_dense(nn.Linear(6, 4), torch.zeros(4, 6, dtype=torch.bool))
    x = torch.randn(3, 6, requires_grad=True)
    layer(x).sum().backward()
    assert torch.equal(layer(x), layer.bias.expand(3, 4))
    assert torch.equal(x.grad, torch.zeros(3, 6))
    full = linear()
    full(torch.empty(0, 24)).sum().backward()
    assert torch.equal(full.values.grad, torch.zeros_like(full.values))


def test_inputs_of_the_wrong_shape_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="24 features"):
        linear()(torch.randn(3, 23))
    with pytest.raises(ValueError, match=r"\[batch, 4, height, width\]"):
        convolution()(torch.randn(3, 5, 8, 8))
    with pytest.raises(ValueError, match="sparsity must be in"):
        SparseLinear(3, 3, sparsity=1.0)
    with pytest.raises(ValueError, match="groups must divide"):
        SparseConv2d(4, 6, 3, groups=3, sparsity=0.5)
    with pytest.raises(ValueError, match=r"mask must have the weight's shape \[4, 3\], got \[3, 4\]"):
        SparseLinear.from_dense(nn.Linear(3, 4), torch.ones(3, 4, dtype=torch.bool))
    reflecting = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="pads with zeros, got padding_mode 'reflect'"):
        SparseConv2d.from_dense(reflecting, torch.ones(2, 2, 3, 3, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"'same' of a kernel \(4, 3\) with dilation \(1, 1\) differs between the sides"
    ):
        SparseConv2d(4, 6, (4, 3), padding="same", sparsity=0.5)
    with pytest.raises(ValueError, match=r"'same' is for stride 1, got \(2, 2\)"):
        SparseConv2d(4, 6, 3, stride=2, padding="same", sparsity=0.5)
    with pytest.raises(ValueError, match="'valid' or 'same', got 'full'"):
        SparseConv2d(4, 6, 3, padding="full", sparsity=0.5)
    with pytest.raises(ValueError, match=r"images of 3x9, padded by \(0, 0\), are smaller than the kernel \(5, 5\)"):
        SparseConv2d(4, 6, 5, sparsity=0.5)(torch.randn(1, 4, 3, 9))


@pytest.mark.parametrize(("padding", "dilation"), [("same", 1), ("same", (2, 3)), ("valid", 2)])
def test_padding_by_name_is_that_of_the_dense_convolution(padding: str, dilation: int | tuple[int, int]) -> None:
    dense = nn.Conv2d(4, 6, (3, 5), padding=padding, dilation=dilation, groups=2)
    layer = SparseConv2d.from_dense(dense, torch.rand_like(dense.weight) < 0.3)
    x = torch.randn(2, 4, 15, 17)
    torch.testing.assert_close(layer(x), layer.to_dense()(x))
    fresh = SparseConv2d(4, 6, (3, 5), padding=padding, dilation=dilation, groups=2, sparsity=0.7)
    assert fresh.geometry == layer.geometry


def test_one_image_without_a_batch_is_taken_as_torch_takes_it() -> None:
    layer = convolution()
    x = torch.randn(4, 8, 8, requires_grad=True)
    y = layer(x)
    assert y.shape == layer(x[None])[0].shape
    assert torch.equal(y, layer(x[None])[0])
    rows = layer.gradient_rows([(x.detach(), torch.ones_like(y))])
    expected = layer.gradient_rows([(x.detach()[None], torch.ones_like(y)[None])])
    written = [torch.empty(layer.pattern.shape) for _ in range(2)]
    for source, out in zip((rows, expected), written, strict=True):
        source.write(slice(0, out.shape[0]), out)
    assert torch.equal(*written)


def test_a_type_no_kernel_computes_in_is_refused() -> None:
    with pytest.raises(TypeError, match="float32, float64 or bfloat16"):
        linear().half()(torch.randn(2, 24).half())


def test_optimisers_keep_state_for_active_weights_only() -> None:
    layer = linear()
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.randn(4, 24)).sum().backward()
    optimizer.step()
    assert {state.shape for state in optimizer.state[layer.values].values() if state.dim()} == {(layer.num_active,)}


def test_bfloat16_storage_trains_and_sums_in_float32() -> None:
    layer = linear(dtype=torch.bfloat16)
    x = torch.randn(6, 24, requires_grad=True)  # float32 activations over bfloat16 values
    y = layer(x)
    y.sum().backward()
    assert y.dtype == torch.float32
    assert layer.values.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y, layer.float().to_dense()(x))


@pytest.mark.parametrize(("make", "shape"), [(linear, (5, 24)), (convolution, (2, 4, 7, 6))])
def test_autocast_computes_in_bfloat16_and_gradients_arrive_in_float32(make, shape) -> None:
    layer = make()
    x = torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), layer(x), rtol=3e-2, atol=3e-2)


def test_a_copy_shares_the_topology_until_one_of_them_changes() -> None:
    layer = linear()
    duplicate = copy.deepcopy(layer)
    x = torch.randn(2, 24)
    assert duplicate.pattern is layer.pattern
    keep = torch.ones(layer.num_active, dtype=torch.bool)
    keep[0] = False
    before = layer(x)
    duplicate.update_topology(keep, torch.empty(0, dtype=torch.int64))
    assert duplicate.num_active == layer.num_active - 1
    assert torch.equal(layer(x), before)
    torch.testing.assert_close(duplicate(x), duplicate.to_dense()(x))


@pytest.mark.parametrize("make", [linear, convolution])
def test_a_pickled_layer_is_the_layer(make) -> None:
    layer = make()
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.randn(3, 24) if make is linear else torch.randn(2, 4, 5, 5)
    assert torch.equal(loaded(x), layer(x))


def test_a_state_dict_brings_its_topology_along() -> None:
    source = nn.Sequential(linear(), nn.ReLU(), SparseLinear(18, 5, sparsity=0.5))
    target = nn.Sequential(SparseLinear(24, 18, sparsity=0.2, seed=9), nn.ReLU(), SparseLinear(18, 5, sparsity=0.9))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    assert target.load_state_dict(torch.load(file, weights_only=True)) is not None
    x = torch.randn(4, 24)
    assert torch.equal(target(x), source(x))
    assert target[0].pattern == source[0].pattern


def test_a_broken_state_dict_is_refused_and_changes_nothing() -> None:
    layer = linear()
    before = copy.deepcopy(layer.state_dict())
    broken = copy.deepcopy(before)
    broken["columns"][0] = 1000
    with pytest.raises(ValueError, match="columns of row 0"):
        layer.load_state_dict(broken)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])


def test_compiled_models_keep_working_when_the_topology_changes() -> None:
    model = nn.Sequential(linear(), nn.ReLU(), SparseLinear(18, 3, sparsity=0.5))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 24)
    compiled(x).sum().backward()
    layer = model[0]
    expected = layer.values.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(layer.values.grad, expected)

    keep = torch.arange(layer.num_active) % 3 != 0
    kept = layer.pattern.updated(keep, torch.empty(0, dtype=torch.int64)).pattern
    mask = ~kept.to_mask().flatten()
    grown = mask.nonzero().flatten()[: int((~keep).sum())]
    layer.update_topology(keep, grown, regrown_keeps_value=True)
    with torch.no_grad():
        layer.values.add_(0.1)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_data_parallel_training_runs_and_matches_the_plain_model() -> None:
    model = nn.Sequential(linear(), nn.ReLU(), SparseLinear(18, 3, sparsity=0.5))
    parallel = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    x = torch.randn(8, 24)
    for module in (model, parallel):
        module(x).square().sum().backward()
    assert torch.equal(parallel.module[0].values.grad, model[0].values.grad)


def test_indices_are_buffers_that_never_train() -> None:
    layer = linear()
    assert {name for name, _ in layer.named_buffers()} == {"row_pointers", "columns"}
    assert {name for name, _ in layer.named_parameters()} == {"values", "bias"}


def test_a_sparse_network_becomes_the_dense_one_it_stands_for() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    masks = {name: torch.rand_like(weight) < 0.4 for name, weight in model.named_parameters() if weight.dim() > 1}
    wanted = {name: value * masks.get(name, 1) for name, value in model.state_dict().items()}
    sparsify(model, masks, memory_demands_it=True)
    images = torch.randn(3, 2, 3, 3)
    outputs = model(images)
    densify(model)
    assert [type(module) for module in model] == [nn.Conv2d, nn.ReLU, nn.Flatten, nn.Linear]
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
    # The kernels sum in another order than torch does.
    assert torch.allclose(model(images), outputs, atol=1e-6)


@pytest.mark.parametrize("size", [64, 61])
def test_pointwise_results_too_large_for_caches_equal_dense_ones(size: int) -> None:
    torch.manual_seed(0)
    layer = SparseConv2d(16, 16, 1, sparsity=0.8)
    x = torch.randn(36, 16, size, size, requires_grad=True)
    assert x.nbytes > 8 << 20
    gradient = torch.randn_like(x)
    y = layer(x)
    dense = layer.to_dense()
    dense_y = dense(x)
    torch.testing.assert_close(y, dense_y)
    ours = torch.autograd.grad(y, [x, layer.values], gradient)
    theirs = torch.autograd.grad(dense_y, [x, dense.weight], gradient)
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1][layer.mask()], rtol=1e-3, atol=1e-2)  # sums of 150,000 products
