"""``itop methods``: what there is to train with, and the options of each."""

from __future__ import annotations

import argparse
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
    from itop.names import require_known

    console = Console()
    if options.name is None:
        _list(console)
    else:
        _explain(require_known("method", options.name, METHODS), console)
    return 0


def _list(console: Any) -> None:
    from rich.text import Text

    from itop.methods import PRESETS
    from itop.methods.registry import Family

    width = max(len(name) for name in PRESETS) + 2
    for family in Family:
        console.print(Text(family.value.capitalize(), style="bold"))
        for preset in PRESETS.values():
            if preset.family is family:
                console.print(Text.assemble("  ", (preset.name.ljust(width), "bold"), preset.paper.strip("-")))
                for line in _joined((preset.parts, preset.cost), console.width - 6):
                    console.print(Text(f"      {line}", style="dim"))
        console.print()
    console.print(
        Text(
            "Below each: its parts, and the FLOPs of a training step and sample, f_S and f_D being those of a forward "
            "pass, sparse and dense, with the memory beyond three bits a weight. itop methods NAME explains one, itop "
            "train --method NAME runs it."
        )
    )


def _joined(texts: tuple[str, ...], width: int) -> tuple[str, ...]:
    """The texts side by side where the width admits it, else one below the other."""
    line = "  ·  ".join(texts)
    return (line,) if len(line) <= width else texts


def _explain(name: str, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from itop.methods import PRESETS

    preset = PRESETS[name]
    console.print(Text.assemble((name, "bold"), f"  {preset.paper}" if preset.paper != "-" else ""))
    for paragraph in preset.explanation:
        console.print(Text(paragraph))
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
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("Option", "Default", "What it is"):
        table.add_column(heading, no_wrap=heading == "Option")
    texts = preset.option_texts
    for key, option in preset.parameters.items():
        table.add_row(Text(key, style="bold"), Text(_default(option.default)), Text(texts.get(key, "")))
    console.print()
    console.print(table)
    note = " (?): a default that could not be checked against a source." if preset.unchecked else ""
    console.print(f"\nitop train --method {name} --set OPTION=VALUE changes one.{note}", style="dim", highlight=False)


def _default(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
