"""``itop report``: the report of a run, an experiment or a study, built again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from itop.cli.parser import UsageError

__all__ = ["add_parser"]

_FORMATS = ("svg", "pdf", "csv")
"""Written out, so that help does not wait for torch."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="rebuild the report of a run or study folder",
        description="Writes report.html into a folder again, also while its runs are still going on, and its tables\n"
        "beside it (cells.csv, points.csv, points.tex); on demand its figures as a paper prints them.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a folder that itop train or itop sweep has written"
    )
    parser.add_argument(
        "--figures",
        nargs="?",
        const=",".join(_FORMATS),
        metavar="FORMATS",
        help="write every figure to FOLDER/figures: svg, pdf, csv (its numbers); all three by default",
    )
    parser.add_argument(
        "--interpolate", action="store_true", help="first measure a study's loss between the tickets of two seeds"
    )
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.studies.study import is_study_folder

    formats = _formats(options.figures)
    is_study = is_study_folder(options.folder)
    if options.interpolate:
        if not is_study:
            raise UsageError(f"--interpolate needs a study folder, and {options.folder} has no study.json")
        from itop.studies.landscape import interpolate_study
        from itop.studies.results import read_results

        if not interpolate_study(read_results(options.folder)):
            raise UsageError(f"--interpolate needs a point with two complete runs, and {options.folder} has none yet")
    if is_study:
        from itop.studies.report import write_study_figures as write_figures
        from itop.studies.report import write_study_report as write_page
    else:
        from itop.training.report import write_report as write_page
        from itop.training.report import write_report_figures as write_figures
    print(write_page(options.folder))
    if formats:
        written = write_figures(options.folder, formats)
        said = f"{len(written) // len(formats)} figures as {', '.join(formats)}" if written else "nothing to draw yet"
        print(f"{options.folder / 'figures'}: {said}")
    return 0


def _formats(text: str | None) -> list[str]:
    """The formats that were asked for, none where no figures were."""
    if text is None:
        return []
    formats = [name.strip() for name in text.split(",") if name.strip()]
    if not formats or any(name not in _FORMATS for name in formats):
        raise UsageError(f"--figures takes {', '.join(_FORMATS[:-1])} and {_FORMATS[-1]}, got {text!r}")
    return formats
