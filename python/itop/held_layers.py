"""Whether an engine's layers are still its own: parameters that the model computes with, and no newer engine's."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from itop.distributed.shards import is_sharded
from itop.layers import Layer

_LINKS_A_STEP = 16
"""So that looking costs a few microseconds, whatever the model's size."""


@final
class HeldLayers:
    """The layers of one engine, from when it is made until it is detached.

    Args:
        model: The user's network.
        layers: Of the engine. Older engines that act by themselves and hold one of them must not step any more.
        acts_by_itself: Whether the engine is hooked to an optimiser. One that is not acts when it is told to: several may
            take turns.
    """

    _all: ClassVar[weakref.WeakSet[HeldLayers]] = weakref.WeakSet()

    def __init__(self, model: nn.Module, layers: Sequence[Layer], acts_by_itself: bool) -> None:
        self._model = model
        self._layers = {id(layer.parameter): layer for layer in layers}
        self._newer: tuple[weakref.ref[HeldLayers], str] | None = None
        self._links = list(_links_to(model, [layer for layer in layers if not is_sharded(layer.parameter)]))
        self._next_link = 0
        if not acts_by_itself:
            return
        for other in tuple(HeldLayers._all):
            shared = next((layer for key, layer in other._layers.items() if key in self._layers), None)
            if shared is not None:
                other._newer = (weakref.ref(self), shared.name)
        HeldLayers._all.add(self)

    def release(self) -> None:
        """The engine acts no more."""
        HeldLayers._all.discard(self)

    def check(self) -> None:
        """Before a step or an update. Looks at a few places a call, all in turn; small models whole.

        Raises:
            RuntimeError: If the model has another parameter in the place of a layer's, or another engine has the layer.
        """
        if self._newer is not None:
            newer, name = self._newer
            held = newer()
            if held is not None and held in HeldLayers._all:
                raise RuntimeError(
                    f"a newer SparseEngine keeps layer '{name}' sparse; detach() the one of the two that is not to act"
                )
            self._newer = None
        start = self._next_link
        self._next_link = start + _LINKS_A_STEP if start + _LINKS_A_STEP < len(self._links) else 0
        for link in self._links[start : start + _LINKS_A_STEP]:
            if link.holder.get(link.name) is not link.held:
                self._look_for_layers()
                self._links.remove(link)  # what it led to is in another place, or gone and not missed
                break

    def _look_for_layers(self) -> None:
        """Raises where the model goes on without a layer's parameter, unless the layer itself is gone."""
        parameters = {id(parameter) for parameter in self._model.parameters()}
        modules = set(self._model.modules())
        names = {name for name, _ in self._model.named_parameters(remove_duplicate=False)}
        for layer in self._layers.values():
            is_missed = layer.module in modules or layer.name in names
            if id(layer.parameter) not in parameters and not is_sharded(layer.parameter) and is_missed:
                raise RuntimeError(
                    f"the parameter of layer '{layer.name}' is not the model's any more, it was replaced after the engine was "
                    "made (by a new module, load_state_dict(assign=True), fully_shard or a parametrization); make the "
                    "optimiser and the engine after that"
                )


@dataclass(frozen=True, slots=True, eq=False)
class _Link:
    """What a module holds under a name: a module or a parameter."""

    holder: Mapping[str, object]
    name: str
    held: object


def _links_to(model: nn.Module, layers: Iterable[Layer]) -> Iterator[_Link]:
    """From the model down to the parameters of its layers, each once."""
    wanted = {id(layer.parameter) for layer in layers}

    def below(module: nn.Module) -> Iterator[_Link]:
        for name, child in module._modules.items():
            if child is not None and (inside := list(below(child))):
                yield _Link(module._modules, name, child)
                yield from inside
        for name, parameter in module._parameters.items():
            if id(parameter) in wanted:
                wanted.discard(id(parameter))
                yield _Link(module._parameters, name, parameter)

    return below(model)
