"""Multiply-adds of a forward pass, weight tensor by weight tensor.

What counts is what a mask can save: products of a sparsifiable weight with an input. Normalisation, activations, biases
and products of two activations (the attention scores) do not count.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from itop.analysis.layer import Engine, layers_of
from itop.analysis.preserving import eager_model, evaluation_mode, random_state_kept
from itop.compressed_weight import CompressedWeight

FLOPS_PER_MAC = 2

# What a call of a module multiplied: pairs of a parameter's name within the module and its multiply-adds.
CallMacs: TypeAlias = Iterable[tuple[str, int]]
MacCounter: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], CallMacs]


def count_macs(
    model: nn.Module,
    *example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None = None,
    num_samples: int | None = None,
    counters: Mapping[type[nn.Module], MacCounter] | None = None,
) -> dict[str, float]:
    """Dense multiply-adds per sample of each weight tensor, from one forward pass without gradients.

    Knows linear layers (of vectors and token sequences), convolutions and transposed convolutions, attention
    projections, and recurrent layers and cells. A module that runs several times counts each time; one that never runs
    counts 0. The pass runs in evaluation mode; modes, statistics, random state and hooks are afterwards as before.

    Args:
        model: May be compiled; the pass itself is not.
        *example_inputs: What the model is called with, on its device.
        example_kwargs: What it is called with by name.
        num_samples: Samples in the example, by default the first dimension of the first input.
        counters: Counts for further module types, asked before the known ones:
            ``counter(module, args, kwargs, output)`` gives pairs (parameter's name in the module, multiply-adds).

    Returns:
        Multiply-adds by parameter name, in the order of ``model.named_parameters()``; a tied weight once, by its first
        name, with the sum of all its uses.

    Raises:
        ValueError: If the number of samples is not given and cannot be read, or is below 1.
    """
    samples = _num_samples(example_inputs) if num_samples is None else num_samples
    if samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {samples}")
    network = eager_model(model)
    known: dict[type[nn.Module], MacCounter] = {**(counters or {}), **_COUNTERS}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    counted: dict[str, int] = {}
    handles = []

    def name_of(module: nn.Module, path: str, parameter_name: str) -> str:
        own = f"{path}.{parameter_name}" if path else parameter_name
        if isinstance(module, CompressedWeight):
            return own
        return names.get(id(attrgetter(parameter_name)(module)), own)

    def count_calls(path: str, counter: MacCounter) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            for parameter_name, macs in counter(module, args, kwargs, output):
                name = name_of(module, path, parameter_name)
                counted[name] = counted.get(name, 0) + macs

        return hook

    try:
        for path, module in network.named_modules():
            counter = next((known[kind] for kind in known if isinstance(module, kind)), None)
            if counter is not None:
                for parameter_name, parameter in module.named_parameters(recurse=False):
                    if parameter.dim() > 1:
                        counted[name_of(module, path, parameter_name)] = 0
                handles.append(module.register_forward_hook(count_calls(path, counter), with_kwargs=True))
        with evaluation_mode(network), random_state_kept(network), _plain_execution(), torch.no_grad():
            network(*example_inputs, **(example_kwargs or {}))
    finally:
        for handle in handles:
            handle.remove()
    position = {name: i for i, name in enumerate(names.values())}
    ordered = sorted(counted, key=lambda name: position.get(name, len(position)))
    return {name: counted[name] / samples for name in ordered}


def forward_flops(macs: Mapping[str, float], densities: Mapping[str, float] | None = None) -> float:
    """Forward FLOPs of one sample: f_D without densities, f_S with them.

    Args:
        macs: Dense multiply-adds by weight tensor, as ``count_macs`` gives them.
        densities: Density in [0, 1] by weight tensor; those not named are dense.

    Raises:
        ValueError: If a density has no such tensor or is outside its range.
    """
    given = densities or {}
    for name, density in given.items():
        if name not in macs:
            raise ValueError(f"densities must name counted weights, got {name}")
        if not 0.0 <= density <= 1.0:
            raise ValueError(f"density of {name} must be in [0, 1], got {density}")
    return FLOPS_PER_MAC * sum(count * given.get(name, 1.0) for name, count in macs.items())


def engine_forward_flops(macs: Mapping[str, float], engine: Engine) -> float:
    """f_S of the engine's present topology."""
    return forward_flops(macs, {layer.name: layer.density for layer in layers_of(engine)})


def _num_samples(example_inputs: tuple[Any, ...]) -> int:
    first = example_inputs[0] if example_inputs else None
    if not isinstance(first, Tensor) or first.dim() == 0:
        raise ValueError("num_samples must be given where the first input is not a tensor with a batch dimension")
    return len(first)


@contextmanager
def _plain_execution() -> Iterator[None]:
    """Every submodule is called as such, with its hooks.

    The fused attention kernels bypass submodules, or drop padding on the way; a compiled submodule keeps the graph it
    was compiled to, without the hooks of now. Before torch 2.6 only the outermost compiled module can be looked into.
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    set_stance = getattr(torch.compiler, "set_stance", None)
    try:
        if set_stance is None:
            yield
        else:
            with set_stance("force_eager"):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _linear(module: nn.Linear, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> CallMacs:
    yield "weight", output.numel() // module.out_features * module.weight.numel()


def _compressed(module: CompressedWeight, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> CallMacs:
    # The dense weight it stands for: what density saves is told apart, as for any other layer.
    yield "weight", output.numel() // module.weight_shape[0] * math.prod(module.weight_shape)


def _convolution(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> CallMacs:
    # weight: [out_channels, in_channels / groups, *kernel], used once at each output position.
    yield "weight", output.numel() // module.out_channels * module.weight.numel()


def _transposed_convolution(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> CallMacs:
    # weight: [in_channels, out_channels / groups, *kernel], used once at each input position.
    values = args[0] if args else kwargs["input"]
    yield "weight", values.numel() // module.in_channels * module.weight.numel()


def _attention(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> CallMacs:
    given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    tokens = {role: given[role].numel() // given[role].shape[-1] for role in ("query", "key", "value")}
    if module.in_proj_weight is not None:
        block = module.embed_dim * module.embed_dim
        yield "in_proj_weight", sum(tokens.values()) * block
    else:
        yield "q_proj_weight", tokens["query"] * module.q_proj_weight.numel()
        yield "k_proj_weight", tokens["key"] * module.k_proj_weight.numel()
        yield "v_proj_weight", tokens["value"] * module.v_proj_weight.numel()
    # The output projection is applied as a function; its own forward never runs.
    yield "out_proj.weight", tokens["query"] * module.out_proj.weight.numel()


def _recurrent(module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> CallMacs:
    values = args[0] if args else kwargs["input"]
    time_steps = len(values.data) if isinstance(values, PackedSequence) else values.numel() // module.input_size
    for name, weight in module.named_parameters(recurse=False):
        if weight.dim() == 2:
            yield name, time_steps * weight.numel()


def _recurrent_cell(module: nn.RNNCellBase, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> CallMacs:
    values = args[0] if args else kwargs["input"]
    samples = values.numel() // module.input_size
    yield "weight_ih", samples * module.weight_ih.numel()
    yield "weight_hh", samples * module.weight_hh.numel()


_COUNTERS: dict[type[nn.Module], MacCounter] = {
    CompressedWeight: _compressed,
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _transposed_convolution,
    nn.ConvTranspose2d: _transposed_convolution,
    nn.ConvTranspose3d: _transposed_convolution,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _recurrent_cell,
}
