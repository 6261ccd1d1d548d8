"""What other people's trainers do around a training, with the callbacks of ``itop.integrations``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from itop.methods import METHODS


def test_hugging_faces_best_model_at_the_end_comes_with_its_masks(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    from itop.integrations.huggingface import SparseCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.net(inputs)
            return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}

    generator = torch.Generator().manual_seed(0)
    data: list[dict[str, Any]] = [
        {"inputs": torch.randn(6, generator=generator), "labels": int(torch.randint(3, (), generator=generator))}
        for _ in range(64)
    ]
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=0.05,
        eval_strategy="steps",
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the loss falls: the first checkpoint is the best, several updates before the last
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    callback = SparseCallback(METHODS["set-itop"](update_every=2), sparsity=0.7)
    model = Model()
    trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data[:32], callbacks=[callback])
    trainer.train()
    assert Path(trainer.state.best_model_checkpoint).name == "checkpoint-4"
    engine = callback.engine
    assert engine is not None
    assert engine.steps == 4
    saved = torch.load(tmp_path / "checkpoint-4" / "itop.pt", weights_only=True)
    last = torch.load(tmp_path / "checkpoint-12" / "itop.pt", weights_only=True)
    for name in ("net.0.weight", "net.2.weight"):
        mask = engine.mask(name)
        assert torch.equal(mask, saved["layers"][name] & 1 != 0)
        assert not torch.equal(mask, last["layers"][name] & 1 != 0)
        assert not model.get_parameter(name).detach()[~mask].any()
