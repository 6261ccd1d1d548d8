"""Sums of floating-point numbers that have the same bits however the numbers are cut into parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from torch import Tensor

_LOWEST_EXPONENT, _NUM_EXPONENTS = 148, 278
_MANTISSA_BITS = 24


def exact_sums(values: Iterable[Tensor], reduce: Callable[[npt.NDArray[np.int64]], object]) -> list[float]:
    """Of each tensor the sum over all processes, rounded once.

    Whole numbers add up alike in any order, so mantissas are summed for each exponent (float32 has 278), as integers.

    Args:
        values: Tensors of any length, finite; taken as float32.
        reduce: Adds up an array of shape (tensors, exponents) over all processes, in place.
    """
    rows = np.array([_sums_by_exponent(tensor) for tensor in values], dtype=np.int64).reshape(-1, _NUM_EXPONENTS)
    reduce(rows)
    return rounded_sums(rows)


def rounded_sums(rows: npt.NDArray[np.int64]) -> list[float]:
    """Of each row of sums by exponent (tensors, exponents) what they add up to, rounded once."""
    scale = 2 ** (_LOWEST_EXPONENT + _MANTISSA_BITS)
    return [float(Fraction(sum(int(row[place]) << int(place) for place in np.flatnonzero(row)), scale)) for row in rows]


def _sums_by_exponent(tensor: Tensor) -> npt.NDArray[np.int64]:
    mantissa, exponent = np.frexp(tensor.detach().float().cpu().numpy().reshape(-1))
    whole = np.ldexp(mantissa.astype(np.float64), _MANTISSA_BITS)
    return np.bincount(exponent + _LOWEST_EXPONENT, weights=whole, minlength=_NUM_EXPONENTS).astype(np.int64)
