"""Looking at a model without leaving a trace: modes, buffers and random state are put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def eager_model(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` wrapped, or the model itself: parameter names without a prefix."""
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """``model.eval()`` inside; afterwards every module has the mode it had, also where they differed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside, running statistics and other buffers end with the values they had, in place."""
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Whatever states the model loads inside, it ends with its own parameters and buffers, in place."""
    own = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(own)


@contextmanager
def random_state_kept(model: nn.Module) -> Iterator[None]:
    """Torch's random state on the CPU and on the model's CUDA devices is afterwards what it was."""
    devices = {parameter.device.index for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        yield
