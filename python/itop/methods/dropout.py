"""Sparsity by noise on weights: variational dropout, targeted dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.chosen_masks import ChosenMasks
from itop.methods.hidden_weights import DenselyTrained
from itop.ranges import FINITE, FRACTION, NOT_NEGATIVE, POSITIVE_FRACTION
from itop.schedules import step_at
from itop.selection import Scores

_VARIANCE = "log variance"


@final
@dataclass(frozen=True, slots=True)
class VariationalDropout(DenselyTrained):
    """Gaussian noise of trained variance on each weight; noise that drowns its weight switches it off.

    ``w + sigma * epsilon`` in training; ``log alpha = log sigma^2 - log w^2`` above the threshold is inactive. The penalty
    is the approximate divergence from the log-uniform prior, warmed up linearly.

    Args:
        threshold: On log alpha.
        initial: log sigma^2 at the start.
        divergence_weight: Of the penalty: 1 / the number of training samples.
        warm_up: Fraction of the run over which it grows.
        variance_speed: With SGD, how many times faster variances learn than weights (?).

    Reference:
        Molchanov et al., Variational dropout sparsifies deep neural networks, ICML 2017, equations 13 and 14.
    """

    threshold: float = 3.0
    initial: float = -10.0
    divergence_weight: float = 1.0 / 60_000
    warm_up: float = 0.25
    variance_speed: float = 100.0

    def check_options(self) -> None:
        FINITE.require("threshold", self.threshold)
        FINITE.require("initial", self.initial)
        FRACTION.require("warm_up", self.warm_up)
        NOT_NEGATIVE.require("divergence_weight", self.divergence_weight)
        NOT_NEGATIVE.require("variance_speed", self.variance_speed)

    @property
    def name(self) -> str:
        return "variational-dropout"

    @property
    def speed(self) -> float:
        return self.variance_speed

    @property
    def needs_total_steps(self) -> bool:
        return True

    @property
    def differs_in_training(self) -> bool:
        return True

    def add_parameters(self, context: Context) -> None:
        self.add_to_layers(
            context, _VARIANCE, [torch.full_like(weight, self.initial) for weight in context.topology.weights()]
        )

    def log_alpha(self, context: Context, layer: int, weight: Tensor) -> Tensor:
        """log of noise variance over squared weight, in [-10, 10]."""
        variance = self.parameter(context, _VARIANCE, layer)
        return (variance - (weight.square() + 1e-12).log()).clamp(-10.0, 10.0)

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        if not training:
            return weight * (self.log_alpha(context, layer, weight) < self.threshold)
        uniform = context.noise(layer).clamp(1e-7, 1.0 - 1e-7)
        normal = math.sqrt(2.0) * torch.erfinv(2.0 * uniform - 1.0)
        return weight + torch.exp(0.5 * self.parameter(context, _VARIANCE, layer)) * normal

    def saliency(self, context: Context, layer: int, weight: Tensor) -> Tensor:
        # The true ratio, not the clamped: among thousands of drowned weights the order still matters.
        return weight.square().add_(1e-12).log_().sub_(self.parameter(context, _VARIANCE, layer))

    def regulariser(self, context: Context) -> Tensor | None:
        if not self.hides_weights(context) or context.total_steps is None:
            return None
        warmth = min(1.0, context.step / max(1.0, self.warm_up * context.total_steps))
        if warmth == 0.0:
            return None
        terms = [
            divergence(self.log_alpha(context, i, layer.parameter)).sum()
            for i, layer in enumerate(context.topology.layers)
        ]
        return self.divergence_weight * warmth * torch.stack(terms).sum()


def divergence(log_alpha: Tensor) -> Tensor:
    """The divergence from the log-uniform prior, up to a constant: falls to 0 as alpha grows."""
    negative = 0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha) - 0.5 * torch.log1p(torch.exp(-log_alpha))
    return 0.63576 - negative


@final
@dataclass(frozen=True, slots=True)
class TargetedDropout(ChosenMasks):
    """Drops the smallest weights of each layer at random while training, so that it learns to do without them.

    A growing share of each layer, the target sparsity in the end, is targeted; each targeted weight is dropped from a step
    with probability ``rate``. Evaluation sees none of the targeted.

    Args:
        rate: In [0, 1] (?).
        warm_up: Fraction of the way to ``finish`` over which the share grows linearly (?).

    Reference:
        Gomez et al., Learning sparse networks using targeted dropout, 2019.
    """

    rate: float = 0.66
    warm_up: float = 0.5

    def check_options(self) -> None:
        FRACTION.require("rate", self.rate)
        POSITIVE_FRACTION.require("warm_up", self.warm_up)

    @property
    def name(self) -> str:
        return "targeted-dropout"

    @property
    def needs_total_steps(self) -> bool:
        return True

    @property
    def differs_in_training(self) -> bool:
        return True

    def choose_masks(self, context: Context, weights: Sequence[Tensor], masks: list[Tensor] | None) -> list[Tensor]:
        topology = context.topology
        end = step_at(self.finish if self.finish is not None else 1.0, context.total_steps or 1) * self.warm_up
        share = min(1.0, context.step / end)
        kept = [
            layer.numel - round(share * (layer.numel - count))
            for layer, count in zip(topology.layers, context.target_counts, strict=True)
        ]
        return topology.select(topology.full(), kept, Scores(weights)).to_tensors()

    def effective(self, context: Context, layer: int, weight: Tensor, training: bool) -> Tensor:
        kept = self.masks(context)[layer]
        if training:
            kept = kept | (context.noise(layer) >= self.rate)
        return weight * kept
