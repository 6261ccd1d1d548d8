"""The stub of the native core says what the core has: the same names, arguments and defaults."""

from __future__ import annotations

import ast
import enum
import re
from pathlib import Path

import pytest

import itop
from itop import _core

STUB = ast.parse((Path(itop.__file__).parent / "_core.pyi").read_text(encoding="utf-8"))
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
METHODS = {
    f"{owner}.{node.name}": node
    for owner, body in CLASSES.items()
    for node in body.body
    if isinstance(node, ast.FunctionDef) and not any(ast.unparse(mark) == "property" for mark in node.decorator_list)
}


def public_names(holder: object) -> set[str]:
    return {name for name in vars(holder) if not name.startswith("_")}


def arguments_of_stub(node: ast.FunctionDef) -> list[str]:
    arguments = node.args
    names = [argument.arg for argument in arguments.args]
    for i, default in enumerate(reversed(arguments.defaults), 1):
        names[-i] += f" = {ast.unparse(default)}"
    if arguments.kwonlyargs:
        names += ["*", *(argument.arg for argument in arguments.kwonlyargs)]
    return names


def arguments_of_core(function: object) -> list[str]:
    """Of the signature that pybind11 writes into the first line of a docstring."""
    signature = (function.__doc__ or "").splitlines()[0]
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    arguments, depth = [""], 0
    for character in inside:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    return [re.sub(r":.*?( = .*)?$", r"\1", argument.strip()) for argument in arguments if argument]


def test_the_stub_has_the_names_of_the_core() -> None:
    assert FUNCTIONS.keys() | CLASSES.keys() == public_names(_core)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_arguments_that_the_stub_gives_them(name: str) -> None:
    assert arguments_of_stub(FUNCTIONS[name]) == arguments_of_core(getattr(_core, name))


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_arguments_that_the_stub_gives_them(name: str) -> None:
    owner, method = name.split(".")
    assert arguments_of_stub(METHODS[name]) == arguments_of_core(getattr(getattr(_core, owner), method))


@pytest.mark.parametrize("name", CLASSES)
def test_classes_have_the_members_that_the_stub_gives_them(name: str) -> None:
    native = getattr(_core, name)
    if issubclass(native, enum.Enum):
        members = {target.id for node in CLASSES[name].body if isinstance(node, ast.Assign) for target in node.targets}
        assert members == set(native.__members__)
        return
    members = {node.name for node in CLASSES[name].body if isinstance(node, ast.FunctionDef)} - {"__init__"}
    assert members == public_names(native)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_the_core_are_explained(name: str) -> None:
    assert ast.get_docstring(FUNCTIONS[name]) or len(FUNCTIONS[name].args.args) == 1, name
