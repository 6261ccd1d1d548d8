"""Accuracy, calibration and diversity of an ensemble of sparse networks.

Reference:
    Liu et al., Deep Ensembling with No Overhead for either Training or Testing (FreeTickets), ICLR 2022;
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (expected calibration error).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class EnsembleReport:
    """What a set of classifiers is worth together.

    Attributes:
        accuracy: Of the mean of the members' probabilities.
        negative_log_likelihood: Of that mean, in nats per sample.
        calibration_error: Expected calibration error of that mean.
        member_accuracies: Of each member alone.
        disagreement: Part of samples on which two members predict differently, mean over pairs; 0 for one member.
        kl_divergence: Of one member's probabilities from another's, in nats, mean over ordered pairs and samples.
    """

    accuracy: float
    negative_log_likelihood: float
    calibration_error: float
    member_accuracies: tuple[float, ...]
    disagreement: float
    kl_divergence: float


def ensemble_report(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> EnsembleReport:
    """All figures of an ensemble.

    Args:
        probabilities: [members, samples, classes], rows summing to 1 within 1e-3.
        labels: Whole numbers [samples] in [0, classes).
        num_bins: Of the calibration error.

    Raises:
        ValueError: If shapes, labels or probabilities are not as said.
    """
    members = _checked_members(probabilities)
    mean = members.mean(dim=0)
    targets = _checked_labels(labels, mean)
    return EnsembleReport(
        accuracy=accuracy(mean, targets),
        negative_log_likelihood=negative_log_likelihood(mean, targets),
        calibration_error=expected_calibration_error(mean, targets, num_bins),
        member_accuracies=tuple(accuracy(member, targets) for member in members),
        disagreement=disagreement(members),
        kl_divergence=pairwise_kl(members),
    )


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Part of the samples whose largest probability, the first of equal ones, is the label's.

    Args:
        probabilities: [samples, classes].
        labels: [samples].
    """
    return _mean(probabilities.argmax(dim=-1) == _checked_labels(labels, probabilities))


def negative_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean of ``-log p(label)`` in nats; infinite where a label has no probability.

    Args:
        probabilities: [samples, classes].
        labels: [samples].
    """
    targets = _checked_labels(labels, probabilities)
    return -_mean(probabilities.double().gather(1, targets[:, None]).log())


def expected_calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over bins of equal width, weighted by their samples.

    Args:
        probabilities: [samples, classes]; the largest is the confidence. Bin b holds (b, b + 1] / num_bins.
        labels: [samples].
        num_bins: At least 1.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    targets = _checked_labels(labels, probabilities)
    confidence, prediction = probabilities.double().max(dim=-1)
    bins = (torch.ceil(confidence * num_bins).long() - 1).clamp(0, num_bins - 1)
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=probabilities.device)
    # Weighted by its samples, a bin's gap is the absolute sum of (confidence - correct) over all samples.
    gaps.index_add_(0, bins, confidence - (prediction == targets).double())
    return float(gaps.abs().sum()) / len(targets)


def disagreement(probabilities: Tensor) -> float:
    """Part of the samples on which two members predict different classes, mean over pairs; 0 for one member.

    Args:
        probabilities: [members, samples, classes].
    """
    predictions = _checked_members(probabilities).argmax(dim=-1)
    pairs = torch.combinations(torch.arange(len(predictions), device=predictions.device))
    return _mean(predictions[pairs[:, 0]] != predictions[pairs[:, 1]]) if len(pairs) else 0.0


def pairwise_kl(probabilities: Tensor) -> float:
    """``KL(p_i || p_j)`` in nats, mean over ordered pairs of different members and over samples; 0 for one member.

    Infinite where one member rules out what another does not; ``0 log 0`` is 0.

    Args:
        probabilities: [members, samples, classes].
    """
    members = _checked_members(probabilities).double()
    count = len(members)
    if count < 2:
        return 0.0
    total = 0.0
    for i in range(count):
        for j in range(count):
            if i != j:
                ratio = torch.xlogy(members[i], members[i]) - torch.xlogy(members[i], members[j])
                total += _mean(ratio.sum(dim=-1))
    return total / (count * (count - 1))


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _checked_members(probabilities: Tensor) -> Tensor:
    if probabilities.dim() != 3 or 0 in probabilities.shape:
        raise ValueError(f"probabilities must be [members, samples, classes], got shape {tuple(probabilities.shape)}")
    off = (probabilities.double().sum(dim=-1) - 1.0).abs().max()
    if not (off <= 1e-3 and probabilities.min() >= 0.0):
        raise ValueError(
            "probabilities must be at least 0 and sum to 1 over classes, got one of "
            f"{float(probabilities.min()):g} and a sum that is off by {float(off):g}; logits need a softmax first"
        )
    return probabilities


def _checked_labels(labels: Tensor, probabilities: Tensor) -> Tensor:
    if probabilities.dim() != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"labels must be [samples] for probabilities [samples, classes], got shapes {tuple(labels.shape)} "
            f"and {tuple(probabilities.shape)}"
        )
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"labels must be whole numbers in [0, {probabilities.shape[1]}), got {labels.dtype} from "
            f"{labels.min().item():g} to {labels.max().item():g}"
        )
    return labels.long().to(probabilities.device)
