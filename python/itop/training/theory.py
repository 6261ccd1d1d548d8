"""What theory expects of a run's updates, to set beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from itop.analysis.exploration import (
    ExplorationCurve,
    Growth,
    RandomGrowth,
    UnexploredFirstGrowth,
    UpdatePlan,
    expected_exploration,
)
from itop.analysis.layer import Layer
from itop.criteria import RandomGrowth as RandomGrowthRule
from itop.criteria import SameLayer, Unstructured
from itop.methods import DropAndGrow, Method
from itop.training.records import UpdateRecord

__all__ = ["ExpectedExploration", "expected_exploration_of", "predicted_exploration"]

_NETWORK = ""
"""No layer's name."""


@final
@dataclass(frozen=True, slots=True)
class ExpectedExploration:
    """R_s over a run's updates, the first entry before any.

    Args:
        steps: Optimiser steps, from 0.
        random_growth: The mean if every grown site had been drawn uniformly.
        bound: What no growth rule can exceed with these drops.
        layers: The last entries of both, of each layer by name.
    """

    steps: tuple[int, ...]
    random_growth: tuple[float, ...]
    bound: tuple[float, ...]
    layers: Mapping[str, tuple[float, float]]


def expected_exploration_of(updates: Sequence[UpdateRecord]) -> ExpectedExploration | None:
    """The expectation from the numbers of connections that each layer really dropped.

    None without updates, and where a layer's density changes, for which the closed forms say nothing.
    """
    if not updates:
        return None
    constant = all(layer.dropped == layer.grown for update in updates for layer in update.layers.values())
    if not constant:
        return None
    steps = (0, *(update.step for update in updates))
    random, bound = _explored_by(RandomGrowth(), updates), _explored_by(UnexploredFirstGrowth(), updates)
    layers = {name: (random[name][-1], bound[name][-1]) for name in updates[0].layers}
    return ExpectedExploration(steps, random[_NETWORK], bound[_NETWORK], layers)


def predicted_exploration(method: Method, layers: Sequence[Layer], total_steps: int) -> ExplorationCurve | None:
    """R_s(t) of a run before it is made, from its schedule and densities alone; its last entry is the end of the run.

    None where there is no such theory: for methods that do not grow at random, layer by layer at constant density.

    Args:
        method: As the training loop knows it.
        layers: At the densities they keep.
        total_steps: Of the run.
    """
    if not isinstance(method, DropAndGrow) or type(method).update is not DropAndGrow.update or method.ramp is not None:
        return None
    if not isinstance(method.pattern, Unstructured):
        return None
    if not isinstance(method.grow, RandomGrowthRule) or not isinstance(method.redistribution, SameLayer):
        return None
    steps = tuple(method.schedule.update_steps(total_steps))
    plan = UpdatePlan(steps, tuple(method.drop_fraction(step, total_steps) for step in steps))
    return expected_exploration(layers, plan, RandomGrowth(regrow_just_dropped=method.may_regrow))


def _explored_by(growth: Growth, updates: Sequence[UpdateRecord]) -> dict[str, tuple[float, ...]]:
    """R_s before and after each update, of every layer and of the whole network."""
    unexplored = np.zeros(len(updates) + 1)
    total = 0
    rates: dict[str, tuple[float, ...]] = {}
    for name, layer in updates[0].layers.items():
        grown = np.array([update.layers[name].grown for update in updates], dtype=np.float64)
        left = growth.mean_unexplored(layer.size, round(layer.density * layer.size), grown)
        rates[name] = tuple((1.0 - left / layer.size).tolist())
        unexplored += left
        total += layer.size
    return rates | {_NETWORK: tuple((1.0 - unexplored / total).tolist())}
