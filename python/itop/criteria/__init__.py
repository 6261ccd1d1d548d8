"""Parts of methods that say which weights: initial masks, drop, grow, redistribution, patterns."""

from itop.criteria.drop import (
    DropCriterion,
    MagnitudeAndGradientDrop,
    MagnitudeDrop,
    ScoreDrop,
    SensitivityDrop,
    SignedMagnitudeDrop,
    SoftDrop,
    TaylorDrop,
)
from itop.criteria.grow import (
    ExplorationBonusGrowth,
    GradientGrowth,
    GrowCriterion,
    MomentumGrowth,
    RandomGrowth,
    ScoreGrowth,
    SoftGrowth,
    UnexploredFirst,
)
from itop.criteria.initial import DenseMasks, InitialMasks, MagnitudeMasks, RandomMasks, RandomMasksOfDensity
from itop.criteria.observer import Part
from itop.criteria.one_shot import (
    ForceMasks,
    GraspMasks,
    IterSnipMasks,
    SnipMasks,
    SynFlowMasks,
)
from itop.criteria.patterns import Blocks, ConstantFanIn, NofM, Pattern, Unstructured
from itop.criteria.redistribution import (
    MomentumRedistribution,
    Redistribution,
    SameLayer,
    SurvivorRedistribution,
)

__all__ = [
    "Blocks",
    "ConstantFanIn",
    "DenseMasks",
    "DropCriterion",
    "ExplorationBonusGrowth",
    "ForceMasks",
    "GradientGrowth",
    "GraspMasks",
    "GrowCriterion",
    "InitialMasks",
    "IterSnipMasks",
    "MagnitudeAndGradientDrop",
    "MagnitudeDrop",
    "MagnitudeMasks",
    "MomentumGrowth",
    "MomentumRedistribution",
    "NofM",
    "Part",
    "Pattern",
    "RandomGrowth",
    "RandomMasks",
    "RandomMasksOfDensity",
    "Redistribution",
    "SameLayer",
    "ScoreDrop",
    "ScoreGrowth",
    "SensitivityDrop",
    "SignedMagnitudeDrop",
    "SnipMasks",
    "SoftDrop",
    "SoftGrowth",
    "SurvivorRedistribution",
    "SynFlowMasks",
    "TaylorDrop",
    "UnexploredFirst",
    "Unstructured",
]
