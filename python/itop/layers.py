"""Which parameters of a model take part: by module type, never by parts of names."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from itop.compressed_weight import CompressedWeight

Rule: TypeAlias = str | type[nn.Module] | Callable[[str, nn.Module, nn.Parameter], bool]
"""A glob over parameter or module names, a module type, or ``rule(parameter_name, module, parameter) -> bool``."""

Rules: TypeAlias = Rule | Iterable[Rule] | None

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")

_NEVER = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, _NormBase, nn.PReLU)

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")

_DEFAULT_LEAVES = ("weight", "weight_ih", "weight_hh", *_PROJECTIONS)


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight tensor that is kept sparse.

    Attributes:
        name: Of the parameter in the model, without wrappers' prefixes: ``"fc1.weight"``.
        parameter: The parameter itself; its storage is changed in place and never rebound. Of a truly sparse layer the
            vector of its values, which changes length with the topology.
        module: The module that owns it.
        shape: Of the whole layer, also where this process holds a shard.
    """

    name: str
    parameter: nn.Parameter
    module: nn.Module
    shape: tuple[int, ...]

    @property
    def is_compressed(self) -> bool:
        """Whether only the active weights are held: a truly sparse layer, none of whose places is inactive."""
        return isinstance(self.module, CompressedWeight)

    @property
    def numel(self) -> int:
        """Weights of the whole layer."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def unwrap(model: nn.Module) -> nn.Module:
    """The user's model inside ``torch.compile`` and data-parallel wrappers."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            return model


def find_layers(model: nn.Module, include: Rules = None, exclude: Rules = ()) -> tuple[Layer, ...]:
    """The sparsifiable weights of a model, in the order of its modules; a tied weight once.

    By default every ``Linear``, ``Conv1d``-``Conv3d``, truly sparse layer, attention projection and recurrent weight that
    is trained; a truly sparse layer goes by the name and shape of the dense weight it stands for. Biases,
    normalisation and embeddings never take part, also not a weight tied to an embedding.

    Args:
        model: The network; wrappers of ``torch.compile`` and data parallelism are looked through.
        include: Only what a rule matches. A module type also admits modules outside the default.
        exclude: Not what a rule matches, under any of its names.

    Raises:
        ValueError: If nothing matches, a glob or type of ``include`` matches nothing, or a weight that would take part is
            no parameter but computed from others.
    """
    model = unwrap(model)
    _refuse_flat_shards(model)
    include_rules = None if include is None else _as_rules(include)
    exclude_rules = _as_rules(exclude)
    forbidden = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NEVER)
        for parameter in module.parameters(recurse=False)
    }
    weights = list(_weights(model, admits_any=include_rules is not None))
    excluded = {id(weight[2]) for weight in weights if any(_matches(rule, *weight) for rule in exclude_rules)}
    _refuse_computed_weights(model, include_rules, exclude_rules)
    matched: set[int] = set()
    seen: set[int] = set()
    layers: list[Layer] = []
    for name, module, parameter in weights:
        if id(parameter) in forbidden or id(parameter) in seen or not parameter.requires_grad:
            continue
        if include_rules is None:
            if not _is_default(name, module):
                continue
        else:
            hits = [i for i, rule in enumerate(include_rules) if _matches(rule, name, module, parameter)]
            if not hits:
                continue
            matched.update(hits)
        if id(parameter) in excluded:
            continue
        seen.add(id(parameter))
        shape = module.weight_shape if isinstance(module, CompressedWeight) else parameter.shape
        layers.append(Layer(name, parameter, module, tuple(shape)))
    for i, rule in enumerate(include_rules or ()):
        if i not in matched and not (callable(rule) and not isinstance(rule, type)):
            raise ValueError(f"include matches no sparsifiable weight of the model: {_describe(rule)}")
    if not layers:
        raise ValueError(
            "the model has no sparsifiable layer: expected the weight of a Linear, Conv1d-3d, attention projection or "
            "recurrent module, or an include rule that names others"
        )
    return tuple(layers)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Output units and inputs of a layer's weights: ``[out, in * kernel]``."""
    return shape[0], math.prod(shape[1:])


def storage_order(tensor: Tensor) -> list[int]:
    """The dimensions of a tensor from the slowest to the fastest in memory.

    Raises:
        ValueError: If the tensor has gaps or overlaps.
    """
    strides = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda dim: (-strides[dim], dim))
    expected = 1
    for dim in reversed(order):
        if tensor.size(dim) == 1:
            continue
        if tensor.stride(dim) != expected:
            raise ValueError(
                f"its weight must fill its memory without gaps, got shape {tuple(tensor.shape)} with strides {tensor.stride()}; "
                "make it contiguous first"
            )
        expected *= tensor.size(dim)
    return order


