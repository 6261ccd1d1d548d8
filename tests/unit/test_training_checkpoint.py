"""Checkpoints survive interruption and refuse what is not theirs."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from itop.cli.main import main
from itop.training.checkpoint import (
    CHECKPOINT_VERSION,
    Checkpoint,
    CheckpointError,
    LayerSummary,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
)

LAYER = LayerSummary("fc1.weight", (4, 5), num_active=2, num_explored=10, num_reliable=4)


def checkpoint() -> Checkpoint:
    states = {"model": {"fc1.weight": torch.arange(20.0).view(4, 5)}, "scaler": {}, "best": None}
    return Checkpoint({"method": "static"}, {"epoch": 3, "batch": 0, "step": 12}, [LAYER], states)


def content(**changes: Any) -> dict[str, Any]:
    layers = [{"name": "a", "shape": (2,), "num_active": 1, "num_explored": 1, "num_reliable": 0}]
    base = {"format": "itop-checkpoint", "version": CHECKPOINT_VERSION, "config": {}, "position": {}, "states": {}}
    return {**base, "layers": layers, **changes}


def test_rates_of_a_layer_are_its_counts_over_its_size() -> None:
    assert (LAYER.density, LAYER.exploration_rate, LAYER.reliable_rate) == (0.1, 0.5, 0.2)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", checkpoint())
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded.config == {"method": "static"}
    assert loaded.position == {"epoch": 3, "batch": 0, "step": 12}
    assert list(loaded.layers) == [LAYER]
    assert torch.equal(loaded.states["model"]["fc1.weight"], torch.arange(20.0).view(4, 5))


def test_writing_that_fails_half_way_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint())
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, checkpoint())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, part: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, checkpoint())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(CheckpointError, match="truncated or another kind of file"):
        load_checkpoint(path)


def test_a_bit_that_changed_in_a_tensor_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    states = {"model": {"w": torch.arange(256.0)}}
    save_checkpoint(path, Checkpoint({}, {"step": 1}, [], states))
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(256.0).numpy().tobytes()) + 77] ^= 4
    path.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"last\.pt is no itop checkpoint, or damaged: the bytes of its part archive/data/0 are"
    ):
        load_checkpoint(path)


def test_whoever_looks_at_a_damaged_checkpoint_hears_of_another_one_that_can_be_read(tmp_path: Path) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for path in (last, best):
        save_checkpoint(path, checkpoint())
    last.write_bytes(last.read_bytes()[:-30])
    for command in (["inspect", str(last)], ["export", str(last)]):
        with pytest.raises(CheckpointError) as refusal:
            read_checkpoint(last)
        assert main(command) == 2
        assert str(refusal.value) == (
            f"{last} is no itop checkpoint, or damaged: it is truncated or another kind of file; {best} beside it can be read"
        )
    best.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"another kind of file$"):
        read_checkpoint(last)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(flag),))

    path = tmp_path / "hostile.pt"
    torch.save(content(states={"model": Payload()}), path)
    with pytest.raises(CheckpointError, match="objects other than tensors"):
        load_checkpoint(path)
    assert not flag.exists()


def test_a_packed_archive_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    stored, packed = tmp_path / "stored.pt", tmp_path / "packed.pt"
    torch.save(content(states={"bomb": torch.zeros(1 << 20)}), stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(CheckpointError, match="packed"):
        load_checkpoint(packed)


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        ({"state_dict": {}}, "written by something else"),
        ([1, 2, 3], "written by something else"),
        (content(version=CHECKPOINT_VERSION + 1), f"this itop reads version {CHECKPOINT_VERSION}"),
        (content(config=None), "configuration or states are missing"),
        (content(position={"step": -1}), "where training stood"),
        (content(position={"step": "many"}), "where training stood"),
        (content(layers=None), "table of layers"),
        (content(layers=[{"name": "a"}]), "table of layers"),
        (content(layers=[{**content()["layers"][0], "num_active": 3}]), "table of layers"),
        (content(layers=[{**content()["layers"][0], "shape": (2**60, 2**60)}]), "table of layers"),
    ],
)
def test_a_file_of_something_else_is_refused_by_one_sentence(tmp_path: Path, foreign: object, message: str) -> None:
    path = tmp_path / "foreign.pt"
    torch.save(foreign, path)
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes(pickle.dumps({"format": "itop-checkpoint"}))
    with pytest.raises(CheckpointError, match="another kind of file"):
        load_checkpoint(path)


def test_an_absent_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nothing\.pt"):
        load_checkpoint(tmp_path / "nothing.pt")
