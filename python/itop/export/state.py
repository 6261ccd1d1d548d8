"""The tensors that are exported, and what became of them."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from itop.distributed.shards import is_sharded

ModelOrState: TypeAlias = nn.Module | Mapping[str, Tensor]
"""A model, or what its ``state_dict()`` gave."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Attributes:
        path: The file.
        num_bytes: Its size.
        num_dense_bytes: Of all tensors, zeros included.
        num_compressed: Tensors stored without their zeros.
    """

    path: Path
    num_bytes: int
    num_dense_bytes: int
    num_compressed: int

    @property
    def ratio(self) -> float:
        """Size against dense."""
        return self.num_bytes / max(1, self.num_dense_bytes)


def tensors_of(model: ModelOrState) -> dict[str, Tensor]:
    """The state on the CPU, contiguous; sharded tensors gathered, which every rank must do together.

    Raises:
        ValueError: If a value is not a tensor.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"'{name}' of the state is a {type(value).__name__}, only tensors can be exported")
        whole = value.full_tensor() if is_sharded(value) else value
        tensors[name] = whole.detach().cpu().contiguous()
    return tensors


def num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def nonzero_bits(tensor: Tensor) -> Tensor:
    """Where a tensor is not exactly +0: by its bits, so that -0 comes back as it was."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(kinds[tensor.element_size()]) != 0


def is_worth_compressing(tensor: Tensor, stored: int) -> bool:
    """A floating-point matrix, or more, that takes less room in the other form."""
    return tensor.dim() >= 2 and tensor.is_floating_point() and stored < num_bytes(tensor)


def require(module: str, purpose: str, package: str | None = None) -> Any:
    """An optional package.

    Raises:
        RuntimeError: If it is not installed; says what it is for.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(
            f"{purpose} needs the package {package or module}, which is not installed: pip install {package or module}"
        ) from error


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Writes beside ``path`` and renames: an interruption leaves what was there."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        write(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


@contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Whatever a library says of a file that it cannot read, in one sentence.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {os.fspath(path)}")
    try:
        yield
    except Exception as error:  # each library has errors of its own for each way of being damaged
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"{os.fspath(path)} is damaged, or no {kind} file: {line.rstrip('.')}; export the checkpoint that it was made of again"
        ) from error


def report(path: Path, tensors: Mapping[str, Tensor], num_compressed: int) -> ExportReport:
    return ExportReport(path, path.stat().st_size, sum(map(num_bytes, tensors.values())), num_compressed)
