"""What values an option may take, and the sentence that refuses others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, final

_WHOLE: Final = 1e18
"""Beyond it a number is no count of anything."""


@final
@dataclass(frozen=True, slots=True)
class Range:
    """Real numbers between two bounds; never NaN, never infinite.

    Attributes:
        low, high: The bounds, which may be infinite.
        has_low, has_high: Whether they belong to it.
    """

    low: float
    high: float
    has_low: bool = True
    has_high: bool = True

    def require(self, name: str, value: object) -> None:
        """Raises ValueError, naming the option, where a value is no number of the range."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and self._holds(value):  # type: ignore[arg-type]
            return
        raise ValueError(f"{name} must be {self._in_words}, got {value!r}")

    def _holds(self, value: float) -> bool:
        above = value >= self.low if self.has_low else value > self.low
        return above and (value <= self.high if self.has_high else value < self.high)

    @property
    def _in_words(self) -> str:
        if math.isinf(self.high):
            bound = (
                "" if math.isinf(self.low) else f" of at least {self.low:g}" if self.has_low else f" above {self.low:g}"
            )
            return f"a finite number{bound}"
        return f"in {'[' if self.has_low else '('}{self.low:g}, {self.high:g}{']' if self.has_high else ')'}"


FRACTION: Final = Range(0.0, 1.0)
POSITIVE_FRACTION: Final = Range(0.0, 1.0, has_low=False)
PROPER_FRACTION: Final = Range(0.0, 1.0, has_low=False, has_high=False)
LESS_THAN_ALL: Final = Range(0.0, 1.0, has_high=False)
"""As the decay of a running average is."""
NOT_NEGATIVE: Final = Range(0.0, math.inf)
POSITIVE: Final = Range(0.0, math.inf, has_low=False)
FINITE: Final = Range(-math.inf, math.inf)


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raises ValueError, naming the option, where a value is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _WHOLE:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
