"""Every method, and a whole training, where weights live on a GPU."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.workbench import BATCHES, SPARSITY, TOTAL_STEPS, Network, Run

from itop.methods import METHODS, PRESETS, Density
from itop.training.loop import train_run
from itop.training.recipes import RECIPES
from itop.training.records import EpochRecord, read_metrics

pytestmark = pytest.mark.gpu


def run_on_gpu(name: str, optimizer: str = "sgd") -> Run:
    torch.manual_seed(0)
    batches = [(images.cuda(), labels.cuda()) for images, labels in BATCHES]
    model = Network().to("cuda", memory_format=torch.channels_last)
    return Run(name, optimizer, model=model, batches=batches)


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_zeros_are_exact_and_a_saved_state_goes_on(name: str, optimizer: str) -> None:
    run = run_on_gpu(name, optimizer).train(TOTAL_STEPS // 2)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (run.model, run.optimizer, run.engine)], file)
    run.train(TOTAL_STEPS - run.engine.steps)
    assert all(math.isfinite(loss) for loss in run.losses)
    for layer in run.engine.topology.layers:
        mask = run.engine.mask(layer.name)
        assert mask.is_cuda
        assert not layer.parameter[~mask].any()
    active = sum(layer.num_active for layer in run.engine.layers)
    assert active == sum(int(mask.sum()) for mask in run.masks().values())
    if PRESETS[name].density is Density.CONSTANT and not run.engine.method.is_dense:
        assert active == round((1 - SPARSITY) * sum(layer.numel for layer in run.engine.layers))
    assert run.engine.flops(run.batches[0][0]).forward > 0

    file.seek(0)
    resumed = run_on_gpu(name, optimizer)
    for part, state in zip((resumed.model, resumed.optimizer, resumed.engine), torch.load(file), strict=True):
        part.load_state_dict(state)
    resumed.train(4)
    assert resumed.engine.steps == TOTAL_STEPS // 2 + 4
    assert all(math.isfinite(loss) for loss in resumed.losses)


def test_a_model_that_moves_to_the_gpu_under_its_engine_keeps_its_masks() -> None:
    run = Run("rigl").train(9)
    masks = run.masks()
    run.model.cuda()
    for name, mask in run.masks().items():
        assert mask.is_cuda
        assert torch.equal(mask.cpu(), masks[name])
    run.batches = [(images.cuda(), labels.cuda()) for images, labels in BATCHES]
    run.train(TOTAL_STEPS - 9)
    for layer in run.engine.topology.layers:
        assert not layer.parameter[~run.engine.mask(layer.name)].any()


@pytest.mark.parametrize("amp", ["off", "bfloat16", "float16"])
def test_a_training_on_the_gpu_goes_on_where_it_stopped(amp: str, tmp_path: Path) -> None:
    config: Any = RECIPES["digits"].config.replace(
        epochs=3, model="mlp:32", device="cuda", amp=amp, method="rigl-itop", method_options={"update_every": 20}
    )
    train_run(config.replace(epochs=1), tmp_path)
    summary = train_run(config, tmp_path, resume=True)
    epochs = [record for record in read_metrics(tmp_path / "metrics.jsonl") if isinstance(record, EpochRecord)]
    assert [record.epoch for record in epochs] == [1, 2, 3]
    assert summary["num_updates"] > 2
    assert summary["test_accuracy"]["mean"] > 0.25  # of ten classes


@pytest.mark.slow
def test_a_compiled_training_with_mixed_precision_learns(tmp_path: Path) -> None:
    config: Any = RECIPES["digits"].config.replace(
        epochs=3, model="resnet18", device="cuda", amp="auto", compile=True, method="set-itop"
    )
    assert train_run(config, tmp_path)["test_accuracy"]["mean"] > 0.25
