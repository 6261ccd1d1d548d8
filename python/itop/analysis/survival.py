"""How long newly grown weights live, and how much of a topology changes.

The survival curve is a product-limit estimate: weights that are alive at the end count as long as they were seen.

Reference:
    Kaplan and Meier, Nonparametric Estimation from Incomplete Observations, JASA 1958; variance by Greenwood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itop.analysis.layer import check_same_layers
from itop.analysis.packed_mask import PackedMask, count_bits


@final
@dataclass(frozen=True, slots=True, eq=False)
class TopologyChange:
    """One topology update: what was dropped and what was grown, by layer name.

    A weight dropped and grown by the same update is in both: its old life ends, a new one begins.
    """

    step: int
    dropped: Mapping[str, PackedMask]
    grown: Mapping[str, PackedMask]

    @classmethod
    def between(cls, before: Mapping[str, PackedMask], after: Mapping[str, PackedMask], step: int) -> TopologyChange:
        """What changed from one topology to the next, of the same layers."""
        return cls(
            step,
            {name: PackedMask(mask.shape, mask.words & ~after[name].words) for name, mask in before.items()},
            {name: PackedMask(mask.shape, mask.words & ~before[name].words) for name, mask in after.items()},
        )


@final
@dataclass(frozen=True, slots=True, eq=False)
class SurvivalCurve:
    """Survival of grown weights against their age in optimiser steps.

    Attributes:
        ages: int64 [events], ascending ages at which grown weights were dropped.
        survival: float64 [events], estimated part that lives longer than each age.
        standard_error: float64 [events], of that estimate.
        num_at_risk: int64 [events], grown weights seen alive at that age just before.
        num_dropped: int64 [events], of these, dropped at that age.
    """

    ages: NDArray[np.int64]
    survival: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    num_at_risk: NDArray[np.int64]
    num_dropped: NDArray[np.int64]

    def survival_at(self, age: int) -> float:
        """Estimated part of grown weights that live longer than ``age`` steps; 1 before the first was dropped."""
        index = int(np.searchsorted(self.ages, age, side="right")) - 1
        return float(self.survival[index]) if index >= 0 else 1.0


@final
class SurvivalTracker:
    """Follows grown weights through updates.

    Memory: 12 bytes for each grown weight that is alive, and one count for each age at which one was dropped; nothing
    grows with the number of updates otherwise. Weights of the initial topology are not followed.
    """

    def __init__(self) -> None:
        self._sites: dict[str, NDArray[np.int64]] = {}
        self._births: dict[str, NDArray[np.int32]] = {}
        self._birth_steps: list[int] = []
        self._dropped_at_age: dict[int, int] = {}
        self._last_step = -1

    def record(self, change: TopologyChange) -> None:
        """Takes in the next update.

        Raises:
            ValueError: If its step is not after the one before, or a grown weight is already alive.
        """
        if change.step <= self._last_step:
            raise ValueError(f"step must be after {self._last_step}, got {change.step}")
        births = len(self._birth_steps)
        for name in change.dropped.keys() | change.grown.keys():
            sites = self._sites.get(name, np.empty(0, np.int64))
            born = self._births.get(name, np.empty(0, np.int32))
            if name in change.dropped:
                ends = _at(change.dropped[name], sites)
                self._count_deaths(change.step, born[ends])
                sites, born = sites[~ends], born[~ends]
            if name in change.grown:
                if _at(change.grown[name], sites).any():
                    raise ValueError(f"grown weights of {name} must have been inactive or dropped by the same update")
                new = _set_sites(change.grown[name])
                sites = np.concatenate((sites, new))
                born = np.concatenate((born, np.full(len(new), births, np.int32)))
            self._sites[name], self._births[name] = sites, born
        self._birth_steps.append(change.step)
        self._last_step = change.step

    def curve(self, end_step: int | None = None) -> SurvivalCurve:
        """The estimate from everything recorded.

        Args:
            end_step: The last step until which the topology is known to have kept, by default the last update's.
        """
        end = self._last_step if end_step is None else end_step
        if end < self._last_step:
            raise ValueError(f"end_step must be at least {self._last_step}, got {end}")
        return _product_limit(self._dropped_at_age, self._alive_at_age(end))

    def state_dict(self) -> dict[str, Any]:
        """Everything recorded, as plain containers and tensors."""
        return {
            "sites": {name: torch.from_numpy(sites) for name, sites in self._sites.items()},
            "births": {name: torch.from_numpy(births) for name, births in self._births.items()},
            "birth_steps": list(self._birth_steps),
            "dropped_at_age": dict(self._dropped_at_age),
            "last_step": self._last_step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what :meth:`state_dict` returned."""
        self._sites = {name: sites.cpu().numpy().copy() for name, sites in state["sites"].items()}
        self._births = {name: births.cpu().numpy().copy() for name, births in state["births"].items()}
        self._birth_steps = list(state["birth_steps"])
        self._dropped_at_age = dict(state["dropped_at_age"])
        self._last_step = int(state["last_step"])

    def _count_deaths(self, step: int, births: NDArray[np.int32]) -> None:
        for birth, count in enumerate(np.bincount(births)):
            if count:
                age = step - self._birth_steps[birth]
                self._dropped_at_age[age] = self._dropped_at_age.get(age, 0) + int(count)

    def _alive_at_age(self, end: int) -> dict[int, int]:
        alive: dict[int, int] = {}
        for births in self._births.values():
            for birth, count in enumerate(np.bincount(births)):
                if count:
                    alive[end - self._birth_steps[birth]] = alive.get(end - self._birth_steps[birth], 0) + int(count)
        return alive


