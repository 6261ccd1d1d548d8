"""What theory expects of the updates a run has made, to draw beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from itop.analysis.exploration import Growth, RandomGrowth, UnexploredFirstGrowth
from itop.training.records import UpdateRecord

__all__ = ["ExpectedExploration", "expected_exploration_of"]


@final
@dataclass(frozen=True, slots=True)
class ExpectedExploration:
    """R_s over a run's updates, the first entry before any.

    Args:
        steps: Optimiser steps, from 0.
        random_growth: The mean if every grown site had been drawn uniformly.
        bound: What no growth rule can exceed with these drops.
    """

    steps: tuple[int, ...]
    random_growth: tuple[float, ...]
    bound: tuple[float, ...]


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
    return ExpectedExploration(
        steps, _explored_by(RandomGrowth(), updates), _explored_by(UnexploredFirstGrowth(), updates)
    )


def _explored_by(growth: Growth, updates: Sequence[UpdateRecord]) -> tuple[float, ...]:
    unexplored = np.zeros(len(updates) + 1)
    total = 0
    for name, layer in updates[0].layers.items():
        grown = np.array([update.layers[name].grown for update in updates], dtype=np.float64)
        unexplored += growth.mean_unexplored(layer.size, round(layer.density * layer.size), grown)
        total += layer.size
    return tuple((1.0 - unexplored / total).tolist())
