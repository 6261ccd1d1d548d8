"""Accuracy, calibration and diversity of ensembles, by hand and against torch and scipy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from itop.analysis import (
    disagreement,
    ensemble_report,
    expected_calibration_error,
    negative_log_likelihood,
    pairwise_kl,
)

# [2 members, 2 samples, 2 classes]
TWO = torch.tensor([[[0.9, 0.1], [0.4, 0.6]], [[0.7, 0.3], [0.8, 0.2]]])
LABELS = torch.tensor([0, 1])


def test_a_report_worked_by_hand() -> None:
    report = ensemble_report(TWO, LABELS, num_bins=10)
    # Mean: (0.8, 0.2), (0.6, 0.4): the first is right with 0.8, the second wrong with 0.6.
    assert report.accuracy == 0.5
    assert report.member_accuracies == (1.0, 0.5)
    assert report.negative_log_likelihood == pytest.approx(-(math.log(0.8) + math.log(0.4)) / 2, rel=1e-6)
    assert report.calibration_error == pytest.approx((0.2 + 0.6) / 2, rel=1e-6)
    assert report.disagreement == 0.5
    kl = [
        0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3),
        0.4 * math.log(0.4 / 0.8) + 0.6 * math.log(0.6 / 0.2),
        0.7 * math.log(0.7 / 0.9) + 0.3 * math.log(0.3 / 0.1),
        0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6),
    ]
    assert report.kl_divergence == pytest.approx(sum(kl) / 4, rel=1e-5)


def probabilities(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(dim=-1)


def test_likelihood_is_torchs_and_divergence_is_scipys() -> None:
    members, labels = probabilities(3, 20, 5), torch.arange(20) % 5
    expected = torch.nn.functional.nll_loss(members[0].log(), labels)
    assert negative_log_likelihood(members[0], labels) == pytest.approx(float(expected))
    entropies = [stats.entropy(members[i], members[j], axis=-1).mean() for i in range(3) for j in range(3) if i != j]
    assert pairwise_kl(members) == pytest.approx(sum(entropies) / 6)


def test_calibration_error_is_the_binned_gap() -> None:
    members, labels, num_bins = probabilities(200, 4), torch.arange(200) % 4, 15
    confidence, prediction = members.max(dim=-1)
    expected = 0.0
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            gap = (prediction[inside] == labels[inside]).double().mean() - confidence[inside].mean()
            expected += float(gap.abs() * inside.sum() / 200)
    assert expected_calibration_error(members, labels, num_bins) == pytest.approx(expected)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    # 0.5 and right in (0, 0.5], 0.75 and wrong in (0.5, 1]; in one bin the gaps would cancel.
    edge = torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0]])
    assert expected_calibration_error(edge, torch.tensor([0, 1]), num_bins=2) == (0.5 + 0.75) / 2


def test_certainty_is_calibrated_when_right_and_wholly_off_when_wrong() -> None:
    certain = torch.eye(3)
    assert expected_calibration_error(certain, torch.tensor([0, 1, 2])) == 0.0
    assert expected_calibration_error(certain, torch.tensor([1, 2, 0])) == 1.0
    assert negative_log_likelihood(certain, torch.tensor([1, 2, 0])) == math.inf


def test_one_member_neither_disagrees_nor_diverges() -> None:
    assert disagreement(TWO[:1]) == 0.0
    assert pairwise_kl(TWO[:1]) == 0.0
    report = ensemble_report(TWO[:1], LABELS)
    assert (report.accuracy, report.disagreement, report.kl_divergence) == (1.0, 0.0, 0.0)


def test_equal_members_do_not_diverge_even_at_zero_probability() -> None:
    assert pairwise_kl(torch.eye(2).expand(3, 2, 2)) == 0.0
    assert pairwise_kl(torch.stack((torch.eye(2), torch.eye(2).flip(0)))) == math.inf


@pytest.mark.parametrize(
    ("members", "labels", "message"),
    [
        (TWO[0], LABELS, r"must be \[members, samples, classes\], got shape \(2, 2\)"),
        (TWO * 2, LABELS, "logits need a softmax first"),
        (TWO * math.nan, LABELS, "logits need a softmax first"),
        (TWO, torch.tensor([0]), "labels must be"),
        (TWO, torch.tensor([0, 2]), r"labels must be whole numbers in \[0, 2\)"),
        (TWO, torch.tensor([0.0, 1.0]), r"labels must be whole numbers in \[0, 2\)"),
    ],
)
def test_bad_input_is_named(members: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ensemble_report(members, labels)


def test_bins_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        expected_calibration_error(TWO[0], LABELS, 0)
