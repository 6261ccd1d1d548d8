"""Arguments that describe runs, the same wherever a command takes them."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

__all__ = [
    "RECIPES_HELP",
    "add_fields",
    "add_set",
    "changed_fields",
    "method_options_set",
    "new_folder",
    "split_pair",
    "value_of",
]

RECIPES_HELP: Final = (
    "digits, lenet-fashion-mnist, million-neurons, mlp-cifar10, vgg16-cifar10, resnet34-cifar100, resnet50-imagenet"
)
"""Written out, so that help does not wait for torch."""


def _allocation(text: str) -> str | dict[str, float]:
    if "=" not in text:
        return text
    pairs = [split_pair(part) for part in text.split(",")]
    try:
        return {layer: float(sparsity) for layer, sparsity in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected layer=sparsity,..., got {text!r}") from None


_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "model": {"metavar": "NAME", "help": "a network; mlp:512,512 is an MLP with those hidden sizes"},
    "data": {"metavar": "NAME", "help": "digits, fashion-mnist, cifar10, cifar100, imagenet or folder"},
    "data_root": {
        "metavar": "DIR",
        "help": "where the data is (default: $ITOP_DATA_ROOT); with --data folder, train/ and test/ in it",
    },
    "download": {"action": "store_true", "default": None, "help": "fetch the data if it is not there"},
    "sparsity": {"type": float, "metavar": "S", "help": "share of weights that are zero, in [0, 1)"},
    "allocation": {"type": _allocation, "metavar": "NAME", "help": "erk, er, uniform, or layer=sparsity,..."},
    "epochs": {"type": int, "metavar": "N", "help": "passes over the training set"},
    "max_steps": {"type": int, "metavar": "N", "help": "end after so many optimiser steps even so"},
    "multiplier": {
        "type": float,
        "metavar": "K",
        "help": "extended training: K times the epochs, all else in step",
    },
    "train_fraction": {"type": float, "metavar": "F", "help": "share of the training set that is used"},
    "batch_size": {"type": int, "metavar": "N", "help": "images in a step"},
    "lr": {"type": float, "metavar": "RATE", "help": "learning rate before its schedule"},
    "optimizer": {"metavar": "NAME", "help": "sgd, adam, adamw or snt-asgd"},
    "device": {"metavar": "NAME", "help": "auto, cpu, cuda or cuda:N"},
    "execution": {
        "metavar": "NAME",
        "help": "masked (dense weights with zeros) or sparse (values and positions of active weights only, on the CPU)",
    },
    "amp": {
        "nargs": "?",
        "const": "auto",
        "metavar": "TYPE",
        "help": "mixed precision: bfloat16, float16, or what suits the device",
    },
    "compile": {"action": "store_true", "default": None, "help": "run the network through torch.compile"},
    "workers": {"type": int, "metavar": "N", "help": "processes that load images of large data sets"},
    "threads": {"type": int, "metavar": "N", "help": "threads of a run on the CPU"},
}
_FIELD_OF: Final = {"lr": "learning_rate"}


def add_fields(group: Any, *names: str) -> None:
    """Arguments for fields of a run's configuration, None where they are not given."""
    for name in names:
        group.add_argument(f"--{name.replace('_', '-')}", **_FIELDS[name])


def add_set(group: Any) -> None:
    """``--set KEY=VALUE``, for everything that has no argument of its own."""
    group.add_argument(
        "--set",
        action="append",
        type=_assignment,
        default=[],
        metavar="KEY=VALUE",
        help="any option of the methods, or any field of config.json; may be repeated",
    )


def changed_fields(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a configuration that the arguments give, by their names in it."""
    from itop.training.config import FIELDS

    given = {_FIELD_OF.get(name, name): getattr(options, name, None) for name in _FIELDS}
    given |= {name: value for name, value in options.set if name in FIELDS}
    return {name: value for name, value in given.items() if value is not None}


def method_options_set(options: argparse.Namespace) -> dict[str, Any]:
    """What ``--set`` gives beside fields: options of the methods."""
    from itop.training.config import FIELDS

    return {name: value for name, value in options.set if name not in FIELDS}


def new_folder(name: str) -> Path:
    """A folder under ``runs/`` that is not there yet, named by the moment."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = [Path("runs") / stem, *(Path("runs") / f"{stem}-{number}" for number in range(2, 100))]
    return next(path for path in candidates if not path.exists())


def split_pair(text: str) -> tuple[str, str]:
    """The two sides of ``key=value``."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    return key.strip(), value.strip()


def value_of(text: str) -> Any:
    """JSON where it is JSON, else text."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _assignment(text: str) -> tuple[str, Any]:
    key, value = split_pair(text)
    return key.replace("-", "_"), value_of(value)
