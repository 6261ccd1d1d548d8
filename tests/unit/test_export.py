"""Exported networks come back bit for bit, and are as small as they should be."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from itop import SparseEngine
from itop.export import (
    ExportReport,
    compress,
    decompress,
    load_bitmask,
    load_csr,
    load_dense,
    save_bitmask,
    save_csr,
    save_dense,
    save_onnx,
    sparsity_config,
    to_csr,
)

pytest.importorskip("safetensors", reason="the package safetensors is not installed")

FORMATS: dict[str, tuple[Callable[..., ExportReport], Callable[..., dict[str, Tensor]]]] = {
    "dense": (save_dense, load_dense),
    "bitmask": (save_bitmask, load_bitmask),
    "csr": (save_csr, load_csr),
}


def sparse_model(sparsity: float = 0.9) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 11, 3), nn.BatchNorm2d(11), nn.Flatten(), nn.Linear(11 * 16, 13), nn.Linear(13, 5)
    )
    SparseEngine(model, torch.optim.SGD(model.parameters(), 0.1), "static", sparsity=sparsity, allocation="uniform")
    return model


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert tensor.dtype == b[name].dtype
        assert tensor.shape == b[name].shape, name
        assert bits_of(tensor) == bits_of(b[name]), name


def bits_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def test_a_matrix_worked_by_hand() -> None:
    matrix = torch.tensor([[0.0, 2.0, 0, 0, 0, 0, 0, 0, -3.0], [0.0] * 9, [1.0, 0, 0, 0, 0, 0, 0, 4.0, 0]])
    parts = compress(matrix)
    assert parts["compressed"].tolist() == [2.0, -3.0, 1.0, 4.0]
    assert parts["bitmask"].tolist() == [[0b10, 1], [0, 0], [0b10000001, 0]]
    assert parts["bitmask"].dtype == torch.uint8
    assert parts["shape"].tolist() == [3, 9]
    assert parts["row_offsets"].tolist() == [0, 2, 2]
    assert torch.equal(decompress(parts), matrix)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    save, load = FORMATS[kind]
    model = sparse_model()
    with torch.no_grad():
        model[3].weight[0, :3] = torch.tensor([-0.0, float("nan"), 1e-42])  # type: ignore[index]
    report = save(model, tmp_path / "model")
    assert_same_bits(load(tmp_path / "model"), model.state_dict())
    assert report.num_bytes == (tmp_path / "model").stat().st_size
    assert report.num_compressed == (0 if kind == "dense" else 3)
    model.load_state_dict(load(tmp_path / "model"))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_come_back_too(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save, load = FORMATS[kind]
    state = {"weight": torch.randn(9, 40).to(dtype) * (torch.rand(9, 40) < 0.1), "steps": torch.tensor(3)}
    save(state, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert torch.equal(loaded["weight"], state["weight"])
    assert loaded["weight"].dtype == dtype
    assert loaded["steps"].item() == 3


@pytest.mark.parametrize("kind", FORMATS)
def test_tied_and_dense_and_empty_weights_are_kept(kind: str, tmp_path: Path) -> None:
    save, load = FORMATS[kind]
    tied = torch.randn(4, 6)
    state = {
        "a": tied,
        "b": tied,
        "rows": torch.zeros(0, 5),
        "columns": torch.zeros(5, 0),
        "zeros": torch.zeros(64, 64),
    }
    save(state, tmp_path / "model")
    assert_same_bits(load(tmp_path / "model"), state)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_written_where_writing_fails(kind: str, tmp_path: Path) -> None:
    save, _ = FORMATS[kind]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kept").touch()
    with pytest.raises(OSError, match="model"):
        save(sparse_model(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_csr_matrix_multiplies_as_the_dense_one() -> None:
    weight = sparse_model()[3].weight.detach()  # type: ignore[index]
    x = torch.randn(weight.size(1), 3)
    assert torch.allclose(to_csr(weight) @ x, weight @ x, atol=1e-5)  # sums in another order


def test_resnet50_at_95_percent_is_under_nine_megabytes(tmp_path: Path) -> None:
    resnet50 = pytest.importorskip("torchvision.models", reason="torchvision is not installed").resnet50
    torch.manual_seed(0)
    model = resnet50()
    SparseEngine(model, torch.optim.SGD(model.parameters(), 0.1), "static", sparsity=0.95)
    report = save_bitmask(model, tmp_path / "resnet50.safetensors")
    assert report.num_bytes < 9_000_000
    assert report.ratio < 0.09
    assert_same_bits(load_bitmask(tmp_path / "resnet50.safetensors"), model.state_dict())


def test_compressed_tensors_reads_our_files_and_we_read_its(tmp_path: Path) -> None:
    compressors = pytest.importorskip(
        "compressed_tensors.compressors.sparse_compressors.sparse_bitmask",
        reason="compressed-tensors older than 0.15, the last with its own bitmask reader, is not installed",
    )
    model = sparse_model()
    compressor = compressors.BitmaskCompressor()
    save_bitmask(model, tmp_path / "model.safetensors")
    theirs = dict(compressor.decompress(str(tmp_path / "model.safetensors")))
    state = model.state_dict()
    assert theirs.keys() == state.keys()
    for name, tensor in state.items():  # kernels come back as matrices
        assert torch.equal(theirs[name].view(tensor.shape), tensor), name

    matrices = {name: tensor.flatten(1) if tensor.dim() > 2 else tensor for name, tensor in state.items()}
    linear = {name.removesuffix(".weight") for name, tensor in matrices.items() if tensor.dim() == 2}
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(compressor.compress(matrices, linear), str(tmp_path / "theirs.safetensors"))
    assert_same_bits(load_bitmask(tmp_path / "theirs.safetensors"), matrices)


def test_names_that_the_layout_takes_for_its_own_are_kept(tmp_path: Path) -> None:
    sparse = torch.eye(40)
    state = {
        "attention.in_proj_weight": sparse,
        "weight": sparse,
        "a": sparse,
        "a.weight": 2 * sparse,
        "b.weight": sparse,
        "b.shape": torch.ones(3),
        "c.bitmask": torch.ones(2),
    }
    save_bitmask(state, tmp_path / "model")
    assert_same_bits(load_bitmask(tmp_path / "model"), state)


def test_the_configuration_names_format_sparsity_and_what_is_not_compressed() -> None:
    config = sparsity_config(sparse_model(0.9))["sparsity_config"]
    assert config["format"] == "sparse-bitmask"
    assert config["global_sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert config["ignore"] == ["1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts.pop("compressed"), "has no compressed"),
        (lambda parts: parts.update(compressed=torch.ones(1)), "comes with 1 values"),
        (lambda parts: parts.update(shape=torch.tensor([3, 90])), "is not that of a matrix"),
        (lambda parts: parts.update(shape=torch.tensor([27])), "is not that of a matrix"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: Callable[[dict[str, Tensor]], Any], message: str) -> None:
    parts = compress(torch.eye(3, 9))
    change(parts)
    with pytest.raises(ValueError, match=message):
        decompress(parts)


def test_only_tensors_are_exported(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'extra' of the state is a int, only tensors"):
        save_dense({"extra": 3}, tmp_path / "x")  # type: ignore[dict-item]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("safetensors", "onnx"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    import importlib

    def import_module(name: str, package: str | None = None) -> Any:
        return without(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(RuntimeError, match="export to safetensors needs the package safetensors"):
        save_dense(sparse_model(), tmp_path / "x")
    with pytest.raises(RuntimeError, match="export to ONNX needs the package onnx, which is not installed"):
        save_onnx(sparse_model(), (torch.zeros(1, 3, 6, 6),), tmp_path / "x")


def test_onnx_gives_the_outputs_of_the_model(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the package onnx is not installed")
    pytest.importorskip("onnxscript", reason="the package onnxscript is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")
    model = sparse_model().eval()
    images = torch.randn(5, 3, 6, 6)
    save_onnx(model, (images[:2],), tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert torch.allclose(torch.from_numpy(outputs), model(images), atol=1e-5)  # another library's sums


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("harm", ["cut", "header", "other", "absent"])
def test_a_damaged_export_is_named_in_one_sentence(kind: str, harm: str, tmp_path: Path) -> None:
    save, load = FORMATS[kind]
    path = tmp_path / "exported"
    if harm != "absent":
        save(sparse_model(), path)
        content = bytearray(path.read_bytes())
        content[8:40] = bytes(32) if harm == "header" else content[8:40]
        path.write_bytes({"cut": content[: len(content) // 2], "header": content, "other": b"x" * 99}[harm])
    expected = FileNotFoundError if harm == "absent" else ValueError
    with pytest.raises(expected, match="no file" if harm == "absent" else "is damaged, or no ") as refusal:
        load(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_bit_that_changed_in_a_csr_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "model.csr.pt"
    save_csr({"w": torch.arange(64.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(64.0).numpy().tobytes()) + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"the bytes of its part \.model\.csr\.pt/data/0 are not those that were written"
    ):
        load_csr(path)


@pytest.mark.parametrize("kind", ["dense", "bitmask"])
def test_a_bit_that_changed_in_a_safetensors_file_is_seen_wherever_it_is(kind: str, tmp_path: Path) -> None:
    save, load = FORMATS[kind]
    path = tmp_path / "model.safetensors"
    state = {"conv.weight": torch.eye(8, 40).view(8, 4, 10), "norm.weight": torch.ones(3), "steps": torch.tensor(3)}
    save(state, path)
    whole = path.read_bytes()
    num_unseen = 0
    for at in range(len(whole)):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        loaded = loaded_or_refused(load, path)
        num_unseen += loaded is not None
        assert loaded is None or contents(loaded) == contents(state), at
    assert num_unseen <= 16, "what changes nothing: blanks, the name that the checksums go by"


def contents(state: dict[str, Tensor]) -> list[tuple[str, str, bytes]]:
    return [(name, f"{value.dtype} {list(value.shape)}", bits_of(value)) for name, value in sorted(state.items())]


def loaded_or_refused(load: Callable[..., dict[str, Tensor]], path: Path) -> dict[str, Tensor] | None:
    try:
        return load(path)
    except ValueError as refusal:
        if str(refusal).startswith(f"{path} is damaged, or no safetensors file: "):
            return None
        raise


def test_the_tensor_that_changed_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_dense({"kept": torch.ones(4), "changed": torch.arange(64.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(64.0).numpy().tobytes()) + 9] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"its tensor 'changed' is not what was written; export the checkpoint"):
        load_dense(path)
