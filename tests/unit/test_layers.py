"""Layers are chosen by module type: which weights take part, under which names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_checks import InvariantCheck
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from itop import SparseEngine
from itop.layers import find_layers, has_same_memory_order, index_map, storage_order
from itop.methods import METHODS


def names(model: nn.Module, **rules: Any) -> list[str]:
    return [layer.name for layer in find_layers(model, **rules)]


def test_norms_embeddings_biases_and_activations_never_take_part() -> None:
    model = nn.Sequential(
        nn.Embedding(8, 4),
        nn.EmbeddingBag(8, 4),
        nn.Linear(4, 4),
        nn.LayerNorm((4, 4)),  # a weight of two dimensions
        nn.GroupNorm(2, 4),
        nn.BatchNorm1d(4),
        nn.InstanceNorm2d(4, affine=True),
        nn.RMSNorm((4, 4)),
        nn.PReLU(4),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Bilinear(4, 4, 4),
    )
    assert names(model) == ["2.weight"]


def test_every_kind_of_convolution_takes_part() -> None:
    model = nn.ModuleDict(
        {
            "one": nn.Conv1d(4, 6, 3),
            "two": nn.Conv2d(4, 6, 3),
            "three": nn.Conv3d(4, 6, 3),
            "grouped": nn.Conv2d(4, 6, 3, groups=2),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
        }
    )
    layers = {layer.name: layer.shape for layer in find_layers(model)}
    assert layers == {
        "one.weight": (6, 4, 3),
        "two.weight": (6, 4, 3, 3),
        "three.weight": (6, 4, 3, 3, 3),
        "grouped.weight": (6, 2, 3, 3),
        "depthwise.weight": (4, 1, 3, 3),
    }


def test_attention_projections_take_part_whether_packed_or_apart() -> None:
    assert names(nn.MultiheadAttention(8, 2, add_bias_kv=True)) == ["in_proj_weight", "out_proj.weight"]
    assert names(nn.MultiheadAttention(8, 2, kdim=4, vdim=6)) == [
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    ]
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    assert names(layer) == [
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    ]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_weights_take_part_and_their_biases_do_not(kind: Any) -> None:
    assert names(kind(4, 6, num_layers=2)) == ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"]
    assert len(names(kind(4, 6, bidirectional=True))) == 4


def test_recurrent_cells_and_projections_take_part() -> None:
    assert names(nn.LSTM(4, 6, proj_size=3)) == ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]
    assert names(nn.LSTMCell(4, 6)) == ["weight_ih", "weight_hh"]


def test_a_tied_weight_takes_part_once_and_not_at_all_when_an_embedding_uses_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(9, 4), nn.Linear(4, 9))
    model[1].weight = model[0].weight
    model[3].weight = model[2].weight
    assert names(model) == ["0.weight"]


def test_frozen_weights_stay_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight.requires_grad_(False)
    assert names(model) == ["1.weight"]


def test_a_tied_weight_is_excluded_by_any_of_its_names() -> None:
    twice = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), twice, twice, nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert names(model) == ["0.weight", "2.weight", "4.weight"]
    assert names(model, exclude="1") == ["2.weight", "4.weight"]
    assert names(model, exclude="3") == ["0.weight", "4.weight"]
    assert names(model, include=["1", "3"]) == ["1.weight", "3.weight"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_a_weight_stay_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 0))
    assert names(model) == ["0.weight"]
    with pytest.raises(ValueError, match="has no sparsifiable layer"):
        names(model[1:])


COMPUTED: dict[str, Any] = {
    "weight norm": nn.utils.parametrizations.weight_norm,
    "weight norm of old": nn.utils.weight_norm,
    "spectral norm": nn.utils.parametrizations.spectral_norm,
    "spectral norm of old": nn.utils.spectral_norm,
    "orthogonal": nn.utils.parametrizations.orthogonal,
    "pruning": lambda module: l1_unstructured(module, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("compute", COMPUTED.values(), ids=COMPUTED)
def test_a_weight_that_is_computed_from_others_is_refused_where_it_would_take_part(compute: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    compute(model[0])
    for rules in ({}, {"include": "0.*"}, {"include": nn.Linear}, {"include": lambda name, *_: name == "0.weight"}):
        with pytest.raises(
            ValueError, match=r"^the weight '0\.weight' is no parameter but computed .*, or exclude the layer$"
        ):
            names(model, **rules)
    assert names(model, exclude="0") == names(model, include="1") == ["1.weight"]
    model[0].requires_grad_(False)
    assert names(model) == ["1.weight"]


def test_a_computed_recurrent_or_attention_weight_is_refused() -> None:
    for module, leaf in ((nn.LSTM(4, 4), "weight_hh_l0"), (nn.MultiheadAttention(4, 2), "in_proj_weight")):
        nn.utils.parametrizations.weight_norm(module, leaf)
        with pytest.raises(ValueError, match=f"^the weight '{leaf}' is no parameter but computed"):
            names(module)


def test_names_are_those_of_the_model_inside_wrappers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert names(nn.DataParallel(torch.compile(model, backend="eager"))) == ["0.weight", "1.weight"]  # type: ignore[arg-type]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["conv", "blocks.0", "blocks.2", "head"]),
        ({"include": "blocks.*"}, ["blocks.0", "blocks.1", "blocks.2"]),
        ({"include": "head.weight"}, ["head"]),
        ({"include": ["head", nn.Conv2d]}, ["conv", "head"]),
        ({"include": nn.ConvTranspose2d}, ["blocks.1"]),
        ({"include": nn.Linear, "exclude": "head"}, ["blocks.0", "blocks.2"]),
        ({"exclude": nn.Conv2d}, ["blocks.0", "blocks.2", "head"]),
        ({"exclude": ["blocks.?", "head"]}, ["conv"]),
        ({"include": lambda name, module, parameter: parameter.numel() < 16}, ["head"]),
        ({"exclude": lambda name, module, parameter: name.startswith("blocks")}, ["conv", "head"]),
    ],
)
def test_layers_are_named_by_globs_types_and_callables(rules: dict[str, Any], expected: list[str]) -> None:
    assert names(Net(), **rules) == [f"{name}.weight" for name in expected]


def test_no_rule_admits_a_norm_an_embedding_or_a_bias() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((4, 4)), nn.Embedding(4, 4), nn.MultiheadAttention(4, 2))
    assert names(model, include="*") == ["0.weight", "3.in_proj_weight", "3.out_proj.weight"]
    with pytest.raises(ValueError, match="include matches no sparsifiable weight of the model: LayerNorm"):
        find_layers(model, include=nn.LayerNorm)


def test_excluding_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sparsifiable layer"):
        find_layers(Net(), exclude="*")


# --- models of these layers train --------------------------------------------------------------------------------------


class Sequence(nn.Module):
    """Embedding tied to the classifier, attention, a recurrent layer, convolutions over time, norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.time = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.recurrent = nn.LSTM(8, 8, batch_first=True, num_layers=2)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.volume = nn.Conv3d(1, 2, 1)
        self.shared = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.shared.weight
        self.classifier = nn.Linear(8, 11, bias=False)
        self.classifier.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.attention(self.embedding(tokens))
        x = self.time(x.transpose(1, 2)).transpose(1, 2)
        x = self.norm(self.gru(self.recurrent(x)[0])[0])
        x = self.volume(x[:, None, None]).mean(dim=(1, 2))
        return self.classifier(self.again(self.shared(x).relu())).mean(1)


