"""One cell of a study: a run, and where it stands on the study's axes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from itop.training.config import JsonValue, RunConfig
from itop.training.outcomes import OnAxes
from itop.training.run_folder import RunFolder

__all__ = ["Cell", "identity_of"]

_DEFAULTS = RunConfig().to_dict()


def identity_of(config: RunConfig) -> str:
    """Twelve hexadecimal digits that name a configuration: runs are the same if and only if these are.

    Every field counts. Fields at their defaults are left out of the hash, so that finished cells keep their names when a
    later release adds a field.
    """
    told = {name: value for name, value in config.to_dict().items() if value != _DEFAULTS[name]}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


@final
@dataclass(frozen=True, slots=True)
class Cell(OnAxes):
    """A run of a study.

    Args:
        config: What is trained.
        axes: The values that tell this cell's point from the others, by axis; the seed is none of them. Cells that
            differ in their seed alone belong to one point.
        is_baseline: Whether it is what the study compares with, not a part of the question.
    """

    config: RunConfig
    axes: Mapping[str, JsonValue]
    is_baseline: bool = False

    @property
    def identity(self) -> str:
        return identity_of(self.config)

    def folder(self, root: Path) -> RunFolder:
        """Its run folder under the study's folder `root`."""
        return RunFolder(root / "cells" / f"{self.config.method}-seed-{self.config.seed}-{self.identity}")

    def is_complete(self, root: Path) -> bool:
        """Whether it has been trained to its end; the summary is the last file a run writes."""
        return self.folder(root).is_complete

    def to_dict(self) -> dict[str, Any]:
        return {"axes": dict(self.axes), "is_baseline": self.is_baseline, "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cell:
        return cls(RunConfig.from_dict(values["config"]), dict(values["axes"]), bool(values["is_baseline"]))
