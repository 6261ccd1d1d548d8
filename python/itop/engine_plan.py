"""What an engine is asked for, checked before anything changes: method, layers, active weights of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from itop import _core
from itop.allocation import Allocation, AllocationLike, LayerShape, as_allocation, target_count
from itop.distributed.agreement import describe_options
from itop.distributed.shards import describe_layout, is_sharded, local_part, reshard
from itop.grown_state import GrownState
from itop.layers import Layer, Rules, find_layers
from itop.methods import Method, as_method
from itop.optim import MaskedOptimizer
from itop.optimizer_calls import can_be_hooked, owner_of
from itop.optimizer_group import OptimizerGroup
from itop.optimizer_state import OptimizerState
from itop.stepper import Stepper


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """What the arguments of an engine came to.

    Attributes:
        method: Its rule, told the sparsity.
        allocation: What made the counts.
        layers: The sparse layers.
        counts: Active weights of each layer.
        optimizer: The user's optimiser, or several in one view.
        members: The optimisers that make one step together.
        optimizer_state: Finds their tensors that move with a weight.
    """

    method: Method
    allocation: Allocation
    layers: tuple[Layer, ...]
    counts: list[int]
    optimizer: Optimizer | OptimizerGroup
    members: tuple[Optimizer, ...]
    optimizer_state: OptimizerState


def _check_arguments(model: object, optimizer: object, total_steps: object, seed: object, attach: bool) -> None:
    """Raises TypeError or ValueError, in one sentence, for what cannot be an engine's argument."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    several = isinstance(optimizer, (list, tuple)) and len(optimizer) > 0
    for member in optimizer if several else (optimizer,):  # type: ignore[attr-defined]
        if not isinstance(member, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or a list of them, got {type(member).__name__}")
        if attach and not can_be_hooked(member):
            raise ValueError(
                f"the optimiser {type(member).__name__} does not call hooks, because it was made without Optimizer.__init__; give "
                "the engine the optimiser that it wraps, or attach=False"
            )
    if total_steps is not None and (
        isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1
    ):
        raise ValueError(f"total_steps must be a whole number, at least 1, got {total_steps!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number in [0, 2^64), got {seed!r}")


def plan_engine(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    method: str | Method,
    *,
    sparsity: float,
    allocation: AllocationLike | None,
    total_steps: int | None,
    seed: int,
    include: Rules,
    exclude: Rules,
    attach: bool,
    grown_state: GrownState,
) -> EnginePlan:
    """Decides what an engine will do; the arguments are those of ``SparseEngine``. Changes nothing.

    Raises:
        TypeError, ValueError: If an argument does not fit by itself, the others, the model or the optimiser.
    """
    _check_arguments(model, optimizer, total_steps, seed, attach)
    members = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
    stepped = optimizer if isinstance(optimizer, Optimizer) else OptimizerGroup(members)
    target_count(1, sparsity)  # says what is wrong with it before anything else is asked
    chosen_method = as_method(method).for_sparsity(sparsity)
    name = chosen_method.name
    if chosen_method.needs_total_steps and total_steps is None:
        raise ValueError(
            f"method '{name}' needs total_steps, the number of optimiser steps of the run: its schedule depends on it"
        )
    if chosen_method.acts_before_step and not attach:
        raise ValueError(f"method '{name}' acts before each optimiser step and needs the engine's hooks: attach=True")
    reshard(model)
    layers = find_layers(model, include, exclude)
    shapes = [LayerShape(layer.name, layer.shape) for layer in layers]
    chosen = as_allocation(chosen_method.default_allocation if allocation is None else allocation)
    counts = [shape.numel for shape in shapes] if chosen_method.is_dense else chosen.counts(shapes, sparsity)
    if not chosen_method.works_on_shards and any(is_sharded(layer.parameter) for layer in layers):
        raise ValueError(
            f"method '{name}' looks at whole layers and does not work on sharded ones (FSDP2, tensor parallelism); use "
            "DistributedDataParallel"
        )
    compressed = next((layer for layer in layers if layer.is_compressed), None)
    if compressed is not None and not chosen_method.works_truly_sparse:
        raise ValueError(
            f"method '{name}' looks at inactive weights, which the truly sparse layer '{compressed.name}' does not hold; "
            "use dense layers, which are masked"
        )
    if compressed is not None and grown_state.horizon > 0:
        raise ValueError("grown_state does not follow truly sparse layers; use dense layers, which are masked")
    state = OptimizerState(stepped, layers)
    if grown_state.horizon > 0:
        if not isinstance(stepped, Optimizer) or not attach:
            raise ValueError("grown_state needs one optimiser, by itself and with the engine's hooks")
        grown_state.check(stepped)
    _check_values(layers)
    _check_one_optimizer_each(members, layers)
    for member in members:
        _check_no_other_engine(member, layers)
    return EnginePlan(chosen_method, chosen, layers, counts, stepped, members, state)


THE_LAYERS = "the layers"
"""What of a fingerprint tells one model from another, however it is cut."""


def fingerprint(
    method: Method, layers: Sequence[Layer], counts: Sequence[int], total_steps: int | None, seed: int
) -> dict[str, str]:
    """What must be alike on all ranks, in words."""
    return {
        "the version of itop": str(_core.build_info()["version"]),
        THE_LAYERS: ", ".join(f"{layer.name} {list(layer.shape)}" for layer in layers),
        "how layers are cut": ", ".join(f"{layer.name} {describe_layout(layer.parameter)}" for layer in layers),
        "seed": str(seed),
        "the method": f"{method.name}({describe_options(method.options())})",
        "active weights per layer": str(list(counts)),
        "total_steps": str(total_steps),
    }


def starting_anew(
    batches: Iterable[tuple[Any, Any]] | Callable[[], Iterable[tuple[Any, Any]]],
) -> Callable[[], Iterable[tuple[Any, Any]]]:
    """Batches as a callable that starts from the first of them.

    Raises:
        ValueError: If they can be gone through once only.
    """
    if callable(batches):
        return batches
    if iter(batches) is batches:
        raise ValueError(
            "batches must be something that can be iterated anew, such as a list, a loader, or a callable that returns "
            "an iterator; got an iterator"
        )
    return lambda: batches


def _check_values(layers: Sequence[Layer]) -> None:
    for layer in layers:
        if layer.parameter.is_meta:
            raise ValueError(
                f"parameter '{layer.name}' is on the meta device and holds no values; give the model its weights first"
            )
        if layer.parameter.is_inference():
            raise ValueError(
                f"parameter '{layer.name}' was made in torch.inference_mode() and cannot be trained; make the model outside it"
            )
        if not torch.isfinite(local_part(layer.parameter)).all():
            raise ValueError(f"the weights of layer '{layer.name}' hold NaN or infinity")


def _check_one_optimizer_each(members: Sequence[Optimizer], layers: Sequence[Layer]) -> None:
    if len({id(member) for member in members}) < len(members):
        raise ValueError("optimizer lists the same optimiser twice")
    names = {id(layer.parameter): layer.name for layer in layers}
    seen: set[int] = set()
    for member in members:
        mine = {id(parameter) for group in member.param_groups for parameter in group["params"]}
        for key in seen & mine & names.keys():
            raise ValueError(
                f"parameter '{names[key]}' is in two of the optimisers; several under one engine must share the model's "
                "parameters between them"
            )
        seen |= mine


def _check_no_other_engine(optimizer: Optimizer, layers: Sequence[Layer]) -> None:
    mine = {id(layer.parameter) for layer in layers}
    for hook in getattr(optimizer, "_optimizer_step_pre_hooks", {}).values():
        other = owner_of(hook)
        if not isinstance(other, Stepper):
            continue
        shared = [layer.name for layer in other.topology.layers if id(layer.parameter) in mine]
        if shared or isinstance(optimizer, MaskedOptimizer):
            raise ValueError(
                f"the optimiser already has a SparseEngine, for {', '.join(shared) or 'other layers'}; call its "
                "detach() first"
            )
