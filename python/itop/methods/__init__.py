"""Every method as a value. ``METHODS`` maps a preset's name to the callable that makes it.

A new method is one file and one line here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from itop.methods.fixed_topology import Dense, Static
from itop.methods.method import DropAndGrow, Method, UpdateTiming
from itop.methods.rigl import RigL, RigLITOP
from itop.methods.set import SET, SETITOP

MethodFactory: TypeAlias = Callable[..., Method]

METHODS: Mapping[str, MethodFactory] = MappingProxyType(
    {
        "dense": Dense,
        "static": Static,
        "set": SET,
        "set-itop": SETITOP,
        "rigl": RigL,
        "rigl-itop": RigLITOP,
    }
)
"""Preset name -> callable that takes the method's options and returns a :class:`Method`."""


def as_method(method: str | Method) -> Method:
    """A method from a preset's name, or itself.

    Raises:
        ValueError: If the name is unknown; names the nearest known one.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if not isinstance(method, str):
        raise TypeError(f"method must be a preset's name or a Method, got {type(method).__name__}")
    nearest = difflib.get_close_matches(method.lower(), METHODS, n=1, cutoff=0.0)
    raise ValueError(f"unknown method '{method}'; did you mean '{nearest[0]}'? Known: {', '.join(METHODS)}")


__all__ = [
    "METHODS",
    "SET",
    "SETITOP",
    "Dense",
    "DropAndGrow",
    "Method",
    "MethodFactory",
    "RigL",
    "RigLITOP",
    "Static",
    "UpdateTiming",
    "as_method",
]
