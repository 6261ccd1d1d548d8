"""The parts of a model's layers that this process holds: their weights and gradients, and what is laid out as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from itop.distributed.reduction import LayerReductions, Reduction, Traffic
from itop.distributed.shards import has_layout_of, in_layout_of, is_sharded, like_parameter, local_part, shard_start
from itop.exact_sums import exact_sums
from itop.layers import Layer, has_same_memory_order


class HeldParts:
    """Of each layer the part that this process holds: all of it, or a shard.

    Args:
        layers: The sparse layers, all on one device.
        reduction: Merges the counts of all layers over processes; None takes what the layers' placements say: DTensors
            are merged over the ranks that hold their parts, plain tensors are whole.

    Attributes:
        device: Where the layers are.
        has_shards: Whether this process may hold a part of a layer only.
        reductions: How the counts of each layer are merged.
        kept_gradients: Dense gradients of layers, by place, where those of the parameters are masked or gone already.
        layer_of_parameter: A layer's place, by the identity of its parameter.

    Raises:
        ValueError: If layers are on several devices.
    """

    def __init__(self, layers: Sequence[Layer], reduction: Reduction | None = None) -> None:
        self.layers = tuple(layers)
        parameters = [layer.parameter for layer in self.layers]
        self.reductions = (
            LayerReductions(parameters, [layer.name for layer in self.layers])
            if reduction is None
            else LayerReductions.uniform(len(self.layers), reduction)
        )
        self._starts = [shard_start(layer.parameter, layer.name) for layer in self.layers]
        self.has_shards = any(map(is_sharded, parameters))
        self.kept_gradients: dict[int, Tensor] = {}
        self.layer_of_parameter = {id(layer.parameter): i for i, layer in enumerate(self.layers)}
        self._note_layout()

    def _note_layout(self) -> None:
        """Notes where and in which order the parts lie in memory."""
        devices = {self.local(i).device for i in range(len(self.layers))}
        if len(devices) != 1:
            raise ValueError(f"all sparse layers must be on one device, got {', '.join(sorted(map(str, devices)))}")
        (self.device,) = devices
        self._parameters = [layer.parameter for layer in self.layers]
        self._strides = [parameter.stride() for parameter in self._parameters]
        self._local_strides = [self.local(i).stride() for i in range(len(self.layers))]
        self._is_contiguous = [self.local(i).is_contiguous() for i in range(len(self.layers))]

    def _has_moved(self) -> bool:
        """Whether the parts lie elsewhere, or in another order, than was noted."""
        strides = [parameter.stride() for parameter in self._parameters]
        return self._parameters[0].device != self.device or strides != self._strides

    # --- weights and gradients ----------------------------------------------------------------------------------------

    def local(self, layer: int) -> Tensor:
        """The part of a layer's weights that this process holds, detached."""
        parameter = self.layers[layer].parameter
        return local_part(parameter) if self.has_shards else parameter.detach()

    def start(self, layer: int) -> tuple[int, ...] | None:
        """Where this process's part begins in each dimension of the layer; None where it holds the layer whole."""
        return self._starts[layer]

    @property
    def masked_layer_of_parameter(self) -> dict[int, int]:
        """The place of each layer whose weights the store masks, by the identity of its parameter."""
        return self.layer_of_parameter

    @property
    def traffic(self) -> Traffic:
        """What selections over shards put on the wire so far."""
        return self.reductions.traffic

    def weights(self) -> list[Tensor]:
        """The weights of each layer, borrowed."""
        return [self.local(i) for i in range(len(self.layers))]

    def gradients(self) -> list[Tensor]:
        """The gradients of each layer (of the part held here), dense, in the weights' memory order.

        Zeros for a layer that took no part.

        Raises:
            RuntimeError: If no layer has one.
        """
        gradients = [self.kept_gradients.get(i, layer.parameter.grad) for i, layer in enumerate(self.layers)]
        if all(gradient is None for gradient in gradients):
            raise RuntimeError(
                "growth by gradient needs gradients, but no sparse layer has one; update after backward() and before "
                "gradients are cleared"
            )
        return [
            torch.zeros_like(self.local(i))
            if gradient is None
            else self.in_storage_order(i, in_layout_of(gradient, layer.parameter))
            for i, (layer, gradient) in enumerate(zip(self.layers, gradients, strict=True))
        ]

    def record_gradients(self, is_wanted: Callable[[], bool]) -> list[RemovableHandle]:
        """Sees to it that gradients of inactive weights are there after passes that ``is_wanted()`` answers True to.

        Dense layers have theirs in any case.
        """
        return []

    def local_gradient(self, layer: int) -> Tensor | None:
        """The part of a layer's gradient that belongs to the weights held here; None if there is none."""
        parameter = self.layers[layer].parameter
        gradient = parameter.grad
        if not self.has_shards or gradient is None:
            return gradient
        return local_part(gradient) if has_layout_of(gradient, parameter) else None

    # --- tensors laid out as the weights are --------------------------------------------------------------------------

    def in_storage_order(self, layer: int, tensor: Tensor) -> Tensor:
        """A tensor of a layer's shape laid out in memory as its weights are: itself where it is already."""
        weight = self.local(layer)
        if self.has_shards:
            tensor = local_part(tensor)
        if tensor.shape != weight.shape:
            raise ValueError(
                f"a tensor of layer '{self.layers[layer].name}' must have its shape {tuple(weight.shape)}, got "
                f"{tuple(tensor.shape)}"
            )
        if tensor.requires_grad:
            tensor = tensor.detach()
        if has_same_memory_order(tensor, weight):
            return tensor
        return torch.empty_strided(weight.shape, weight.stride(), dtype=tensor.dtype, device=tensor.device).copy_(
            tensor
        )

    @property
    def stream(self) -> int:
        """The caller's current stream on the masks' device, as an integer; 0 on the CPU."""
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    def whole(self, layer: int, part: Tensor) -> Tensor:
        """A tensor of the part of a layer held here, gathered from all ranks into the layer's shape."""
        if part.dtype == torch.int16 and self.start(layer) is not None:  # nothing carries it between processes
            return self.whole(layer, part.int()).to(torch.int16)
        tensor = like_parameter(part, self.layers[layer].parameter)
        return tensor.full_tensor() if is_sharded(tensor) else tensor

    def part(self, layer: int, whole: Tensor) -> Tensor:
        """What this process holds of a plain tensor of the layer's whole shape."""
        start = self.start(layer)
        if start is None:
            return whole
        size = self.local(layer).shape
        return whole[tuple(slice(begin, begin + length) for begin, length in zip(start, size, strict=True))]

    def uniform(self, layer: int, *words: int) -> Tensor:
        """Uniform float32 numbers in [0, 1) for the part held here: those of the whole layer, whatever part it is."""
        if self.start(layer) is None:
            return uniform(self.local(layer), *words)
        return self.part(layer, uniform(torch.empty(self.layers[layer].shape, device=self.device), *words))

    # --- sums over all ranks ------------------------------------------------------------------------------------------

    def summed(self, counts: Sequence[int]) -> list[int]:
        """Counts of each layer over all processes that hold a part of it."""
        array = np.array(counts, dtype=np.int64)
        self.reductions.sum(array)
        return [int(count) for count in array]

    def sums(self, values: Iterable[Tensor]) -> list[float]:
        """Of each layer the sum of the values held here and on all other ranks: exact, the same bits however it is cut.

        Args:
            values: One float tensor a layer, of any length, finite.
        """
        return exact_sums(values, self.reductions.sum)


def uniform(like: Tensor, *words: int) -> Tensor:
    """Uniform float32 numbers in [0, 1), of a tensor's shape and device; a pure function of the words."""
    generator = torch.Generator(device=like.device)
    digest = hashlib.blake2b(b"".join(word.to_bytes(8, "little") for word in words), digest_size=8).digest()
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.rand(like.shape, generator=generator, device=like.device)
