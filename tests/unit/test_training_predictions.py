"""What a model says of the test samples, kept without losing how unlikely it finds a class."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from itop.analysis.ensembles import ensemble_report
from itop.training.execution import resolve_precision
from itop.training.meter import evaluate
from itop.training.predictions import Predictions, read_predictions, write_predictions

CPU = resolve_precision(None, torch.device("cpu"))


def kept(path: Path, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities of a model with these logits, after a file."""
    labels = torch.zeros(len(logits), dtype=torch.int64)
    said = Predictions()
    said.add(logits, labels)
    write_predictions(path, *said.tensors())
    return read_predictions(path)[0]


def test_the_divergence_of_very_sure_members_is_finite_and_right(tmp_path: Path) -> None:
    # Half precision has nothing between 6e-8 and zero; exp(-200) is far below even single precision.
    first = kept(tmp_path / "a.npz", torch.tensor([[0.0, -200.0]]))
    second = kept(tmp_path / "b.npz", torch.tensor([[-1.0, 1.0]]))
    report = ensemble_report(torch.stack([first, second]), torch.tensor([0]))
    other = 1 / (1 + math.exp(2.0))  # the second's probability of class 0
    forward = -math.log(other)  # the first is all but certain of class 0
    backward = other * math.log(other) + (1 - other) * (math.log(1 - other) + 200.0)
    assert report.kl_divergence == pytest.approx((forward + backward) / 2, rel=1e-6)


def test_predictions_come_back_as_they_were_of_one_model_and_of_several(tmp_path: Path) -> None:
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    expected = logits.double().softmax(dim=1)
    assert torch.allclose(kept(tmp_path / "one.npz", logits), expected, atol=1e-7)
    write_predictions(tmp_path / "two.npz", torch.stack([logits, logits]).log_softmax(dim=2), torch.arange(7))
    probabilities, labels = read_predictions(tmp_path / "two.npz")
    assert torch.allclose(probabilities, expected.expand(2, 7, 3), atol=1e-7)
    assert labels.tolist() == list(range(7))


def test_a_file_that_holds_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"none\.npz holds no predictions of a run"):
        read_predictions(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "missing.npz")


def test_scoring_hands_on_what_the_model_says_and_leaves_it_in_its_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.9)).train()
    logits, labels = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0, 0])
    said = Predictions()
    batches = [(logits[:2], labels[:2]), (logits[2:], labels[2:])]
    score = evaluate(model, batches, nn.functional.cross_entropy, CPU, torch.device("cpu"), seen=said.add)
    logarithms, targets = said.tensors()
    assert torch.equal(logarithms, logits.log_softmax(dim=1))
    assert torch.equal(targets, labels)
    assert score.accuracy == pytest.approx(2 / 3)
    assert score.loss == pytest.approx(nn.functional.nll_loss(logarithms, targets).item())
    assert model.training
