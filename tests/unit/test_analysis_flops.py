"""Multiply-adds counted by hooks, and FLOPs of training, against numbers worked by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from itop.analysis import (
    DenseTraining,
    RigLTraining,
    SNFSTraining,
    SparseTraining,
    TopKASTTraining,
    TrainingPhase,
    VaryingTraining,
    count_macs,
    engine_forward_flops,
    forward_flops,
)


def test_a_linear_layer_multiplies_its_weight_once_a_token() -> None:
    layer = nn.Linear(5, 7)
    assert count_macs(layer, torch.zeros(4, 5)) == {"weight": 35}
    assert count_macs(layer, torch.zeros(4, 9, 5)) == {"weight": 35 * 9}


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv1d(4, 6, 3, stride=2), (2, 4, 11), 6 * 4 * 3 * 5),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (2, 4, 5, 5), 6 * 2 * 9 * 25),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), (1, 4, 7, 9), 4 * 1 * 9 * 3 * 5),
        (nn.Conv3d(1, 2, (1, 2, 3)), (3, 1, 4, 5, 6), 2 * 6 * 4 * 4 * 4),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (2, 3, 4, 4), 3 * 5 * 4 * 16),
    ],
    ids=["1d", "grouped", "depthwise-dilated", "3d", "transposed"],
)
def test_a_convolution_multiplies_its_weight_once_a_position(
    layer: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    assert count_macs(layer, torch.zeros(shape)) == {"weight": macs}


def test_attention_counts_its_projections_for_queries_keys_and_values() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    macs = count_macs(attention, *(torch.zeros(3, length, 8) for length in (5, 7, 7)))
    assert macs == {"in_proj_weight": (5 + 7 + 7) * 64, "out_proj.weight": 5 * 64}


def test_attention_with_other_key_sizes_counts_each_projection() -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, batch_first=True)
    macs = count_macs(attention, torch.zeros(3, 5, 8), torch.zeros(3, 7, 4), torch.zeros(3, 7, 6))
    assert macs == {
        "q_proj_weight": 5 * 64,
        "k_proj_weight": 7 * 32,
        "v_proj_weight": 7 * 48,
        "out_proj.weight": 5 * 64,
    }


def test_a_transformer_layer_is_counted_whole_in_spite_of_its_fused_path() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True).eval()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    assert count_macs(layer, torch.zeros(2, 5, 8)) == {
        "self_attn.in_proj_weight": 15 * 64,
        "self_attn.out_proj.weight": 5 * 64,
        "linear1.weight": 5 * 128,
        "linear2.weight": 5 * 128,
    }
    assert torch.backends.mha.get_fastpath_enabled() == fastpath


def test_recurrent_weights_count_once_a_time_step() -> None:
    lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    macs = count_macs(lstm, torch.zeros(2, 6, 3))
    assert macs["weight_ih_l0"] == 6 * 16 * 3
    assert macs["weight_hh_l0_reverse"] == 6 * 16 * 4
    assert macs["weight_ih_l1"] == 6 * 16 * 8
    assert len(macs) == 8
    projected = count_macs(nn.LSTM(3, 4, proj_size=2, batch_first=True), torch.zeros(2, 6, 3))
    assert projected == {"weight_ih_l0": 6 * 48, "weight_hh_l0": 6 * 16 * 2, "weight_hr_l0": 6 * 8}
    assert count_macs(nn.GRU(3, 4), torch.zeros(6, 2, 3), num_samples=2) == {
        "weight_ih_l0": 6 * 36,
        "weight_hh_l0": 6 * 48,
    }


def test_packed_sequences_count_the_steps_that_run() -> None:
    packed = pack_padded_sequence(torch.zeros(2, 5, 3), torch.tensor([5, 2]), batch_first=True)
    macs = count_macs(nn.RNN(3, 4, batch_first=True), packed, num_samples=2)
    assert macs == {"weight_ih_l0": 3.5 * 12, "weight_hh_l0": 3.5 * 16}


def test_a_recurrent_cell_counts_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x, self.cell(x))

    assert count_macs(Twice(), torch.zeros(5, 3)) == {"cell.weight_ih": 2 * 36, "cell.weight_hh": 2 * 48}


def test_tied_weights_are_named_once_with_all_their_uses() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    assert count_macs(model, torch.zeros(1, 4)) == {"0.weight": 32, "2.weight": 8}


def test_a_layer_that_does_not_run_counts_nothing_but_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    assert count_macs(Idle(), torch.zeros(1, 3)) == {"used.weight": 6, "idle.weight": 0}


def test_other_module_types_bring_their_own_counter() -> None:
    class Scaled(nn.Linear):
        pass

    def twice(module: Scaled, args: object, kwargs: object, output: Tensor) -> list[tuple[str, int]]:
        return [("weight", 2 * output.numel() * module.in_features)]

    model = nn.Sequential(Scaled(3, 2), nn.Linear(2, 2))
    assert count_macs(model, torch.zeros(1, 3), counters={Scaled: twice}) == {"0.weight": 12, "1.weight": 4}


def test_counting_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(18, 2))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    count_macs(model, torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(1)))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failing_forward_leaves_no_hook_either() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).train()
    with pytest.raises(RuntimeError):
        count_macs(model, torch.zeros(1, 4))
    assert not model[0]._forward_hooks
    assert model[0].training


def test_a_compiled_model_counts_as_its_original() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    compiled = torch.compile(model, backend="eager")
    compiled(torch.zeros(1, 3))
    assert count_macs(compiled, torch.zeros(5, 3)) == {"0.weight": 6, "2.weight": 4}
    model[0].compile(backend="eager")
    model(torch.zeros(1, 3))
    assert count_macs(model, torch.zeros(5, 3)) == {"0.weight": 6, "2.weight": 4}


def test_a_compiled_part_of_a_model_is_counted_too() -> None:
    part = torch.compile(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), backend="eager")
    model = nn.Sequential(part, nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model(torch.zeros(5, 3))  # compiled now, without any hook
    assert list(count_macs(model, torch.zeros(5, 3)).values()) == [6, 4]


def test_padded_tokens_count_as_the_masked_layers_compute_them() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    macs = count_macs(encoder, torch.zeros(2, 5, 8), example_kwargs={"src_key_padding_mask": padding})
    assert macs["layers.0.linear1.weight"] == 5 * 128


def test_inputs_without_a_batch_need_the_number_of_samples() -> None:
    with pytest.raises(ValueError, match="num_samples must be given"):
        count_macs(nn.Linear(3, 2), torch.zeros(()))
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        count_macs(nn.Linear(3, 2), torch.zeros(0, 3))


def test_forward_flops_are_two_a_multiply_add_and_in_proportion_to_density() -> None:
    macs = {"a": 100.0, "b": 10.0}
    assert forward_flops(macs) == 220
    assert forward_flops(macs, {"a": 0.25}) == 70
    with pytest.raises(ValueError, match="densities must name counted weights, got c"):
        forward_flops(macs, {"c": 0.5})
    with pytest.raises(ValueError, match=r"density of a must be in \[0, 1\], got 2"):
        forward_flops(macs, {"a": 2})


def test_an_engines_densities_are_read_from_its_layers() -> None:
    views = [SimpleNamespace(name="a", shape=torch.Size([5, 20]), num_active=25)]
    for layers in (views, {"a": views[0]}):
        assert engine_forward_flops({"a": 100.0, "b": 10.0}, SimpleNamespace(layers=layers)) == 70  # type: ignore[arg-type]


def test_training_flops_are_the_papers_formulas() -> None:
    assert DenseTraining(100).per_sample_step == 300
    assert SparseTraining(10).per_sample_step == 30
    # (3 * 10 * 4 + 2 * 10 + 100) / 5
    assert RigLTraining(10, 100, update_every=4).per_sample_step == 48
    assert SNFSTraining(10, 100).per_sample_step == 120
    assert TopKASTTraining(10, 30).per_sample_step == 50
    assert SNFSTraining(10, 100).factor_to_dense(100) == pytest.approx(0.4)
    assert SparseTraining(10).total(num_samples=8, num_steps=5) == 1200


def test_varying_density_is_integrated_over_steps() -> None:
    assert VaryingTraining.of_sparse_steps([100, 50, 0]).per_sample_step == 150
    phases = (TrainingPhase(3, DenseTraining(100)), TrainingPhase(1, RigLTraining(10, 100, 4)))
    assert VaryingTraining(phases).per_sample_step == (3 * 300 + 48) / 4
    with pytest.raises(ValueError, match="phases must hold at least one step"):
        VaryingTraining(())


def test_flops_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="sparse must be a finite number of FLOPs of at least 0, got -1"):
        SparseTraining(-1)
    with pytest.raises(ValueError, match="update_every must be at least 1, got 0"):
        RigLTraining(1, 2, 0)