def survival_curve(history: Iterable[TopologyChange], end_step: int | None = None) -> SurvivalCurve:
    """Survival of the weights grown in a history, which may be a generator: one change is held at a time.

    Args:
        history: Topology updates in order.
        end_step: The last step of the training, by default that of the last update.
    """
    tracker = SurvivalTracker()
    for change in history:
        tracker.record(change)
    return tracker.curve(end_step)


def churn(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, int]:
    """``|M_t xor M_(t-1)|`` of each layer: each exchanged weight counts twice, as dropped and as grown.

    Args:
        before: bool masks by layer name.
        after: The same layers and shapes.
    """
    check_same_layers(before, after)
    return {name: int(torch.count_nonzero(mask ^ after[name])) for name, mask in before.items()}


def packed_churn(before: Mapping[str, PackedMask], after: Mapping[str, PackedMask]) -> dict[str, int]:
    """The same of ``churn``, of packed masks of the same layers and shapes."""
    return {name: int(count_bits(mask.words ^ after[name].words).sum()) for name, mask in before.items()}


def _product_limit(dropped: Mapping[int, int], censored: Mapping[int, int]) -> SurvivalCurve:
    ages = np.array(sorted(dropped), dtype=np.int64)
    num_dropped = np.array([dropped[age] for age in ages.tolist()], dtype=np.int64)
    censored_ages = np.array(sorted(censored), dtype=np.int64)
    num_censored = np.array([censored[age] for age in censored_ages.tolist()], dtype=np.int64)
    # At risk at an age: all that were dropped or last seen at that age or later.
    dropped_later = np.cumsum(num_dropped[::-1])[::-1]
    censored_later = np.concatenate((np.cumsum(num_censored[::-1])[::-1], [0]))
    at_risk = dropped_later + censored_later[np.searchsorted(censored_ages, ages, side="left")]
    survival = np.cumprod(1.0 - num_dropped / at_risk).astype(np.float64)
    left = at_risk - num_dropped
    # Greenwood's sum is infinite once nobody is left; the curve is 0 there and so is its error.
    terms = np.divide(num_dropped, at_risk * left, out=np.zeros(len(ages)), where=left > 0)
    return SurvivalCurve(ages, survival, survival * np.sqrt(np.cumsum(terms)), at_risk, num_dropped)


def _at(mask: PackedMask, sites: NDArray[np.int64]) -> NDArray[np.bool_]:
    bits: NDArray[np.uint64] = mask.words[sites >> 6] >> (sites & 63).astype(np.uint64)
    found: NDArray[np.bool_] = np.not_equal(bits & np.uint64(1), 0)
    return found


def _set_sites(mask: PackedMask) -> NDArray[np.int64]:
    return np.flatnonzero(mask.unpack().numpy().reshape(-1)).astype(np.int64)