@pytest.mark.parametrize("method", ["set", "set-itop", "rigl", "rigl-itop"])
def test_a_model_of_all_kinds_of_layers_is_kept_sparse(method: str) -> None:
    torch.manual_seed(0)
    model = Sequence()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    engine = SparseEngine(model, optimizer, METHODS[method](update_every=2), sparsity=0.6, total_steps=50)
    sparse = [layer.name for layer in engine.layers]
    assert "embedding.weight" not in sparse
    assert "classifier.weight" not in sparse
    assert sparse.count("shared.weight") == 1
    assert "again.weight" not in sparse
    generator = torch.Generator().manual_seed(0)

    class Tokens:
        def __next__(self) -> tuple[Tensor, Tensor]:
            tokens = torch.randint(11, (16, 5), generator=generator)
            return tokens, tokens[:, 0]

    def train_on_tokens(steps: int) -> None:
        check = InvariantCheck(engine)
        for _ in range(steps):
            optimizer.zero_grad()
            tokens, y = next(Tokens())  # type: ignore[call-overload]
            nn.functional.cross_entropy(model(tokens), y).backward()
            optimizer.step()
            check()

    train_on_tokens(7)
    assert engine.num_updates == 3
    assert engine.flops().forward_factor < 1.0


# --- memory layouts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4),
        torch.zeros(4, 3).t(),
        torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
        torch.zeros(8, 1, 3, 3).to(memory_format=torch.channels_last),
        torch.zeros(2, 3, 4, 5).permute(2, 0, 3, 1),
        torch.zeros(1, 1),
        torch.zeros(5, 1, 1),
    ],
)
def test_an_index_map_turns_places_in_memory_into_row_major_indices(tensor: Tensor) -> None:
    shape = tuple(tensor.shape)
    logical = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.int64)
    logical.copy_(torch.arange(tensor.numel()).view(shape))
    in_memory = torch.as_strided(logical, (tensor.numel(),), (1,)).tolist()
    offset, sizes, strides = index_map(tensor, shape)
    mapped = [
        offset + a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3]
        for a in range(sizes[0])
        for b in range(sizes[1])
        for c in range(sizes[2])
        for d in range(sizes[3])
    ]
    assert mapped == in_memory


def test_tensors_with_gaps_or_overlaps_have_no_storage_order() -> None:
    for tensor in (torch.zeros(4, 10)[:, :5], torch.zeros(4, 1).expand(4, 5)):
        with pytest.raises(ValueError, match="must fill its memory without gaps"):
            storage_order(tensor)


def test_strides_of_dimensions_of_size_1_do_not_tell_memory_orders_apart() -> None:
    a = torch.zeros(8, 1, 3, 3)
    assert has_same_memory_order(a, a.to(memory_format=torch.channels_last))
    b = torch.zeros(8, 2, 3, 3)
    assert not has_same_memory_order(b, b.to(memory_format=torch.channels_last))
