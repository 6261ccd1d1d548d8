"""The names of the files in a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from itop.training.config import RunConfig
from itop.training.files import read_json, write_json

__all__ = ["RunFolder", "checkpoint_at"]


@final
@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where one run, of one method and one seed, keeps what it has done."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    @property
    def analysis(self) -> Path:
        """What the run's instruments saw."""
        return self.path / "analysis.json"

    @property
    def topology(self) -> Path:
        """The topologies they kept."""
        return self.path / "topology.npz"

    @property
    def predictions(self) -> Path:
        """Class probabilities of the test samples."""
        return self.path / "predictions.npz"

    @property
    def ticket_predictions(self) -> Path:
        """The same of each network that the run has set aside as a member of an ensemble."""
        return self.path / "tickets.npz"

    @property
    def failure(self) -> Path:
        """Why the run could not be completed, if it could not."""
        return self.path / "failure.json"

    @property
    def is_complete(self) -> bool:
        """Whether the run has been trained to its end; the summary is the last file a run writes."""
        return self.summary.exists()

    def create(self, config: RunConfig) -> None:
        """Makes the folder and writes the configuration into it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config, config.to_dict())

    def record_failure(self, reason: object, *, kind: str) -> str:
        """Writes why the run could not be completed; returns it as one line."""
        line = " ".join(str(reason).split()) or kind
        write_json(self.failure, {"reason": line, "kind": kind})
        return line

    def read_failure(self) -> str | None:
        """Why the run could not be completed; None where nothing says so.

        Raises:
            ValueError: If the record is damaged; the message names it.
        """
        if not self.failure.exists():
            return None
        content = read_json(self.failure)
        return str(content.get("reason", "unknown") if isinstance(content, dict) else content)

    def check_config(self, config: RunConfig) -> None:
        """Makes sure that what is in the folder came from `config`.

        Raises:
            ValueError: If the folder holds a run of another configuration; the message names the first difference.
        """
        if not self.config.exists():
            return
        found = RunConfig.load(self.config).to_dict()
        for name, wanted in config.to_dict().items():
            if found[name] != wanted:
                raise ValueError(
                    f"{self.path} holds another run: its {name} is {found[name]!r}, the one asked for is {wanted!r}"
                )


def checkpoint_at(path: Path) -> Path:
    """A checkpoint as people name it: the file, or a run folder for its last one."""
    return RunFolder(path).last_checkpoint if path.is_dir() else path
