"""Bytes, counted by hand; and what analysis reads of an engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from itop.analysis import (
    Layer,
    OptimizerState,
    SparseFormat,
    layers_of,
    masked_memory,
    masks_of,
    network_density,
    topology_memory,
    truly_sparse_memory,
)

LAYERS = [Layer("a", (10, 65), 0.1), Layer("b", (3, 7), 1.0)]  # 650 weights, 65 active; 21, all active
MOMENTUM = OptimizerState(num_tensors=1)


def test_topology_is_three_bits_a_weight_in_whole_words() -> None:
    assert topology_memory(LAYERS) == 3 * 8 * (11 + 1)
    million = [Layer("w", (1024, 1024), 0.1)]
    assert topology_memory(million) * 8 == 3 * 1024 * 1024


def test_masked_execution_keeps_dense_tensors() -> None:
    use = masked_memory(LAYERS, OptimizerState(num_tensors=2))
    assert (use.topology, use.parameters, use.optimizer) == (288, 671 * 4, 671 * 8)
    assert use.total == 288 + 671 * 12
    assert masked_memory(LAYERS, MOMENTUM, bytes_per_weight=2).parameters == 671 * 2


def test_truly_sparse_execution_keeps_values_and_indices_only() -> None:
    use = truly_sparse_memory(LAYERS, MOMENTUM)
    assert use.topology == 2 * 8 * (11 + 1)
    assert use.parameters == 86 * (4 + 4) + (11 + 4) * 8
    assert use.optimizer == 86 * 4
    assert truly_sparse_memory(LAYERS, MOMENTUM, track_exploration=False).topology == 0


def test_a_column_ordered_copy_costs_two_more_indices_a_weight() -> None:
    plain = truly_sparse_memory(LAYERS, MOMENTUM)
    both = truly_sparse_memory(LAYERS, MOMENTUM, sparse_format=SparseFormat(column_ordered=True))
    assert both.parameters - plain.parameters == 86 * 8 + (66 + 8) * 8


def test_sizes_that_are_none_are_named() -> None:
    with pytest.raises(ValueError, match="num_tensors must not be negative, got -1"):
        OptimizerState(-1)
    with pytest.raises(ValueError, match="index_bytes must be at least 1, got 0"):
        SparseFormat(index_bytes=0)
    with pytest.raises(ValueError, match="at least one layer"):
        topology_memory([])


def test_a_density_that_is_a_ratio_of_counts_gives_the_count_back() -> None:
    assert [Layer("w", (100,), count / 100).num_active for count in range(101)] == list(range(101))


def test_an_engine_is_read_through_its_public_names() -> None:
    masks = {"a": torch.tensor([[True, False], [False, False]]), "b": torch.ones(3, dtype=torch.bool)}
    views = [SimpleNamespace(name=name, shape=mask.shape, num_active=int(mask.sum())) for name, mask in masks.items()]
    engine = SimpleNamespace(layers=views, mask=masks.__getitem__)
    layers = layers_of(engine)  # type: ignore[arg-type]
    assert layers == (Layer("a", (2, 2), 0.25), Layer("b", (3,), 1.0))
    assert [layer.num_active for layer in layers] == [1, 3]
    assert network_density(layers) == 4 / 7
    assert masks_of(engine) == masks  # type: ignore[arg-type]
