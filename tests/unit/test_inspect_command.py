"""``itop inspect A --distance B``: how differently two checkpoints are wired."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from itop.cli.main import main
from itop.nn.position_set import CompressedPositions, PositionSet
from itop.training.checkpoint import Checkpoint, LayerSummary, save_checkpoint

FIRST = {
    "fc1.weight": torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool(),
    "fc2.weight": torch.tensor([[1, 0, 0], [0, 1, 1]]).bool(),
}
# The same network with its three hidden units in the order 1, 2, 0.
REORDERED = {"fc1.weight": FIRST["fc1.weight"][[1, 2, 0]], "fc2.weight": FIRST["fc2.weight"][:, [1, 2, 0]]}
# One of the hidden unit's two connections moved: |A xor B| / |A or B| = 2/3 of that unit, a mean of 2/9 over three.
MOVED = {**FIRST, "fc1.weight": torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()}


def as_bytes(mask: Tensor) -> Tensor:
    return mask.to(torch.uint8) * 3


def as_sets(mask: Tensor) -> dict[str, Any]:
    positions = CompressedPositions((mask.shape[0], mask.shape[1]))
    positions.insert(PositionSet.from_mask(mask))
    saved = positions.to_bytes()
    return {"shape": list(mask.shape), "active": saved, "explored": saved, "reliable": saved}


def checkpoint(path: Path, masks: Mapping[str, Tensor], saved: Any = as_bytes) -> str:
    layers = [LayerSummary(name, tuple(m.shape), int(m.sum()), int(m.sum()), 0) for name, m in masks.items()]
    engine = {"layers": {name: saved(mask) for name, mask in masks.items()}}
    save_checkpoint(path, Checkpoint({"method": "static"}, {"step": 3}, layers, {"engine": engine}))
    return str(path)


def compared(capsys: pytest.CaptureFixture[str], *paths: str) -> dict[str, Any]:
    assert main(["inspect", paths[0], "--distance", paths[1], "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_networks_that_differ_in_the_order_of_their_neurons_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(capsys, checkpoint(tmp_path / "a.pt", FIRST), checkpoint(tmp_path / "b.pt", REORDERED))
    assert found["distance"] == 0.0
    assert found["layers"][0]["shared"] == pytest.approx(1 / 9)  # in place only one of nine connections is in both


def test_the_distance_is_the_mean_over_units_and_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compared(capsys, checkpoint(tmp_path / "a.pt", FIRST), checkpoint(tmp_path / "b.pt", MOVED))
    assert [layer["distance"] for layer in found["layers"]] == pytest.approx([2 / 9, 0.0])
    assert found["distance"] == pytest.approx(1 / 9)
    assert found["layers"][0]["densities"] == pytest.approx([5 / 12, 5 / 12])


def test_a_truly_sparse_run_compares_with_a_masked_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparse = checkpoint(tmp_path / "a.pt", FIRST, as_sets)
    assert compared(capsys, sparse, checkpoint(tmp_path / "b.pt", FIRST))["distance"] == 0.0


def test_the_table_says_what_the_number_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = checkpoint(tmp_path / "a.pt", FIRST), checkpoint(tmp_path / "b.pt", MOVED)
    assert main(["inspect", paths[0], "--distance", paths[1]]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fc1.weight 41.67 % 41.67 % 66.67 % 0.2222" in said
    assert "mean of layers 0.1111" in said
    assert "each layer reads the one before" in said


def test_checkpoints_of_other_networks_and_damaged_ones_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoint(tmp_path / "a.pt", FIRST)
    other = checkpoint(tmp_path / "b.pt", {"fc1.weight": FIRST["fc1.weight"]})
    assert main(["inspect", path, "--distance", other]) == 2
    assert "both sides must name the same tensors, got fc2.weight on one of them only" in capsys.readouterr().err
    damaged = checkpoint(tmp_path / "c.pt", FIRST, lambda mask: torch.zeros(2))
    assert main(["inspect", path, "--distance", damaged]) == 2
    assert "layer 'fc1.weight' is not a tensor of bytes" in capsys.readouterr().err
