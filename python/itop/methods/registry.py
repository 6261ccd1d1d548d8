"""The presets: name, factory, and what a reader of a list wants to know."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias, final

from itop.methods.composed import COMMON_OPTIONS
from itop.methods.descriptions import DESCRIPTIONS
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
    GIVEN = "that of the masks it is given"


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
    def equation(self) -> str:
        """What decides which weights are active."""
        return DESCRIPTIONS[self.name].equation

    @property
    def parts(self) -> str:
        """Initial masks, drop, grow and the rest, in a few words."""
        return DESCRIPTIONS[self.name].parts

    @property
    def rule(self) -> str:
        """The first sentences of the factory's documentation, in one line."""
        return (inspect.getdoc(self.factory) or "").split("\n\n")[0].replace("\n", " ")

    @property
    def explanation(self) -> tuple[str, ...]:
        """The paragraphs of the factory's documentation, one line each, without its options."""
        text = re.split(r"^\w+:$", inspect.getdoc(self.factory) or "", flags=re.MULTILINE)[0]
        plain = re.sub(r"\*(\w+)\*", r"\1", text.strip().replace("``", ""))
        return tuple(" ".join(paragraph.split()) for paragraph in plain.split("\n\n"))

    @property
    def option_texts(self) -> dict[str, str]:
        """What the documentation says of options, by name; several may share a text."""
        texts = {name: text for name, text in COMMON_OPTIONS.items() if name in self.parameters}
        for factory in reversed(getattr(self.factory, "__mro__", (self.factory,))):
            for names, text in _documented_options(factory):
                texts |= {name: text for name in names if name in self.parameters}
        return texts

    @property
    def unchecked(self) -> frozenset[str]:
        """Options whose defaults nobody could check against a source: their documentation says ``(?)``."""
        return frozenset(name for name, text in self.option_texts.items() if "(?)" in text)

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The options by name, with types and defaults."""
        return dict(inspect.signature(self.factory).parameters)


def _documented_options(factory: object) -> Iterator[tuple[set[str], str]]:
    """The entries of the section ``Args``: the names an entry is about, and its text."""
    sections = re.split(r"^Args:$", inspect.cleandoc(factory.__doc__ or ""), flags=re.MULTILINE)
    if len(sections) < 2:
        return
    section = re.split(r"^\S", sections[1], flags=re.MULTILINE)[0]
    for entry in re.split(r"\n    (?=\w)", section):
        names, _, text = entry.partition(":")
        yield {name.strip() for name in names.split(",")}, " ".join(text.split()).replace("``", "")
