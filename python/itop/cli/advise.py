"""``itop advise``: the update interval and drop fraction that reach a wanted exploration rate, before any training."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import TYPE_CHECKING, Any

from itop.cli.parser import UsageError

if TYPE_CHECKING:
    from itop.analysis import Advice, Refusal
    from itop.analysis.advise import Training
    from itop.analysis.layer import Layer

__all__ = ["add_parser"]


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "advise",
        help="choose the update interval for a wanted exploration rate",
        description="Says which update interval (dT) and drop fraction (P) let a sparse network explore a wanted part of "
        "its weights (R_s)\nand still keep at least a wanted number of steps between updates. Random growth; nothing is "
        "trained.\nWhat cannot be reached is refused, with what could (exit code 1).",
    )
    parser.add_argument("--recipe", metavar="NAME", help="a named set-up to start from (default: digits)")
    parser.add_argument("--model", metavar="NAME", help="a network; mlp:512,512 is an MLP with those hidden sizes")
    parser.add_argument("--data", metavar="NAME", help="digits, fashion-mnist, cifar10, cifar100 or imagenet")
    parser.add_argument(
        "--samples", type=int, metavar="N", help="training samples of an epoch (default: the data set's)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N", help="passes over them")
    length.add_argument("--steps", type=int, metavar="N", help="optimiser steps, instead of epochs")
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples of a step")
    parser.add_argument("--sparsity", type=float, metavar="S", help="share of weights that are zero, in [0, 1)")
    parser.add_argument("--allocation", metavar="NAME", help="erk, er or uniform (default: erk)")
    parser.add_argument("--rate", type=float, default=0.9, metavar="R", help="wanted R_s at the end (default: 0.9)")
    parser.add_argument(
        "--min-interval", type=int, default=1, metavar="STEPS", help="fewest steps between updates (default: 1)"
    )
    parser.add_argument(
        "--drop-fraction", type=float, default=0.5, metavar="P", help="preferred initial P (default: 0.5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    from itop.analysis import Advice, DropFractionChoice
    from itop.analysis.advise import advise

    _check(options)
    layers, training = _setting(options)
    density = sum(layer.num_active for layer in layers) / sum(layer.numel for layer in layers)
    if not density < options.rate <= 1.0:
        raise UsageError(
            f"--rate must be at most 1 and above {density:g}, the density, which a topology that never moves explores, "
            f"got {options.rate:g}"
        )
    choice = DropFractionChoice(
        preferred=options.drop_fraction,
        largest=max(0.9, options.drop_fraction),
        final=min(0.005, options.drop_fraction),
    )
    answer = advise(layers, training, options.rate, options.min_interval, drop_fractions=choice)
    if isinstance(answer, Advice):
        _print_advice(answer, _what_to_do(options, answer), as_json=options.json)
        return 0
    _print_refusal(answer, as_json=options.json)
    return 1


def _check(options: argparse.Namespace) -> None:
    for name in ("samples", "epochs", "steps", "batch_size", "min_interval"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not 0.0 < options.drop_fraction <= 1.0:
        raise UsageError(f"--drop-fraction must be in (0, 1], got {options.drop_fraction:g}")


def _setting(options: argparse.Namespace) -> tuple[list[Layer], Training]:
    """The network at the densities it is going to have, and the length of its training."""
    import torch

    from itop.allocation import LayerShape, as_allocation
    from itop.analysis.advise import Training
    from itop.analysis.layer import Layer
    from itop.layers import find_layers
    from itop.models import build_model
    from itop.names import require_known
    from itop.studies.named import training_samples
    from itop.training.published import PUBLISHED
    from itop.training.recipes import DEFAULT_RECIPE, RECIPES

    recipe = RECIPES[require_known("recipe", options.recipe or DEFAULT_RECIPE, RECIPES)].config
    changes = {
        name: getattr(options, name)
        for name in ("model", "data", "epochs", "batch_size", "sparsity", "allocation")
        if getattr(options, name) is not None
    }
    config = recipe.replace(**changes)
    if config.data not in PUBLISHED:
        raise UsageError(f"--data must be one of {', '.join(PUBLISHED)}, got {config.data!r}")
    data = PUBLISHED[config.data]
    with torch.device("meta"):
        model = build_model(config.model, num_classes=data.num_classes, input_shape=data.input_shape)
    found = find_layers(model)
    shapes = [LayerShape(layer.name, layer.shape) for layer in found]
    counts = as_allocation(config.allocation or "erk").counts(shapes, config.sparsity)
    layers = [
        Layer(shape.name, tuple(shape.shape), count / shape.numel) for shape, count in zip(shapes, counts, strict=True)
    ]
    samples = options.samples if options.samples is not None else training_samples(config)
    if options.steps is not None:
        return layers, Training(num_samples=options.steps, batch_size=1, epochs=1)
    return layers, Training(num_samples=samples, batch_size=config.batch_size, epochs=config.num_epochs)


def _what_to_do(options: argparse.Namespace, advice: Advice) -> str:
    """The command that trains as advised; of a length or data set that no recipe has, the method for a loop."""
    chosen = f"update_every={advice.update_every}, drop_fraction={advice.drop_fraction:g}"
    if options.steps is not None or options.samples is not None:
        return f'SparseEngine(..., METHODS["set-itop"]({chosen}), total_steps={advice.total_steps})'
    given = [
        argument
        for name in ("recipe", "model", "data", "epochs", "batch_size", "sparsity", "allocation")
        if getattr(options, name) is not None
        for argument in (f"--{name.replace('_', '-')}", str(getattr(options, name)))
    ]
    intervals = ["--update-every", str(advice.update_every), "--drop-fraction", f"{advice.drop_fraction:g}"]
    return shlex.join(["itop", "train", *given, "--method", "set-itop", *intervals])


def _print_advice(advice: Advice, command: str, *, as_json: bool) -> None:
    values = {
        "update_every": advice.update_every,
        "drop_fraction": advice.drop_fraction,
        "final_drop_fraction": advice.final_drop_fraction,
        "exploration_rate": advice.exploration_rate,
        "standard_error": advice.standard_error,
        "num_updates": advice.num_updates,
        "total_steps": advice.total_steps,
        "command": command,
    }
    if as_json:
        print(json.dumps(values, indent=2))
        return
    print(
        f"Update interval (dT)  {_steps(advice.update_every)} of {advice.total_steps:,}: {_updates(advice.num_updates)}\n"
        f"Drop fraction (P)     {advice.drop_fraction:g}, annealed to {advice.final_drop_fraction:g}\n"
        f"Predicted R_s         {advice.exploration_rate * 100:.2f} %, ± {advice.standard_error * 100:.2g} points from "
        "run to run\n"
        "For random growth; growth by gradient explores less.\n\n"
        f"  {command}"
    )


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count:,} steps"


def _updates(count: int) -> str:
    return "1 update" if count == 1 else f"{count:,} updates"


def _print_refusal(refusal: Refusal, *, as_json: bool) -> None:
    if as_json:
        values = {
            "refused": refusal.message,
            "largest_rate": refusal.largest_rate,
            "epochs_needed": refusal.epochs_needed,
            "longest_update_every": refusal.longest_update_every,
        }
        print(json.dumps(values, indent=2))
        return
    fraction = f"{refusal.drop_fraction:g}"
    print(
        f"R_s of {refusal.wanted_rate * 100:g} % with at least {_steps(refusal.min_update_every)} between updates cannot be "
        f"reached.\nWhat can be, with a drop fraction of {fraction}:\n"
        f"  {refusal.largest_rate * 100:.2f} % as it is"
    )
    if refusal.epochs_needed is not None:
        print(f"  the wanted rate in {refusal.epochs_needed:,} epochs")
    if refusal.longest_update_every is not None:
        print(f"  the wanted rate with {_steps(refusal.longest_update_every)} between updates")
