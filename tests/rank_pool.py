"""Real processes under gloo that run functions of the tests; they live as long as a test module."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


@dataclass(frozen=True)
class Outcome:
    """What a function returned on a rank, or the exception it raised."""

    value: Any = None
    error: str | None = None
    kind: str = ""
    trace: str = ""


def _serve(rank: int, world: int, port: int, pipe: Connection) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(Outcome(function(*args)))
        except Exception as error:
            pipe.send(Outcome(error=str(error), kind=type(error).__name__, trace=traceback.format_exc()))


class RankPool:
    """``world`` processes, one process group. A function that hangs ends the pool, and the test."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._workers: list[tuple[Any, Connection]] = []

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = mp.get_context("spawn")
        os.environ["OMP_NUM_THREADS"] = "1"
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world, port, theirs), daemon=True)
            process.start()
            self._workers.append((process, ours))

    def outcomes(self, function: Callable[..., Any], *args: Any, timeout: float = 90.0) -> list[Outcome]:
        """What became of ``function(*args)`` on each rank."""
        if not self._workers:
            self._start()
        for _, pipe in self._workers:
            pipe.send((function, args))
        outcomes: list[Outcome] = []
        for rank, (_, pipe) in enumerate(self._workers):
            if not pipe.poll(timeout):
                self.stop()
                raise TimeoutError(f"rank {rank} hangs in {function.__name__}")
            outcomes.append(pipe.recv())
        return outcomes

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 90.0) -> list[Any]:
        """What ``function(*args)`` returned on each rank; an exception there is one here."""
        outcomes = self.outcomes(function, *args, timeout=timeout)
        for rank, outcome in enumerate(outcomes):
            if outcome.error is not None:
                self.stop()
                raise RuntimeError(f"rank {rank}: {outcome.trace}")
        return [outcome.value for outcome in outcomes]

    def errors(self, function: Callable[..., Any], *args: Any, timeout: float = 90.0) -> list[str]:
        """The message of the ValueError that ``function(*args)`` raised on each rank; every rank must raise one."""
        outcomes = self.outcomes(function, *args, timeout=timeout)
        for rank, outcome in enumerate(outcomes):
            if outcome.kind != "ValueError":
                self.stop()
                raise AssertionError(f"rank {rank} raised no ValueError but {outcome.kind}: {outcome.trace}")
        return [str(outcome.error) for outcome in outcomes]

    def stop(self) -> None:
        """Ends the processes; the next function starts new ones."""
        for process, pipe in self._workers:
            pipe.close()
            process.kill()
            process.join()
        self._workers.clear()
