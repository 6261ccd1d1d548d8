"""Every method as a value. ``METHODS`` maps a preset's name to the callable that makes it.

A new method is one file and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from itop.methods.deep_r import DeepR
from itop.methods.drop_and_grow import DropAndGrow
from itop.methods.dropout import TargetedDropout, VariationalDropout
from itop.methods.dsr import DSR
from itop.methods.dst_ee import DSTEE
from itop.methods.early_bird import EarlyBird
from itop.methods.edst import EDST
from itop.methods.fixed_topology import Dense, Fixed, Static
from itop.methods.gates import L0, AutoPrune, BernoulliGates, ContinuousSparsification
from itop.methods.gradual import GMP, OBD, GraNet, TaylorPruning
from itop.methods.group_lasso import GroupLasso
from itop.methods.lottery import IMP, OMP, LearningRateRewinding, LotteryTicket
from itop.methods.mest import MEST, MESTSoft
from itop.methods.method import Method, UnsuitableModelError, UpdateTiming
from itop.methods.nest import NeST
from itop.methods.obs import OBS
from itop.methods.one_shot import (
    FORCE,
    SNIP,
    GraSP,
    IterSNIP,
    MagnitudePruning,
    OneShot,
    RandomPruning,
    SNIPIsometry,
    SynFlow,
)
from itop.methods.patterned import BlockDynamic, NMDynamic
from itop.methods.prob_mask import ProbMask
from itop.methods.registry import Density, Family, MethodFactory, Preset
from itop.methods.rigl import RigL, RigLITOP
from itop.methods.selfish_rnn import SelfishRNN
from itop.methods.set import SET, SETITOP
from itop.methods.small_dense import SmallDense
from itop.methods.snfs import SNFS
from itop.methods.snt_asgd import SNTASGD
from itop.methods.srigl import SRigL
from itop.methods.surgery import DynamicNetworkSurgery
from itop.methods.swat import SWAT
from itop.methods.top_kast import TopKAST
from itop.methods.trained_thresholds import STR, TrainableThresholds
from itop.names import unknown_name

_SPARSE = "3 f_S"
_RIGL = "(3 f_S dT + 2 f_S + f_D) / (dT + 1)"
_MASKED = "2 f_S + f_D, then 3 f_S once the masks are fixed; 4 bytes a weight"
_SOFT = "3 f_D, then 3 f_S once the masks are fixed; 8 bytes a weight and more"
_RAMP = "3 f_S(t), averaged"

_PRESETS = (
    Preset("dense", Dense, Family.REFERENCE, "-", "3 f_D"),
    Preset("small-dense", SmallDense, Family.REFERENCE, "-", _SPARSE, Density.NEAREST),
    Preset("static", Static, Family.REFERENCE, "Mocanu 2016; Evci 2019", _SPARSE),
    Preset("fixed", Fixed, Family.REFERENCE, "-", _SPARSE, Density.GIVEN),
    Preset("set", SET, Family.DYNAMIC, "Mocanu, Nature Communications 2018", _SPARSE),
    Preset("set-itop", SETITOP, Family.DYNAMIC, "Liu, ICML 2021", _SPARSE),
    Preset("rigl", RigL, Family.DYNAMIC, "Evci, ICML 2020", _RIGL),
    Preset("rigl-itop", RigLITOP, Family.DYNAMIC, "Liu, ICML 2021", _RIGL),
    Preset("snfs", SNFS, Family.DYNAMIC, "Dettmers & Zettlemoyer 2019", "2 f_S + f_D; 4 to 8 bytes a weight"),
    Preset("dsr", DSR, Family.DYNAMIC, "Mostafa & Wang, ICML 2019", _SPARSE),
    Preset("deep-r", DeepR, Family.DYNAMIC, "Bellec, ICLR 2018", "3 f_S; 1 byte a weight"),
    Preset("mest", MEST, Family.DYNAMIC, "Yuan, NeurIPS 2021", _SPARSE),
    Preset("mest-soft", MESTSoft, Family.DYNAMIC, "Yuan, NeurIPS 2021", _RAMP, Density.FINAL),
    Preset("dst-ee", DSTEE, Family.DYNAMIC, "Huang, DAC 2023", f"{_RIGL}; 2 bytes a weight"),
    Preset("granet", GraNet, Family.DYNAMIC, "Liu, NeurIPS 2021", f"{_RIGL}, averaged", Density.FINAL),
    Preset("selfish-rnn", SelfishRNN, Family.DYNAMIC, "Liu, ICML 2021", _SPARSE),
    Preset(
        "nest",
        NeST,
        Family.DYNAMIC,
        "Dai 2018, 2019",
        "2 f_S + f_D while it grows, then 3 f_S; 4 bytes a weight",
        Density.FINAL,
    ),
    Preset("edst", EDST, Family.DYNAMIC, "Liu, ICLR 2022", "3 f_S; 12 bytes an active weight a ticket"),
    Preset("top-kast", TopKAST, Family.DYNAMIC, "Jayakumar, NeurIPS 2020", "2 f_A + f_B; 6 bytes a weight"),
    Preset(
        "swat",
        SWAT,
        Family.DYNAMIC,
        "Raihan & Aamodt, NeurIPS 2020",
        "2 f_S + a f_D, a the density of activations; 5 bytes a weight",
    ),
    Preset("srigl", SRigL, Family.STRUCTURED, "Lasby, ICLR 2024", _RIGL, Density.NEAREST),
    Preset("nm", NMDynamic, Family.STRUCTURED, "Zhou, ICLR 2021; Evci, ICML 2020", _RIGL),
    Preset("block", BlockDynamic, Family.STRUCTURED, "Gray 2017; Evci, ICML 2020", _RIGL, Density.NEAREST),
    Preset("random", RandomPruning, Family.ONE_SHOT, "-", _SPARSE),
    Preset("magnitude", MagnitudePruning, Family.ONE_SHOT, "-", _SPARSE),
    Preset("snip", SNIP, Family.ONE_SHOT, "Lee, ICLR 2019", _SPARSE),
    Preset("snip-isometry", SNIPIsometry, Family.ONE_SHOT, "Lee, ICLR 2020", _SPARSE),
    Preset("grasp", GraSP, Family.ONE_SHOT, "Wang, ICLR 2020", _SPARSE),
    Preset("synflow", SynFlow, Family.ONE_SHOT, "Tanaka, NeurIPS 2020", _SPARSE),
    Preset("force", FORCE, Family.ONE_SHOT, "de Jorge, ICLR 2021", _SPARSE),
    Preset("iter-snip", IterSNIP, Family.ONE_SHOT, "de Jorge, ICLR 2021", _SPARSE),
    Preset("gmp", GMP, Family.GRADUAL, "Zhu & Gupta 2017; Gale 2019", _RAMP, Density.FINAL),
    Preset(
        "taylor", TaylorPruning, Family.GRADUAL, "Molchanov, CVPR 2019", f"{_RAMP}; 4 bytes a weight", Density.FINAL
    ),
    Preset("obd", OBD, Family.GRADUAL, "LeCun 1990", f"{_RAMP}; 4 bytes a weight", Density.FINAL),
    Preset("obs", OBS, Family.GRADUAL, "Hassibi 1993", f"{_RAMP}; 64 bytes a weight", Density.FINAL),
    Preset("group-lasso", GroupLasso, Family.GRADUAL, "Wen, NeurIPS 2016", _RAMP, Density.FINAL),
    Preset("early-bird", EarlyBird, Family.GRADUAL, "You, ICLR 2020", _RAMP, Density.NEAREST),
    Preset("omp", OMP, Family.ROUNDS, "Han, NeurIPS 2015", _RAMP, Density.FINAL),
    Preset(
        "imp",
        IMP,
        Family.ROUNDS,
        "Han 2015; Frankle & Carbin, ICLR 2019",
        f"{_RAMP}; a copy of the model",
        Density.FINAL,
    ),
    Preset("lth", LotteryTicket, Family.ROUNDS, "Frankle 2019", f"{_RAMP}; a copy of the model", Density.FINAL),
    Preset("lr-rewind", LearningRateRewinding, Family.ROUNDS, "Renda, ICLR 2020", _RAMP, Density.FINAL),
    Preset("surgery", DynamicNetworkSurgery, Family.TRAINED_MASKS, "Guo, NeurIPS 2016", _MASKED, Density.FINAL),
    Preset("str", STR, Family.TRAINED_MASKS, "Kusupati, ICML 2020", _MASKED, Density.FINAL),
    Preset("trainable-thresholds", TrainableThresholds, Family.TRAINED_MASKS, "Liu, ICLR 2020", _MASKED, Density.FINAL),
    Preset("targeted-dropout", TargetedDropout, Family.TRAINED_MASKS, "Gomez 2019", _MASKED, Density.FINAL),
    Preset("l0", L0, Family.TRAINED_MASKS, "Louizos, ICLR 2018", _SOFT, Density.FINAL),
    Preset("bernoulli-gates", BernoulliGates, Family.TRAINED_MASKS, "Srinivas, CVPRW 2017", _SOFT, Density.FINAL),
    Preset(
        "continuous-sparsification",
        ContinuousSparsification,
        Family.TRAINED_MASKS,
        "Savarese, NeurIPS 2020",
        _SOFT,
        Density.FINAL,
    ),
    Preset("autoprune", AutoPrune, Family.TRAINED_MASKS, "Xiao, NeurIPS 2019", _SOFT, Density.FINAL),
    Preset("probmask", ProbMask, Family.TRAINED_MASKS, "Zhou, CVPR 2021", _SOFT, Density.FINAL),
    Preset(
        "variational-dropout", VariationalDropout, Family.TRAINED_MASKS, "Molchanov, ICML 2017", _SOFT, Density.FINAL
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _PRESETS})
"""Everything there is to know about a preset, by name."""

METHODS: Mapping[str, MethodFactory] = MappingProxyType({preset.name: preset.factory for preset in _PRESETS})
"""Preset name -> callable that takes the method's options and returns a :class:`Method`."""


