"""Checkpoints of a training over several processes: complete or not there at all, and cut anew for other world sizes.

>>> states = {"training": ModelAndOptimizer(model, optimizer), "engine": engine}   # doctest: +SKIP
>>> save("checkpoints", step, states)                                               # doctest: +SKIP
>>> if (newest := latest("checkpoints")) is not None:                               # doctest: +SKIP
...     load(newest, states)

A checkpoint is written into a hidden folder and renamed when it is whole: whoever is killed while it is written leaves the
one before. Every rank must call these functions; they work in one process too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_states
from torch.distributed.checkpoint.state_dict_saver import save as save_states
from torch.optim import Optimizer

from itop.distributed.checksums import find_damage, write_checksums

_NAME = re.compile(r"step-(\d{10})")


class ModelAndOptimizer:
    """``Stateful`` of a model and its optimiser, by the names of the model's parameters and free of wrappers' prefixes."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model = model
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        set_state_dict(
            self._model, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )


def save(folder: str | os.PathLike[str], step: int, states: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Writes ``folder/step-NNNNNNNNNN``, whole or not at all, and removes the oldest beyond ``keep``.

    Args:
        folder: Seen by all ranks.
        step: Orders checkpoints; one that is there already is replaced.
        states: ``Stateful`` objects, tensors, numbers; keys are what :func:`load` finds them by.
        keep: Checkpoints that stay, at least 1.

    Raises:
        ValueError: If ``step`` is negative or ``keep`` less than 1.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"step must not be negative and keep at least 1, got {step} and {keep}")
    target = Path(folder) / f"step-{step:010d}"
    partial = target.with_name(f".{target.name}.partial")
    if _is_first_rank():
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    _wait_for_all()
    save_states(dict(states), checkpoint_id=partial, no_dist=not _has_ranks())
    write_checksums(partial)
    if _is_first_rank():
        _sync(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
        for old in _complete(target.parent)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        for left_over in target.parent.glob(".step-*.partial"):
            shutil.rmtree(left_over, ignore_errors=True)
    _wait_for_all()
    return target


def latest(folder: str | os.PathLike[str]) -> Path | None:
    """The newest complete checkpoint, as the first rank sees it; None if there is none."""
    newest = [_complete(Path(folder))[-1:]] if _is_first_rank() else [[]]
    if _has_ranks():
        dist.broadcast_object_list(newest, src=0)
    return newest[0][0] if newest[0] else None


def load(path: str | os.PathLike[str], states: Mapping[str, Any]) -> None:
    """Loads a checkpoint of :func:`save`, whatever number of ranks wrote it and however they cut the model.

    Torch reads into the tensors of a model before anybody has looked at the rest, and looks at no checksum. So files are
    looked at first, then engines look at their states.

    Raises:
        ValueError: On every rank, if there is no complete checkpoint, a file of it is damaged, or it belongs to another model,
            method, sparsity or seed; nothing has been changed then.
    """
    folder = Path(path)
    damage = find_damage(folder)
    if damage is not None:
        raise ValueError(f"{folder} is not a complete checkpoint, or damaged: {damage}; {_advice(folder)}")
    looking = {key: state for key, state in states.items() if hasattr(state, "check_state_dict")}
    saved = {key: state.state_dict() for key, state in looking.items()}
    with _in_one_sentence(folder):
        if saved:
            load_states(saved, checkpoint_id=folder, no_dist=not _has_ranks())
        for key, state in looking.items():
            state.check_state_dict(saved[key])
        load_states(dict(states), checkpoint_id=folder, no_dist=not _has_ranks())


def _advice(folder: Path) -> str:
    """Which checkpoint to load instead."""
    others = [other for other in _complete(folder.parent) if other.name != folder.name]
    earlier = [other for other in others if other.name < folder.name] or others
    return f"load {earlier[-1]}" if earlier else f"there is no other one in {folder.parent}"


@contextmanager
def _in_one_sentence(path: object) -> Iterator[None]:
    try:
        yield
    except (CheckpointException, RuntimeError, KeyError) as error:
        reason = _first_line(error)
        raise ValueError(f"the checkpoint {path} does not fit this model, optimiser and engine: {reason}") from error


def _first_line(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _complete(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def _has_ranks() -> bool:
    return dist.is_available() and dist.is_initialized()


def _is_first_rank() -> bool:
    return not _has_ranks() or dist.get_rank() == 0


def _wait_for_all() -> None:
    if _has_ranks():
        dist.barrier()


def _sync(folder: Path) -> None:
    """Files and their folder on the disk before the rename makes them count."""
    for path in [*folder.iterdir(), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
