"""The loss along the straight line between two tickets: whether they lie in one basin.

Between two sparse networks the line runs through the space of the union of their masks.

Reference:
    Evci et al., Gradient Flow in Sparse Neural Networks and How Lottery Tickets Win, AAAI 2022, section 4.3;
    Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, ICML 2020 (the barrier).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from itop.analysis.layer import check_same_layers
from itop.analysis.preserving import eager_model, state_kept

TWENTY_STEPS: tuple[float, ...] = tuple(i / 20 for i in range(21))


@final
@dataclass(frozen=True, slots=True)
class LossPath:
    """Loss at points of the line.

    Attributes:
        positions: In [0, 1], ascending: 0 is the first ticket, 1 the second.
        losses: The loss at each.
        union_density: Weights active in either ticket over all masked weights; None without masks.
    """

    positions: tuple[float, ...]
    losses: tuple[float, ...]
    union_density: float | None

    @property
    def barrier(self) -> float:
        """The most by which the loss exceeds the straight line between its two ends, at least 0."""
        start, end = self.losses[0], self.losses[-1]
        return max(
            loss - ((1.0 - position) * start + position * end)
            for position, loss in zip(self.positions, self.losses, strict=True)
        )


def union_masks(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that are active in either topology."""
    check_same_layers(first, second)
    return {name: mask | second[name] for name, mask in first.items()}


def interpolate_tickets(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], position: float
) -> dict[str, Tensor]:
    """``(1 - position) first + position second`` of two state dicts; exact at both ends.

    Whole numbers, such as counts of batches, are taken from the nearer ticket.

    Args:
        first: State dict.
        second: State dict of the same model.
        position: In [0, 1].

    Raises:
        ValueError: If names or shapes differ or the position is outside [0, 1].
    """
    if not 0.0 <= position <= 1.0:
        raise ValueError(f"position must be in [0, 1], got {position}")
    check_same_layers(first, second)
    mixed: dict[str, Tensor] = {}
    for name, start in first.items():
        end = second[name].to(start.device, start.dtype)
        if start.is_floating_point() or start.is_complex():
            mixed[name] = torch.lerp(start, end, position)
        else:
            mixed[name] = (start if position < 0.5 else end).clone()
    return mixed


def loss_between_tickets(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    evaluate: Callable[[nn.Module], float],
    positions: Sequence[float] = TWENTY_STEPS,
    masks: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> LossPath:
    """Loss along the line between two tickets; the model's own state is put back afterwards, in place.

    Args:
        model: Takes the states in turn; may be compiled.
        first: State dict of the first ticket, without a compiled model's prefix.
        second: State dict of the second.
        evaluate: Gives the loss of the model as it is. Where running statistics matter it should renew them on training
            data first: means of two networks' statistics are not those of the network in between.
        positions: Ascending, the first 0 and the last 1.
        masks: Masks of the two tickets by parameter name. Weights outside a ticket's mask are taken as zero.

    Raises:
        ValueError: If the tickets differ in names or shapes, a mask names no weight of them, or positions are not as
            said.
    """
    points = tuple(float(position) for position in positions)
    if len(points) < 2 or points[0] != 0.0 or points[-1] != 1.0 or list(points) != sorted(points):
        raise ValueError(f"positions must ascend from 0 to 1, got {points}")
    check_same_layers(first, second)
    density = None
    # A ticket may be the state of the model itself, which is written to from here on.
    first, second = ({name: value.clone() for name, value in ticket.items()} for ticket in (first, second))
    if masks is not None:
        first, second = _masked(first, masks[0]), _masked(second, masks[1])
        union = union_masks(*masks)
        active = sum(int(torch.count_nonzero(mask)) for mask in union.values())
        density = active / max(1, sum(mask.numel() for mask in union.values()))
    network = eager_model(model)
    losses = []
    with state_kept(network):
        for position in points:
            network.load_state_dict(interpolate_tickets(first, second, position))
            losses.append(float(evaluate(model)))
    return LossPath(points, tuple(losses), density)


def _masked(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    unknown = [name for name in masks if name not in state]
    if unknown:
        raise ValueError(f"masks must name weights of the tickets, got {unknown[0]}")
    return {
        name: value.masked_fill(~masks[name].to(value.device), 0) if name in masks else value
        for name, value in state.items()
    }
