"""The arrows of docs/architecture.md and the habits of the library, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "itop"
MODULES = sorted(PACKAGE.rglob("*.py"))

# cli -> training -> engine -> methods -> criteria, schedules, allocation -> core bindings: a module imports from layers
# with a smaller number, or from its own. The names are packages or modules of `itop`.
# Analysis knows the engine by the names it publishes (a Protocol) and imports none of it: it can stand at the bottom.
LAYERS = {
    "_core": 0,
    "compressed_weight": 0,
    "analysis": 1,
    "example_input": 1,
    "exact_sums": 1,
    "layer_state": 1,
    "layers": 1,
    "names": 1,
    "ranges": 1,
    "torch_files": 1,
    "turns": 1,
    "update_report": 1,
    "allocation": 2,
    "distributed": 2,
    "optimizer_group": 2,
    "optim": 2,
    "held_parts": 3,
    "optimizer_calls": 3,
    "optimizer_state": 3,
    "nn": 3,
    "saved_codes": 4,
    "selection": 4,
    "compressed_layer": 5,
    "held_masks": 5,
    "schedules": 5,
    "sparse_selection": 5,
    "topology": 6,
    "sparse_topology": 7,
    "context": 7,
    "grown_state": 7,
    "displaced_values": 7,
    "held_gradients": 7,
    "held_layers": 7,
    "criteria": 8,
    "methods": 9,
    "engine_state": 10,
    "training_cost": 10,
    "topology_updates": 10,
    "stepper": 11,
    "engine_plan": 12,
    "engine": 13,
    "models": 14,
    "data": 14,
    "benchmarks": 15,
    "export": 15,
    "integrations": 15,
    "training": 16,
    "studies": 17,
    "cli": 18,
    "__main__": 19,
}
# Beside the order: the networks and data sets are the training's and the command line's business only.
ONLY_FOR = {"models": {"models", "training", "cli", "benchmarks"}, "data": {"data", "training", "cli"}}


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def part_of(path: Path) -> str:
    """The package or module of `itop` that a file belongs to; "" for `itop/__init__.py`."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_parts(path: Path) -> Iterator[tuple[str, int]]:
    """Parts of `itop` that a file imports at run time, with the line; imports for type checking do not count."""
    tree = tree_of(path)
    for_typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_typing:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "itop" and len(parts) > 1:
                    yield parts[1], node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute in this package"
            parts = (node.module or "").split(".")
            if parts[0] != "itop":
                continue
            if len(parts) > 1:
                yield parts[1], node.lineno
            else:
                for alias in node.names:
                    if alias.name in LAYERS:
                        yield alias.name, node.lineno


def calls_of(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def test_the_package_is_where_this_test_looks_for_it() -> None:
    assert PACKAGE / "__init__.py" in MODULES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_part_has_its_place(path: Path) -> None:
    assert part_of(path) in LAYERS or part_of(path) == "", (
        f"add {part_of(path)!r} to LAYERS and to docs/architecture.md"
    )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    part = part_of(path)
    if part == "":
        return  # itop/__init__.py gathers the public names
    for imported, line in imported_parts(path):
        assert LAYERS[imported] < LAYERS[part] or imported == part, (
            f"{name_of(path)}:{line}: {part!r} must not import {imported!r}, which lies above or beside it"
        )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_networks_and_data_are_used_by_training_and_the_command_line_only(path: Path) -> None:
    for imported, line in imported_parts(path):
        allowed = ONLY_FOR.get(imported)
        assert allowed is None or part_of(path) in allowed, f"{name_of(path)}:{line}: imports {imported!r}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints_or_parses_arguments(path: Path) -> None:
    if part_of(path) == "cli":
        return
    for call in calls_of(path):
        assert not (isinstance(call.func, ast.Name) and call.func.id == "print"), (
            f"{name_of(path)}:{call.lineno}: print"
        )
    assert "argparse" not in {
        alias.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import) for alias in node.names
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_device_comes_from_the_tensor(path: Path) -> None:
    for call in calls_of(path):
        is_cuda_call = isinstance(call.func, ast.Attribute) and call.func.attr == "cuda"
        assert not is_cuda_call, f"{name_of(path)}:{call.lineno}: .cuda()"


@pytest.mark.parametrize(
    "part",
    [
        "engine",
        "engine_plan",
        "stepper",
        "topology_updates",
        "held_masks",
        "topology",
        "selection",
        "context",
        "criteria",
        "methods",
        "optim",
        "distributed",
    ],
)
def test_no_method_is_asked_for_its_name(part: str) -> None:
    """Behaviour that varies is an object passed in: below the command line no name of a preset or rule is compared."""
    for path in (path for path in MODULES if part_of(path) == part):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.Compare):
                continue
            asked = ast.unparse(node.left)
            compared = [node.left, *node.comparators]
            holds_text = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in compared)
            names_a_method = any(word in asked.lower() for word in ("method", "preset", "label", "criterion", "rule"))
            assert not (holds_text and names_a_method), f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_module_says_what_it_is_for(path: Path) -> None:
    if any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(PACKAGE).parts):
        return
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, f"{name_of(path)} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for word in ("TODO", "FIXME", "XXX", "NotImplementedError"):
        assert word not in text, f"{name_of(path)} holds {word}"


def test_cuda_headers_stay_with_the_cuda_backend() -> None:
    root = PACKAGE.parents[1]
    for folder in ("cpp", "bindings"):
        for path in sorted((root / folder).rglob("*.[hci]*")):
            if "cuda" in path.parts or not path.is_file():
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                included = line.startswith("#include <c") and ("cuda" in line or "cub/" in line)
                assert not included, f"{path.relative_to(root)}: {line}"


def test_the_core_does_not_know_torch_or_python() -> None:
    root = PACKAGE.parents[1] / "cpp"
    for path in sorted(root.rglob("*.[hci]*")):
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("#include"):
                assert not any(word in line for word in ("torch/", "ATen/", "pybind11", "Python.h")), f"{path}: {line}"
