"""The pattern of timm's training script: its optimiser factory, loss scaler with clipping, scheduler and weight average."""

import argparse

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3, NativeScaler

from itop import SparseEngine
from itop.methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--method", default="rigl")
    options = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1).repeat(1, 3, 4, 4).to(device)
    labels = torch.tensor(digits.target).to(device)
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10).to(device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=options.epochs)
    scaler, average = NativeScaler(device=device), ModelEmaV3(model, decay=0.9)
    method, steps = METHODS[options.method](update_every=5), options.epochs * 12
    engine = SparseEngine(model, optimizer, method, sparsity=0.9, total_steps=steps)

    for epoch in range(options.epochs):
        for chosen in torch.randperm(768).chunk(12):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            average.update(model)
        scheduler.step(epoch + 1)
        print(f"epoch {epoch}: loss {loss.item():.3f}, explored {engine.exploration_rate:.3f}")
    print(f"sparsity {engine.sparsity:.3f} after {engine.num_updates} updates")


if __name__ == "__main__":
    main()
