"""Which layout a layer uses: measured once, remembered, told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from itop.nn import SparseConv2d, SparseLinear, forget_layouts, layouts, sparsify
from itop.nn.layouts import BlockSize, choose


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ITOP_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("ITOP_MEASURE_LAYOUTS", raising=False)
    monkeypatch.setattr(layouts, "_choices", None)
    return tmp_path / "sparse_layouts.json"


def test_the_fastest_candidate_is_measured_once_and_remembered_in_a_file(cache: Path, monkeypatch) -> None:
    ran: list[BlockSize] = []
    clock = {"now": 0.0}

    def run(candidate: BlockSize) -> None:
        ran.append(candidate)
        clock["now"] += 1.0 if candidate is BlockSize.LAST_LEVEL else 2.0

    monkeypatch.setattr(layouts.time, "perf_counter", lambda: clock["now"])
    many = 10**9
    assert choose("key", list(BlockSize), many, BlockSize.WHOLE, run) is BlockSize.LAST_LEVEL
    assert set(ran) == set(BlockSize)
    assert list(json.loads(cache.read_text()).values()) == ["LAST_LEVEL"]
    ran.clear()
    assert choose("key", list(BlockSize), many, BlockSize.WHOLE, run) is BlockSize.LAST_LEVEL
    monkeypatch.setattr(layouts, "_choices", None)  # as in the next process
    assert choose("key", list(BlockSize), many, BlockSize.WHOLE, run) is BlockSize.LAST_LEVEL
    assert ran == []
    forget_layouts()
    assert not cache.exists()
    choose("key", list(BlockSize), many, BlockSize.WHOLE, run)
    assert ran


def test_little_work_and_a_wish_not_to_measure_get_the_default(cache: Path, monkeypatch) -> None:
    def run(candidate: BlockSize) -> None:
        pytest.fail("measured")

    assert choose("key", list(BlockSize), 1, BlockSize.WHOLE, run) is BlockSize.WHOLE
    monkeypatch.setenv("ITOP_MEASURE_LAYOUTS", "0")
    assert choose("key", list(BlockSize), 10**9, BlockSize.WHOLE, run) is BlockSize.WHOLE
    assert not cache.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', "\x00"])
def test_a_file_that_is_none_of_ours_is_replaced(cache: Path, content: str) -> None:
    cache.write_text(content)
    choose("key", list(BlockSize), 10**9, BlockSize.WHOLE, lambda candidate: None)
    assert len([key for key in json.loads(cache.read_text()) if key.endswith("key")]) == 1


def test_a_layer_says_what_it_chose(cache: Path) -> None:
    layer = SparseLinear(512, 512, sparsity=0.8)
    assert layer.chosen_layouts() == {}
    layer(torch.randn(128, 512, requires_grad=True)).sum().backward()
    assert set(layer.chosen_layouts()) == {"linear forward, batch 128", "linear input gradient, batch 128"}
    convolution = SparseConv2d(64, 64, 3, padding=1, sparsity=0.8)
    convolution(torch.randn(16, 64, 14, 14, requires_grad=True)).sum().backward()
    assert set(convolution.chosen_layouts()) == {
        "convolution forward, 14x14 images, batch 16",
        "convolution backward, 14x14 images, batch 16",
    }
    assert len(json.loads(cache.read_text())) >= 2


@pytest.mark.parametrize("layout", list(layouts.ConvolutionLayout))
@pytest.mark.parametrize(
    ("batch", "size", "stride"), [(16, (10, 10), 2), (1, (9, 29), 1), (11, (7, 7), 1), (8, (16, 13), 1)]
)
def test_every_layout_of_a_convolution_gives_the_same_result(batch, size, stride, layout, monkeypatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("itop.nn.convolution_kernels.choose", lambda key, candidates, work, default, run: layout)
    layer = SparseConv2d(40, 24, 3, stride=stride, padding=1, sparsity=0.8)
    dense = layer.to_dense()
    x = torch.randn(batch, 40, *size, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    layer(x).square().sum().backward()
    dense(other).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.values.grad, dense.weight.grad[layer.mask()], rtol=1e-3, atol=1e-2)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Linear(8 * 64, 2048)
        self.shared = self.first
        self.second = nn.Linear(2048, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.convolution(x)).relu().flatten(1)
        return self.second(self.shared(x).relu())


def masks_of(model: Network, density: float) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    names = ("convolution.weight", "first.weight", "second.weight")
    return {name: torch.rand(model.get_parameter(name).shape) < density for name in names}


def test_sparsify_replaces_what_memory_demands_everywhere_it_is_used() -> None:
    model = Network().eval()
    masks = masks_of(model, 0.1)
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)
        expected = model(x)
    decisions = sparsify(model, masks, memory_demands_it=True)
    assert [decision.replaced for decision in decisions] == [True] * 3
    assert isinstance(model.convolution, SparseConv2d)
    assert model.first is model.shared
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_sparsify_replaces_where_the_measurement_says_so(monkeypatch) -> None:
    model = Network()
    masks = masks_of(model, 0.02)
    statistics = model.norm.running_mean.clone()
    times = iter([(1.0, 2.0), (2.0, 1.0), (1.0, 2.0)])  # only `first` is faster sparse
    monkeypatch.setattr("itop.nn.replacement._measure", lambda dense, sparse, x: next(times))
    decisions = sparsify(model, masks, torch.randn(4, 3, 8, 8))
    assert [decision.replaced for decision in decisions] == [False, True, False]
    assert isinstance(model.first, SparseLinear)
    assert type(model.second) is nn.Linear
    assert torch.equal(model.norm.running_mean, statistics)
    assert model.training


def test_sparsify_measures_both_modules() -> None:
    model = Network()
    for decision in sparsify(model, masks_of(model, 0.02), torch.randn(4, 3, 8, 8)):
        assert decision.dense_seconds > 0
        assert decision.sparse_seconds > 0
        assert decision.replaced == (decision.sparse_seconds < decision.dense_seconds)


def test_sparsify_refuses_masks_of_nothing_and_measuring_without_an_example() -> None:
    model = Network()
    with pytest.raises(ValueError, match=r"masks must name parameters of the model, got 'norm\.wait'"):
        sparsify(model, {"norm.wait": torch.ones(8, dtype=torch.bool)}, torch.randn(4, 3, 8, 8))
    wrong = {"first.weight": model.first.weight > 0, "second.weight": torch.ones(8, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"mask of 'second\.weight' must be \[10, 2048\] as the parameter, got \[8\]"):
        sparsify(model, wrong, memory_demands_it=True)
    with pytest.raises(ValueError, match="example input"):
        sparsify(model, masks_of(model, 0.5))
    assert type(model.first) is nn.Linear


class Translator(nn.Module):
    """Attention, tied embeddings, a layer that somebody watches, and one of a type that no kernel computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.watched = nn.Linear(32, 32)
        self.watched.register_forward_hook(lambda module, args, output: None)
        self.narrow = nn.Linear(32, 32).half()
        self.plain = nn.Linear(32, 32)
        self.plain.weight.requires_grad_(False)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        x = self.plain(self.watched(self.attention(x, x, x, need_weights=False)[0]))
        return self.head(self.narrow(x.half()).float())


def test_what_has_no_sparse_module_stays_dense_and_says_why() -> None:
    model = Translator()
    names = ["attention.in_proj_weight", "attention.out_proj.weight", "watched.weight", "narrow.weight", "plain.weight"]
    names.append("head.weight")
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.3 for name in names}
    decisions = dict(zip(names, sparsify(model, masks, memory_demands_it=True), strict=True))
    reasons = {
        "attention.in_proj_weight": "'in_proj_weight' of MultiheadAttention is not the weight of",
        "attention.out_proj.weight": "NonDynamicallyQuantizableLinear may compute otherwise",
        "watched.weight": "hooks would be lost",
        "narrow.weight": "no sparse kernel computes in torch.float16",
        "head.weight": "tied to another module's",
    }
    for name, reason in reasons.items():
        assert not decisions[name].replaced
        assert reason in decisions[name].reason
    assert decisions["plain.weight"].replaced
    assert not model.plain.values.requires_grad
    assert model.plain.bias.requires_grad
    assert not model.plain.to_dense().weight.requires_grad
    assert model.head.weight is model.embedding.weight
    model(torch.randint(0, 50, (2, 7))).sum().backward()
