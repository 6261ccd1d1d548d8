"""The optimisers a run configuration can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from itop.allocation import LayerShape, as_allocation
from itop.compressed_weight import CompressedWeight
from itop.layers import find_layers
from itop.methods import SNTASGD
from itop.optim import SGD, Adam, AdamW

if TYPE_CHECKING:
    from itop.methods import Method
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


def _snt_asgd(groups: ParameterGroups, config: RunConfig, *, fused: bool) -> torch.optim.Optimizer:
    return SNTASGD(groups, lr=config.learning_rate, weight_decay=config.weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "snt-asgd": _snt_asgd,
}


def build_optimizer(config: RunConfig, model: nn.Module, method: Method) -> torch.optim.Optimizer:
    """The configured optimiser over all parameters of `model`.

    Without ``config.decay_vectors``, parameters of one dimension (biases, normalisation) do not decay. With
    ``config.lr_fan_in``, weights of layers with more active inputs a neuron go into groups of their own, with an
    ``"lr_factor"`` below 1.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = {id(module.values) for module in model.modules() if isinstance(module, CompressedWeight)}
    factors = _rate_factors(config, model, method)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in parameters:
        factor = factors.get(id(parameter), 1.0)
        decays = config.decay_vectors or parameter.ndim > 1 or id(parameter) in weights
        group = groups.setdefault((factor, decays), {"params": []})
        group["params"].append(parameter)
        if factor != 1.0:
            group |= {"lr_factor": factor, "lr": config.learning_rate * factor}
        if not decays:
            group["weight_decay"] = 0.0
    # On the CPU the step is itop's own; on CUDA it is torch's, in one kernel.
    fused = all(parameter.is_cuda for parameter in parameters)
    return OPTIMIZERS[config.optimizer](list(groups.values()), config, fused=fused)


def _rate_factors(config: RunConfig, model: nn.Module, method: Method) -> dict[int, float]:
    """By the identity of a layer's weight ``lr_fan_in`` over its active inputs a neuron, where those are more."""
    if config.lr_fan_in is None:
        return {}
    layers = find_layers(model, config.include, config.exclude)
    allocation = as_allocation(method.default_allocation if config.allocation is None else config.allocation)
    counts = allocation.counts([LayerShape(layer.name, layer.shape) for layer in layers], config.sparsity)
    # Of the target topology: a method that is still on its way to it learns at the rates of its end.
    fan_in = {id(layer.parameter): count / layer.shape[0] for layer, count in zip(layers, counts, strict=True)}
    return {layer: min(1.0, config.lr_fan_in / max(1.0, inputs)) for layer, inputs in fan_in.items()}
