"""Text from files that anybody may have written, made fit for a terminal."""

from __future__ import annotations

__all__ = ["plain_text"]


def plain_text(value: object, *, length: int = 120) -> str:
    """`value` as one short line of printable characters: no escape sequence in it reaches the terminal."""
    text = "".join(character if character.isprintable() else "?" for character in str(value)[: length + 1])
    return text if len(text) <= length else text[: length - 1] + "…"
