"""Options that methods have in common, and two that every method of parts takes: a pattern, a density that changes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from itop.criteria.initial import RandomMasksOfDensity
from itop.criteria.patterns import Blocks, ConstantFanIn, NofM, Pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.ranges import POSITIVE_FRACTION
from itop.schedules import DensityRamp, Every

COMMON_OPTIONS: Final[Mapping[str, str]] = {
    "allocation": "Of the density to the layers: 'erk', 'er', 'uniform', or sparsities by layer.",
    "update_every": "dT in steps.",
    "until": "Fraction of the run after which the topology stays as it is.",
    "drop_fraction": "P, the share of the active weights replaced in an update, annealed by a half cosine.",
    "final_drop_fraction": "P at the end of the run.",
    "unexplored_first": "Whether weights that were never active are grown before all others.",
    "pattern": "Of the active weights: 'n:16' (at most n of each 16 in a row, n by the density), '4x4' (blocks), 'fan-in' (as many "
    "into every output unit). None: any.",
    "initial_density": "Of the network before the first step, from where a cubic ramp leads to the density aimed at: 1 is "
    "dense to sparse; it may also rise. None: constant.",
    "density_until": "Where that ramp ends, as a fraction of the run.",
}
"""What they mean, by name; a method that has such an option of its own says so itself."""


def takes_pattern(factory: Callable[..., DropAndGrow]) -> Callable[..., DropAndGrow]:
    """Adds the option ``pattern`` to the factory of a method."""

    @functools.wraps(factory)
    def composed(*arguments: Any, pattern: str | Pattern | None = None, **options: Any) -> DropAndGrow:
        return with_pattern(factory(*arguments, **options), pattern)

    return _with_options(composed, factory, {"pattern": (str | None, None)})


def takes_density(factory: Callable[..., DropAndGrow]) -> Callable[..., DropAndGrow]:
    """Adds the options ``initial_density`` and ``density_until`` to the factory of a method."""

    @functools.wraps(factory)
    def composed(
        *arguments: Any, initial_density: float | None = None, density_until: float = 0.75, **options: Any
    ) -> DropAndGrow:
        return with_ramp(factory(*arguments, **options), initial_density, density_until)

    return _with_options(composed, factory, {"initial_density": (float | None, None), "density_until": (float, 0.75)})


def with_pattern(method: DropAndGrow, pattern: str | Pattern | None) -> DropAndGrow:
    """The method with another shape of its active weights; itself where there is none.

    Raises:
        ValueError: If the text names no pattern.
    """
    return method if pattern is None else replace(method, pattern=as_pattern(pattern))


def with_ramp(method: DropAndGrow, initial_density: float | None, until: float = 0.75) -> DropAndGrow:
    """The method with a density that goes from an initial one to that aimed at; itself where there is none.

    Where the topology would stay before the ramp has ended, updates go on until then and follow the ramp.
    """
    POSITIVE_FRACTION.require("density_until", until)
    ramp = DensityRamp(1.0 if initial_density is None else initial_density, 0.0, until)
    if initial_density is None:
        return method
    schedule = method.update_schedule
    if isinstance(schedule, Every):
        schedule = replace(schedule, until=max(schedule.until, until))
    return replace(
        method,
        ramp=ramp,
        initial=RandomMasksOfDensity(initial_density),
        update_schedule=ramp.updates(schedule),
    )


def as_pattern(pattern: str | Pattern) -> Pattern:
    """A pattern from its text, ``"n:16"``, ``"4x4"``, ``"fan-in"``, or itself.

    Raises:
        ValueError: If the text names none.
    """
    if isinstance(pattern, Pattern):
        return pattern
    text = str(pattern).strip().lower()
    if text == "fan-in":
        return ConstantFanIn()
    if match := re.fullmatch(r"n:(\d+)", text):
        return NofM(int(match[1]))
    if match := re.fullmatch(r"(\d+)x(\d+)", text):
        return Blocks(int(match[1]), int(match[2]))
    advice = "; n follows from the sparsity, write n:" + match[1] if (match := re.fullmatch(r"\d+:(\d+)", text)) else ""
    raise ValueError(f"pattern must be 'n:M' as in 'n:16', 'RxC' as in '4x4', or 'fan-in', got {pattern!r}{advice}")


def _with_options(
    composed: Callable[..., DropAndGrow], factory: Callable[..., DropAndGrow], added: dict[str, tuple[object, object]]
) -> Callable[..., DropAndGrow]:
    signature = inspect.signature(factory)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in added.items()
    ]
    composed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *parameters])  # type: ignore[attr-defined]
    return composed
