"""Replaces a model's modules by truly sparse ones where that is measured to be faster, and those by dense ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from itop.nn.convolution import SparseConv2d
from itop.nn.linear import SparseLinear
from itop.nn.sparse_layer import SparseLayer

__all__ = ["Replacement", "densify", "sparsify"]


@dataclass(frozen=True, slots=True)
class Replacement:
    """What was decided about one module.

    Attributes:
        name: Of the module in the model.
        dense_seconds: A forward and backward pass of the dense module; None where it was not measured.
        sparse_seconds: Of the sparse one.
        replaced: Whether the sparse one took its place.
        reason: Why, in words.
    """

    name: str
    dense_seconds: float | None
    sparse_seconds: float | None
    replaced: bool
    reason: str


def sparsify(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example_input: Tensor | None = None,
    *,
    memory_demands_it: bool = False,
) -> tuple[Replacement, ...]:
    """Replaces ``Linear`` and ``Conv2d`` modules in place by their sparse forms where those are faster.

    Parameters become other tensors: make the optimiser afterwards. Modules that stay dense keep their parameters; mask
    them (the masked execution does).

    Args:
        model: Changed in place. A module the model holds twice is replaced everywhere at once.
        masks: Parameter name (``"fc1.weight"``) -> bool mask of its shape. Modules without one are left alone.
        example_input: A batch as in training: the sizes every module is measured at. Not needed with
            ``memory_demands_it``.
        memory_demands_it: Replace all that can be replaced, without measuring.

    Returns:
        One decision for every mask.

    Raises:
        ValueError: If a mask belongs to no weight of a Linear or Conv2d, or there is nothing to measure with.
    """
    modules = dict(model.named_modules())
    chosen: list[tuple[str, nn.Linear | nn.Conv2d, Tensor]] = []
    for name, mask in masks.items():
        module_name, _, parameter = name.rpartition(".")
        module = modules.get(module_name)
        if parameter != "weight" or not isinstance(module, (nn.Linear, nn.Conv2d)):
            raise ValueError(f"masks must name weights of Linear or Conv2d modules of the model, got '{name}'")
        chosen.append((module_name, module, mask))
    if example_input is None and not memory_demands_it:
        raise ValueError("sparsify needs an example input to measure with, or memory_demands_it=True")
    inputs = (
        {}
        if example_input is None or memory_demands_it
        else _inputs_of(model, [m for _, m, _ in chosen], example_input)
    )

    decisions = []
    for name, module, mask in chosen:
        decision, sparse = _decide(name, module, mask, inputs.get(module), memory_demands_it)
        decisions.append(decision)
        if sparse is not None:
            _replace(model, module, sparse)
    return tuple(decisions)


def densify(model: nn.Module) -> None:
    """Replaces every truly sparse module in place by its dense form, with zeros in the place of inactive weights.

    Parameters become other tensors, as with :func:`sparsify`: ``fc1.values`` becomes ``fc1.weight``.
    """
    for module in list(model.modules()):
        if isinstance(module, (SparseLinear, SparseConv2d)):
            _replace(model, module, module.to_dense())


def _decide(
    name: str, module: nn.Linear | nn.Conv2d, mask: Tensor, x: Tensor | None, memory_demands_it: bool
) -> tuple[Replacement, SparseLayer | None]:
    try:
        sparse: SparseLayer
        if isinstance(module, nn.Linear):
            sparse = SparseLinear.from_dense(module, mask)
        else:
            sparse = SparseConv2d.from_dense(module, mask)
    except ValueError as error:
        if mask.shape != module.weight.shape:
            raise
        return Replacement(name, None, None, False, str(error)), None
    if memory_demands_it:
        return Replacement(name, None, None, True, "memory demands it"), sparse
    if x is None:
        return Replacement(name, None, None, False, "the example input does not reach it"), None
    dense_seconds, sparse_seconds = _measure(module, sparse, x)
    faster = sparse_seconds < dense_seconds
    reason = f"the sparse module takes {sparse_seconds / dense_seconds:.2f} of the dense module's time"
    return Replacement(name, dense_seconds, sparse_seconds, faster, reason), sparse if faster else None


def _inputs_of(
    model: nn.Module, modules: list[nn.Linear | nn.Conv2d], example_input: Tensor
) -> dict[nn.Module, Tensor]:
    """The first input of every module; the model's buffers are left as they were."""
    inputs: dict[nn.Module, Tensor] = {}

    def remember(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.setdefault(module, arguments[0].detach())

    handles = [module.register_forward_pre_hook(remember) for module in modules]
    was_training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(example_input)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in was_training.items():
            module.training = training
    return inputs


def _measure(dense: nn.Module, sparse: nn.Module, x: Tensor, repeats: int = 3) -> tuple[float, float]:
    """Shortest forward and backward pass of each, interleaved."""

    def seconds(module: nn.Module) -> float:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        leaf = x.clone().requires_grad_(x.is_floating_point())
        start = time.perf_counter()
        output = module(leaf)
        torch.autograd.grad(output, [leaf, *parameters], torch.ones_like(output))
        return time.perf_counter() - start

    pairs = [(seconds(dense), seconds(sparse)) for _ in range(repeats + 1)][1:]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for module in model.modules():
        for name, child in list(module._modules.items()):  # named_children lists a module held twice once
            if child is old:
                setattr(module, name, new)
