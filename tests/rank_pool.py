"""Real processes of one group, under gloo where nothing else is said, that run functions of the tests; they live as long as a test module."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Sequence
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


def _processes() -> Any:
    """New processes are forked from a server that has torch imported and nothing started: they are there at once."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed.fsdp", "torch.distributed.checkpoint", "rank_models"])
    os.environ["OMP_NUM_THREADS"] = "1"
    return context


def _open_store() -> dist.TCPStore:  # type: ignore[name-defined]
    """Where a group meets: in this process, as torchrun keeps it in its own, on a port that nobody else can take."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def _join(rank: int, world: int, port: int, group_timeout: float = 60.0, backend: str = "gloo") -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    timeout = timedelta(seconds=group_timeout)
    store = dist.TCPStore("127.0.0.1", port, timeout=timeout)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)


def _serve(rank: int, world: int, port: int, pipe: Connection, group_timeout: float, backend: str) -> None:
    _join(rank, world, port, group_timeout, backend)
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
    """``world`` processes, one process group. A function that hangs ends the pool, and the test.

    Args:
        world: How many.
        group_timeout: Seconds that a collective waits for other ranks.
        backend: Of torch.distributed; "nccl" gives each process a GPU.
    """

    def __init__(self, world: int, group_timeout: float = 60.0, backend: str = "gloo") -> None:
        self.world = world
        self._backend = backend
        self._group_timeout = group_timeout
        self._workers: list[tuple[Any, Connection]] = []

    def _start(self) -> None:
        self._store, context = _open_store(), _processes()
        for rank in range(self.world):
            ours, theirs = context.Pipe()
            args = (rank, self.world, self._store.port, theirs, self._group_timeout, self._backend)
            process = context.Process(target=_serve, args=args, daemon=True)
            process.start()
            self._workers.append((process, ours))

    def outcomes(self, function: Callable[..., Any], *args: Any, timeout: float = 180.0) -> list[Outcome]:
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

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 180.0) -> list[Any]:
        """What ``function(*args)`` returned on each rank; an exception there is one here."""
        outcomes = self.outcomes(function, *args, timeout=timeout)
        for rank, outcome in enumerate(outcomes):
            if outcome.error is not None:
                self.stop()
                raise RuntimeError(f"rank {rank}: {outcome.trace}")
        return [outcome.value for outcome in outcomes]

    def errors(self, function: Callable[..., Any], *args: Any, timeout: float = 180.0) -> list[str]:
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


def _run(rank: int, world: int, port: int, function: Callable[..., Any], args: Sequence[Any]) -> None:
    _join(rank, world, port)
    function(*args)
    leave_group()


def leave_group() -> None:
    """The end of a process of a group.

    The threads of gloo give back a collective's tensors after its caller went on, and need the interpreter for it: one
    that ends meanwhile is aborted. Nothing tells when they are through; half a second of rest is a hundred times what they take.
    """
    dist.destroy_process_group()
    time.sleep(0.5)


class Launch:
    """One function in ``world`` processes of one group, each with its own arguments, as a launcher would start them."""

    def __init__(self, world: int, function: Callable[..., Any], args: Sequence[Sequence[Any]]) -> None:
        self._store, context = _open_store(), _processes()
        self._processes = [
            context.Process(target=_run, args=(rank, world, self._store.port, function, args[rank]), daemon=True)
            for rank in range(world)
        ]
        for process in self._processes:
            process.start()

    def kill(self, ranks: Sequence[int]) -> None:
        """SIGKILL."""
        for rank in ranks:
            self._processes[rank].kill()

    def are_running(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def exit_codes(self, timeout: float) -> list[int]:
        """How each process ended; minus the signal where one ended it.

        Raises:
            TimeoutError: If one still runs after ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
        hanging = [rank for rank, process in enumerate(self._processes) if process.is_alive()]
        self.kill(range(len(self._processes)))
        if hanging:
            raise TimeoutError(f"ranks {hanging} still run after {timeout} s")
        return [process.exitcode for process in self._processes]
