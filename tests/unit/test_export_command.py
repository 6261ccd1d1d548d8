"""``itop export`` on the checkpoint of a run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from itop.cli.main import main
from itop.export import load_bitmask, load_csr, load_dense
from itop.models import build_model
from itop.training.checkpoint import Checkpoint, LayerSummary, save_checkpoint


def write_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = build_model("mlp", num_classes=10, input_shape=(1, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.masked_fill_(torch.rand(parameter.shape) > 0.1, 0.0)
    layers = [
        LayerSummary(name, tuple(p.shape), int(p.count_nonzero()), p.numel(), 0)
        for name, p in model.named_parameters()
        if p.dim() == 2
    ]
    assert asdict(layers[0])["name"]
    config = {"model": "mlp", "data": "digits", "method": "static"}
    save_checkpoint(path, Checkpoint(config, {"step": 3}, layers, {"model": model.state_dict()}))
    return model.state_dict()


@pytest.mark.parametrize(
    ("kind", "ending", "load"),
    [
        ("dense", ".safetensors", load_dense),
        ("bitmask", ".bitmask.safetensors", load_bitmask),
        ("csr", ".csr.pt", load_csr),
    ],
)
def test_the_network_of_a_checkpoint_is_written_beside_it(
    kind: str, ending: str, load: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = write_checkpoint(tmp_path / "last.pt")
    assert main(["export", str(tmp_path / "last.pt"), "--format", kind]) == 0
    assert f"last{ending}" in capsys.readouterr().out
    loaded = load(tmp_path / f"last{ending}")  # type: ignore[operator]
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_an_onnx_graph_is_rebuilt_from_the_configuration(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    write_checkpoint(tmp_path / "last.pt")
    assert main(["export", str(tmp_path / "last.pt"), "--format", "onnx", "--out", str(tmp_path / "net.onnx")]) == 0
    assert (tmp_path / "net.onnx").stat().st_size > 1000


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--format", "bitmaks"]) == 2
    assert "did you mean 'bitmask'" in capsys.readouterr().err
