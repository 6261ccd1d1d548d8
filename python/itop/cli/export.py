"""``itop export``: a trained network out of its checkpoint, in a format that other programs read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itop.training.checkpoint import Checkpoint

__all__ = ["add_parser"]

_ENDINGS = {"dense": ".safetensors", "bitmask": ".bitmask.safetensors", "csr": ".csr.pt", "onnx": ".onnx"}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write the network of a checkpoint for other programs",
        description="Writes the network of a checkpoint.\n\n"
        "  dense    safetensors, zeros included: everything reads it\n"
        "  bitmask  safetensors without zeros, in the layout of compressed-tensors\n"
        "  csr      torch's sparse CSR matrices, in a file of torch.save\n"
        "  onnx     the whole network as a graph; needs the packages onnx and onnxscript",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a .pt file, or a run folder for its last one"
    )
    parser.add_argument(
        "--format", choices=tuple(_ENDINGS), default="bitmask", metavar="FORMAT", help="default: bitmask"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: beside the checkpoint")
    parser.add_argument(
        "--input-shape",
        type=_shape,
        metavar="C,H,W",
        help="of one sample, for onnx; default: that of the run's data set",
    )
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.training.checkpoint import read_checkpoint
    from itop.training.run_folder import checkpoint_at

    path = checkpoint_at(options.checkpoint)
    checkpoint = read_checkpoint(path)
    target = options.out or path.with_name(path.name.removesuffix(".pt") + _ENDINGS[options.format])
    report = _export(checkpoint, options.format, target, options.input_shape)
    print(
        f"{report.path}: {report.num_bytes / 1e6:.2f} MB, {report.ratio * 100:.1f} % of {report.num_dense_bytes / 1e6:.2f} MB dense"
    )
    return 0


def _export(checkpoint: Checkpoint, kind: str, target: Path, input_shape: tuple[int, int, int] | None) -> Any:
    from itop import export

    state = checkpoint.states.get("model")
    if not isinstance(state, dict):
        raise ValueError("the checkpoint is damaged: it holds no model")
    if kind == "onnx":
        import torch

        model, shape = _rebuilt(checkpoint, input_shape)
        model.load_state_dict(state)
        return export.save_onnx(model.eval(), (torch.zeros(2, *shape),), target)
    write = {"dense": export.save_dense, "bitmask": export.save_bitmask, "csr": export.save_csr}[kind]
    return write(state, target)


def _rebuilt(checkpoint: Checkpoint, input_shape: tuple[int, int, int] | None) -> tuple[Any, tuple[int, int, int]]:
    """The network of the run, whose classes are the outputs of its last layer."""
    from itop.models import build_model
    from itop.training.published import PUBLISHED

    published = PUBLISHED.get(str(checkpoint.config.get("data")))
    shape = input_shape or (published.input_shape if published is not None else None)
    if shape is None:
        raise ValueError("onnx needs the shape of one sample: give --input-shape C,H,W")
    num_classes = checkpoint.layers[-1].shape[0]
    return build_model(str(checkpoint.config["model"]), num_classes=num_classes, input_shape=shape), shape


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected three whole numbers C,H,W, got {text!r}") from None
    return channels, height, width
