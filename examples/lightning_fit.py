"""PyTorch Lightning's Trainer on handwritten digits: one import, one callback."""

import argparse

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from itop.integrations.lightning import SparseCallback
from itop.methods import METHODS


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))

    def training_step(self, batch, index):
        inputs, targets = batch
        return F.cross_entropy(self.net(inputs), targets)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", default="runs/lightning")
    parser.add_argument("--resume", metavar="CHECKPOINT")
    options = parser.parse_args()

    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target))
    pl.seed_everything(0)
    sparse = SparseCallback(METHODS["rigl"](update_every=10), sparsity=0.9)
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[sparse],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=options.out,
    )
    trainer.fit(Digits(), DataLoader(data, batch_size=64, shuffle=True), ckpt_path=options.resume)
    print(f"sparsity {sparse.engine.sparsity:.3f} after {sparse.engine.num_updates} updates")


if __name__ == "__main__":
    main()
