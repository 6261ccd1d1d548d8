"""How N of M shares a layer's number among its groups."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from itop.criteria import NofM


@given(st.data(), st.integers(1, 40), st.integers(1, 70), st.integers(2, 20))
def test_groups_hold_the_layers_number_and_none_more_than_n(
    data: st.DataObject, rows: int, columns: int, m: int
) -> None:
    count = data.draw(st.integers(0, rows * columns))
    targets = NofM(m).targets(rows, columns, count, torch.device("cpu"))
    size = min(m, columns)
    sizes = torch.tensor([min(size, columns - start) for start in range(0, columns, size)])
    assert targets.shape == (rows, len(sizes))
    assert int(targets.sum()) == count
    most = math.ceil(count * size / (rows * columns))
    assert bool((targets <= sizes.clamp(max=most)).all())
    full = targets[:, sizes == size]
    assert full.numel() == 0 or int(full.max() - full.min()) <= 1
    if count:
        assert bool((NofM(m).targets(rows, columns, count - 1, torch.device("cpu")) <= targets).all())


def test_groups_with_fewer_are_spread_over_all_inputs() -> None:
    targets = NofM(16).targets(100, 160, 800, torch.device("cpu"))  # one of sixteen in eight of ten groups
    assert targets.sum(0).tolist() == [80] * 10
