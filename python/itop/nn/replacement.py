"""Replaces a model's modules by truly sparse ones where that is measured to be faster, and those by dense ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from itop.nn.convolution import SparseConv2d
from itop.nn.derived_indices import SUPPORTED_DTYPES
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
    them (the masked execution does). Dense stay parameters of other modules (attention's ``in_proj_weight``), subclasses
    (attention reads the weight of its ``out_proj``), tied weights, modules with hooks, and what no kernel computes.

    Args:
        model: Changed in place. A module the model holds twice is replaced everywhere at once.
        masks: Parameter name (``"fc1.weight"``) -> bool mask of its shape. Modules without one are left alone.
        example_input: A batch as in training: the sizes every module is measured at. Not needed with
            ``memory_demands_it``.
        memory_demands_it: Replace all that can be replaced, without measuring.

    Returns:
        One decision for every mask.

    Raises:
        ValueError: If a mask belongs to no parameter of the model or has another shape, or there is nothing to measure
            with; nothing was replaced.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"masks must name parameters of the model, got '{name}'")
        if mask.shape != parameters[name].shape:
            shape = list(parameters[name].shape)
            raise ValueError(f"the mask of '{name}' must be {shape} as the parameter, got {list(mask.shape)}")
    if example_input is None and not memory_demands_it:
        raise ValueError("sparsify needs an example input to measure with, or memory_demands_it=True")
    owners = _owners(model)
    obstacles = {name: _obstacle(model, name, owners) for name in masks}
    modules = {
        name: cast("nn.Linear | nn.Conv2d", model.get_submodule(name.rpartition(".")[0]))
        for name, obstacle in obstacles.items()
        if obstacle is None
    }
    inputs: dict[nn.Module, Tensor] = {}
    if example_input is not None and not memory_demands_it:
        inputs = _inputs_of(model, list(modules.values()), example_input)

    decisions = []
    for name, mask in masks.items():
        module_name = name.rpartition(".")[0]
        obstacle = obstacles[name]
        if obstacle is not None:
            decisions.append(Replacement(module_name, None, None, False, obstacle))
            continue
        module = modules[name]
        decision, sparse = _decide(module_name, module, mask, inputs.get(module), memory_demands_it)
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


def _owners(model: nn.Module) -> Counter[Tensor]:
    """How many modules hold each parameter; a module held twice counts once."""
    return Counter(
        parameter for module in model.modules() for parameter in module._parameters.values() if parameter is not None
    )


def _obstacle(model: nn.Module, name: str, owners: Counter[Tensor]) -> str | None:
    """Why a parameter cannot be a sparse module's; None if it can."""
    module_name, _, parameter = name.rpartition(".")
    module = model.get_submodule(module_name)
    weight = model.get_parameter(name)
    if parameter != "weight" or not isinstance(module, (nn.Linear, nn.Conv2d)):
        return f"{parameter!r} of {type(module).__name__} is not the weight of a Linear or Conv2d"
    if type(module) not in (nn.Linear, nn.Conv2d):
        return f"{type(module).__name__} may compute otherwise than the Linear or Conv2d it derives from"
    if owners[weight] > 1:
        return "its weight is tied to another module's"
    if any(hooks for attribute, hooks in vars(module).items() if attribute.endswith("_hooks")):
        return "its hooks would be lost"
    if weight.dtype not in SUPPORTED_DTYPES:
        return f"no sparse kernel computes in {weight.dtype}"
    if isinstance(module, nn.Conv2d) and not weight.is_cpu:
        return "convolutions are truly sparse on the CPU only"
    return None


def _decide(
    name: str, module: nn.Linear | nn.Conv2d, mask: Tensor, x: Tensor | None, memory_demands_it: bool
) -> tuple[Replacement, SparseLayer | None]:
    try:
        sparse: SparseLayer
        if isinstance(module, nn.Linear):
            sparse = SparseLinear.from_dense(module, mask)
        else:
            sparse = SparseConv2d.from_dense(module, mask)
    except ValueError as error:  # padding that it does not have
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
