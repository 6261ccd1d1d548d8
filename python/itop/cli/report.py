"""``itop report``: the report of a run, an experiment or a study, built again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from itop.cli.parser import UsageError

__all__ = ["add_parser"]

_FORMATS = ("svg", "pdf")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="rebuild the report of a run or study folder",
        description="Writes report.html into a folder again, also while its runs are still going on; of a study also its\n"
        "tables, and on demand its figures as a paper prints them.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a folder that itop train or itop sweep has written"
    )
    parser.add_argument(
        "--figures",
        nargs="?",
        const=",".join(_FORMATS),
        metavar="FORMATS",
        help="write a study's figures to FOLDER/figures, as svg, pdf or both (default)",
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="first measure a study's loss between the tickets of two seeds"
    )
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.studies.study import is_study_folder
    from itop.training.report import write_report

    if not is_study_folder(options.folder):
        for name in ("figures", "interpolate"):
            if getattr(options, name):
                raise UsageError(f"--{name} needs a study folder, and {options.folder} has no study.json")
        print(write_report(options.folder))
        return 0
    return _report_study(options)


def _report_study(options: argparse.Namespace) -> int:
    from itop.studies.report import write_study_report
    from itop.studies.results import read_results

    if options.figures is not None:
        formats = [name.strip() for name in options.figures.split(",") if name.strip()]
        unknown = [name for name in formats if name not in _FORMATS]
        if unknown or not formats:
            raise UsageError(f"--figures takes {' and '.join(_FORMATS)}, got {options.figures!r}")
    if options.interpolate:
        from itop.studies.landscape import interpolate_study

        interpolate_study(read_results(options.folder))
    print(write_study_report(options.folder))
    if options.figures is not None:
        from itop.studies.figures import write_figures

        for path in write_figures(read_results(options.folder), options.folder / "figures", formats):
            print(path)
    return 0
