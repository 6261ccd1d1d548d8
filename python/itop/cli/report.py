"""``itop report``: the report of a run folder, built again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="rebuild the report of a run folder",
        description="Writes report.html into a run folder again, also while its runs are still going on.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_DIR", help="a folder that itop train has written")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.training.report import write_report

    print(write_report(options.folder))
    return 0
