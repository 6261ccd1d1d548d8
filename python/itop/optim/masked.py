"""What the fused optimisers share: which parameters a native step can take, and where their masks are."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from itop.layers import has_same_memory_order

if TYPE_CHECKING:
    from itop._core import MaskStore
    from itop.topology import Topology

_PLAIN_TYPES = (torch.nn.Parameter, Tensor)


class MaskedOptimizer(Optimizer):
    """An optimiser that masks by itself, in the pass that steps.

    Without an engine it steps every weight. Where a native step is not possible (another device than the CPU, another
    type than float32, memory with gaps, ``amsgrad``, ``fused``, an ``eps`` of zero) it takes torch's own step, which the
    engine masks like any other's; ``uses_native_step`` says which.
    """

    _topology: weakref.ref[Topology] | None = None

    def attach_topology(self, topology: Topology | None) -> None:
        """Called by the engine: from now on only active weights of its layers are stepped; None: every weight."""
        self._topology = None if topology is None else weakref.ref(topology)

    @property
    def uses_native_step(self) -> bool:
        """Whether every parameter can take the fused native step."""
        for group in self.param_groups:
            if not is_native_group(group):
                return False
            for parameter in group["params"]:
                if not (
                    parameter.is_cpu
                    and parameter.dtype is torch.float32
                    and type(parameter) in _PLAIN_TYPES
                    and (parameter.is_contiguous() or _fills_its_memory(parameter))
                ):
                    return False
        return True

    def _masks(self) -> tuple[MaskStore | None, dict[int, int]]:
        """The attached engine's masks, and which layer a parameter (by identity) is."""
        topology = self._topology() if self._topology is not None else None
        if topology is None:
            return None, {}
        return topology.store, topology.masked_layer_of_parameter

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("_topology", None)
        return state


def evaluate(closure: Callable[[], Any] | None) -> Any:
    """The loss a closure gives, with gradients enabled; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def is_native_group(group: dict[str, Any]) -> bool:
    """Whether the fused native step has all that the options of a group ask for."""
    # torch's fused step also unscales gradients for a gradient scaler; an eps of zero divides zero by zero at inactive
    # weights that share a vector register with active ones.
    return not (group.get("differentiable") or group.get("amsgrad") or group.get("fused")) and group.get("eps", 1.0) > 0


def _fills_its_memory(tensor: Tensor) -> bool:
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def torch_step(optimizer: Optimizer, kind: type[Optimizer]) -> None:
    """The step of torch's own class, without the hooks torch wraps around it: those of ``optimizer`` are running."""
    step = kind.step
    if getattr(step, "hooked", False):
        step = step.__wrapped__  # type: ignore[attr-defined]
    step(optimizer)


def laid_out_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A gradient or state in the parameter's memory order: itself where it is already."""
    if has_same_memory_order(tensor, parameter):
        return tensor
    return torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(tensor)
