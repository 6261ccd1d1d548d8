"""Killed with SIGKILL at any moment and resumed, a training has the masks and losses of one that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

import killed_training
from killed_training import MOMENTS, NUM_STEPS, ONLY_ON_RANK_0
from rank_pool import Launch

LAYOUTS = ["DDP on 2", "FSDP2 on 2"]
SIGKILLED = -signal.SIGKILL
NO_HANG = 150.0  # seconds, on a machine with much else to do; who outlives a peer finds out at its next meeting


def launch(folder: Path, layout: str, moment: str | None = None, on: tuple[int, ...] = ()) -> Launch:
    moments = [moment if rank in on else None for rank in range(2)]
    return Launch(2, killed_training.train, [(folder, layout, moment) for moment in moments])


def losses(folder: Path) -> dict[tuple[int, int], set[float]]:
    """Of each rank and step the losses that were ever seen."""
    seen: dict[tuple[int, int], set[float]] = {}
    for rank in range(2):
        for line in (folder / f"losses-{rank}.jsonl").read_text(encoding="utf-8").splitlines():
            step, loss = json.loads(line)
            seen.setdefault((rank, step), set()).add(loss)
    return seen


def num_losses(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("losses-*.jsonl"))


def result(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {layout: tmp_path_factory.mktemp("never") for layout in LAYOUTS}
    for layout, folder in folders.items():
        assert launch(folder, layout).exit_codes(NO_HANG) == [0, 0]
        assert len(losses(folder)) == 2 * NUM_STEPS
    return folders


def assert_same(folder: Path, reference: Path) -> None:
    assert losses(folder) == losses(reference)
    assert result(folder) == result(reference)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_killed_at_every_moment_in_turn_ends_as_one_that_was_not(
    never_killed: dict[str, Path], layout: str, tmp_path: Path
) -> None:
    for moment, who in zip(MOMENTS, cycle([(0,), (1,), (0, 1)]), strict=False):
        if moment in ONLY_ON_RANK_0:
            who = (0,)
        codes = launch(tmp_path, layout, moment, who).exit_codes(NO_HANG)
        assert 0 not in codes, f"{moment}: {codes}"
        assert SIGKILLED in codes
    assert launch(tmp_path, layout).exit_codes(NO_HANG) == [0, 0]
    assert_same(tmp_path, never_killed[layout])


@pytest.mark.slow
def test_a_run_killed_at_any_instant_ends_as_one_that_was_not(never_killed: dict[str, Path], tmp_path: Path) -> None:
    draws = random.Random(3)
    for _ in range(5):
        seen = num_losses(tmp_path)
        processes = launch(tmp_path, "FSDP2 on 2")
        while num_losses(tmp_path) < seen + 2 and processes.are_running():
            time.sleep(0.01)
        time.sleep(draws.uniform(0.0, 0.5))
        processes.kill(draws.choice([(0,), (1,), (0, 1)]))
        processes.exit_codes(NO_HANG)
    assert launch(tmp_path, "FSDP2 on 2").exit_codes(NO_HANG) == [0, 0]
    assert_same(tmp_path, never_killed["FSDP2 on 2"])


def torchrun(folder: Path, rank_to_kill: int, *options: str) -> subprocess.CompletedProcess[str]:
    """The training as a script on two ranks, of which one kills itself before its sixth step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    return subprocess.run(
        [*command, str(killed_training.__file__), str(folder), "FSDP2 on 2", "before the step", str(rank_to_kill)],
        # torchrun's one store for all attempts would show the new gloo where the old one listened.
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_torchrun_ends_a_killed_run_and_its_command_goes_on_where_it_was(
    never_killed: dict[str, Path], tmp_path: Path
) -> None:
    for rank_to_kill, succeeds in ((1, False), (-1, True)):
        done = torchrun(tmp_path, rank_to_kill)
        assert (done.returncode == 0) is succeeds, done.stderr[-2000:]
    assert_same(tmp_path, never_killed["FSDP2 on 2"])


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_by_itself(never_killed: dict[str, Path], tmp_path: Path) -> None:
    done = torchrun(tmp_path, 0, "--max-restarts=1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "-9" in done.stderr  # the agent saw the kill
    assert_same(tmp_path, never_killed["FSDP2 on 2"])
