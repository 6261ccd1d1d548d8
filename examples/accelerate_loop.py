"""A loop of Hugging Face's accelerate, with gradient accumulation and its checkpoints."""

import argparse

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from itop.integrations.accelerate import attach
from itop.methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default="runs/accelerate")
    options = parser.parse_args()

    accelerator = Accelerator(gradient_accumulation_steps=2)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(data, batch_size=32, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    engine = attach(accelerator, model, optimizer, METHODS["rigl"](update_every=10), sparsity=0.9, total_steps=84)

    for epoch in range(options.epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = F.cross_entropy(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.print(f"epoch {epoch}: loss {loss.item():.3f}, explored {engine.exploration_rate:.3f}")
    accelerator.save_state(options.out)
    accelerator.load_state(options.out)
    accelerator.print(f"sparsity {engine.sparsity:.3f} after {engine.num_updates} updates")


if __name__ == "__main__":
    main()
