"""``itop inspect``: what is in a checkpoint, without the model or the data that made it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itop.cli.text import plain_text

if TYPE_CHECKING:
    from itop.training.checkpoint import Checkpoint

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="show the layers of a checkpoint",
        description="Shows each layer's density and exploration rates in a checkpoint.\n"
        "Reading one never runs code in it, whoever made the file.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a .pt file, or a run folder for its last one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.training.checkpoint import load_checkpoint
    from itop.training.run_folder import RunFolder

    path: Path = options.checkpoint
    checkpoint = load_checkpoint(RunFolder(path).last_checkpoint if path.is_dir() else path)
    if options.json:
        print(json.dumps(_described(checkpoint), indent=2))
    else:
        _print_table(checkpoint)
    return 0


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "method": plain_text(checkpoint.config.get("method")),
        "model": plain_text(checkpoint.config.get("model")),
        "data": plain_text(checkpoint.config.get("data")),
        "position": dict(checkpoint.position),
        "layers": [
            {
                "name": plain_text(layer.name),
                "shape": list(layer.shape),
                "num_active": layer.num_active,
                "density": layer.density,
                "exploration_rate": layer.exploration_rate,
                "reliable_rate": layer.reliable_rate,
            }
            for layer in checkpoint.layers
        ],
    }


def _print_table(checkpoint: Checkpoint) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    described = _described(checkpoint)
    position = described["position"]
    console = Console()
    console.print(
        Text(
            f"{described['method']} on {described['data']} with {described['model']}: "
            f"epoch {position.get('epoch', 0)}, step {position.get('step', 0):,}"
        )
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("Layer")
    for heading in ("Shape", "Weights", "Active", "Density", "R_s", "R_r"):
        table.add_column(heading, justify="right")
    for layer in checkpoint.layers:
        table.add_row(
            Text(plain_text(layer.name)),
            " x ".join(str(size) for size in layer.shape),
            f"{layer.numel:,}",
            f"{layer.num_active:,}",
            *(f"{rate * 100:.2f} %" for rate in (layer.density, layer.exploration_rate, layer.reliable_rate)),
        )
    total = sum(layer.numel for layer in checkpoint.layers)
    if total:
        counts = [
            sum(getattr(layer, name) for layer in checkpoint.layers)
            for name in ("num_active", "num_explored", "num_reliable")
        ]
        table.add_section()
        rates = (f"{count / total * 100:.2f} %" for count in counts)
        table.add_row("all", "", f"{total:,}", f"{counts[0]:,}", *rates, style="bold")
    console.print(table)
