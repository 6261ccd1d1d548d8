"""The engine in a small GPT with AdamW: overhead of a step without an update, and Adam's cold start.

torchrun --standalone --nproc-per-node=2 benchmarks/loops.py overhead
python benchmarks/loops.py cold-start --steps 400
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from itop import SparseEngine
from itop.grown_state import GrownState, OwnStepCount, WarmUp, ZeroState
from itop.methods import RigL

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from language_model import GPT, batch_of, repository_text


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    return loss.item()


def overhead(rounds: int) -> None:
    """Alternates steps with and without the engine in one run, so that both see the same machine."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    text = repository_text()
    loops = []
    for is_sparse in (False, True):
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(GPT(width=256))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        if is_sparse:
            SparseEngine(model, optimizer, RigL(update_every=10**6), sparsity=0.9, total_steps=10**7)
        loops.append((model, optimizer))
    times: list[list[float]] = [[], []]
    for step in range(rounds):
        tokens = batch_of(text, step, dist.get_rank(), size=32)
        for which in (0, 1) if step % 2 else (1, 0):
            dist.barrier()
            start = time.perf_counter()
            train_step(*loops[which], tokens)
            times[which].append(time.perf_counter() - start)
    if dist.get_rank() == 0:
        without, with_engine = (statistics.median(of_loop[3:]) for of_loop in times)
        ratios = statistics.median(b / a for a, b in zip(times[0][3:], times[1][3:], strict=True))
        print(f"without {without * 1e3:.1f} ms, with {with_engine * 1e3:.1f} ms, median ratio of pairs {ratios:.4f}")
    dist.destroy_process_group()


def cold_start(steps: int, seeds: int) -> None:
    """The loss over the last tenth of a run, for each way grown weights enter Adam."""
    text = repository_text()
    rules: dict[str, GrownState] = {
        "ZeroState()": ZeroState(),
        "OwnStepCount()": OwnStepCount(),
        f"WarmUp({steps // 10})": WarmUp(steps // 10),
    }
    for name, rule in rules.items():
        losses = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = GPT(width=64, depth=2)
            optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
            method = RigL(update_every=max(1, steps // 20))
            SparseEngine(model, optimizer, method, sparsity=0.9, total_steps=steps, seed=seed, grown_state=rule)
            of_run = [train_step(model, optimizer, batch_of(text, step, seed)) for step in range(steps)]
            losses.append(statistics.fmean(of_run[-max(1, steps // 10) :]))
        print(f"{name}: loss {statistics.fmean(losses):.4f}, seeds {[round(loss, 4) for loss in losses]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "cold-start"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.rounds)
    else:
        cold_start(options.steps, options.seeds)


if __name__ == "__main__":
    main()