def has_same_memory_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory alike; strides of dimensions of size 1 do not matter."""
    return a.stride() == b.stride() or all(
        size == 1 or mine == other for size, mine, other in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def index_map(
    local: Tensor, shape: Sequence[int], start: Sequence[int] | None = None
) -> tuple[int, list[int], list[int]]:
    """How positions in a tensor's memory become row-major indices of the whole layer: ``(offset, sizes, strides)``.

    Args:
        local: The tensor this process holds: the layer itself or a shard of it, in any dense memory format.
        shape: Of the whole layer.
        start: Where the shard begins in each dimension of the layer; zeros by default.

    Raises:
        ValueError: If the tensor has gaps, or its layout needs more than four nested loops.
    """
    logical_stride = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        logical_stride[dim] = logical_stride[dim + 1] * shape[dim + 1]
    offset = sum(s * stride for s, stride in zip(start or (), logical_stride, strict=False))
    if local.numel() == 0:
        return offset, [1, 1, 1, 0], [0, 0, 0, 1]
    loops: list[tuple[int, int]] = []
    for dim in storage_order(local):
        size, stride = local.size(dim), logical_stride[dim]
        if size == 1:
            continue
        if loops and loops[-1][1] == stride * size:
            loops[-1] = (loops[-1][0] * size, stride)
        else:
            loops.append((size, stride))
    if len(loops) > 4:
        raise ValueError(
            f"its weight of shape {tuple(shape)} lies in memory in an order of more than four runs, strides "
            f"{local.stride()}; make it contiguous first"
        )
    if not loops:
        loops = [(1, 1)]
    padding = 4 - len(loops)
    return offset, [1] * padding + [size for size, _ in loops], [0] * padding + [stride for _, stride in loops]


def _without_wrappers(name: str) -> str:
    """A parameter's name as it was before parts of the model were compiled or checkpointed."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _refuse_flat_shards(model: nn.Module) -> None:
    module = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(module, "FullyShardedDataParallel", None)
    if kind is not None and any(isinstance(part, kind) for part in model.modules()):
        raise ValueError(
            "the model is wrapped in FullyShardedDataParallel (FSDP1), whose flat parameters hide the layers; use FSDP2 "
            "instead: torch.distributed.fsdp.fully_shard"
        )


def _refuse_computed_weights(model: nn.Module, include: tuple[Rule, ...] | None, exclude: tuple[Rule, ...]) -> None:
    for module_name, module in model.named_modules(remove_duplicate=False):
        for leaf in _default_leaves(module):
            if leaf in module._parameters or not isinstance(weight := getattr(module, leaf, None), Tensor):
                continue
            name = _without_wrappers(f"{module_name}.{leaf}" if module_name else leaf)
            shown = nn.Parameter(weight.detach())
            takes_part = include is None or any(_matches(rule, name, module, shown) for rule in include)
            takes_part &= not any(_matches(rule, name, module, shown) for rule in exclude)
            is_trained = any(part.requires_grad for key, part in module.named_parameters() if leaf in key)
            if takes_part and is_trained:
                raise ValueError(
                    f"the weight '{name}' is no parameter but computed from others (a parametrization, weight norm, spectral "
                    "norm or pruning of torch.nn.utils), so that the engine cannot keep it sparse; remove what computes it, "
                    "or exclude the layer"
                )


def _default_leaves(module: nn.Module) -> Iterable[str]:
    """The weights that a module of a default kind has, whether as parameters or not."""
    if isinstance(module, CompressedWeight):
        return ()
    if isinstance(module, nn.RNNBase):
        return [name for name in module._flat_weights_names if _is_default(name, module)]
    return (name for name in _DEFAULT_LEAVES if _is_default(name, module))


def _weights(model: nn.Module, admits_any: bool) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    for module_name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, CompressedWeight):
            yield _without_wrappers(f"{module_name}.weight" if module_name else "weight"), module, module.values
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ValueError(
                    f"parameter '{module_name}.{parameter_name}' is not initialised; run a batch through the model first"
                )
            if parameter.dim() < 2 or not parameter.is_floating_point() or "bias" in parameter_name.split("_"):
                continue
            if parameter.numel() == 0:
                continue
            if admits_any or _is_default(parameter_name, module):
                name = f"{module_name}.{parameter_name}" if module_name else parameter_name
                yield _without_wrappers(name), module, parameter


def _is_default(name: str, module: nn.Module) -> bool:
    leaf = name.rsplit(".", 1)[-1]
    if isinstance(module, (nn.Linear, CompressedWeight)) or (
        isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd)
    ):
        return leaf == "weight"
    if isinstance(module, nn.MultiheadAttention):
        return leaf in _PROJECTIONS
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return leaf.startswith("weight_")
    return False


def _as_rules(rules: Rules) -> tuple[Rule, ...]:
    if rules is None:
        return ()
    chosen = (rules,) if isinstance(rules, (str, type)) or not isinstance(rules, Iterable) else tuple(rules)
    for rule in chosen:
        if not isinstance(rule, str) and not callable(rule):
            raise TypeError(
                f"include and exclude take globs, module types or callables, got {rule!r} of type {type(rule).__name__}"
            )
    return chosen


def _matches(rule: Rule, name: str, module: nn.Module, parameter: nn.Parameter) -> bool:
    if isinstance(rule, str):
        return fnmatchcase(name, rule) or fnmatchcase(name.rpartition(".")[0], rule)
    if isinstance(rule, type):
        return isinstance(module, rule)
    return rule(name, module, parameter)


def _describe(rule: Rule) -> str:
    return repr(rule) if isinstance(rule, str) else getattr(rule, "__name__", repr(rule))
