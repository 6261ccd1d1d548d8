"""EDST (Liu et al., Deep Ensembling with No Overhead, FreeTickets, ICLR 2022): one run that ends with several networks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from itop.allocation import AllocationLike
from itop.context import Context
from itop.criteria.grow import GradientGrowth, RandomGrowth
from itop.methods.composed import takes_density, takes_pattern
from itop.methods.drop_and_grow import DropAndGrow
from itop.ranges import FRACTION, PROPER_FRACTION, require_count
from itop.schedules import AtFractions, DropFraction, EitherOf, Every, step_at

_TICKETS = "tickets"
_DENSE, _POSITIONS, _VALUES = "dense", "positions", "values"


@final
@dataclass(frozen=True, slots=True)
class Phases:
    """A stretch of exploration, then equal stretches of refinement with a ticket at the end of each.

    Args:
        exploration: Its part of the run, in (0, 1).
        num_tickets: At least 2.
    """

    exploration: float
    num_tickets: int

    def __post_init__(self) -> None:
        PROPER_FRACTION.require("exploration", self.exploration)
        require_count("tickets", self.num_tickets, 2)

    @property
    def ends(self) -> tuple[float, ...]:
        """Where the tickets are drawn, as fractions of the run; the last is 1."""
        count = self.num_tickets
        return tuple(self.exploration + (1.0 - self.exploration) * k / count for k in range(1, count + 1))

    def end_steps(self, total_steps: int) -> list[int]:
        """The same in steps."""
        return [step_at(end, total_steps) for end in self.ends]


@final
@dataclass(frozen=True, slots=True)
class EscapingDropFraction(DropFraction):
    """One fraction throughout, but a large one between two stretches of refinement, which leaves the basin of a ticket.

    Args:
        fraction: P, in [0, 1].
        escape: Of the active weights, after every ticket but the last, in [0, 1].
        phases: Of the run.
    """

    fraction: float
    escape: float
    phases: Phases

    def __post_init__(self) -> None:
        FRACTION.require("drop_fraction", self.fraction)
        FRACTION.require("escape_fraction", self.escape)

    @property
    def needs_total_steps(self) -> bool:
        return True

    def __call__(self, step: int, total_steps: int | None) -> float:
        assert total_steps is not None  # the engine checks `needs_total_steps` once
        return self.escape if step in self.phases.end_steps(total_steps)[:-1] else self.fraction


@final
@dataclass(frozen=True, slots=True)
class TicketTraining(DropAndGrow):
    """Drop and grow that sets the network aside at the end of each stretch of refinement, before it moves on.

    A training loop that asks :meth:`schedule_progress` explores at its first learning rate and takes the second half of
    its schedule anew in each refinement.

    Attributes:
        phases: Of the run.
    """

    phases: Phases = Phases(1 / 3, 3)

    def check(self, context: Context) -> None:
        DropAndGrow.check(self, context)
        total = context.total_steps or 0
        steps = [step_at(self.phases.exploration, total), *self.phases.end_steps(total)]
        if any(later - earlier < 2 for earlier, later in itertools.pairwise(steps)):
            raise ValueError(
                f"method '{self.name}' draws {self.phases.num_tickets} tickets, which takes more than "
                f"total_steps={context.total_steps}"
            )

    def initialise(self, context: Context) -> None:
        DropAndGrow.initialise(self, context)
        context.state[_TICKETS] = []

    def after_step(self, context: Context) -> None:
        if context.step in self.phases.end_steps(context.total_steps or 0):
            context.state[_TICKETS].append(_set_aside(context))

    def tickets(self, context: Context) -> Sequence[Mapping[str, Tensor]]:
        return [_restored(ticket) for ticket in context.state[_TICKETS]]

    def schedule_progress(self, step: int, total_steps: int) -> float:
        first = step_at(self.phases.exploration, total_steps)
        if step < first:
            return 0.5 * step / first
        for last in self.phases.end_steps(total_steps):
            if step < last:
                return 0.5 + 0.5 * (step - first) / (last - first)
            first = last
        return 1.0 - 1e-9

    def options(self) -> dict[str, Any]:
        return {**DropAndGrow.options(self), "phases": self.phases}


@takes_density
@takes_pattern
def EDST(
    update_every: int = 1000,
    tickets: int = 3,
    exploration: float = 1 / 3,
    drop_fraction: float = 0.5,
    escape_fraction: float = 0.8,
    by_gradient: bool = False,
    allocation: AllocationLike = "erk",
) -> TicketTraining:
    """One dynamic run explores, then refines several times; each refinement ends with a member of an ensemble.

    Between two refinements a large part of the weights is replaced at once, so that the next network lies elsewhere. The
    members are ``engine.tickets()``; the model itself ends as the last of them.

    Args:
        update_every: dT in steps.
        tickets: M, the members.
        exploration: The part of the run before the first refinement; 150 of 450 epochs in the paper's runs.
        drop_fraction: P of ordinary updates, constant.
        escape_fraction: q, of the update between two refinements.
        by_gradient: Whether weights grow by gradient instead of at random; the paper does both.
    """
    phases = Phases(exploration, tickets)
    return TicketTraining(
        label="edst",
        update_schedule=EitherOf((Every(update_every, last_step=False), AtFractions(phases.ends[:-1]))),
        drop_fraction=EscapingDropFraction(drop_fraction, escape_fraction, phases),
        grow=GradientGrowth() if by_gradient else RandomGrowth(),
        allocation=allocation,
        phases=phases,
    )


def _set_aside(context: Context) -> dict[str, Any]:
    """The model's state: of each sparse layer what is active and where, everything else as it is."""
    places = {layer.name: i for i, layer in enumerate(context.topology.layers)}
    ticket: dict[str, Any] = {}
    for name, value in context.model.state_dict().items():
        if name in places:
            positions = context.topology.mask(places[name]).flatten().nonzero().squeeze(1)
            values = value.detach().flatten()[positions]
            ticket[name] = {"shape": list(value.shape), _POSITIONS: positions, _VALUES: values}
        else:
            ticket[name] = {_DENSE: value.detach().clone()}
    return ticket


def _restored(ticket: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse: a state the model loads."""
    state: dict[str, Tensor] = {}
    for name, kept in ticket.items():
        if _DENSE in kept:
            state[name] = kept[_DENSE].clone()
        else:
            values = kept[_VALUES]
            flat = torch.zeros(torch.Size(kept["shape"]).numel(), dtype=values.dtype, device=values.device)
            flat[kept[_POSITIONS]] = values
            state[name] = flat.view(kept["shape"])
    return state
