"""``itop sweep``: a grid of runs or one of the paper's studies, with a live table."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itop.cli.parser import UsageError
from itop.cli.run_arguments import (
    RECIPES_HELP,
    add_fields,
    add_set,
    changed_fields,
    method_options_set,
    new_folder,
    split_pair,
    value_of,
)

if TYPE_CHECKING:
    from itop.studies.study import Study
    from itop.training.config import RunConfig

__all__ = ["add_parser", "plan"]

_DESCRIPTION = """\
Runs many configurations and says what they show together: a grid of your own, from a TOML file or from options, or one of
the paper's studies by name.

A sweep may be stopped or killed at any moment: started again with the same arguments it goes on, and no finished run is
repeated. A run that fails is reported and does not stop the others.
"""

_EXAMPLES = """\
examples:
  itop sweep --study typical-time                            on handwritten digits, in minutes
  itop sweep --study typical-time --recipe mlp-cifar10 --data-root ~/cifar10 --scale 0.03 --sparsity 0.95
  itop sweep --grid method=set-itop,rigl-itop --grid update_every=10,100 --seeds 3 --jobs 2 --out runs/grid
  itop sweep --config grid.toml --out runs/grid

A TOML file:
  recipe = "digits"            # where it starts from
  seeds = 3                    # or a list
  x = "update_every"           # drawn to the right
  [config]                     # fields of config.json and options of methods, for all runs
  epochs = 20
  [grid]                       # every combination is run
  method = ["set-itop", "rigl-itop"]
  update_every = [10, 30, 100]

studies: {studies}
recipes: {recipes}
"""

_STUDY_NAMES = (
    "typical-time",
    "extended-time",
    "batch-size",
    "drop-fraction",
    "growth-rule",
    "methods",
    "overfitting",
    "extreme-sparsity",
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="run a grid or a study of the paper",
        description=_DESCRIPTION,
        epilog=_EXAMPLES.format(studies=", ".join(_STUDY_NAMES), recipes=RECIPES_HELP),
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--study", metavar="NAME", help="one of the paper's studies")
    what.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with a grid")
    what.add_argument(
        "--grid", action="append", type=_axis, default=[], metavar="AXIS=A,B,...", help="values of an axis; repeatable"
    )
    what.add_argument("--x", metavar="AXIS", help="which axis of --grid is drawn to the right")
    what.add_argument("--recipe", metavar="NAME", help="the set-up to start from (default: digits)")
    what.add_argument(
        "--scale",
        type=float,
        metavar="S",
        help="part of the recipe's training, in (0, 1]: fewer epochs, from three on a smaller training set",
    )
    what.add_argument("--methods", metavar="A,B,...", help="methods to study instead of the study's own")
    what.add_argument("--no-baselines", action="store_true", help="no static and dense runs to compare with")
    what.add_argument("--seeds", type=int, metavar="N", help="runs of each point (studies: 3, grids: 1)")
    what.add_argument("--seed", type=int, default=0, metavar="SEED", help="seed of the first of them")

    how = parser.add_argument_group("for all runs")
    add_fields(how, "model", "data_root", "sparsity", "allocation", "epochs", "train_fraction", "batch_size", "lr")
    add_fields(how, "optimizer", "device", "execution", "amp", "workers", "threads")
    add_set(how)

    where = parser.add_argument_group("where")
    where.add_argument("--out", type=Path, metavar="DIR", help="study folder (default: a new one under runs/)")
    where.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, each in its own process")
    where.add_argument(
        "--extend", action="store_true", help="let a folder of other cells become this study; what both have is kept"
    )
    where.add_argument("--dry-run", action="store_true", help="only list the runs")
    where.add_argument("--quiet", action="store_true", help="no live table, only the result")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.cli.sweep_display import SweepDisplay, print_cells, print_results
    from itop.studies.report import write_study_report
    from itop.studies.results import read_results
    from itop.studies.sweep import run_sweep
    from itop.training.interruption import stop_on_signals

    study = plan(options)
    if options.dry_run:
        print_cells(study)
        return 0
    config = study.cells[0].config
    root = options.out or new_folder(f"{study.name}-{config.recipe or config.data}")
    with stop_on_signals() as stop, SweepDisplay(quiet=options.quiet) as display:
        result = run_sweep(study, root, jobs=options.jobs, observer=display, stop=stop, extend=options.extend)
    results = read_results(root)
    if result.is_stopped:
        again = shlex.join(["itop", *_without_out(sys.argv[1:]), "--out", str(root)])
        print(f"Stopped with {len(results.complete)} of {len(study.cells)} runs complete. To go on: {again}")
        return 130
    print_results(results, write_study_report(root))
    return 1 if result.failures else 0


def plan(options: argparse.Namespace) -> Study:
    """The study that parsed arguments describe.

    Raises:
        ValueError: If they describe none; the message names the argument or field.
    """
    from itop.names import require_known
    from itop.studies.grid import plan_grid, read_grid, seeds_of
    from itop.studies.named import STUDIES, Setting

    sources = [
        name
        for name, given in (("--study", options.study), ("--config", options.config), ("--grid", options.grid))
        if given
    ]
    if len(sources) != 1:
        raise UsageError(
            "a sweep needs one of --study, --config and --grid" + (f", got {' and '.join(sources)}" if sources else "")
        )
    if options.jobs < 1:
        raise UsageError(f"--jobs must be at least 1, got {options.jobs}")
    fields, method_options = changed_fields(options), method_options_set(options)
    if options.config is not None:
        _refuse_beside_config(options)
        return read_grid(options.config, {**fields, **method_options})
    base, recipe_options = _base(options, fields)
    default_seeds = 3 if options.study else 1
    seeds = seeds_of(options.seeds if options.seeds is not None else default_seeds, options.seed)
    if options.grid:
        if options.methods is not None or options.no_baselines:
            raise UsageError("--methods and --no-baselines belong to --study; a grid has --grid method=A,B")
        axes = dict(options.grid)
        return plan_grid(base, axes, seeds=seeds, options={**recipe_options, **method_options}, x=options.x)
    study = STUDIES[require_known("study", options.study, STUDIES)]
    methods = None if options.methods is None else tuple(name.strip() for name in options.methods.split(","))
    setting = Setting(base, seeds, None, methods, not options.no_baselines, method_options)
    return study.plan(options.study, setting)


def _base(options: argparse.Namespace, fields: dict[str, Any]) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration that all cells share, and the recipe's own method options."""
    from itop.names import require_known
    from itop.studies.named import scaled
    from itop.training.recipes import DEFAULT_RECIPE, RECIPES

    recipe = RECIPES[require_known("recipe", options.recipe or DEFAULT_RECIPE, RECIPES)]
    base = recipe.config.replace(**fields)
    if base.threads is None:  # cells side by side, each on its own core; and results that do not depend on --jobs
        base = base.replace(threads=1)
    return (base if options.scale is None else scaled(base, options.scale)), dict(recipe.options)


def _refuse_beside_config(options: argparse.Namespace) -> None:
    for name in ("recipe", "scale", "methods", "no_baselines", "seeds", "x"):
        if getattr(options, name):
            raise UsageError(f"--{name.replace('_', '-')} belongs into the TOML file that --config names")


def _without_out(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--out":
            skip = True
        elif not argument.startswith("--out="):
            kept.append(argument)
    return kept


def _axis(text: str) -> tuple[str, list[Any]]:
    key, values = split_pair(text)
    return key.replace("-", "_"), [value_of(value.strip()) for value in values.split(",") if value.strip()]
