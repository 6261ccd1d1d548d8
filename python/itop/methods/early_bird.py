"""Early-bird tickets (You et al., Drawing early-bird tickets, ICLR 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from itop.context import Context
from itop.criteria.initial import DenseMasks
from itop.methods.method import Method, UnsuitableModelError
from itop.ranges import FRACTION, NOT_NEGATIVE, require_count
from itop.schedules import AtFractions, EitherOf, EveryEpoch, UpdateSchedule, step_at
from itop.update_report import UpdateReport

_HISTORY = "channel masks"
_DRAWN = "drawn at"


@final
@dataclass(frozen=True, slots=True)
class EarlyBird(Method):
    """Channels by ``abs(gamma)`` of their batch normalisation; drawn once five masks in a row hardly differ, then retrained.

    Every few steps the channels of all normalisations compete and a mask is noted. When the largest distance between
    the last masks (their share of differing channels) is below the tolerance, or ``latest`` of the run has passed, the
    channels that lose go: their incoming weights, and outgoing ones where the next layer has as many inputs. The share
    that goes is found so that at most the target's number of weights is left; whole channels allow no exact count.

    Args:
        check_every: Steps between masks. None: an epoch, once the training loop is known.
        tolerance: Mask distance below which the ticket is drawn.
        window: Masks that must agree.
        latest: Fraction of the run at which the ticket is drawn at last (?).
        penalty: L1 on gamma while channels compete (?).
    """

    check_every: int | None = None
    tolerance: float = 0.1
    window: int = 5
    latest: float = 0.5
    penalty: float = 1e-4

    def __post_init__(self) -> None:
        require_count("window", self.window, 2)
        FRACTION.require("tolerance", self.tolerance)
        NOT_NEGATIVE.require("penalty", self.penalty)
        if self.check_every is not None:
            require_count("check_every", self.check_every)
        FRACTION.require("latest", self.latest)

    @property
    def name(self) -> str:
        return "early-bird"

    @property
    def default_allocation(self) -> str:
        return "uniform"

    @property
    def schedule(self) -> UpdateSchedule:
        checks = EveryEpoch() if self.check_every is None else EveryEpoch(1.0, self.check_every)
        return EitherOf((checks, AtFractions((self.latest,))))

    @property
    def acts_before_step(self) -> bool:
        return True

    def for_loop(self, steps_per_epoch: int) -> Method:
        return replace(self, check_every=steps_per_epoch) if self.check_every is None else self

    def check(self, context: Context) -> None:
        if not any(norm is not None for norm in normalisations(context)):
            raise UnsuitableModelError(
                "method 'early-bird' ranks channels by batch normalisation; the model has no sparse layer followed by one"
            )

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))

    def before_step(self, context: Context) -> None:
        if _DRAWN in context.state:
            return
        for norm in normalisations(context):
            if norm is not None and norm.weight.grad is not None:
                norm.weight.grad.add_(torch.sign(norm.weight.detach()), alpha=self.penalty * context.gradient_scale)

    def update(self, context: Context) -> UpdateReport | None:
        if _DRAWN in context.state:
            return None
        layer_masks, channels = self.ticket(context)
        history: list[Tensor] = [*context.state.get(_HISTORY, []), channels][-self.window :]
        context.state[_HISTORY] = history
        distance = max(float((mask != channels).float().mean()) for mask in history)
        late = context.step >= step_at(self.latest, context.total_steps or 1)
        if not late and (len(history) < self.window or distance >= self.tolerance):
            return None
        topology = context.topology
        kept = topology.from_tensors(layer_masks)
        context.state[_DRAWN] = context.step
        del context.state[_HISTORY]
        return topology.commit(topology.active - kept, topology.empty(), zero_all_inactive=context.zero_all_inactive)

    def ticket(self, context: Context) -> tuple[list[Tensor], Tensor]:
        """The masks of every layer and of all channels together, bool: the most channels that fit the target."""
        norms = normalisations(context)
        gammas = torch.cat([norm.weight.detach().abs().flatten() for norm in norms if norm is not None])
        order = gammas.argsort(descending=True, stable=True)
        low, high = 1, len(order)
        while low < high:
            middle = (low + high + 1) // 2
            if (
                self._count(context, self._layer_channels(context, norms, _first(order, middle)))
                <= context.target_total
            ):
                low = middle
            else:
                high = middle - 1
        channels = _first(order, low)
        return self._layer_masks(context, self._layer_channels(context, norms, channels)), channels

    def _layer_channels(
        self, context: Context, norms: list[_BatchNorm | None], channels: Tensor
    ) -> list[tuple[Tensor | None, Tensor | None]]:
        """Of each layer which outputs and which inputs stay, bool; None: all."""
        kept: list[tuple[Tensor | None, Tensor | None]] = []
        position = 0
        incoming: Tensor | None = None
        for weight, norm in zip(context.topology.weights(), norms, strict=True):
            inputs: Tensor | None = None
            if incoming is not None and weight.shape[1] % len(incoming) == 0:
                inputs = incoming.repeat_interleave(weight.shape[1] // len(incoming))
            own: Tensor | None = None
            if norm is not None:
                own = channels[position : position + norm.num_features].clone()
                position += norm.num_features
                # A layer without channels would cut the network.
                if not bool(own.any()):
                    own[int(norm.weight.detach().abs().argmax())] = True
            incoming = own
            kept.append((own, inputs))
        return kept

    def _count(self, context: Context, kept: list[tuple[Tensor | None, Tensor | None]]) -> int:
        """Weights between channels that stay."""
        total = 0
        for weight, (outputs, inputs) in zip(context.topology.weights(), kept, strict=True):
            rows = weight.shape[0] if outputs is None else int(outputs.sum())
            columns = weight.shape[1] if inputs is None else int(inputs.sum())
            total += rows * columns * math.prod(weight.shape[2:])
        return total

    def _layer_masks(self, context: Context, kept: list[tuple[Tensor | None, Tensor | None]]) -> list[Tensor]:
        masks = []
        for weight, (outputs, inputs) in zip(context.topology.weights(), kept, strict=True):
            mask = torch.ones_like(weight, dtype=torch.bool)
            if inputs is not None:
                mask &= inputs.view(1, -1, *[1] * (weight.dim() - 2))
            if outputs is not None:
                mask &= outputs.view(-1, *[1] * (weight.dim() - 1))
            masks.append(mask)
        return masks

    def options(self) -> dict[str, Any]:
        return {"tolerance": self.tolerance, "window": self.window, "latest": self.latest, "penalty": self.penalty}


def normalisations(context: Context) -> list[_BatchNorm | None]:
    """The batch normalisation that follows each layer, in the order of the model's modules; None where there is none."""
    layers = {id(layer.module): i for i, layer in enumerate(context.topology.layers)}
    found: list[_BatchNorm | None] = [None] * len(context.topology.layers)
    latest: int | None = None
    for module in context.model.modules():
        if id(module) in layers:
            latest = layers[id(module)]
        elif isinstance(module, _BatchNorm) and isinstance(module.weight, nn.Parameter) and latest is not None:
            if context.topology.layers[latest].shape[0] == module.num_features:
                found[latest] = module
            latest = None
    return found


def _first(order: Tensor, count: int) -> Tensor:
    chosen = torch.zeros(len(order), dtype=torch.bool, device=order.device)
    chosen[order[:count]] = True
    return chosen
