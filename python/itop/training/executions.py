"""The two executions of a run: dense weights with exact zeros, or truly sparse layers."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import nn

from itop import SparseEngine
from itop.allocation import LayerShape, as_allocation
from itop.data import DataSet
from itop.layers import Layer, find_layers
from itop.methods import Method
from itop.models import build_model
from itop.nn import SparseLinear, SparsePattern, TieKeys, sparsify
from itop.training.config import RunConfig
from itop.training.environment import total_memory

__all__ = ["EXECUTIONS", "LARGEST_DENSE", "ModelBuilder"]

_logger = logging.getLogger(__name__)

ModelBuilder: TypeAlias = Callable[[RunConfig, Method, DataSet], nn.Module]
"""The model of a run, weights drawn from torch's global generator."""

LARGEST_DENSE = 1 << 28
"""Weights up to which a truly sparse model begins as the dense one, so that both executions start from the same weights."""


def build_outline(config: RunConfig, data: DataSet) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_model(config.model, num_classes=data.num_classes, input_shape=data.input_shape)


def build_masked(config: RunConfig, method: Method, data: DataSet) -> nn.Module:
    """The dense network; the engine masks it.

    Raises:
        ValueError: If its weights alone take more memory than the machine has.
    """
    outline = build_outline(config, data)
    num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in outline.parameters())
    if num_bytes > total_memory():
        raise ValueError(
            f"the dense form of {config.model} takes {num_bytes / 1e9:,.0f} GB, more than this machine has; "
            "execution 'sparse' does without it"
        )
    return build_model(config.model, num_classes=data.num_classes, input_shape=data.input_shape)


def build_truly_sparse(config: RunConfig, method: Method, data: DataSet) -> nn.Module:
    """The network with truly sparse layers wherever the method's initial topology is not dense.

    Up to :data:`LARGEST_DENSE` weights it begins with the weights and the masks of the masked execution. A larger network
    never exists in its dense form: its values are drawn for the active weights only, with the variance of He et al. (ICCV
    2015) for the fan-in that is active.

    Raises:
        ValueError: If the method or a layer has no truly sparse form.
    """
    if not method.works_truly_sparse:
        raise ValueError(
            f"method {config.method!r} looks at inactive weights, which the truly sparse execution does not hold; take "
            "execution 'masked'"
        )
    outline = build_outline(config, data)
    layers = find_layers(outline, config.include, config.exclude)
    if sum(layer.numel for layer in layers) > LARGEST_DENSE:
        return _from_outline(outline, layers, config, method)
    model = build_masked(config, method, data)
    probe = copy.deepcopy(model)
    engine = SparseEngine(
        probe,
        torch.optim.SGD(probe.parameters(), lr=0.0),
        method,
        sparsity=config.sparsity,
        allocation=config.allocation,
        total_steps=1,
        include=config.include,
        exclude=config.exclude,
        seed=config.seed,
    )
    masks = {layer.name: engine.mask(layer.name) for layer in engine.layers if layer.num_active < layer.numel}
    engine.detach()
    for decision in sparsify(model, masks, memory_demands_it=True):
        if not decision.replaced:
            _logger.warning("module '%s' stays dense and masked: %s", decision.name, decision.reason)
    return model


def _from_outline(model: nn.Module, layers: tuple[Layer, ...], config: RunConfig, method: Method) -> nn.Module:
    shapes = [LayerShape(layer.name, layer.shape) for layer in layers]
    allocation = as_allocation(method.default_allocation if config.allocation is None else config.allocation)
    counts = allocation.counts(shapes, config.sparsity)
    for place, (layer, count) in enumerate(zip(layers, counts, strict=True)):
        module = layer.module
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"layer '{layer.name}' is too large for its dense form, and only linear layers begin without it"
            )
        shape = (module.out_features, module.in_features)
        # The engine's own draw of initial masks, for the same seed: it finds the topology it would have chosen.
        sparse = SparseLinear.from_pattern(SparsePattern.random(shape, count, TieKeys(config.seed, place)), False)
        gain = 1.0 if layer is layers[-1] else 2.0
        with torch.no_grad():
            sparse.values.normal_(std=math.sqrt(gain * shape[0] / max(1, count)))
        if module.bias is not None:
            sparse.bias = nn.Parameter(torch.zeros(shape[0]))
        parent, _, name = layer.name.removesuffix(".weight").rpartition(".")
        setattr(model.get_submodule(parent), name, sparse)
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left:
        raise ValueError(f"a network of this size begins without its dense form, which {left[0]!r} has no other of")
    return model


EXECUTIONS: Mapping[str, ModelBuilder] = MappingProxyType({"masked": build_masked, "sparse": build_truly_sparse})
"""By the name a configuration gives them."""
