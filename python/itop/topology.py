"""The native mask store over the parts of layers that this process holds: select, commit, apply.

This is the vocabulary methods are written in. A method never sees words of bits or streams; it asks for scores, selects,
and commits::

    dropped = topology.select(topology.active, k=..., scores=Scores(topology.weights()), largest=False)
    kept = topology.active - dropped
    grown = topology.select(~kept, k=...)                      # no scores: uniformly at random
    topology.commit(dropped, grown)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from itop import _core
from itop.distributed.agreement import LayerDigest
from itop.distributed.reduction import Reduction, Traffic
from itop.distributed.shards import like_parameter
from itop.exact_sums import rounded_sums
from itop.held_parts import HeldParts
from itop.layers import Layer, index_map
from itop.optimizer_state import OptimizerState
from itop.saved_codes import ACTIVE, EXPLORED, RELIABLE, read_codes
from itop.selection import BitSet, Quota, Scores, SelectionOrder
from itop.turns import Turns
from itop.update_report import LayerUpdate, UpdateReport

_NUM_DRAWS = 128


class Topology(HeldParts):
    """Which weights of a model's layers are active, were explored, were explored reliably.

    Args:
        layers: The sparse layers, all on one device.
        optimizer_state: Finds the optimiser's tensors that move with a weight.
        seed: Of every random choice.
        reduction: Of :class:`HeldParts`.

    Attributes:
        on_grown: Called with the weights that a commit grew and that start at zero.
        store: The native bit sets.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        optimizer_state: OptimizerState,
        seed: int,
        reduction: Reduction | None = None,
    ) -> None:
        super().__init__(layers, reduction)
        self.optimizer_state = optimizer_state
        self.on_grown: Callable[[BitSet], None] | None = None
        self.num_updates = 0
        self.step = 0
        self._draw = 0
        self._traffic_before = Traffic()
        self._sweep_turns = Turns([layer.numel for layer in self.layers])
        self.store = self._make_store(seed)
        self._counts = np.zeros((len(self.layers), 3), dtype=np.int64)

    def _make_store(self, seed: int) -> _core.MaskStore:
        rows = [
            (layer.name, *index_map(self.local(i), layer.shape, self.start(i))) for i, layer in enumerate(self.layers)
        ]
        index = self.device.index if self.device.index is not None else 0
        return _core.MaskStore(rows, self.device.type, index, seed, self.stream)

    def gradient_scores(self) -> Scores:
        """The gradients to select by; where they are not held, they are formed as they are compared.

        Raises:
            RuntimeError: If no layer has one.
        """
        return Scores(self.gradients())

    # --- sets ---------------------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        return self.store.seed

    @property
    def active(self) -> BitSet:
        return BitSet(self, self.store.active)

    @property
    def explored(self) -> BitSet:
        return BitSet(self, self.store.explored)

    @property
    def reliable(self) -> BitSet:
        return BitSet(self, self.store.reliable)

    def empty(self) -> BitSet:
        return BitSet(self, self.store.empty(self.stream))

    def full(self) -> BitSet:
        return BitSet(self, self.store.full(self.stream))

    def only(self, layers: Iterable[int]) -> BitSet:
        """Every weight of some layers, no weight of the others."""
        full, result = self.full(), self.empty()
        for i in layers:
            result.native.set_words(int(i), full.native.words(int(i), self.stream), self.stream)
        return result

    def from_tensors(self, masks: Sequence[Tensor]) -> BitSet:
        """A set from one bool tensor a layer, each in its layer's shape."""
        result = self.empty()
        for i, mask in enumerate(masks):
            result.native.pack(i, self.in_storage_order(i, mask.to(torch.bool)), self.stream)
        return result

    def sums_of_magnitudes(self, scores: Scores, among: BitSet) -> list[float]:
        """Of each layer the sum of ``abs(score)`` over a set, as exact as :meth:`sums`."""
        tensors = [self.in_storage_order(i, tensor) for i, tensor in enumerate(scores.tensors)]
        if not all(map(is_native, tensors)):
            masks = among.to_tensors()
            return self.sums(tensor[mask].abs() for tensor, mask in zip(tensors, masks, strict=True))
        rows = np.array([_core.sum_magnitudes(among.native, i, tensor) for i, tensor in enumerate(tensors)])
        self.reductions.sum(rows)
        return rounded_sums(rows)

    def smallest_magnitudes(self, tensors: Sequence[Tensor], among: BitSet) -> list[float]:
        """Of each layer the smallest ``abs(value)`` over the part held here of a set; infinity where that is empty."""
        stored = [self.in_storage_order(i, tensor) for i, tensor in enumerate(tensors)]
        if all(map(is_native, stored)):
            return [_core.smallest_magnitude(among.native, i, tensor) for i, tensor in enumerate(stored)]
        masks = among.to_tensors()
        return [
            float(tensor.abs().masked_fill(~mask, math.inf).min()) for tensor, mask in zip(stored, masks, strict=True)
        ]

    def where(
        self,
        tensors: Sequence[Tensor],
        *,
        limit: float | Sequence[float],
        greater: bool = False,
        magnitude: bool = False,
    ) -> BitSet:
        """The weights at which a value (or its magnitude) is smaller than a limit, or greater.

        Args:
            tensors: One a layer, as those of :meth:`weights`.
            limit: One for all layers, or one a layer.
        """
        stored = [self.in_storage_order(i, tensor) for i, tensor in enumerate(tensors)]
        limits = [float(limit)] * len(stored) if isinstance(limit, (int, float)) else limit
        if not all(map(is_native, stored)):
            return self.from_tensors(compared(stored, limits, greater, magnitude))
        result = self.empty()
        for i, tensor in enumerate(stored):
            _core.compare_with(tensor, result.native, i, magnitude=magnitude, greater=greater, limit=limits[i])
        return result

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
        """The k best candidates, exactly: by score, equal scores by tie key, then by index. Changes nothing.

        Args:
            candidates: Others are never chosen.
            k: One count a layer, one for all layers together (they compete), or a quota of finer grain. Fewer
                candidates: all are chosen.
            scores: What is compared; None chooses uniformly at random.
            largest: Whether large scores are better.
            preferred: Candidates in this set are better than any other.

        Raises:
            ValueError: If scores hold NaN or infinity; names the layer. On a GPU, whose scores the host has not seen yet,
                it is the first look at the set that raises, or the commit, before it changes anything.
        """
        if isinstance(k, Quota):
            return k.select(self, candidates, scores, largest=largest, preferred=preferred)
        if preferred is not None:
            first = candidates & preferred
            if isinstance(k, int):
                rest: Sequence[int] | int = k - min(k, sum(first.counts()))
            else:
                rest = [wanted - min(wanted, have) for wanted, have in zip(k, first.counts(), strict=True)]
            return self.select(first, k, scores, largest=largest) | self.select(
                candidates - preferred, rest, scores, largest=largest
            )
        tensors: list[Tensor | None] = [None] * len(self.layers)
        if scores is not None:
            tensors = [self.in_storage_order(i, tensor) for i, tensor in enumerate(scores.tensors)]
        order = SelectionOrder(scores is None or not scores.signed, largest, self.next_draw())
        if self.reductions.is_uniform:
            chosen = self._select(candidates, tensors, k, order, self.reductions.groups[0].reduction)
            if candidates.native is not self.store.active or isinstance(k, int):
                return chosen
            have = self.num_active
            return BitSet(self, chosen.native, [min(max(int(n), 0), most) for n, most in zip(k, have, strict=True)])
        if isinstance(k, int):
            # Each part enters once, whoever holds copies of it. How many a layer got is enough to choose them again,
            # layer by layer: scores and tie keys order the weights of one layer as they order all.
            owned = self.reductions.owned()
            merged = self.reductions.over_all_ranks()
            mine = candidates & self.only(np.flatnonzero(owned))
            won = np.array(self._select(mine, tensors, k, order, merged).native.count(self.stream), dtype=np.int64)
            won[~owned] = 0
            merged(won)
            k = [int(count) for count in won]
        chosen = self.empty()
        for group in self.reductions.groups:
            chosen |= self._select(
                candidates,
                [tensor if i in group.layers else None for i, tensor in enumerate(tensors)],
                [count if i in group.layers else 0 for i, count in enumerate(k)],
                order,
                group.reduction,
            )
        return chosen

    def _select(
        self,
        candidates: BitSet,
        tensors: Sequence[Tensor | None],
        k: Sequence[int] | int,
        order: SelectionOrder,
        reduction: Reduction | None,
    ) -> BitSet:
        chosen = self.store.select(
            candidates.native,
            tensors,
            magnitude=order.magnitude,
            largest=order.largest,
            k=[k] if isinstance(k, int) else [int(count) for count in k],
            across_layers=isinstance(k, int),
            update=self.num_updates,
            draw=order.draw,
            reduction=reduction,
            stream=self.stream,
        )
        return BitSet(self, chosen)

    def random(self, layer: int) -> Tensor:
        """Uniform float32 numbers in [0, 1) in a layer's shape, on its device.

        The same for the same seed, layer, update, step and turn within them, on one kind of device.
        """
        return self.uniform(layer, self.seed, layer, self.num_updates, self.step, self.next_draw())

    def next_draw(self) -> int:
        """Tells the random choices of one update apart; after many they repeat their keys."""
        draw = self._draw
        self._draw = (draw + 1) % _NUM_DRAWS
        return draw

    def initialise(self, active: BitSet) -> None:
        """Sets the initial masks: explored holds them, nothing is reliable; weights outside become zero, others stay."""
        nothing = self.empty()
        for i in range(len(self.layers)):
            words = active.native.words(i, self.stream)
            self.store.active.set_words(i, words, self.stream)
            self.store.explored.set_words(i, words, self.stream)
            self.store.reliable.set_words(i, nothing.native.words(i, self.stream), self.stream)
        self._recount()
        self.apply()

    def keep_patterns(self) -> Callable[[], None]:
        """Before the first masks: the function returned gives truly sparse layers what they held. Here there are none."""
        return lambda: None

    def begin_update(self, step: int) -> None:
        """Opens an update: the random keys of what follows belong to it."""
        self.num_updates += 1
        self.step = step
        self._draw = 0
        self._traffic_before = replace(self.traffic)

    def commit(
        self,
        dropped: BitSet,
        grown: BitSet,
        *,
        drop_fraction: float | None = None,
        zero_all_inactive: bool = False,
        regrown_keeps_value: bool = False,
        marks_reliable: bool = True,
    ) -> UpdateReport:
        """active <- (active - dropped) | grown; explored and reliable grow; changed weights and their state become zero.

        Args:
            dropped: A subset of the active set.
            grown: Weights outside ``active - dropped``.
            drop_fraction: For the report.
            zero_all_inactive: Zero every weight that was not kept and its state, not only those that changed: needed
                where inactive weights may hold values.
            regrown_keeps_value: A weight dropped and grown at once keeps its value and state.
            marks_reliable: Whether what survived is reliably explored (PAPER section 1): this was a pruning round.
        """
        counts = self._commit(
            dropped,
            grown,
            zero_all_inactive=zero_all_inactive,
            regrown_keeps_value=regrown_keeps_value,
            marks_reliable=marks_reliable,
        )
        if self.on_grown is not None:
            self.on_grown(grown - dropped if regrown_keeps_value else grown)
        return self._report(counts, drop_fraction)

    def replace(self, active: BitSet, *, marks_reliable: bool = True) -> UpdateReport:
        """active <- the given set; explored and reliable grow; no value is touched.

        For methods whose inactive weights live on out of the model's sight (:meth:`Method.hides_weights`).
        """
        counts = self._commit(
            self.active - active,
            active - self.active,
            touches_values=False,
            zero_all_inactive=False,
            regrown_keeps_value=True,
            marks_reliable=marks_reliable,
        )
        return self._report(counts, None)

    def changes_since(self, before: BitSet) -> UpdateReport:
        """The report of what became of an earlier active set, where the set was replaced several times in between."""
        counts = np.array(
            [
                self.num_active,
                self.num_explored,
                self.num_reliable,
                (before - self.active).counts(),
                (self.active - before).counts(),
                [0] * len(self.layers),
            ],
            dtype=np.int64,
        ).T
        return self._report(counts, None)

    def _report(self, counts: npt.NDArray[np.int64], drop_fraction: float | None) -> UpdateReport:
        return UpdateReport(
            update=self.num_updates,
            step=self.step,
            drop_fraction=drop_fraction,
            layers=tuple(
                LayerUpdate(layer.name, layer.numel, *row)
                for layer, row in zip(self.layers, counts.tolist(), strict=True)
            ),
            num_reductions=self.traffic.num_reductions - self._traffic_before.num_reductions,
            num_wire_bytes=self.traffic.num_bytes - self._traffic_before.num_bytes,
        )

    def _commit(
        self, dropped: BitSet, grown: BitSet, *, touches_values: bool = True, **options: bool
    ) -> npt.NDArray[np.int64]:
        tensors = self.optimizer_state.tensors_to_mask(self) if touches_values else None
        alike: Sequence[Sequence[Tensor]] = [()] * len(self.layers) if tensors is None else tensors.alike
        counts = self.store.commit(dropped.native, grown.native, alike, stream=self.stream, **options)
        if tensors is not None and tensors.unusual:
            tensors.mask_unusual(self, grown - dropped if options["regrown_keeps_value"] else grown)
        self.reductions.sum(counts)
        self._counts = counts[:, :3].copy()
        return counts

    def apply(self, layers: Collection[int] | None = None) -> None:
        """Zeroes weights and optimiser state outside the active set, of all layers or of some."""
        tensors = self.optimizer_state.tensors_to_mask(self)
        alike: Sequence[Sequence[Tensor]] = tensors.alike
        if layers is not None:
            alike = [of_layer if i in layers else () for i, of_layer in enumerate(alike)]
        self.store.apply(alike, self.stream)
        tensors.mask_unusual(self)

    def sweep(self) -> None:
        """Zeroes weights outside the active set, a few layers a call, all in turn; small models whole.

        In-place writes to a parameter are noticed by its version and masked at once. Writes to ``parameter.data`` leave no
        trace; this keeps them from staying, at a cost that does not grow with the model.
        """
        tensors: list[Sequence[Tensor]] = [()] * len(self.layers)
        for i in self._sweep_turns.next():
            tensors[i] = (self.local(i) if self.has_shards else self._parameters[i],)
        self.store.apply(tensors, self.stream)

    def apply_to_gradients(self, layers: Collection[int] | None = None) -> bool:
        """Zeroes gradients outside the active set, in place, of all layers or of some.

        Of all: sweeps some weights (:meth:`sweep`) in the same pass.

        Returns:
            Whether all were: a gradient that is cut in other parts than its weight is left as it is.
        """
        tensors: list[Sequence[Tensor]] = []
        all_masked = True
        for i, is_contiguous in enumerate(self._is_contiguous):
            if layers is not None and i not in layers:
                tensors.append(())
                continue
            gradient = self.local_gradient(i) if self.has_shards else self._parameters[i].grad
            if gradient is None:
                all_masked &= self._parameters[i].grad is None
                tensors.append(())
            elif (is_contiguous and gradient.is_contiguous()) or gradient.stride() == self.local(i).stride():
                tensors.append((gradient,))
            else:
                tensors.append(())
                gradient.masked_fill_(~self.active.to_tensor(i), 0)
        for i in self._sweep_turns.next() if layers is None else ():
            tensors[i] = (*tensors[i], self.local(i) if self.has_shards else self._parameters[i])
        self.store.apply(tensors, self.stream)
        return all_masked

    # --- counts, bytes, state -------------------------------------------------------------------------------------------

    def _recount(self) -> None:
        self._counts = np.array(
            [self.active.counts(), self.explored.counts(), self.reliable.counts()], dtype=np.int64
        ).T.copy()

    @property
    def active_counts(self) -> npt.NDArray[np.int64]:
        """Active weights of each layer, as an array that is not to be written to."""
        return self._counts[:, 0]

    @property
    def num_active(self) -> list[int]:
        return [int(count) for count in self._counts[:, 0]]

    @property
    def num_explored(self) -> list[int]:
        return [int(count) for count in self._counts[:, 1]]

    @property
    def num_reliable(self) -> list[int]:
        return [int(count) for count in self._counts[:, 2]]

    def num_bytes(self) -> int:
        """Of the bit sets this process holds."""
        return self.store.num_bytes()

    def digest(self) -> bytes:
        """128 bits that differ when active, explored or reliable sets differ."""
        digest = hashlib.blake2b(digest_size=16)
        for bits in (self.active, self.explored, self.reliable):
            for i in range(len(self.layers)):
                digest.update(bits.native.words(i, self.stream).tobytes())
        return digest.digest()

    def layer_digests(self) -> list[LayerDigest]:
        """128 bits of each layer's part held here, with its place, for comparison between ranks."""
        digests: list[LayerDigest] = []
        for i, layer in enumerate(self.layers):
            digest = hashlib.blake2b(digest_size=16)
            for bits in (self.active, self.explored, self.reliable):
                digest.update(bits.native.words(i, self.stream).tobytes())
            digests.append(LayerDigest(layer.name, (self.start(i), tuple(self.local(i).shape)), digest.digest()))
        return digests

    def mask(self, layer: int) -> Tensor:
        """A layer's mask as its parameter is: a plain tensor, or a DTensor of the same placement; a copy."""
        return like_parameter(self.active.to_tensor(layer), self.layers[layer].parameter)

    def layer_codes(self, layer: int) -> Any:
        """A byte for each weight of a layer: :data:`ACTIVE`, :data:`EXPLORED` and :data:`RELIABLE`, in its shape.

        A DTensor where the layer is one.
        """
        codes = self.active.to_tensor(layer).to(torch.uint8) * ACTIVE
        codes |= self.explored.to_tensor(layer).to(torch.uint8) * EXPLORED
        codes |= self.reliable.to_tensor(layer).to(torch.uint8) * RELIABLE
        return like_parameter(codes.contiguous(), self.layers[layer].parameter)

    def read_codes(self, layer: int, saved: object) -> Any:
        """What :meth:`load_codes` takes of a layer, from what :meth:`layer_codes` of either execution gave.

        Raises:
            ValueError: If it is of another model or sharding, or damaged.
        """
        return read_codes(self, layer, saved)

    def load_codes(self, codes: Sequence[Tensor], num_updates: int, *, touches_values: bool = True) -> None:
        """Replaces all sets by the codes of the parts held here; zeroes what is now inactive unless told not to."""
        for i, of_layer in enumerate(codes):
            of_layer = of_layer.to(self.device)
            for bit, bits in ((ACTIVE, self.active), (EXPLORED, self.explored), (RELIABLE, self.reliable)):
                bits.native.pack(i, self.in_storage_order(i, (of_layer & bit) != 0), self.stream)
        self.num_updates = num_updates
        self._recount()
        if touches_values:
            self.apply()

    def move_if_needed(self) -> None:
        """Follows the parameters to another device or memory format (``model.to(...)`` after the engine was made)."""
        if not self._has_moved():
            return
        masks = [
            [self._unpacked(bits, i) for i in range(len(self.layers))]
            for bits in (self.active, self.explored, self.reliable)
        ]
        self._note_layout()
        self.store = self._make_store(self.seed)
        for bits, of_layers in zip((self.active, self.explored, self.reliable), masks, strict=True):
            for i, mask in enumerate(of_layers):
                bits.native.pack(i, self.in_storage_order(i, mask.to(self.device)), self.stream)

    def _unpacked(self, bits: BitSet, layer: int) -> Tensor:
        """A mask as the store lays it out, whatever has become of the weight since."""
        shape = self.local(layer).shape
        mask = torch.empty_strided(shape, self._local_strides[layer], dtype=torch.bool, device=self.device)
        bits.native.unpack(layer, mask, self.stream)
        return mask


def is_native(tensor: Tensor) -> bool:
    """Whether the core looks at a tensor's values itself where no selection does: float32 in host memory."""
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def compared(tensors: Sequence[Tensor], limits: Sequence[float], greater: bool, magnitude: bool) -> list[Tensor]:
    """Bool tensors: where values (or magnitudes) are smaller than a layer's limit, or greater."""
    values = [tensor.abs() if magnitude else tensor for tensor in tensors]
    return [value > limit if greater else value < limit for value, limit in zip(values, limits, strict=True)]
