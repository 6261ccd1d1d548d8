"""Which test pins a preset's rule by hand-computed numbers: ``@pins("rigl")`` on the test, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Test = TypeVar("Test", bound=Callable[..., None])


def pins(*presets: str) -> Callable[[Test], Test]:
    """Says that a test works out by hand what these presets do: which weights go, which come, what they start with."""

    def unchanged(test: Test) -> Test:
        return test

    return unchanged


def pinned_presets(folder: Path = Path(__file__).parent) -> dict[str, list[str]]:
    """Preset -> ``file::test`` of the tests of a folder that pin it, in the order of their places."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("test_hand_computed_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", None) == "pins":
                    for argument in decorator.args:
                        found.setdefault(ast.literal_eval(argument), []).append(f"{path.name}::{node.name}")
    return found
