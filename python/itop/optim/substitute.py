"""The step of sparse layers, taken in the stead of a plain ``torch.optim.SGD``: one pass instead of masking and three more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

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
    if not (
        type(optimizer) is torch.optim.SGD
        and topology.device.type == "cpu"
        and not topology.has_shards
        and len(topology.masked_layer_of_parameter) == len(topology.layers)
        and all(map(_is_plain_group, optimizer.param_groups))
    ):
        return False
    states = optimizer.state
    for layer in topology.layers:
        parameter = layer.parameter
        gradient, momentum = parameter.grad, states.get(parameter, _NO_STATE).get("momentum_buffer")
        if parameter.dtype is not torch.float32 or type(parameter) is not torch.nn.Parameter:
            return False
        if gradient is not None and (type(gradient) is not Tensor or gradient.layout is not torch.strided):
            return False
        if momentum is not None and momentum.dtype is not torch.float32:
            return False
        if momentum is not None and momentum.stride() != parameter.stride():
            return False
    return True


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
