"""``itop``: finds the command, runs it, and turns what goes wrong into one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata

from itop.cli import advise, bench, export, inspect, methods, report, sweep, train
from itop.cli.parser import CommandParser, UsageError

__all__ = ["COMMANDS", "main"]

COMMANDS = (train, sweep, advise, methods, inspect, report, export, bench)
"""Modules of commands: each adds its own parser with ``add_parser(subparsers)`` and sets ``run`` to its function."""

_DESCRIPTION = """\
Sparse neural networks, trained from scratch: a network with a tenth of its weights that moves its connections
while it learns, beside the dense one and one whose connections stay where they are.

  itop train                          digits, dense against static against SET-ITOP, in under a minute
  itop train --recipe mlp-cifar10     one of the paper's experiments
  itop sweep --study typical-time     the paper's figures, on whatever network and scale
  itop methods                        what there is to train with
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 1 done but some runs failed, 2 refused or failed, 130 interrupted.
    """
    try:
        options = _parser().parse_args(arguments)
        _refuse_ranks()
        code: int = options.run(options)
        return code
    except UsageError as error:
        return _refuse(error)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("ITOP_TRACEBACK"):
            raise
        return _refuse(error)
    except KeyboardInterrupt:
        print("itop: interrupted", file=sys.stderr)
        return 130


def _refuse_ranks() -> None:
    """Several processes of one launcher would write to the same files."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and ranks != "1":
        raise UsageError(
            f"torchrun started {ranks} processes, but the commands run in one; train on several with your own loop, which "
            "SparseEngine works in (docs/loops.md), or several runs side by side with itop sweep --jobs"
        )


def _refuse(error: Exception) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    print(f"itop: {message}", file=sys.stderr)
    return 2


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="itop",
        description=_DESCRIPTION,
        epilog="itop COMMAND --help explains a command. ITOP_TRACEBACK=1 shows where an error comes from.",
    )
    parser.add_argument("--version", action="version", version=f"itop {_version()}")
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, title="commands")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _version() -> str:
    try:
        return metadata.version("itop")
    except metadata.PackageNotFoundError:
        return "(not installed)"
