"""The step of sparse layers, taken in the stead of a plain ``torch.optim.SGD``: one pass instead of masking and three more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from itop.layers import has_same_memory_order
from itop.optim.masked import is_native_group
from itop.optim.sgd import step_natively

if TYPE_CHECKING:
    from itop.topology import Topology

_NO_STATE: dict[str, Any] = {}


def can_substitute(optimizer: Optimizer, topology: Topology) -> bool:
    """Whether the native step gives what ``optimizer`` would give, bit for bit, for every sparse layer.

    A subclass may do anything, torch's step over lists rounds a rate that is a tensor, and gradients may come in types of
    their own.
    """
    states = optimizer.state
    return (
        type(optimizer) is torch.optim.SGD
        and topology.device.type == "cpu"
        and not topology.has_shards
        and len(topology.masked_layer_of_parameter) == len(topology.layers)
        and all(map(_is_plain_group, optimizer.param_groups))
        and all(
            _is_plain_parameter(layer.parameter, states.get(layer.parameter, _NO_STATE)) for layer in topology.layers
        )
    )


@torch.no_grad()
def step_sparse_layers(optimizer: torch.optim.SGD, topology: Topology) -> list[Tensor]:
    """Steps the sparse layers, active weights only.

    Returns:
        Their parameters: ``optimizer`` must not see their gradients.
    """
    layer_of = topology.masked_layer_of_parameter
    taken: list[Tensor] = []
    for group in optimizer.param_groups:
        parameters = [parameter for parameter in group["params"] if id(parameter) in layer_of]
        step_natively(optimizer, group, parameters, topology.store, layer_of)
        taken += parameters
    return taken


def _is_plain_group(group: dict[str, Any]) -> bool:
    return is_native_group(group) and not group["foreach"] and isinstance(group["lr"], int | float)


def _is_plain_parameter(parameter: Tensor, state: Mapping[str, Any]) -> bool:
    gradient, momentum = parameter.grad, state.get("momentum_buffer")
    return (
        parameter.dtype is torch.float32
        and type(parameter) is torch.nn.Parameter
        and (gradient is None or (type(gradient) is Tensor and gradient.layout is torch.strided))
        and (momentum is None or (momentum.dtype is torch.float32 and has_same_memory_order(momentum, parameter)))
    )
