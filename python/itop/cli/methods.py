"""``itop methods``: what there is to train with, and the options of each."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "methods",
        help="list the methods, or explain one",
        description="Lists the methods of itop train. With a name: what it does, and its options with their defaults,\n"
        "which itop train takes as --set option=value.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a method to explain")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from itop.methods import METHODS
    from itop.training.names import require_known

    console = Console()
    if options.name is None:
        _list(console)
    else:
        _explain(require_known("method", options.name, METHODS), console)
    return 0


def _list(console: Any) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from itop.methods import PRESETS
    from itop.methods.registry import Family

    for family in Family:
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(family.value, no_wrap=True, width=29)
        for heading, ratio in (("paper", 3), ("parts", 4), ("cost", 4)):
            table.add_column(heading, ratio=ratio)
        for preset in PRESETS.values():
            if preset.family is family:
                table.add_row(Text(preset.name, style="bold"), preset.paper, preset.parts, preset.cost)
        console.print(Padding(table, (0, 0, 1, 0)))
    console.print(
        "Cost: FLOPs of a training step and sample, f_S and f_D being those of a forward pass, sparse and dense; bytes\n"
        "beyond three bits a weight. itop methods NAME explains one; itop train --method NAME runs it.",
        style="dim",
        highlight=False,
    )


def _explain(name: str, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from itop.methods import PRESETS

    preset = PRESETS[name]
    console.print(Text.assemble((name, "bold"), f"  {preset.paper}" if preset.paper != "-" else ""))
    console.print(Text(_documentation(name)))
    console.print()
    facts = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for key, value in (
        ("Rule", preset.equation),
        ("Parts", preset.parts),
        ("Active weights", preset.density.value),
        ("Cost", preset.cost),
    ):
        facts.add_row(Text(key, style="bold"), Text(value))
    console.print(facts)
    if not preset.parameters:
        console.print("\nIt has no options.", highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Option")
    table.add_column("Default")
    for key, option in preset.parameters.items():
        mark = "  (?)" if key in preset.unchecked else ""
        table.add_row(Text(key, style="bold"), Text(f"{option.default!r}{mark}"))
    console.print()
    console.print(table)
    note = " (?): a default that could not be checked against a source." if preset.unchecked else ""
    console.print(f"\nitop train --method {name} --set OPTION=VALUE changes one.{note}", style="dim", highlight=False)


def _documentation(name: str) -> str:
    from itop.methods import METHODS

    return inspect.getdoc(METHODS[name]) or ""
