"""``itop bench``: every figure beside its peer or limit, in one run.

A suite is a module of the package ``itop.benchmarks`` with a ``SUITE``; this command finds the modules, runs the suites
and prints their rows.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from itop.training.files import write_json
from itop.training.names import require_known

__all__ = ["BenchmarkRow", "BenchmarkSuite", "add_parser", "find_suites"]

_PACKAGE = "itop.benchmarks"


class BenchmarkRow(Protocol):
    """One figure: what ours takes, what the peer's way takes, their ratio, and what the ratio should be."""

    @property
    def name(self) -> str: ...
    @property
    def ours(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def ratio(self) -> float | None: ...
    @property
    def limit(self) -> str: ...


class BenchmarkSuite(Protocol):
    """Figures that are measured together."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    def run(self) -> Iterable[BenchmarkRow]: ...


def find_suites() -> dict[str, BenchmarkSuite]:
    """The suites of ``itop.benchmarks`` by name."""
    if importlib.util.find_spec(_PACKAGE) is None:
        return {}
    package = importlib.import_module(_PACKAGE)
    modules = (importlib.import_module(f"{_PACKAGE}.{entry.name}") for entry in pkgutil.iter_modules(package.__path__))
    suites = [module.SUITE for module in modules if hasattr(module, "SUITE")]
    return {suite.name: suite for suite in suites}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory against peers",
        description="Measures on this machine, ours and the peer's way in one run: ratios hold where times do not.",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="which to run; all without")
    parser.add_argument("--list", action="store_true", help="list the suites and stop")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("itop-bench.json"),
        metavar="FILE",
        help="where the figures go as JSON (default: %(default)s)",
    )
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    suites = find_suites()
    console = Console()
    if options.list or not suites:
        for suite in suites.values():
            console.print(f"[bold]{suite.name}[/]  {suite.description}", highlight=False, soft_wrap=True)
        if not suites:
            console.print("No benchmarks are installed.")
        return 0
    wanted = [require_known("benchmark", name, suites) for name in options.suites] or list(suites)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in wanted:
        suite = suites[name]
        with console.status(f"{name}: {suite.description}"):
            rows = list(suite.run())
        results[name] = [
            {"name": row.name, "ours": row.ours, "peer": row.peer, "ratio": row.ratio, "limit": row.limit}
            for row in rows
        ]
        table = Table(title=suite.description, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column(name)
        for heading in ("ours", "peer", "ratio", "wanted"):
            table.add_column(heading, justify="right")
        for row in rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.3g}x"
            table.add_row(row.name, str(row.ours), str(row.peer), ratio, str(row.limit))
        console.print(table, "")
    write_json(options.out, results)
    console.print(f"Written to {options.out}")
    return 0
