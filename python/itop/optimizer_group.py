"""Several optimisers under one engine: Muon with AdamW, or one a parameter that steps while backward runs.

All of them together make one step of the engine: it ends when each has stepped once, or when one of them begins the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class _States(Mapping[Any, Any]):
    """The states of all optimisers, by parameter."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self._members = members

    def __getitem__(self, parameter: Any) -> Any:
        for member in self._members:
            if parameter in member.state:
                return member.state[parameter]
        raise KeyError(parameter)

    def __iter__(self) -> Iterator[Any]:
        return (parameter for member in self._members for parameter in member.state)

    def __len__(self) -> int:
        return sum(len(member.state) for member in self._members)


class OptimizerGroup:
    """Looks like one optimiser to whoever reads parameter groups and states. It does not step: its members do."""

    def __init__(self, members: Sequence[Optimizer]) -> None:
        self.members = tuple(members)
        self.state: Mapping[Any, Any] = _States(self.members)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of all members."""
        return [group for member in self.members for group in member.param_groups]


class StepRound:
    """Which members have stepped in the step that is under way, and what their gradients were."""

    def __init__(self, members: Sequence[Optimizer], finish: Callable[[], None]) -> None:
        self._members = tuple(members)
        self._stepped: set[int] = set()
        self._finish = finish
        self.gradients: dict[int, Tensor] = {}

    @property
    def is_open(self) -> bool:
        """Whether a member has stepped."""
        return bool(self._stepped)

    def begin(self, member: Optimizer) -> None:
        """A member is about to step. Where it has stepped in this round already, the round is over."""
        if id(member) in self._stepped:
            self._end()

    def done(self, member: Optimizer) -> None:
        """A member has stepped."""
        self._stepped.add(id(member))
        if len(self._stepped) == len(self._members):
            self._end()

    def _end(self) -> None:
        self._stepped.clear()
        try:
            self._finish()
        finally:
            self.gradients.clear()
