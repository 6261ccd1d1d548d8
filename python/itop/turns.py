"""Looking after a large model a little at a time: whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence

_WEIGHTS_A_TURN = 1 << 18
_LAYERS_A_TURN = 16


class Turns:
    """All layers in turn, a bounded number of weights a call; small models whole.

    Args:
        sizes: The weights of each layer. One that is larger than a turn waits until enough turns have gone by, so that
            the cost of a call, on average, does not grow with the model.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = tuple(sizes)
        self._next = 0
        self._credit = 0

    def next(self) -> list[int]:
        """The layers whose turn it is."""
        self._credit += _WEIGHTS_A_TURN
        chosen: list[int] = []
        while len(chosen) < min(_LAYERS_A_TURN, len(self._sizes)):
            size = self._sizes[self._next]
            if size > self._credit:
                return chosen
            self._credit -= size
            chosen.append(self._next)
            self._next = (self._next + 1) % len(self._sizes)
        self._credit = 0
        return chosen
