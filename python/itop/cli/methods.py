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
    from rich.table import Table
    from rich.text import Text

    from itop.methods import METHODS

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Method", no_wrap=True)
    table.add_column("")
    for name in METHODS:
        table.add_row(Text(name, style="bold"), Text(_documentation(name).split("\n\n")[0].replace("\n", " ")))
    console.print(table)
    console.print("\nitop methods NAME explains one; itop train --method NAME runs it.", style="dim", highlight=False)


def _explain(name: str, console: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from itop.training.session import method_options

    console.print(Text(name, style="bold"))
    console.print(Text(_documentation(name)))
    options = method_options(name)
    if not options:
        console.print("\nIt has no options.", highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Option")
    table.add_column("Default")
    for key, option in options.items():
        default = "required" if option.default is inspect.Parameter.empty else repr(option.default)
        table.add_row(Text(key, style="bold"), Text(default))
    console.print()
    console.print(table)
    console.print(f"\nitop train --method {name} --set OPTION=VALUE changes one.", style="dim", highlight=False)


def _documentation(name: str) -> str:
    from itop.methods import METHODS

    return inspect.getdoc(METHODS[name]) or ""
