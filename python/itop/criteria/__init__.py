"""Parts of methods that say which weights: initial masks, drop, grow, redistribution."""

from itop.criteria.drop import DropCriterion, MagnitudeDrop, ScoreDrop, SignedMagnitudeDrop
from itop.criteria.grow import GradientGrowth, GrowCriterion, RandomGrowth, ScoreGrowth, UnexploredFirst
from itop.criteria.initial import DenseMasks, InitialMasks, RandomMasks
from itop.criteria.redistribution import Redistribution, SameLayer

__all__ = [
    "DenseMasks",
    "DropCriterion",
    "GradientGrowth",
    "GrowCriterion",
    "InitialMasks",
    "MagnitudeDrop",
    "RandomGrowth",
    "RandomMasks",
    "Redistribution",
    "SameLayer",
    "ScoreDrop",
    "ScoreGrowth",
    "SignedMagnitudeDrop",
    "UnexploredFirst",
]
