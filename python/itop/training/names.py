"""Looking a name up among the known ones, with a helpful refusal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["require_known", "unknown_name"]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """One sentence that refuses `name`, suggests the nearest known one and lists them all."""
    names = sorted(known)
    nearest = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.5)
    suggestion = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown {kind} {name!r}; {suggestion}known: {', '.join(names) if names else 'none'}"


def require_known(kind: str, name: object, known: Iterable[str]) -> str:
    """Returns `name` when it is one of `known`.

    Raises:
        ValueError: If it is not; the message suggests the nearest known name.
    """
    names = list(known)
    if not isinstance(name, str) or name not in names:
        raise ValueError(unknown_name(kind, name, names))
    return name
