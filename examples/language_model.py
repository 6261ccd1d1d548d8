"""A small GPT, trained sparse on the text of this repository: alone, data-parallel, or sharded by FSDP2.

Killed at any moment, the same command with --checkpoints goes on where the newest checkpoint is.
"""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from itop import SparseEngine
from itop.distributed.checkpoint import ModelAndOptimizer, latest, load, save
from itop.methods import METHODS


class Block(nn.Module):
    """Causal attention and an MLP, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, 2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Predicts the next byte; [batch, length] bytes in, [batch, length, 256] logits out."""

    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4, length: int = 64) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def repository_text() -> Tensor:
    """Every Markdown file of the repository and its license, as bytes."""
    root = Path(__file__).resolve().parents[1]
    files = [root / "LICENSE", *sorted(root.glob("*.md")), *sorted(root.glob("docs/**/*.md"))]
    return torch.tensor(list(b"\n".join(file.read_bytes() for file in files)), dtype=torch.int64)


def batch_of(text: Tensor, step: int, rank: int, size: int = 16, length: int = 64) -> Tensor:
    """[size, length + 1] bytes; a function of step and rank, so that a resumed run sees what it would have seen."""
    generator = torch.Generator().manual_seed(step * 1000 + rank)
    starts = torch.randint(len(text) - length - 1, (size,), generator=generator)
    return torch.stack([text[start : start + length + 1] for start in starts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--method", default="rigl-itop")
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--sharding", choices=("none", "ddp", "fsdp"), default="none")
    parser.add_argument("--checkpoints", type=Path)
    options = parser.parse_args()

    if options.sharding != "none":
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model: nn.Module = GPT().to(device)
    if options.sharding == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    elif options.sharding == "fsdp":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    method = METHODS[options.method](update_every=10)
    engine = SparseEngine(model, optimizer, method, sparsity=options.sparsity, total_steps=options.steps)
    states = {"training": ModelAndOptimizer(model, optimizer), "engine": engine}
    if options.checkpoints and (newest := latest(options.checkpoints)):
        load(newest, states)

    text = repository_text()
    for step in range(engine.steps + 1, options.steps + 1):
        tokens = batch_of(text, step, rank).to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if options.checkpoints and step % 50 == 0:
            save(options.checkpoints, step, states)
        if rank == 0 and step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, explored {engine.exploration_rate:.3f}")
    engine.check_sync()
    if rank == 0:
        print(f"sparsity {engine.sparsity:.3f} after {engine.num_updates} updates")
    if dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(0.5)  # gloo's threads give their last tensors back to Python, which aborts where it is ending


if __name__ == "__main__":
    main()
