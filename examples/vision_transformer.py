"""torchvision's vision transformer, trained sparse on scikit-learn's handwritten digits."""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torchvision.models import VisionTransformer

from itop import SparseEngine
from itop.methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--method", default="set-itop")
    options = parser.parse_args()

    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32).unsqueeze(1).expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = VisionTransformer(8, 2, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    method = METHODS[options.method](update_every=10)
    engine = SparseEngine(model, optimizer, method, sparsity=0.8, total_steps=options.steps)

    for step in range(options.steps):
        chosen = torch.randint(1500, (64,))
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, explored {engine.exploration_rate:.3f}")
    with torch.no_grad():
        accuracy = (model.eval()(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
    print(f"accuracy {accuracy:.3f}")
    print(f"sparsity {engine.sparsity:.3f} after {engine.num_updates} updates")


if __name__ == "__main__":
    main()
