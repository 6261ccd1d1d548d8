"""A question asked of many runs, as a value, and the file that describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from itop.studies.cell import Cell
from itop.training.files import read_json, write_json

__all__ = ["Axis", "Study", "is_study_folder"]


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """What varies over a study.

    Args:
        name: A field of the run configuration or an option of the methods.
        label: For a figure, with its unit.
        is_logarithmic: Whether values are drawn on a logarithmic axis.
    """

    name: str
    label: str
    is_logarithmic: bool = False


@final
@dataclass(frozen=True, slots=True)
class Study:
    """Cells that answer one question together.

    Args:
        name: Short, for folders.
        title: For people.
        question: What is asked, in a sentence or two.
        axis: What is drawn to the right; None where points have no order (methods side by side).
        series: The other axes that vary: points that agree in them are one line of a figure.
        cells: In the order in which they are run; no configuration twice.

    Raises:
        ValueError: If there is no cell, or one twice.
    """

    name: str
    title: str
    question: str
    axis: Axis | None
    series: tuple[str, ...]
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        if not self.cells:
            raise ValueError("a study needs at least one cell, got none")
        identities = [cell.identity for cell in self.cells]
        for cell, identity in zip(self.cells, identities, strict=True):
            if identities.count(identity) > 1:
                raise ValueError(f"the cell {cell.label} is there twice")

    @property
    def points(self) -> dict[str, list[Cell]]:
        """The cells of each point, which differ in their seed."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.point, []).append(cell)
        return found

    def save(self, root: Path) -> None:
        """Writes ``study.json`` into the study's folder."""
        write_json(
            root / "study.json",
            {
                "name": self.name,
                "title": self.title,
                "question": self.question,
                "axis": None
                if self.axis is None
                else {
                    "name": self.axis.name,
                    "label": self.axis.label,
                    "is_logarithmic": self.axis.is_logarithmic,
                },
                "series": list(self.series),
                "cells": [cell.to_dict() for cell in self.cells],
            },
        )

    @classmethod
    def load(cls, root: Path) -> Study:
        """Reads the study in folder `root`.

        Raises:
            FileNotFoundError: If the folder is none of a study.
            ValueError: If its description is not usable.
        """
        path = root / "study.json"
        if not path.exists():
            raise FileNotFoundError(f"{root} is no study folder: it has no study.json")
        content = read_json(path)
        try:
            axis = None if content["axis"] is None else Axis(**content["axis"])
            return cls(
                str(content["name"]),
                str(content["title"]),
                str(content["question"]),
                axis,
                tuple(content["series"]),
                tuple(Cell.from_dict(cell) for cell in content["cells"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not describe a study: {error}") from None


def is_study_folder(root: Path) -> bool:
    """Whether `root` is the folder of a study, not of a run or an experiment."""
    return (root / "study.json").exists()


def same_cells(first: Sequence[Cell], second: Sequence[Cell]) -> bool:
    """Whether both are the same runs, in whatever order."""
    return _identities(first) == _identities(second)


def _identities(cells: Sequence[Cell]) -> Mapping[str, Any]:
    return {cell.identity: (cell.point, cell.is_baseline) for cell in cells}
