"""The truly sparse execution of a topology: layers that hold values and positions of their active weights only.

The same vocabulary as the masked one (:mod:`itop.topology`), so methods, reports and checkpoints are shared. A set of
weights of a truly sparse layer is a list of positions or the complement of one, and no operation enumerates a matrix.
Layers with a dense weight may stand beside them; they stay masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import LBFGS
from torch.utils.hooks import RemovableHandle

from itop.compressed_layer import CompressedLayer
from itop.distributed.agreement import LayerDigest
from itop.held_masks import compared
from itop.layers import Layer
from itop.nn.growth import DenseRows
from itop.nn.pattern import TieKeys
from itop.nn.position_set import PositionSet
from itop.nn.recorder import GradientRecorder
from itop.nn.sparse_layer import SparseLayer
from itop.optimizer_state import OptimizerState
from itop.saved_codes import read_sets
from itop.selection import BitSet, Quota, Scores
from itop.sparse_selection import PositionSets, StreamedScores, choose, positions_of
from itop.topology import Topology
from itop.update_report import UpdateReport

__all__ = ["SparseTopology", "make_topology"]

_MOST_GRADIENTS = 1 << 30
"""Weights of a layer whose dense gradient is formed whole where a method asks for it at every step."""


def make_topology(
    layers: Sequence[Layer], optimizer_state: OptimizerState, seed: int, *, is_collective: bool = False
) -> Topology:
    """The execution that the layers ask for: masked, unless one of them is truly sparse.

    Raises:
        ValueError: If a truly sparse layer cannot be trained like this.
    """
    if not any(layer.is_compressed for layer in layers):
        return Topology(layers, optimizer_state, seed)
    if is_collective:
        raise ValueError(
            "truly sparse layers train in one process: their values change places at every update, which gradients that "
            "are reduced over ranks do not follow; use dense layers, which are masked"
        )
    if isinstance(optimizer_state.optimizer, LBFGS):
        raise ValueError("truly sparse layers change their length, which LBFGS does not follow; use another optimiser")
    for layer in layers:
        if isinstance(layer.module, SparseLayer) and layer.module.values.device.type != "cpu":
            raise ValueError(
                f"the topology of truly sparse layers is updated on the CPU only, but layer '{layer.name}' is on "
                f"{layer.module.values.device}; there it computes with a fixed topology, or use dense layers, which are masked"
            )
    return SparseTopology(layers, optimizer_state, seed)


@final
class SparseTopology(Topology):
    """The topology of a model with truly sparse layers.

    Their active sets are their patterns, which the modules hold: what is known here beside them is what was explored.
    A tensor of a truly sparse layer (:meth:`weights`, masks for :meth:`from_tensors`) has one entry an active weight.

    Args:
        layers: Sparse layers, at least one of them truly so; all on the CPU.
        optimizer_state: Of the optimiser whose state moves along.
        seed: Of every random choice.

    Attributes:
        records_every_step: Whether gradients of inactive weights can be had after every pass: for updates outside the
            schedule (``engine.update()``). Keeps each batch's activations until the next.
    """

    def __init__(self, layers: Sequence[Layer], optimizer_state: OptimizerState, seed: int) -> None:
        self._compressed = {
            i: CompressedLayer(layer.module, optimizer_state)
            for i, layer in enumerate(layers)
            if isinstance(layer.module, SparseLayer)
        }
        self._stand_in = nn.Parameter(torch.empty(0), requires_grad=False)
        super().__init__(layers, optimizer_state, seed)
        self.records_every_step = False
        self._recorders: dict[int, GradientRecorder] = {}

    def _note_layout(self) -> None:
        super()._note_layout()
        for i in self._compressed:  # nothing of them is masked: no gradient, no memory order
            self._parameters[i] = self._stand_in

    # --- tensors ------------------------------------------------------------------------------------------------------

    def local(self, layer: int) -> Tensor:
        """What is masked of a layer: nothing of a truly sparse one."""
        return self._stand_in.detach() if layer in self._compressed else super().local(layer)

    @property
    def masked_layer_of_parameter(self) -> dict[int, int]:
        return {identity: i for identity, i in self.layer_of_parameter.items() if i not in self._compressed}

    def weights(self) -> list[Tensor]:
        """The weights of each layer, borrowed; of a truly sparse one the values of its active weights."""
        return [
            self._compressed[i].module.values.detach() if i in self._compressed else self.local(i)
            for i in range(len(self.layers))
        ]

    def record_gradients(self, is_wanted: Callable[[], bool]) -> list[RemovableHandle]:
        def is_wanted_now() -> bool:
            return self.records_every_step or is_wanted()

        self._recorders = {i: GradientRecorder(held.module, is_wanted_now) for i, held in self._compressed.items()}
        return [recorder.handle for recorder in self._recorders.values()]

    def gradients(self) -> list[Tensor]:
        """Dense gradients, formed whole: for methods that look at those of all weights at every step."""
        scores = self.gradient_scores()
        tensors = list(scores.tensors)
        for i, held in self._compressed.items():
            shape, layer = held.shape, self.layers[i]
            if layer.numel > _MOST_GRADIENTS:
                raise ValueError(
                    f"the method looks at the gradients of all {layer.numel} weights of layer '{layer.name}' at every step, "
                    "which no memory holds; grow at random or by the gradient of the update step"
                )
            tensors[i] = torch.zeros(layer.shape)
            if i in scores.rows:
                scores.rows[i].write(slice(0, shape[0]), tensors[i].view(shape))
        return tensors

    def gradient_scores(self) -> StreamedScores:
        tensors, rows = [], {}
        for i in range(len(self.layers)):
            tensors.append(self._dense_gradient(i))
            recorded = self._recorders[i].gradient_rows() if i in self._recorders else None
            if recorded is not None:
                rows[i] = recorded
        if not rows:
            raise RuntimeError(
                "growth by gradient needs the batch of an update step, but no truly sparse layer has seen one; update after "
                "backward(), and set engine.topology.records_every_step for updates outside the schedule"
            )
        for i in self._compressed.keys() - rows.keys():
            rows[i] = DenseRows(torch.zeros(1, 1).expand(self._compressed[i].shape))
        return StreamedScores(tensors, rows=rows)

    def _dense_gradient(self, layer: int) -> Tensor:
        if layer in self._compressed:
            return self.local(layer)
        gradient = self.kept_gradients.get(layer, self.layers[layer].parameter.grad)
        return torch.zeros_like(self.local(layer)) if gradient is None else self.in_storage_order(layer, gradient)

    # --- sets ---------------------------------------------------------------------------------------------------------

    def _sets(self, bits: BitSet, positions: Callable[[int], PositionSet]) -> PositionSets:
        return PositionSets(self, bits.native, {i: positions(i) for i in self._compressed})

    @property
    def active(self) -> PositionSets:
        return self._sets(super().active, lambda i: self._compressed[i].active)

    @property
    def explored(self) -> PositionSets:
        return self._sets(super().explored, lambda i: self._compressed[i].explored.to_set())

    @property
    def reliable(self) -> PositionSets:
        return self._sets(super().reliable, lambda i: self._compressed[i].reliable.to_set())

    def empty(self) -> PositionSets:
        return self._sets(super().empty(), lambda i: PositionSet.empty(self._compressed[i].shape))

    def full(self) -> PositionSets:
        return self._sets(super().full(), lambda i: ~PositionSet.empty(self._compressed[i].shape))

    def only(self, layers: Iterable[int]) -> PositionSets:
        chosen = set(map(int, layers))
        full, empty = self.full(), self.empty()
        for i in chosen - self._compressed.keys():
            empty.native.set_words(i, full.native.words(i, self.stream), self.stream)
        positions = {i: full.positions[i] if i in chosen else empty.positions[i] for i in self._compressed}
        return PositionSets(self, empty.native, positions)

    def from_tensors(self, masks: Sequence[Tensor]) -> PositionSets:
        """A set from one bool tensor a layer: in its shape, or with one entry an active weight."""
        dense = [self.local(i).bool() if i in self._compressed else mask for i, mask in enumerate(masks)]
        return self._sets(super().from_tensors(dense), lambda i: self._positions_of(i, masks[i]))

    def where(
        self,
        tensors: Sequence[Tensor],
        *,
        limit: float | Sequence[float],
        greater: bool = False,
        magnitude: bool = False,
    ) -> BitSet:
        limits = [float(limit)] * len(tensors) if isinstance(limit, (int, float)) else limit
        return self.from_tensors(compared(tensors, limits, greater, magnitude))

    def sums_of_magnitudes(self, scores: Scores, among: BitSet) -> list[float]:
        masks = among.to_tensors()
        return self.sums(tensor[mask].abs() for tensor, mask in zip(scores.tensors, masks, strict=True))

    def _positions_of(self, layer: int, mask: Tensor) -> PositionSet:
        pattern = self._compressed[layer].module.pattern
        if mask.shape == (pattern.num_active,):
            return PositionSet.of(pattern).only(mask)
        if tuple(mask.shape) != self.layers[layer].shape:
            raise ValueError(
                f"a mask of the truly sparse layer '{self.layers[layer].name}' must have shape "
                f"{list(self.layers[layer].shape)} or [{pattern.num_active}], one entry an active weight, got {list(mask.shape)}"
            )
        return PositionSet.from_mask(mask)

    # --- the three operations -------------------------------------------------------------------------------------------

    def select(
        self,
        candidates: BitSet,
        k: Sequence[int] | int | Quota,
        scores: Scores | None = None,
        *,
        largest: bool = True,
        preferred: BitSet | None = None,
    ) -> BitSet:
        """As in the masked execution, with the same choice; counts are per layer.

        Scores of a truly sparse layer have one entry an active weight, are a dense tensor, or are streamed.
        """
        if isinstance(k, Quota) or preferred is not None:
            return super().select(candidates, k, scores, largest=largest, preferred=preferred)
        if isinstance(k, int):
            raise ValueError("truly sparse layers do not compete with each other; give each layer a count of its own")
        draw = self._draw
        masked = None
        if scores is not None:
            own = [self.local(i) if i in self._compressed else tensor for i, tensor in enumerate(scores.tensors)]
            masked = Scores(own, scores.signed)
        bits = super().select(
            candidates, [0 if i in self._compressed else count for i, count in enumerate(k)], masked, largest=largest
        )
        among = positions_of(candidates)

        def chosen(i: int) -> PositionSet:
            count = min(int(k[i]), among[i].count)
            keys = TieKeys(self.seed, i, self.num_updates, draw)
            return choose(i, self.layers[i], self._compressed[i].module.pattern, among[i], count, scores, largest, keys)

        return self._sets(bits, chosen)

    def initialise(self, active: BitSet) -> None:
        """As in the masked execution; weights that were not held so far are drawn as the module draws its own."""
        for i, positions in positions_of(active).items():
            self._compressed[i].initialise(positions.listed())
        super().initialise(active)

    def keep_patterns(self) -> Callable[[], None]:
        kept = [held.keep() for held in self._compressed.values()]

        def put_back() -> None:
            for put_layer_back in kept:
                put_layer_back()

        return put_back

    def begin_update(self, step: int) -> None:
        for held in self._compressed.values():
            held.follow_pattern()
        super().begin_update(step)

    def replace(self, active: BitSet, *, marks_reliable: bool = True) -> UpdateReport:
        raise ValueError(
            "inactive weights of truly sparse layers are not held anywhere and cannot live on out of sight"
        )

    def _commit(
        self, dropped: BitSet, grown: BitSet, *, touches_values: bool = True, **options: bool
    ) -> npt.NDArray[np.int64]:
        counts = super()._commit(dropped, grown, touches_values=touches_values, **options)
        gone, new = positions_of(dropped), positions_of(grown)
        for i, held in self._compressed.items():
            counts[i] = held.commit(
                gone[i],
                new[i],
                marks_reliable=options["marks_reliable"],
                regrown_keeps_value=options["regrown_keeps_value"],
            )
        for recorder in self._recorders.values():
            recorder.clear()
        self._counts = counts[:, :3].copy()
        return counts

    # --- counts, bytes, state -------------------------------------------------------------------------------------------

    def _recount(self) -> None:
        # Of the bits alone: what was explored of a truly sparse layer is counted without being listed.
        sets = (self.store.active, self.store.explored, self.store.reliable)
        counts = np.array([self.summed(bits.count(self.stream)) for bits in sets], dtype=np.int64).T.copy()
        for i, held in self._compressed.items():
            counts[i] = held.counts
        self._counts = counts

    def num_bytes(self) -> int:
        """Of bit sets, patterns and explored sets."""
        return super().num_bytes() + sum(held.num_bytes for held in self._compressed.values())

    def layer_digests(self) -> list[LayerDigest]:
        digests = super().layer_digests()
        for i, held in self._compressed.items():
            saved = b"".join(content.numpy().tobytes() for content in held.to_bytes().values())
            digest = hashlib.blake2b(saved, digest_size=16).digest()
            digests[i] = LayerDigest(self.layers[i].name, (None, self.layers[i].shape), digest)
        return digests

    def mask(self, layer: int) -> Tensor:
        return self._compressed[layer].module.mask() if layer in self._compressed else super().mask(layer)

    def layer_codes(self, layer: int) -> Any:
        """Of a truly sparse layer ``{"shape", "active", "explored", "reliable"}``, the sets in bytes."""
        if layer not in self._compressed:
            return super().layer_codes(layer)
        return {"shape": list(self.layers[layer].shape), **self._compressed[layer].to_bytes()}

    def read_codes(self, layer: int, saved: object) -> Any:
        if layer not in self._compressed:
            return super().read_codes(layer, saved)
        return read_sets(self.layers[layer].name, self.layers[layer].shape, saved)

    def set_codes(self, codes: Sequence[Any]) -> None:
        """As in the masked execution; a weight that becomes active here is zero."""
        for i, held in self._compressed.items():
            held.load(codes[i])
        nothing = torch.empty(0, dtype=torch.uint8)
        super().set_codes([nothing if i in self._compressed else of_layer for i, of_layer in enumerate(codes)])
