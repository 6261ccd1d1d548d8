"""The presets: name, factory, and what a reader of a list wants to know."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, final

from itop.methods.method import Method

MethodFactory: TypeAlias = Callable[..., Method]


class Family(enum.Enum):
    """Where a method stands in the field."""

    REFERENCE = "reference"
    """What others are compared with."""
    DYNAMIC = "sparse to sparse"
    STRUCTURED = "sparse to sparse, structured"
    ONE_SHOT = "pruning at initialisation"
    GRADUAL = "dense to sparse"
    ROUNDS = "rounds of training"
    TRAINED_MASKS = "trained masks and thresholds"


class Density(enum.Enum):
    """What a method promises of the number of active weights."""

    CONSTANT = "exact at every step"
    FINAL = "exact at the end"
    NEAREST = "the nearest its pattern admits"


@final
@dataclass(frozen=True, slots=True)
class Preset:
    """A method by name.

    Attributes:
        name: As users write it.
        factory: Takes the method's options as keyword arguments, all with defaults.
        family: Where it stands.
        paper: Author and venue.
        cost: FLOPs of a training step and sample, f_S sparse and f_D dense forward (PAPER section 4), and memory beyond
            three bits a weight.
        density: What it promises.
    """

    name: str
    factory: MethodFactory
    family: Family
    paper: str
    cost: str
    density: Density = Density.CONSTANT

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The options by name, with types and defaults."""
        return dict(inspect.signature(self.factory).parameters)
