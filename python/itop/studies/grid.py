"""Grids of runs: every combination of some values, with several seeds."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itop.methods import METHODS
from itop.names import require_known, unknown_name
from itop.studies.cell import Cell
from itop.studies.study import Axis, Study
from itop.training.config import FIELDS, JsonValue, RunConfig
from itop.training.recipes import DEFAULT_RECIPE, RECIPES
from itop.training.session import build_method, method_options

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["grid_cells", "plan_grid", "read_grid"]

_LABELS = {
    "update_every": "update interval ΔT (steps)",
    "drop_fraction": "drop fraction P",
    "sparsity": "sparsity",
    "batch_size": "batch size",
    "epochs": "epochs",
    "multiplier": "training time (× the recipe's)",
    "learning_rate": "learning rate",
    "train_fraction": "part of the training set",
}
_LOGARITHMIC = {"update_every", "batch_size", "multiplier", "epochs", "learning_rate"}
_KEYS = ("name", "title", "question", "recipe", "seeds", "x", "config", "grid")


def axis_named(name: str) -> Axis:
    """The axis of a configuration field or method option, with a label for figures."""
    return Axis(name, _LABELS.get(name, name.replace("_", " ")), name in _LOGARITHMIC)


def grid_cells(
    base: RunConfig,
    axes: Mapping[str, Sequence[JsonValue]],
    *,
    seeds: Sequence[int],
    options: Mapping[str, JsonValue] | None = None,
    is_baseline: bool = False,
) -> tuple[Cell, ...]:
    """A cell for every combination of values and seed, seeds outermost: each seed completes a whole picture.

    Combinations that come to the same run, such as a dense network at two update intervals, are one cell.

    Args:
        base: What all cells share.
        axes: Values by name of a configuration field or method option.
        seeds: Of the cells of each point.
        options: Method options that all cells share; each method takes those it knows.
        is_baseline: Of all these cells. Those of methods without a truly sparse form are then masked whatever `base` says:
            they are there to compare with.

    Raises:
        ValueError: If a name is neither a field nor an option of one of the methods, or a value is refused.
    """
    methods = [str(method) for method in axes.get("method", (base.method,))]
    for method in methods:
        require_known("method", method, METHODS)
    known = {method: method_options(method) for method in methods}
    for name, values in axes.items():
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError(f"the values of {name!r} must be a list that is not empty, got {values!r}")
        if name in ("seed", "method_options"):
            raise ValueError(f"{name!r} cannot be an axis; seeds are given as 'seeds', options by their own names")
        if name not in FIELDS and not any(name in of_method for of_method in known.values()):
            every = {*FIELDS, *(option for of_method in known.values() for option in of_method)}
            raise ValueError(unknown_name("axis", name, every))
    cells: dict[str, Cell] = {}
    for seed in seeds:
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            method = str(chosen.get("method", base.method))
            offered = {**base.method_options, **(options or {}), **chosen}
            config = base.replace(
                **{name: value for name, value in chosen.items() if name in FIELDS},
                seed=seed,
                method_options={name: value for name, value in offered.items() if name in known[method]},
            )
            built = build_method(config)  # an option that is refused should not come up an hour later
            if is_baseline and not built.works_truly_sparse:
                config = config.replace(execution="masked")
            told = {name: value for name, value in chosen.items() if name in FIELDS or name in known[method]}
            cell = Cell(config, told, is_baseline)
            cells.setdefault(cell.identity, cell)
    return tuple(cells.values())


def plan_grid(
    base: RunConfig,
    axes: Mapping[str, Sequence[JsonValue]],
    *,
    seeds: Sequence[int],
    options: Mapping[str, JsonValue] | None = None,
    x: str | None = None,
    name: str = "grid",
    title: str | None = None,
    question: str = "",
) -> Study:
    """A study of all combinations.

    Args:
        base: What all cells share.
        axes: Values by name of a configuration field or method option.
        seeds: Of the cells of each point.
        options: Method options that all cells share.
        x: The axis drawn to the right; by default the one with the most numbers as values, or none.
        name: Of the study.
        title: By default says what varies.
        question: What is asked.

    Raises:
        ValueError: If the axes make no grid; see :func:`grid_cells`.
    """
    cells = grid_cells(base, axes, seeds=seeds, options=options)
    varying = [axis for axis, values in axes.items() if len(values) > 1]
    if x is not None and x not in axes:
        raise ValueError(unknown_name("axis to draw along", x, axes))
    if x is not None and not all(_is_number(value) for value in axes[x]):
        raise ValueError(f"the axis to draw along must have numbers as values, {x!r} has {list(axes[x])!r}")
    if x is None:
        numeric = [axis for axis in varying if all(_is_number(value) for value in axes[axis])]
        x = max(numeric, key=lambda axis: len(axes[axis]), default=None)
    described = ", ".join(axis.replace("_", " ") for axis in varying) or "one point"
    return Study(
        name,
        title or f"{base.model} on {base.data}: {described}",
        question,
        None if x is None else axis_named(x),
        tuple(axis for axis in varying if axis != x),
        cells,
    )


def read_grid(path: Path, changes: Mapping[str, JsonValue] | None = None) -> Study:
    """The study that a TOML file describes.

    ``recipe`` names where it starts from, ``[config]`` changes fields or options for all cells, ``[grid]`` lists the
    values of each axis, ``seeds`` is a list of seeds or their number, ``x`` the axis to draw along; ``name``, ``title``
    and ``question`` are for people.

    Args:
        path: Of the file.
        changes: Fields of the configuration that override the file's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no TOML or describes no grid; the message names the file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from None
    try:
        return _study_of(content, path.stem, changes or {})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _study_of(content: Mapping[str, Any], stem: str, changes: Mapping[str, JsonValue]) -> Study:
    for key in content:
        if key not in _KEYS:
            raise ValueError(unknown_name("key", key, _KEYS))
    for table in ("config", "grid"):
        if not isinstance(content.get(table, {}), Mapping):
            raise ValueError(f"[{table}] must be a table, got {content[table]!r}")
    axes = content.get("grid", {})
    recipe = RECIPES[require_known("recipe", content.get("recipe", DEFAULT_RECIPE), RECIPES)]
    shared = {**content.get("config", {}), **changes}
    base = recipe.config.replace(**{name: value for name, value in shared.items() if name in FIELDS})
    options = {name: value for name, value in shared.items() if name not in FIELDS}
    methods = [str(method) for method in axes.get("method", (base.method,))]
    for option in options:
        if not any(option in method_options(require_known("method", method, METHODS)) for method in methods):
            raise ValueError(unknown_name("configuration field or method option", option, FIELDS))
    return plan_grid(
        base if base.threads is not None else base.replace(threads=1),
        axes,
        seeds=seeds_of(content.get("seeds", 1), base.seed),
        options={**recipe.options, **options},
        x=content.get("x"),
        name=str(content.get("name", stem)),
        title=content.get("title"),
        question=str(content.get("question", "")),
    )


def seeds_of(seeds: object, first: int = 0) -> tuple[int, ...]:
    """A list of seeds as it is, or so many seeds from `first` on.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds >= 1:
        return tuple(range(first, first + seeds))
    if isinstance(seeds, (list, tuple)) and seeds and all(isinstance(seed, int) for seed in seeds):
        return tuple(seeds)
    raise ValueError(f"seeds must be a list of whole numbers or their number, at least 1, got {seeds!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
