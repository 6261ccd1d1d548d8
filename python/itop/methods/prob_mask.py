"""ProbMask (Zhou et al., Effective sparsification of neural networks with global sparsity constraint, CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from itop.context import Context
from itop.methods.gates import GATE, Gated, expected_size
from itop.methods.hidden_weights import straight_through
from itop.ranges import POSITIVE_FRACTION
from itop.selection import BitSet, Scores

_KEPT = "most probable"


@final
@dataclass(frozen=True, slots=True)
class ProbMask(Gated):
    """Probabilities projected to ``sum(s) = K`` over all layers, sampled by Gumbel-sigmoid (Zhou et al., CVPR 2021).

    K falls from all weights to the target by a cubic ramp until the masks are fixed, the temperature linearly from 1. What
    is evaluated and reported on the way are the K weights of the largest ``s abs(w)``, which are those that stay in the end.

    Args:
        gate_speed: With SGD, how many times faster probabilities learn than weights (?).
        final_temperature: Of the sigmoid (?).
    """

    gate_speed: float = 10.0
    final_temperature: float = 0.03

    def check_options(self) -> None:
        Gated.check_options(self)
        POSITIVE_FRACTION.require("final_temperature", self.final_temperature)

    @property
    def name(self) -> str:
        return "probmask"

    @property
    def needs_total_steps(self) -> bool:
        return True

    @property
    def initial_gate(self) -> float:
        return 1.0

    @property
    def has_limit(self) -> bool:
        return False

    def gate(self, context: Context, layer: int, weight: Tensor, gate: Tensor, training: bool) -> Tensor:
        if not training:
            return straight_through(context.state[_KEPT][layer].to(gate.dtype), gate)
        first, second = (context.noise(layer, stream).clamp(1e-6, 1.0 - 1e-6) for stream in (0, 1))
        probability = gate.clamp(1e-4, 1.0 - 1e-4)
        logit = probability.log() - (-probability).log1p()
        gumbel = -torch.log(-torch.log(first)) + torch.log(-torch.log(second))
        temperature = 1.0 - (1.0 - self.final_temperature) * self.until_finish(context)
        return torch.sigmoid((logit + gumbel) / temperature)

    def saliency(self, context: Context, layer: int, weight: Tensor) -> Tensor:
        return expected_size(weight, self.parameter(context, GATE, layer))

    def kept(self, context: Context, effective: Sequence[Tensor]) -> BitSet:
        return context.topology.from_tensors(context.state[_KEPT])

    def after_optimizer(self, context: Context, weights: Sequence[Tensor]) -> None:
        topology = context.topology
        numel = sum(layer.numel for layer in topology.layers)
        more = (numel - context.target_total) * (1.0 - self.until_finish(context)) ** 3
        with torch.no_grad():
            project_to_sum(self.gates(context), context.target_total + more)
            sizes = [expected_size(weight, gate) for weight, gate in zip(weights, self.gates(context), strict=True)]
        count = context.target_total + round(more)
        context.state[_KEPT] = topology.select(topology.full(), count, Scores(sizes)).to_tensors()

    def fix_masks(self, context: Context) -> None:
        Gated.fix_masks(self, context)
        del context.state[_KEPT]


def project_to_sum(values: Sequence[Tensor], total: float) -> None:
    """The nearest point with entries in [0, 1] and a sum of at most ``total``, in place: ``clamp(s - v, 0, 1)``."""
    flat = torch.cat([value.flatten() for value in values])
    moved = torch.empty_like(flat)

    def surplus(shift: float) -> float:
        return float(torch.sub(flat, shift, out=moved).clamp_(0.0, 1.0).sum()) - total

    low, high = 0.0, float(flat.max())
    above, below = surplus(low), -total
    if above > 0.0:
        # The sum falls with the shift in straight pieces: a few secants find it. An end that stays counts half the next time.
        reached = below
        for _ in range(30):
            middle = low + (high - low) * above / (above - below)
            found = surplus(middle)
            if found > 0.0:
                low, above, below = middle, found, below / 2
            else:
                high, below, above = middle, found, above / 2
                reached = found
            if reached >= -1e-6 * total or not low < high:
                break
        for value in values:
            value.sub_(high)
    for value in values:
        value.clamp_(0.0, 1.0)
