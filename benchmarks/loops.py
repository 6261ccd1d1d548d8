"""The engine in a small GPT with AdamW: overhead of a step without an update, and Adam's cold start.

torchrun --standalone --nproc-per-node=2 benchmarks/loops.py overhead
python benchmarks/loops.py cold-start --out benchmarks/results/cold-start.json
"""

import argparse
import json
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
    time.sleep(0.5)  # gloo's threads give their last tensors back to Python, which aborts where it is ending


def held_out_loss(model: nn.Module, text: torch.Tensor) -> float:
    """Mean loss over text that training never saw, in nats a byte; the same batches whoever asks."""
    with torch.no_grad():
        losses = [
            F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).item()
            for tokens in (batch_of(text, step, rank=999) for step in range(32))
        ]
    return statistics.fmean(losses)


def cold_start(steps: int, seeds: int, betas: tuple[float, float], out: Path) -> None:
    """Held-out loss at the end of a run, for each way grown weights enter Adam, and how far an update throws it back.

    Runs that the file holds already are not run again.
    """
    text = repository_text()
    training, held_out = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    update_every = max(1, steps // 30)
    rules: dict[str, tuple[float, GrownState]] = {
        "ZeroState()": (0.9, ZeroState()),
        "OwnStepCount()": (0.9, OwnStepCount()),
        f"WarmUp({update_every})": (0.9, WarmUp(update_every)),
        f"WarmUp({steps // 10})": (0.9, WarmUp(steps // 10)),
        "dense": (0.0, ZeroState()),
    }
    setting = {
        "model": "GPT(width=64, depth=2), 64 bytes of context, batches of 8",
        "optimiser": f"AdamW, lr 0.002, betas {betas}",
        "method": f"rigl at 90 %, an update every {update_every} of {steps} steps",
    }
    content = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"setting": setting, "runs": {}}
    for seed in range(seeds):
        for name, (sparsity, rule) in rules.items():
            of_rule = content["runs"].setdefault(name, {})
            if str(seed) in of_rule:
                continue
            torch.manual_seed(seed)
            model = GPT(width=64, depth=2)
            optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=betas)
            method = RigL(update_every=update_every) if sparsity else "dense"
            SparseEngine(model, optimizer, method, sparsity=sparsity, total_steps=steps, seed=seed, grown_state=rule)
            run = [train_step(model, optimizer, batch_of(training, step, seed, size=8)) for step in range(steps)]
            updates = range(5 * update_every, steps * 3 // 4 - 10, update_every)  # growth ends at three quarters
            thrown = [statistics.fmean(run[at : at + 10]) - statistics.fmean(run[at - 10 : at]) for at in updates]
            of_rule[str(seed)] = {
                "held-out loss": held_out_loss(model, held_out),
                "training loss, ten steps after an update minus ten before": statistics.fmean(thrown),
            }
            out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for name, of_rule in content["runs"].items():
        losses, thrown = zip(*(tuple(run.values()) for run in of_rule.values()), strict=True)
        spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
        print(
            f"{name}: held-out loss {statistics.fmean(losses):.4f} +- {spread:.4f} over {len(losses)} seeds, "
            f"by an update {statistics.fmean(thrown):+.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "cold-start"))
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.999))
    parser.add_argument("--out", type=Path, default=Path("cold-start.json"), help="figures of cold-start, JSON")
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.rounds)
    else:
        cold_start(options.steps, options.seeds, tuple(options.betas), options.out)


if __name__ == "__main__":
    main()
