"""Rounds of training and pruning: iterative magnitude pruning, lottery tickets, one-shot magnitude pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from itop.context import Context
from itop.criteria.drop import MagnitudeDrop
from itop.criteria.initial import DenseMasks
from itop.methods.method import Method
from itop.ranges import FRACTION, LESS_THAN_ALL, PROPER_FRACTION, require_count
from itop.schedules import AtFractions, UpdateSchedule, step_at
from itop.update_report import UpdateReport

_REWIND = "rewind point"
_FRESH = "optimiser at the start"


@final
@dataclass(frozen=True, slots=True)
class IterativePruning(Method):
    """Train, prune the smallest magnitudes of all layers together, rewind, repeat; all within one run.

    ``total_steps`` is divided into ``rounds + 1`` equal stretches with a pruning between each two. A training loop that
    asks :meth:`schedule_progress` gives each stretch a learning-rate schedule of its own.

    Args:
        label: The name in reports.
        prune_fraction: Of the remaining weights in each round but the last, which goes to the target exactly.
        rounds: Prunings; then each keeps the same share. None: as many as ``prune_fraction`` needs.
        rewinds_weights: Whether parameters and buffers go back to the rewind point after each pruning, and the optimiser's
            state to what it was before the first step.
        rewind_to: The rewind point as a fraction of the first stretch; 0 is the initialisation.
        density: Of the target; filled in by the engine.
    """

    label: str
    prune_fraction: float = 0.2
    rounds: int | None = None
    rewinds_weights: bool = True
    rewind_to: float = 0.0
    density: float | None = None

    def __post_init__(self) -> None:
        PROPER_FRACTION.require("prune_fraction", self.prune_fraction)
        if self.rounds is not None:
            require_count("rounds", self.rounds)
        LESS_THAN_ALL.require("rewind_to", self.rewind_to)

    @property
    def name(self) -> str:
        return self.label

    @property
    def default_allocation(self) -> str:
        return "uniform"

    def for_sparsity(self, sparsity: float) -> Method:
        return replace(self, density=1.0 - sparsity)

    @property
    def num_rounds(self) -> int:
        """Prunings in a run."""
        if self.rounds is not None:
            return self.rounds
        if self.density is None or self.density >= 1.0:
            return 1
        return max(1, math.ceil(math.log(self.density) / math.log(1.0 - self.prune_fraction) - 1e-9))

    @property
    def schedule(self) -> UpdateSchedule:
        stretches = self.num_rounds + 1
        return AtFractions(tuple(k / stretches for k in range(1, stretches)))

    def schedule_progress(self, step: int, total_steps: int) -> float:
        stretches = self.num_rounds + 1
        done = sum(step >= step_at(k / stretches, total_steps) for k in range(1, stretches))
        first = step_at(done / stretches, total_steps) if done else 0
        last = step_at((done + 1) / stretches, total_steps)
        return min((step - first) / max(1, last - first), 1.0 - 1e-9)

    def rewind_step(self, total_steps: int) -> int:
        """The step whose end is the rewind point."""
        return round(self.rewind_to * total_steps / (self.num_rounds + 1))

    def check(self, context: Context) -> None:
        if context.total_steps is not None and context.total_steps < 2 * (self.num_rounds + 1):
            raise ValueError(
                f"method '{self.name}' trains {self.num_rounds + 1} times; total_steps must be at least "
                f"{2 * (self.num_rounds + 1)}, got {context.total_steps}"
            )

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))
        context.state["pruned"] = 0
        if self.rewinds_weights:
            context.state[_FRESH] = _optimizer_states(context)
        self._keep_rewind_point(context)

    def after_step(self, context: Context) -> None:
        self._keep_rewind_point(context)

    def _keep_rewind_point(self, context: Context) -> None:
        if self.rewinds_weights and context.step == self.rewind_step(context.total_steps or 0):
            context.state[_REWIND] = {name: value.clone() for name, value in _tensors(context).items()}

    def count_after(self, context: Context, pruned: int) -> int:
        """Active weights after so many prunings."""
        numel = sum(layer.numel for layer in context.topology.layers)
        if pruned >= self.num_rounds:
            return context.target_total
        share = pruned / self.num_rounds
        keep = (1.0 - self.prune_fraction) ** pruned if self.rounds is None else (context.target_total / numel) ** share
        return max(context.target_total, round(keep * numel))

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        pruned = int(context.state["pruned"]) + 1
        surplus = max(0, sum(topology.num_active) - self.count_after(context, pruned))
        dropped = MagnitudeDrop().drop_exactly(context, surplus)
        report = topology.commit(dropped, topology.empty(), zero_all_inactive=context.zero_all_inactive)
        context.state["pruned"] = pruned
        if self.rewinds_weights:
            self._rewind(context)
        return report

    def _rewind(self, context: Context) -> None:
        saved: dict[str, Tensor] = context.state[_REWIND]
        with torch.no_grad():
            for name, value in _tensors(context).items():
                value.copy_(saved[name])
        _restart_optimizers(context, context.state.get(_FRESH, {}))
        context.topology.apply()

    def options(self) -> dict[str, Any]:
        return {
            "rounds": self.num_rounds,
            "prune_fraction": self.prune_fraction,
            "rewinds_weights": self.rewinds_weights,
            "rewind_to": self.rewind_to,
        }


def IMP(prune_fraction: float = 0.2, rounds: int | None = None) -> IterativePruning:
    """Iterative magnitude pruning, rewinding to the initial weights (Han et al., 2015; Frankle & Carbin, ICLR 2019).

    Args:
        prune_fraction: Of what is left, in each round.
        rounds: Prunings; None: as many as that takes, 14 at 95 %.
    """
    return IterativePruning("imp", prune_fraction, rounds)


def LotteryTicket(prune_fraction: float = 0.2, rounds: int | None = None, rewind_to: float = 0.1) -> IterativePruning:
    """Lottery tickets with late rewinding: to the weights of early training, not to the initial ones (Frankle 2019).

    Args:
        prune_fraction: Of what is left, in each round.
        rounds: Prunings; None: as many as that takes.
        rewind_to: As a fraction of the first round.
    """
    return IterativePruning("lth", prune_fraction, rounds, rewind_to=rewind_to)


def LearningRateRewinding(prune_fraction: float = 0.2, rounds: int | None = None) -> IterativePruning:
    """Iterative magnitude pruning that keeps the weights and rewinds the learning rate (Renda et al., ICLR 2020).

    Args:
        prune_fraction: Of what is left, in each round.
        rounds: Prunings; None: as many as that takes.
    """
    return IterativePruning("lr-rewind", prune_fraction, rounds, rewinds_weights=False)


@final
@dataclass(frozen=True, slots=True)
class OMP(Method):
    """One-shot magnitude pruning after training: once, over all layers, then fine-tuning.

    Args:
        prune_at: Fraction of the run; before the usual first fall of the learning rate at half of it, so that the weights
            that stay can still move.
    """

    prune_at: float = 0.4

    def __post_init__(self) -> None:
        FRACTION.require("prune_at", self.prune_at)

    @property
    def name(self) -> str:
        return "omp"

    @property
    def default_allocation(self) -> str:
        return "uniform"

    @property
    def schedule(self) -> UpdateSchedule:
        return AtFractions((self.prune_at,))

    def initialise(self, context: Context) -> None:
        context.topology.initialise(DenseMasks().masks(context))

    def update(self, context: Context) -> UpdateReport:
        topology = context.topology
        surplus = sum(topology.num_active) - context.target_total
        dropped = MagnitudeDrop().drop_exactly(context, surplus)
        return topology.commit(dropped, topology.empty(), zero_all_inactive=context.zero_all_inactive)

    def options(self) -> dict[str, Any]:
        return {"prune_at": self.prune_at}


def _tensors(context: Context) -> dict[str, Tensor]:
    """The model's parameters and buffers by name, detached."""
    tensors = {name: value.detach() for name, value in context.model.named_parameters()}
    tensors.update({name: value.detach() for name, value in context.model.named_buffers()})
    return tensors


def _optimizer_states(context: Context) -> dict[str, dict[str, Any]]:
    """What optimisers hold of each parameter that has some state: tensors, which are copied, and numbers."""
    states = {}
    for name, parameter in context.model.named_parameters():
        if parameter in context.optimizer.state:
            states[name] = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in context.optimizer.state[parameter].items()
                if value is None or isinstance(value, (Tensor, int, float))
            }
    return states


def _restart_optimizers(context: Context, fresh: dict[str, dict[str, Any]]) -> None:
    """Forgets what optimisers learned of the parameters; what they held at the start, as Adagrad does, they hold again."""
    for name, parameter in context.model.named_parameters():
        for member in context.members:
            if name not in fresh:
                member.state.pop(parameter, None)
            elif parameter in member.state:
                member.state[parameter].update(
                    {key: value.clone() if isinstance(value, Tensor) else value for key, value in fresh[name].items()}
                )
