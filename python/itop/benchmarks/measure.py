"""How the suites measure: alternately, several times, by the median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of a suite.

    Attributes:
        name: What is measured.
        ours: Our figure with its unit.
        peer: The peer's or the limit's figure with its unit, and whose it is.
        ratio: Peer over ours for speed-ups, ours over the limit for distances from a floor; the name says which.
        limit: What the ratio should be.
    """

    name: str
    ours: str
    peer: str
    ratio: float | None
    limit: str


@dataclass(frozen=True, slots=True)
class Suite:
    """Figures that are measured together, in one run."""

    name: str
    description: str
    measure: Callable[[], Iterable[Row]]

    def run(self) -> Iterable[Row]:
        """Measures now."""
        return self.measure()


def seconds_of(tasks: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """The median time of each task, in seconds; the tasks take turns, so that a busy moment hits them alike."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(repetitions):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def milliseconds(seconds: float) -> str:
    """For people: three digits."""
    return f"{seconds * 1e3:.3g} ms"
