"""Optimisers that touch active weights only: torch's SGD, Adam and AdamW with the mask inside one native pass."""

from itop.optim.adam import Adam, AdamW
from itop.optim.masked import MaskedOptimizer
from itop.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "MaskedOptimizer"]
