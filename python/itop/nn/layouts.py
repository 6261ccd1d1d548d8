"""Which kernel and layout a sparse layer uses: measured once on the layer's own shape, remembered in a file.

The file is ``sparse_layouts.json`` in ``$ITOP_CACHE_DIR``, else in ``$XDG_CACHE_HOME/itop`` or ``~/.cache/itop``; it may be
deleted at any time. ``ITOP_MEASURE_LAYOUTS=0`` turns measuring off: rules of thumb decide then.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TypeVar

from itop import _core

__all__ = ["BlockSize", "ConvolutionLayout", "InputGradient", "cache_file", "forget_layouts"]

logger = logging.getLogger(__name__)

_WORK_WORTH_MEASURING = 4_000_000
"""Multiply-adds below which a wrong choice costs less than the measurement."""

_SPEEDS = 2
"""Raised when kernels become faster or slower: what was measured before is measured anew."""

_TURNS_OF_A_ROUND = 4
_MOST_ROUNDS = 4
_CLOSE = 1.2
"""A candidate that took more than so many times the fastest one's time is not measured again."""

_WORTH_LEAVING_THE_DEFAULT = 0.95
"""A candidate must take at most this share of the default's time: what a busy machine does to a measurement is less."""


class BlockSize(Enum):
    """How much of the dense operand a product reads before it moves on to the next columns."""

    SECOND_LEVEL = "blocks of 256 KiB"
    NARROW_TILES = "blocks of 512 KiB, 32 samples wide"
    LAST_LEVEL = "blocks of 2 MiB"
    WHOLE = "one block"


class InputGradient(Enum):
    """How the input gradient of a linear layer is formed."""

    TRANSPOSED = "a second set of indices in column order"
    ROW_ORDER = "scattered in row order"


class ConvolutionLayout(Enum):
    """How a convolution's images are laid out, and whether all channels are read before moving on."""

    POSITIONS = "positions side by side"
    POSITIONS_BLOCKED = "positions side by side, channels in blocks"
    EIGHT_IMAGES = "8 images interleaved"
    EIGHT_IMAGES_BLOCKED = "8 images interleaved, channels in blocks"


Choice = TypeVar("Choice", bound=Enum)

_lock = threading.Lock()
_choices: dict[str, str] | None = None


def cache_file() -> Path:
    """Where choices are remembered; deleting it makes layers measure again (in the next process)."""
    folder = os.environ.get("ITOP_CACHE_DIR")
    if folder:
        return Path(folder) / "sparse_layouts.json"
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "itop" / "sparse_layouts.json"


def forget_layouts() -> None:
    """Deletes what was measured, in memory and in the file."""
    global _choices
    with _lock:
        _choices = None
        cache_file().unlink(missing_ok=True)


def choose(
    key: str, candidates: Sequence[Choice], work: int, default: Choice, run: Callable[[Choice], object]
) -> Choice:
    """The candidate that ran fastest for ``key``, from memory, the file, or a measurement now.

    Args:
        key: Everything the answer depends on: operator, shape, density, batch, type.
        candidates: What may be chosen, of one enumeration.
        work: Multiply-adds of a run; little work is not measured and gets ``default``.
        run: Runs a candidate once; its first call may prepare indices.
    """
    if len(candidates) == 1:
        return candidates[0]
    if work < _WORK_WORTH_MEASURING or os.environ.get("ITOP_MEASURE_LAYOUTS") == "0":
        return default
    key = f"{_SPEEDS} {_core.build_info()['instruction_set']} {key}"
    with _lock:
        known = _read().get(key)
    for candidate in candidates:
        if candidate.name == known:
            return candidate
    chosen = _measure(candidates, default, run)
    logger.info("%s: %s", key, chosen.value)
    with _lock:
        _read()[key] = chosen.name
        _write()
    return chosen


def _measure(candidates: Sequence[Choice], default: Choice, run: Callable[[Choice], object]) -> Choice:
    """The fastest by the least of its times; while two are close, they are measured again, up to a limit.

    Turns are interleaved: a disturbance of the machine meets all candidates.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for candidate in candidates:
        run(candidate)
    running = list(candidates)
    for _ in range(_MOST_ROUNDS):
        for _ in range(_TURNS_OF_A_ROUND):
            for candidate in running:
                start = time.perf_counter()
                run(candidate)
                best[candidate] = min(best[candidate], time.perf_counter() - start)
        least = min(best.values())
        running = [candidate for candidate in running if best[candidate] < least * _CLOSE]
        if len(running) == 1:
            break
    fastest = min(candidates, key=best.__getitem__)
    return fastest if best[fastest] < _WORTH_LEAVING_THE_DEFAULT * best.get(default, float("inf")) else default


def _read() -> dict[str, str]:
    global _choices
    if _choices is None:
        _choices = {}
        try:
            content = json.loads(cache_file().read_text())
            _choices = {str(key): str(value) for key, value in content.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            logger.warning("%s is not a file of layouts and is replaced: %s", cache_file(), error)
    return _choices


def _write() -> None:
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(_choices, file, indent=1, sort_keys=True)
        os.replace(file.name, path)
    except OSError as error:  # a read-only home must not stop a training run
        logger.warning("layouts cannot be remembered in %s: %s", path, error)
