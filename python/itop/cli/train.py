"""``itop train``: from arguments to an experiment, and its result on the terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itop.cli.parser import UsageError

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

# Arguments that are fields of a run configuration by another name.
_FIELD_OF = {"lr": "learning_rate"}
_FIELD_ARGUMENTS = (
    "model",
    "data",
    "data_root",
    "download",
    "sparsity",
    "allocation",
    "epochs",
    "max_steps",
    "multiplier",
    "batch_size",
    "lr",
    "optimizer",
    "device",
    "execution",
    "amp",
    "compile",
    "workers",
    "threads",
)
_METHOD_ARGUMENTS = ("update_every", "drop_fraction")
_RECIPE_NAMES = (
    "digits",
    "lenet-fashion-mnist",
    "million-neurons",
    "mlp-cifar10",
    "vgg16-cifar10",
    "resnet34-cifar100",
    "resnet50-imagenet",
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train one or several methods and report",
        description=_DESCRIPTION,
        epilog=_EXAMPLES.format(recipes=", ".join(_RECIPE_NAMES)),
    )
    what = parser.add_argument_group("what to train")
    what.add_argument("--recipe", metavar="NAME", help="a named set-up to start from (default: digits)")
    what.add_argument("--config", type=Path, metavar="FILE", help="a config.json of an earlier run to start from")
    what.add_argument("--model", metavar="NAME", help="a network; mlp:512,512 is an MLP with those hidden sizes")
    what.add_argument("--data", metavar="NAME", help="digits, fashion-mnist, cifar10, cifar100, imagenet or folder")
    what.add_argument(
        "--data-root", metavar="DIR", help="where the data is; with --data folder, train/ and test/ in it"
    )
    what.add_argument("--download", action="store_true", default=None, help="fetch the data if it is not there")

    how = parser.add_argument_group("how sparse, by which method")
    how.add_argument("--method", metavar="NAME", help="one method ('itop methods' lists them)")
    how.add_argument("--methods", metavar="A,B,...", help="several side by side, or 'all' (but 'fixed')")
    how.add_argument("--sparsity", type=float, metavar="S", help="share of weights that are zero, in [0, 1)")
    how.add_argument("--allocation", type=_allocation, metavar="NAME", help="erk, er, uniform, or layer=sparsity,...")
    how.add_argument("--update-every", type=int, metavar="STEPS", help="optimiser steps between topology updates")
    how.add_argument(
        "--drop-fraction", type=float, metavar="P", help="share of active weights an update replaces at first"
    )
    how.add_argument(
        "--set",
        action="append",
        type=_assignment,
        default=[],
        metavar="KEY=VALUE",
        help="any option of the methods, or any field of config.json; may be repeated",
    )

    long = parser.add_argument_group("how long, how often")
    long.add_argument("--epochs", type=int, metavar="N", help="passes over the training set")
    long.add_argument("--max-steps", type=int, metavar="N", help="end after so many optimiser steps even so")
    long.add_argument(
        "--multiplier", type=float, metavar="K", help="extended training: K times the epochs, all else in step"
    )
    long.add_argument("--batch-size", type=int, metavar="N", help="images in a step")
    long.add_argument("--lr", type=float, metavar="RATE", help="learning rate before its schedule")
    long.add_argument("--optimizer", metavar="NAME", help="sgd, adam or adamw")
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
    where.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N")
    where.add_argument(
        "--execution",
        metavar="NAME",
        help="masked (dense weights with zeros) or sparse (values and positions of active weights only, on the CPU)",
    )
    where.add_argument(
        "--amp",
        nargs="?",
        const="auto",
        metavar="TYPE",
        help="mixed precision: bfloat16, float16, or what suits the device",
    )
    where.add_argument("--compile", action="store_true", default=None, help="run the network through torch.compile")
    where.add_argument("--workers", type=int, metavar="N", help="processes that load images of large data sets")
    where.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (digits: 1, else torch's choice)")
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
        root = options.out or _new_folder(experiment)
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
    from itop.training.config import FIELDS
    from itop.training.experiment import plan_experiment
    from itop.training.names import require_known

    recipe = _recipe(options)
    changes = {_FIELD_OF.get(name, name): getattr(options, name) for name in _FIELD_ARGUMENTS}
    changes = {name: value for name, value in changes.items() if value is not None}
    assigned = dict(options.set)
    changes |= {name: value for name, value in assigned.items() if name in FIELDS}
    base = recipe.config.replace(**changes)
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
        options={name: value for name, value in assigned.items() if name not in FIELDS},
        defaults={**recipe.options, **base.method_options, **common},
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    """What the arguments start from: a configuration file, the named recipe, or the one for the data asked for."""
    from itop.data import canonical_dataset_name
    from itop.models import canonical_model_name
    from itop.training.config import RunConfig
    from itop.training.names import require_known
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


def _new_folder(experiment: Experiment) -> Path:
    config = experiment.runs[0]
    name = config.recipe or f"{config.data}-{config.model}".replace(":", "-").replace(",", "-")
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = [Path("runs") / stem, *(Path("runs") / f"{stem}-{number}" for number in range(2, 100))]
    return next(path for path in candidates if not path.exists())


def _allocation(text: str) -> str | dict[str, float]:
    if "=" not in text:
        return text
    pairs = [_split(part) for part in text.split(",")]
    try:
        return {layer: float(sparsity) for layer, sparsity in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layer=sparsity,..., got {text!r}") from None


def _assignment(text: str) -> tuple[str, Any]:
    """``key=value``, the value as JSON where it is JSON, else as text."""
    key, value = _split(text)
    decode: Callable[[str], Any] = json.loads
    try:
        return key.replace("-", "_"), decode(value)
    except (json.JSONDecodeError, RecursionError):
        return key.replace("-", "_"), value


def _split(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    return key.strip(), value.strip()
