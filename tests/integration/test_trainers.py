"""What other people's trainers do around a training, with the callbacks of ``itop.integrations``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from itop import SparseEngine
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


@pytest.mark.slow
def test_every_optimiser_of_timm_keeps_what_is_inactive_at_zero() -> None:
    timm = pytest.importorskip("timm.optim", reason="the package timm is not installed")
    tried = []
    for name in timm.list_optimizers():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 13), nn.Tanh(), nn.Linear(13, 7))
        try:
            optimizer = timm.create_optimizer_v2(model, opt=name, lr=1e-3, weight_decay=0.01)
        except (AssertionError, ImportError, RuntimeError):
            continue  # it needs a GPU or a package of its own
        engine = SparseEngine(model, optimizer, METHODS["rigl-itop"](update_every=3), sparsity=0.7, total_steps=50)
        for _ in range(7):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(torch.randn(16, 9)), torch.randint(7, (16,)))
            loss.backward(create_graph=name == "adahessian")
            optimizer.step()
            for layer in engine.topology.layers:
                inactive = ~engine.mask(layer.name)
                assert not layer.parameter.detach()[inactive].any(), name
                for state in engine.topology.optimizer_state.states(layer):
                    assert not state[inactive].any(), name
        assert (engine.steps, engine.num_updates) == (7, 2), name
        tried.append(name)
    assert {"adamw", "lamb", "lion", "adopt", "sgdw", "adafactor", "adahessian"} <= set(tried)
