"""The shape of what a model is called with, noted at its first call, so that FLOPs can be counted later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, slots=True)
class _Shape:
    size: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class ExampleInput:
    """Arguments of a model's call, with shapes and types in the place of tensors."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    num_samples: int

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ExampleInput | None:
        """The shapes of a call; None if no tensor tells how many samples there are."""
        tensors = [leaf for leaf in tree_flatten((args, dict(kwargs)))[0] if isinstance(leaf, Tensor)]
        if not tensors or tensors[0].dim() == 0 or tensors[0].size(0) == 0:
            return None

        def shape_of(value: object) -> object:
            return _Shape(tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value

        return cls(tree_map(shape_of, args), tree_map(shape_of, dict(kwargs)), tensors[0].size(0))

    def make(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call of the same shapes, filled with zeros."""

        def zeros(value: object) -> object:
            return torch.zeros(value.size, dtype=value.dtype, device=device) if isinstance(value, _Shape) else value

        return tree_map(zeros, self.args), tree_map(zeros, self.kwargs)


class _Recorder:
    """A forward pre-hook that notes one call and takes itself off. A copied or saved model gets one that does nothing."""

    def __init__(self, keep: Callable[[ExampleInput], None] | None = None) -> None:
        self.keep = keep
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.keep is None or torch.compiler.is_compiling():
            return
        example = ExampleInput.of(args, kwargs)
        if example is not None:
            self.keep(example)
            self.keep = None
            if self.handle is not None:
                self.handle.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Recorder:
        return _Recorder()

    def __reduce__(self) -> tuple[type[_Recorder], tuple[()]]:
        return _Recorder, ()


def record_example(model: nn.Module, keep: Callable[[ExampleInput], None]) -> RemovableHandle:
    """Calls ``keep`` with the shapes of the model's first call; the returned handle ends the waiting."""
    recorder = _Recorder(keep)
    recorder.handle = model.register_forward_pre_hook(recorder, with_kwargs=True)
    return recorder.handle