def comparable_methods() -> tuple[str, ...]:
    """The presets that can stand in one table: all but those whose masks have to be given to them."""
    return tuple(preset.name for preset in _PRESETS if preset.density is not Density.GIVEN)


def as_method(method: str | Method) -> Method:
    """A method from a preset's name, or itself.

    Raises:
        ValueError: If the name is unknown; names the nearest known one.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if not isinstance(method, str):
        raise TypeError(f"method must be a preset's name or a Method, got {type(method).__name__}")
    raise ValueError(unknown_name("method", method, METHODS))


__all__ = [
    "DSR",
    "DSTEE",
    "EDST",
    "FORCE",
    "GMP",
    "IMP",
    "L0",
    "MEST",
    "METHODS",
    "OBD",
    "OBS",
    "OMP",
    "PRESETS",
    "SET",
    "SETITOP",
    "SNFS",
    "SNIP",
    "SNTASGD",
    "STR",
    "SWAT",
    "AutoPrune",
    "BernoulliGates",
    "BlockDynamic",
    "ContinuousSparsification",
    "DeepR",
    "Dense",
    "Density",
    "DropAndGrow",
    "DynamicNetworkSurgery",
    "EarlyBird",
    "Family",
    "Fixed",
    "GraNet",
    "GraSP",
    "GroupLasso",
    "IterSNIP",
    "LearningRateRewinding",
    "LotteryTicket",
    "MESTSoft",
    "MagnitudePruning",
    "Method",
    "MethodFactory",
    "NMDynamic",
    "NeST",
    "OneShot",
    "Preset",
    "ProbMask",
    "RandomPruning",
    "RigL",
    "RigLITOP",
    "SNIPIsometry",
    "SRigL",
    "SelfishRNN",
    "SmallDense",
    "Static",
    "SynFlow",
    "TargetedDropout",
    "TaylorPruning",
    "TopKAST",
    "TrainableThresholds",
    "UnsuitableModelError",
    "UpdateTiming",
    "VariationalDropout",
    "as_method",
    "comparable_methods",
]
