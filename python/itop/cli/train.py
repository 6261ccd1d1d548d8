"""``itop train``: from arguments to an experiment, and its result on the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itop.cli.parser import UsageError
from itop.cli.run_arguments import RECIPES_HELP, add_fields, add_set, changed_fields, method_options_set, new_folder

if TYPE_CHECKING:
    from itop.training.experiment import Experiment
    from itop.training.recipes import Recipe

__all__ = ["add_parser"]

_DESCRIPTION = """\
Trains networks sparsely and says what came of it.

Without arguments: handwritten digits (they come with scikit-learn), a small network, dense beside a fixed sparse
one and SET-ITOP at 90 % sparsity, three seeds each, in under a minute. It ends with a table and the path of a
report to open in a browser. Everything below changes that job, or starts from another recipe.
"""

_EXAMPLES = """\
examples:
  itop train --sparsity 0.98                               the same job, much sparser
  itop train --methods set-itop,rigl-itop --seeds 5        other methods, more seeds
  itop train --recipe mlp-cifar10 --data-root ~/cifar10 --epochs 20 --method set-itop
  itop train --data folder --data-root ~/photos --model resnet18 --epochs 30
  itop train --resume runs/digits-20260101-120000          go on where an interrupted run stopped

recipes: {recipes}
"""

_METHOD_ARGUMENTS = ("update_every", "drop_fraction")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train one or several methods and report",
        description=_DESCRIPTION,
        epilog=_EXAMPLES.format(recipes=RECIPES_HELP),
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--recipe", metavar="NAME", help="a named set-up to start from (default: digits)")
    what.add_argument("--config", type=Path, metavar="FILE", help="a config.json of an earlier run to start from")
    add_fields(what, "model", "data", "data_root", "download")

    how = parser.add_argument_group("how sparse, by which method")
    how.add_argument("--method", metavar="NAME", help="one method ('itop methods' lists them)")
    how.add_argument("--methods", metavar="A,B,...", help="several side by side, or 'all' (but 'fixed')")
    add_fields(how, "sparsity", "allocation")
    how.add_argument("--update-every", type=int, metavar="STEPS", help="optimiser steps between topology updates")
    how.add_argument(
        "--drop-fraction", type=float, metavar="P", help="share of active weights an update replaces at first"
    )
    add_set(how)

    long = parser.add_argument_group("how long, how often")
    add_fields(long, "epochs", "max_steps", "multiplier", "batch_size", "lr", "optimizer")
    long.add_argument("--seeds", type=int, metavar="N", help="runs of each method")
    long.add_argument("--seed", type=int, metavar="SEED", help="seed of the first of them")

    where = parser.add_argument_group("where")
    where.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: a new one under runs/)")
    where.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=True,
        metavar="DIR",
        help="go on with an interrupted run folder; with --out and the same arguments, DIR is not needed",
    )
    add_fields(where, "device", "execution", "amp", "compile", "workers", "threads")
    where.add_argument(
        "--no-tensorboard", action="store_true", help="write no TensorBoard events even where it is installed"
    )
    where.add_argument("--quiet", action="store_true", help="no progress bars, only the table")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.cli.train_display import TrainingDisplay, print_result
    from itop.training.experiment import Experiment, run_experiment
    from itop.training.interruption import Interrupted, stop_on_signals
    from itop.training.observers import ObserverGroup, TensorBoardEvents, TrainingObserver, is_tensorboard_installed
    from itop.training.report import write_report

    if isinstance(options.resume, Path):
        _refuse_beside_resume(options)
        root, experiment = options.resume, Experiment.load(options.resume)
    else:
        experiment = plan(options)
        root = options.out or new_folder(_name(experiment))
    with_events = not options.no_tensorboard and is_tensorboard_installed()
    observers: list[TrainingObserver] = [TensorBoardEvents()] if with_events else []
    with stop_on_signals() as stop, TrainingDisplay(experiment, quiet=options.quiet) as display:
        try:
            result = run_experiment(
                experiment,
                root,
                observer=ObserverGroup([display, *observers]),
                stop=stop,
                resume=options.resume is not None,
            )
        except Interrupted as interruption:
            display.say_how_to_resume(interruption, root)
            return 130
    report = write_report(root)
    print_result(result, experiment, report)
    return 1 if result.failures else 0


def plan(options: argparse.Namespace) -> Experiment:
    """The experiment that parsed arguments describe.

    Raises:
        ValueError: If they describe none; the message names the argument or field.
    """
    from itop.methods import METHODS, comparable_methods
    from itop.names import require_known
    from itop.training.experiment import plan_experiment

    recipe = _recipe(options)
    base = recipe.config.replace(**changed_fields(options))
    if options.method is not None and options.methods is not None:
        raise UsageError("--method and --methods exclude each other")
    chosen = options.method is not None or options.methods is not None
    if options.methods == "all":
        methods: tuple[str, ...] = comparable_methods()
    elif options.methods is not None:
        methods = tuple(name.strip() for name in options.methods.split(",") if name.strip())
    else:
        methods = (options.method,) if options.method is not None else recipe.methods
    for name in methods:
        require_known("method", name, METHODS)
    num_seeds = options.seeds if options.seeds is not None else 1 if chosen else recipe.num_seeds
    if num_seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {num_seeds}")
    first = base.seed if options.seed is None else options.seed
    # The arguments every method may or may not have: a dense run takes the same command as a sparse one.
    common = {name: getattr(options, name) for name in _METHOD_ARGUMENTS if getattr(options, name) is not None}
    return plan_experiment(
        base,
        methods=methods,
        seeds=range(first, first + num_seeds),
        options=method_options_set(options),
        defaults={**recipe.options, **base.method_options, **common},
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    """What the arguments start from: a configuration file, the named recipe, or the one for the data asked for."""
    from itop.data import canonical_dataset_name
    from itop.models import canonical_model_name
    from itop.names import require_known
    from itop.training.config import RunConfig
    from itop.training.recipes import DEFAULT_RECIPE, RECIPES, Recipe

    if options.config is not None:
        if options.recipe is not None:
            raise UsageError("--config and --recipe exclude each other")
        config = RunConfig.load(options.config)
        return Recipe("from a file", config, (config.method,))
    if options.recipe is not None:
        return RECIPES[require_known("recipe", options.recipe, RECIPES)]
    if options.model is None and options.data is None:
        return RECIPES[DEFAULT_RECIPE]
    data = canonical_dataset_name(options.data) if options.data is not None else RECIPES[DEFAULT_RECIPE].config.data
    of_data = [recipe for recipe in RECIPES.values() if recipe.config.data == data]
    if options.model is not None:
        model = canonical_model_name(options.model)
        of_data = sorted(of_data, key=lambda recipe: recipe.config.model != model)
    return of_data[0] if of_data else Recipe("as asked for", RunConfig(), (RunConfig().method,))


def _refuse_beside_resume(options: argparse.Namespace) -> None:
    """A resumed experiment is what it was: arguments that would change it are a mistake."""
    taken = ("run", "parser", "command", "resume", "quiet", "no_tensorboard")
    for name, value in vars(options).items():
        if name not in taken and value not in (None, False, []):
            raise UsageError(
                f"--resume DIR goes on with what the folder describes, so --{name.replace('_', '-')} is too much"
            )


def _name(experiment: Experiment) -> str:
    config = experiment.runs[0]
    return config.recipe or f"{config.data}-{config.model}".replace(":", "-").replace(",", "-")
