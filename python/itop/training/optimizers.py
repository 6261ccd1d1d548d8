"""The optimisers a run configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from itop.compressed_weight import CompressedWeight
from itop.optim import SGD, Adam, AdamW

if TYPE_CHECKING:
    from itop.training.config import RunConfig

__all__ = ["OPTIMIZERS", "build_optimizer"]

ParameterGroups = list[dict[str, Any]]


def _sgd(groups: ParameterGroups, config: RunConfig, *, fused: bool) -> torch.optim.Optimizer:
    return SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def _adam(groups: ParameterGroups, config: RunConfig, *, fused: bool) -> torch.optim.Optimizer:
    return Adam(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def _adamw(groups: ParameterGroups, config: RunConfig, *, fused: bool) -> torch.optim.Optimizer:
    return AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}


def build_optimizer(config: RunConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The configured optimiser over all parameters of `model`, one that steps active weights only.

    Without ``config.decay_vectors``, parameters of one dimension (biases, normalisation) do not decay.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = {id(module.values) for module in model.modules() if isinstance(module, CompressedWeight)}
    groups: ParameterGroups = [{"params": parameters}]
    if not config.decay_vectors:
        groups = [
            {"params": [entry for entry in parameters if entry.ndim > 1 or id(entry) in weights]},
            {
                "params": [entry for entry in parameters if entry.ndim <= 1 and id(entry) not in weights],
                "weight_decay": 0.0,
            },
        ]
        groups = [group for group in groups if group["params"]]
    # On the CPU the step is itop's own; on CUDA it is torch's, in one kernel.
    fused = all(parameter.is_cuda for parameter in parameters)
    return OPTIMIZERS[config.optimizer](groups, config, fused=fused)
