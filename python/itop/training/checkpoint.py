"""Checkpoints: written atomically, read without running any code in them.

A checkpoint is one ``torch.save`` file of plain containers and tensors. It carries a table of its layers, so that
``itop inspect`` needs neither the model nor the data that made it.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from itop.saved_codes import read_mask
from itop.torch_files import PackedFileError, check_archive
from itop.training.files import write_atomically

__all__ = [
    "CHECKPOINT_VERSION",
    "Checkpoint",
    "CheckpointError",
    "LayerSummary",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]

CHECKPOINT_FORMAT = "itop-checkpoint"
CHECKPOINT_VERSION = 1


class CheckpointError(ValueError):
    """A file that is no usable checkpoint, or a checkpoint of something else."""


@final
@dataclass(frozen=True, slots=True)
class LayerSummary:
    """What a checkpoint tells of one layer's topology without its masks being unpacked.

    Args:
        name: The parameter's name in the model.
        shape: Its shape.
        num_active, num_explored, num_reliable: Weights in each set; reliable <= explored, active <= explored.
    """

    name: str
    shape: tuple[int, ...]
    num_active: int
    num_explored: int
    num_reliable: int

    def __post_init__(self) -> None:
        counts = (self.num_active, self.num_explored, self.num_reliable)
        whole = all(isinstance(count, int) and not isinstance(count, bool) for count in (*self.shape, *counts))
        if not isinstance(self.name, str) or not whole:
            raise ValueError("a layer needs a name, a shape and three counts")
        if len(self.shape) > 16 or any(not 0 <= size < 2**48 for size in self.shape):
            raise ValueError(f"layer {self.name!r} has no usable shape")
        if any(not 0 <= count <= self.numel for count in counts):
            raise ValueError(f"layer {self.name!r} has counts outside [0, {self.numel}]")

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        return _ratio(self.num_active, self.numel)

    @property
    def exploration_rate(self) -> float:
        return _ratio(self.num_explored, self.numel)

    @property
    def reliable_rate(self) -> float:
        return _ratio(self.num_reliable, self.numel)


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Args:
        config: ``RunConfig.to_dict()`` of the run.
        position: Where training stands: ``round``, ``epoch``, ``batch`` within the epoch, ``step`` in all.
        layers: The topology in numbers.
        states: State dicts by what they belong to: ``model``, ``optimizer``, ``engine``, ``scaler``, ``random`` ...
    """

    config: Mapping[str, Any]
    position: Mapping[str, int]
    layers: Sequence[LayerSummary]
    states: Mapping[str, Any]

    def masks(self) -> dict[str, Tensor]:
        """Where weights are active, bool by layer name, in the model's order.

        Raises:
            CheckpointError: If the topology in it is missing or damaged.
        """
        try:
            saved = self.states["engine"]["layers"]
            return {layer.name: read_mask(layer.name, layer.shape, saved[layer.name]) for layer in self.layers}
        except (KeyError, TypeError):
            raise CheckpointError(
                "the checkpoint is damaged: the topology of one of the layers that it lists is missing"
            ) from None
        except ValueError as error:
            raise CheckpointError(str(error)) from None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `checkpoint` to `path` atomically: an interruption leaves the old file."""
    content = {
        "format": CHECKPOINT_FORMAT,
        "version": CHECKPOINT_VERSION,
        "config": dict(checkpoint.config),
        "position": dict(checkpoint.position),
        "layers": [asdict(layer) for layer in checkpoint.layers],
        "states": dict(checkpoint.states),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads a checkpoint; no code in the file is ever run.

    Args:
        path: The file.
        device: Where its tensors go.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file is damaged, foreign, hostile or of a later version; one sentence says which.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        check_archive(path)
    except PackedFileError as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is no itop checkpoint, or damaged: {error}") from None
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path} is refused: it holds objects other than tensors and plain values") from None
    except MemoryError:
        raise CheckpointError(f"{path} is refused: it asks for more memory than there is") from None
    except Exception:  # a damaged archive fails in many ways, none of which tells the reader more than this
        raise CheckpointError(f"{path} is damaged: its contents cannot be read") from None
    return _checked(path, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint to look at it.

    Raises:
        FileNotFoundError: If there is none.
        CheckpointError: If it cannot be used; names another one of the same run that can.
    """
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        for other in sorted(path.parent.glob("*.pt")):
            if other != path and _is_usable(other):
                raise CheckpointError(f"{error}; {other} beside it can be read") from None
        raise


def _is_usable(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except (CheckpointError, OSError):
        return False
    return True


def _checked(path: Path, content: object) -> Checkpoint:
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{path} is no itop checkpoint: it was written by something else")
    version = content.get("version")
    if version != CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {version!r:.40}, this itop reads version {CHECKPOINT_VERSION}"
        )
    config, position, layers, states = (content.get(key) for key in ("config", "position", "layers", "states"))
    if not isinstance(config, dict) or not isinstance(states, dict):
        raise CheckpointError(f"{path} is damaged: its configuration or states are missing")
    if not isinstance(position, dict) or not all(
        isinstance(key, str) and isinstance(value, int) and 0 <= value < 2**63 for key, value in position.items()
    ):
        raise CheckpointError(f"{path} is damaged: it does not say where training stood")
    try:
        table = [_layer(entry) for entry in layers]  # type: ignore[union-attr]
    except (TypeError, ValueError, KeyError):
        raise CheckpointError(f"{path} is damaged: its table of layers is not usable") from None
    return Checkpoint(config, position, table, states)


def _layer(entry: Mapping[str, Any]) -> LayerSummary:
    return LayerSummary(**{**entry, "shape": tuple(entry["shape"])})


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
