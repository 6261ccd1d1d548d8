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

_MOST_UNITS = 20_000
"""Of a layer that is compared."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="show the layers of a checkpoint",
        description="Shows each layer's density and exploration rates in a checkpoint; with --distance, how differently\n"
        "two networks are wired. Reading a checkpoint never runs code in it, whoever made the file.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="a .pt file, or a run folder for its last one"
    )
    parser.add_argument(
        "--distance",
        type=Path,
        metavar="OTHER",
        help="compare its topology with that of another checkpoint: NNSTD, whatever the order of neurons (0 the same, "
        "1 disjoint)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    checkpoint = _load(options.checkpoint)
    if options.distance is not None:
        _compare(checkpoint, _load(options.distance), as_json=options.json)
    elif options.json:
        print(json.dumps(_described(checkpoint), indent=2))
    else:
        _print_table(checkpoint)
    return 0


def _load(path: Path) -> Checkpoint:
    from itop.training.checkpoint import read_checkpoint
    from itop.training.run_folder import checkpoint_at

    return read_checkpoint(checkpoint_at(path))


def _compare(first: Checkpoint, second: Checkpoint, *, as_json: bool) -> None:
    from itop.analysis import sources_by_shape, topology_distance
    from itop.training.checkpoint import CheckpointError

    for layer in first.layers:
        if layer.shape and layer.shape[0] > _MOST_UNITS:
            raise CheckpointError(
                f"layer {plain_text(layer.name)} has {layer.shape[0]:,} units; matching takes memory for the square of "
                f"that, and more than {_MOST_UNITS:,} are refused"
            )
    masks = first.masks(), second.masks()
    sources = sources_by_shape(masks[0])
    found = topology_distance(*masks, sources)
    rows = [
        {
            "name": plain_text(name),
            "densities": [int(mask[name].sum()) / mask[name].numel() for mask in masks],
            "shared": int((masks[0][name] & masks[1][name]).sum())
            / max(1, int((masks[0][name] | masks[1][name]).sum())),
            "distance": layer.distance,
        }
        for name, layer in found.layers.items()
    ]
    reads = "each layer reads the one before" if any(sources.values()) else "inputs keep their order"
    if as_json:
        print(json.dumps({"distance": found.distance, "inputs": reads, "layers": rows}, indent=2))
        return
    _print_distances(rows, found.distance, reads)


def _print_distances(rows: list[dict[str, Any]], mean: float, reads: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("Layer")
    for heading in ("Density", "Other's", "Shared in place", "NNSTD"):
        table.add_column(heading, justify="right")
    for row in rows:
        shares = (*row["densities"], row["shared"])
        table.add_row(Text(row["name"]), *(f"{share * 100:.2f} %" for share in shares), f"{row['distance']:.4f}")
    table.add_section()
    table.add_row("mean of layers", "", "", "", f"{mean:.4f}", style="bold")
    console = Console()
    console.print(table)
    console.print(f"NNSTD: part of the connections that differ after the best matching of neurons; {reads}.")


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
