"""``itop bench``: every figure beside its peer or limit, in one run.

A suite is a module of the package ``itop.benchmarks`` with a ``SUITE``; this command finds the modules, runs the suites
and prints their rows.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import operator
import pkgutil
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from itop.names import require_known
from itop.training.files import write_json

__all__ = ["BenchmarkRow", "BenchmarkSuite", "add_parser", "find_suites", "is_met"]

_PACKAGE = "itop.benchmarks"
_LIMIT = re.compile(r"(<=|>=|<|>) *(\d+(?:\.\d+)?)")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


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
    import torch
    from rich.console import Console

    import itop
    from itop.training.environment import describe_environment

    suites = find_suites()
    console = Console(highlight=False)
    if options.list or not suites:
        for suite in suites.values():
            console.print(f"[bold]{suite.name}[/]  {suite.description}", soft_wrap=True)
        if not suites:
            console.print("No benchmarks are installed.")
        return 0
    wanted = [require_known("benchmark", name, suites) for name in options.suites] or list(suites)
    environment = describe_environment(torch.device("cpu"))
    results: dict[str, Any] = {"environment": environment | {"instruction_set": itop.build_info()["instruction_set"]}}
    for name in wanted:
        suite = suites[name]
        console.print(f"[bold]{suite.description}[/]")
        results[name] = []
        with console.status("measuring"):
            for row in suite.run():
                results[name].append(
                    {"name": row.name, "ours": row.ours, "peer": row.peer, "ratio": row.ratio, "limit": row.limit}
                )
                console.print(f"  {row.name}\n{_figures(row)}", soft_wrap=True)
        console.print()
        write_json(options.out, results)
    console.print(f"Written to {options.out}", soft_wrap=True)
    return 0


def _figures(row: BenchmarkRow) -> str:
    """One line: the ratio and what it should be, then the two times it is made of."""
    verdict = is_met(row.ratio, row.limit)
    style = {True: "green", False: "red", None: "default"}[verdict]
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}x"
    wanted = f"wanted {row.limit}" if verdict is not None else row.limit
    missed = "  [red]MISSED[/]" if verdict is False else ""
    return f"    [{style}]{ratio:>7}[/]  {wanted:<26}{row.ours} beside {row.peer}{missed}"


def is_met(ratio: float | None, limit: str) -> bool | None:
    """Whether a ratio is what `limit` says ("<= 1.02", ">= 4x (floor 10x)"); None where that asks for nothing."""
    found = _LIMIT.match(limit)
    if ratio is None or found is None:
        return None
    return _COMPARISONS[found[1]](ratio, float(found[2]))
