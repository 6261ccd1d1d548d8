"""The topology of a model: the masks of its layers, and the operations on them: select, commit, apply.

This is the vocabulary methods are written in. A method never sees words of bits or streams; it asks for scores, selects,
and commits::

    dropped = topology.select(topology.active, k=..., scores=Scores(topology.weights()), largest=False)
    kept = topology.active - dropped
    grown = topology.select(~kept, k=...)                      # no scores: uniformly at random
    topology.commit(dropped, grown)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from itop.distributed.reduction import Reduction, Traffic
from itop.held_masks import HeldMasks
from itop.layers import Layer
from itop.optimizer_state import OptimizerState
from itop.selection import BitSet, Quota, Scores, SelectionOrder
from itop.turns import Turns
from itop.update_report import LayerUpdate, UpdateReport

_NUM_DRAWS = 128


class Topology(HeldMasks):
    """The masks of a model's layers as methods change them: they select weights, commit an update, and zeros are applied.

    Args:
        layers: The sparse layers, all on one device.
        optimizer_state: Finds the optimiser's tensors that move with a weight.
        seed: Of every random choice.
        reduction: Of :class:`HeldParts`.

    Attributes:
        on_grown: Called with the weights that a commit grew and that start at zero.
        num_updates: Topology updates begun so far, in this run or one that it continues.
        step: The optimiser's step of the last of them.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        optimizer_state: OptimizerState,
        seed: int,
        reduction: Reduction | None = None,
    ) -> None:
        super().__init__(layers, seed, reduction)
        self.optimizer_state = optimizer_state
        self.on_grown: Callable[[BitSet], None] | None = None
        self.num_updates = 0
        self.step = 0
        self._draw = 0
        self._traffic_before = Traffic()
        self._sweep_turns = Turns([layer.numel for layer in self.layers])

    def gradient_scores(self) -> Scores:
        """The gradients to select by; where they are not held, they are formed as they are compared.

        Raises:
            RuntimeError: If no layer has one.
        """
        return Scores(self.gradients())

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

    def load_codes(self, codes: Sequence[Tensor], num_updates: int, *, touches_values: bool = True) -> None:
        """Goes on from the sets of a saved state (:meth:`set_codes`); zeroes what is now inactive unless told not to."""
        self.set_codes(codes)
        self.num_updates = num_updates
        if touches_values:
            self.apply()

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
