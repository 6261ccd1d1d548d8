"""Options of every preset: what is out of range is refused at once, in one sentence that names the option."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator

import pytest
from tests.methods.workbench import Run

from itop.methods import METHODS, PRESETS
from itop.training.config import RunConfig
from itop.training.session import build_method

SIGNED = {
    ("str", "initial"),
    ("continuous-sparsification", "initial"),
    ("variational-dropout", "initial"),
    ("variational-dropout", "threshold"),
    ("surgery", "c_rate"),
    ("l0", "gamma"),
}
"""Preset and option: those that may be negative."""


def takes_numbers(option: inspect.Parameter) -> bool:
    is_number = isinstance(option.default, (int, float)) and not isinstance(option.default, bool)
    return is_number or any(kind in str(option.annotation) for kind in ("int", "float"))


def takes_none(option: inspect.Parameter) -> bool:
    return "None" in str(option.annotation)


def refused(name: str, option: inspect.Parameter) -> Iterator[object]:
    yield from (math.nan, math.inf, "many", True, [1])
    if (name, option.name) not in SIGNED:
        yield -7
    if not takes_none(option):
        yield None


@pytest.mark.parametrize("name", METHODS)
def test_numbers_out_of_range_are_refused_before_there_is_a_network(name: str) -> None:
    for option in PRESETS[name].parameters.values():
        if not takes_numbers(option) or option.name == "doubles_at":
            continue
        for value in refused(name, option):
            with pytest.raises(ValueError, match=option.name.replace("_", "[_ ]")) as raised:
                build_method(RunConfig(method=name, method_options={option.name: value}))
            assert "\n" not in str(raised.value), option.name


@pytest.mark.parametrize("name", METHODS)
def test_the_library_refuses_numbers_that_are_none_as_the_command_does(name: str) -> None:
    for option in PRESETS[name].parameters.values():
        if takes_numbers(option) and option.name != "doubles_at":
            with pytest.raises(ValueError, match=option.name.replace("_", "[_ ]")):
                METHODS[name](**{option.name: math.nan})


@pytest.mark.parametrize("name", METHODS)
def test_yes_and_no_are_no_numbers(name: str) -> None:
    for option in PRESETS[name].parameters.values():
        if isinstance(option.default, bool):
            for value in (1, "yes", None):
                with pytest.raises(ValueError, match=f"option {option.name} of method {name} must be true or false"):
                    build_method(RunConfig(method=name, method_options={option.name: value}))


@pytest.mark.parametrize("value", [0.5, "0.25", None, [0.5, 1.5], [math.nan]])
def test_boundaries_of_dsr_are_fractions_of_the_run(value: object) -> None:
    with pytest.raises(ValueError, match="doubles_at"):
        build_method(RunConfig(method="dsr", method_options={"doubles_at": value}))


@pytest.mark.parametrize("name", ["set-itop", "rigl-itop", "granet", "selfish-rnn", "snfs", "swat"])
def test_a_final_drop_fraction_above_the_initial_one_keeps_it_constant(name: str) -> None:
    with pytest.raises(ValueError, match=r"^final_drop_fraction must be in \[0, 1\], got 2\.5$"):
        METHODS[name](drop_fraction=0.1, final_drop_fraction=2.5)
    METHODS[name](drop_fraction=0.1, final_drop_fraction=0.4)


@pytest.mark.parametrize("name", ["block", "srigl", "small-dense"])
def test_a_pattern_that_cannot_have_the_number_asked_for_says_so(name: str, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(name, sparsity=0.995)
    (record,) = caplog.records
    active, asked = sum(layer.num_active for layer in run.engine.layers), run.engine._context.target_total
    assert record.getMessage() == (
        f"method '{name}' keeps {active} weights where the sparsity asks for {asked}: its pattern admits no number nearer"
    )
    caplog.clear()
    Run("nm", sparsity=0.995)
    assert not caplog.records
