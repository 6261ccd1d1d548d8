"""A training that saves and resumes, and kills its own process with SIGKILL at a moment it is told.

Runs as a function of a process, or as a script under torchrun: ``killed_training.py FOLDER LAYOUT MOMENT RANK``. What
torchrun starts again by itself is not killed again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import filesystem

from itop import SparseEngine
from itop.distributed import checkpoint
from itop.distributed.checkpoint import ModelAndOptimizer, latest, load, save
from itop.methods import RigL
from rank_models import LAYOUTS, make_model, masks, samples_of
from rank_pool import leave_group

NUM_STEPS = 16
SAVED_EVERY = 3


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(module: Any, name: str) -> None:
    """The process dies when ``module.name`` is about to be called."""

    def killed(*args: Any, **kwargs: Any) -> Any:
        die()

    setattr(module, name, killed)


def after(module: Any, name: str) -> None:
    """The process dies as soon as ``module.name`` has done its work."""
    original: Callable[..., Any] = getattr(module, name)

    def killed(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        die()

    setattr(module, name, killed)


AT_STEP = {"before backward": 5, "before the step": 6, "after the step": 8}
IN_UPDATE = "in an update"
IN_SAVE: dict[str, Callable[[], None]] = {
    "before a checkpoint is written": lambda: before(filesystem.FileSystemWriter, "prepare_local_plan"),
    "while its files are written": lambda: after(filesystem.FileSystemWriter, "write_data"),
    "before its metadata": lambda: before(filesystem.FileSystemWriter, "finish"),
    "before it is renamed": lambda: before(os, "replace"),
    "after it is renamed": lambda: after(os, "replace"),
    "while old ones are removed": lambda: before(checkpoint, "_complete"),
}
ONLY_ON_RANK_0 = ("before its metadata", "before it is renamed", "after it is renamed", "while old ones are removed")
MOMENTS = (*AT_STEP, IN_UPDATE, *IN_SAVE)


def train(folder: Path, layout: str | None, moment: str | None = None) -> None:
    """Goes on from the newest checkpoint, to the end or to the moment of death; losses and result go into the folder."""
    rank = dist.get_rank()
    wrap, _, parts = LAYOUTS[layout] if layout is not None else (lambda model: model, 1, 1)
    model = wrap(make_model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1 / 64)
    engine = SparseEngine(model, optimizer, RigL(update_every=2), sparsity=0.7, total_steps=100)
    states = {"training": ModelAndOptimizer(model, optimizer), "engine": engine}
    if (newest := latest(folder / "checkpoints")) is not None:
        load(newest, states)
    if moment == IN_UPDATE:
        engine.on_update(lambda report: die() if report.step > 4 else None)
    with open(folder / f"losses-{rank}.jsonl", "a", encoding="utf-8") as losses:
        for step in range(engine.steps + 1, NUM_STEPS + 1):
            optimizer.zero_grad()
            loss = model(samples_of(step, parts))
            print(json.dumps([step, loss.item()]), file=losses, flush=True)
            if moment == "before backward" and step >= AT_STEP[moment]:
                die()
            loss.backward()
            if moment == "before the step" and step >= AT_STEP[moment]:
                die()
            optimizer.step()
            if moment == "after the step" and step >= AT_STEP[moment]:
                die()
            if step % SAVED_EVERY == 0:
                if moment in IN_SAVE and step > SAVED_EVERY:
                    IN_SAVE[moment]()
                save(folder / "checkpoints", step, states)
    result = {name: mask.tolist() for name, mask in masks(engine).items()}
    if rank == 0:
        partial = folder / "result.partial"
        partial.write_text(json.dumps(result), encoding="utf-8")
        shutil.move(partial, folder / "result.json")


def main() -> None:
    folder, layout, moment, rank = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    is_first_try = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    train(folder, layout, moment if is_first_try and dist.get_rank() == rank else None)
    leave_group()


if __name__ == "__main__":
    main()
