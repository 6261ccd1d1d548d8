"""Names that are looked up among known ones, and the sentence that refuses others."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["require_known", "unknown_name"]


def unknown_name(kind: str, name: object, known: Iterable[str], *, aliases: Iterable[str] = ()) -> str:
    """One sentence that refuses `name`, suggests the nearest known one and lists them all, in the order given.

    Args:
        kind: What it should have been the name of.
        name: The one that came.
        known: The names there are; a set is listed in the order of the alphabet.
        aliases: Others that are understood, and may be the nearest.
    """
    names = sorted(known) if isinstance(known, (set, frozenset)) else list(known)
    nearest = difflib.get_close_matches(str(name).strip().lower(), [*names, *aliases], n=1, cutoff=0.0)
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
