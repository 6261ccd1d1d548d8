"""The paper's studies by name: each can be planned for every recipe, at every scale."""

from __future__ import annotations

import pytest

from itop.cli.run_arguments import RECIPES_HELP
from itop.cli.sweep import _STUDY_NAMES
from itop.studies.named import STUDIES, Setting, scaled, steps_of
from itop.studies.study import Study
from itop.training.data_source import DataSource
from itop.training.executions import EXECUTIONS
from itop.training.recipes import RECIPES
from itop.training.session import build_method


def planned(study: str, recipe: str, scale: float, seeds: tuple[int, ...] = (0,)) -> Study:
    return STUDIES[study].plan(study, Setting(scaled(RECIPES[recipe].config, scale), seeds))


def test_help_names_every_study_and_recipe() -> None:
    assert tuple(STUDIES) == _STUDY_NAMES
    assert RECIPES_HELP.split(", ") == list(RECIPES)


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("study", list(STUDIES))
@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_every_study_plans_for_every_recipe(study: str, recipe: str, scale: float) -> None:
    plan = planned(study, recipe, scale)
    points = plan.points
    assert len(points) == len(plan.cells) >= 6
    for cell in plan.cells:
        every = cell.config.method_options.get("update_every")
        if every is not None:  # there is room for at least one update, or the cell would be a static one
            assert 1 <= every < steps_of(cell.config), cell.label
        method = build_method(cell.config)
        assert cell.config.execution == "masked" or method.works_truly_sparse or not cell.is_baseline
    if plan.axis is not None:
        values = {cell.axes[plan.axis.name] for cell in plan.cells if plan.axis.name in cell.axes}
        assert len(values) >= 3
    again = planned(study, recipe, scale, seeds=(0, 1, 2))
    assert [cell.config.seed for cell in again.cells].count(2) == len(points)


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_intervals_of_the_typical_time_run_from_many_updates_to_two(recipe: str) -> None:
    cells = [cell for cell in planned("typical-time", recipe, 1.0).cells if not cell.is_baseline]
    updates = [steps_of(cell.config) / cell.axes["update_every"] for cell in cells]
    assert updates == sorted(updates, reverse=True)
    assert updates[0] == pytest.approx(512, rel=0.2)
    assert updates[-1] == pytest.approx(2, rel=0.01)


def test_a_scale_shortens_the_training_and_thins_the_data_below_three_epochs() -> None:
    base = RECIPES["mlp-cifar10"].config
    assert (scaled(base, 0.1).epochs, scaled(base, 0.1).train_fraction) == (20, 1.0)
    assert scaled(base, 0.003).epochs == 3
    assert scaled(base, 0.003).train_fraction == pytest.approx(200 * 0.003 / 3)
    with pytest.raises(ValueError, match=r"scale must be in \(0, 1\], got 0"):
        scaled(base, 0.0)


def test_baselines_without_a_truly_sparse_form_are_masked_in_a_study_of_truly_sparse_runs() -> None:
    base = RECIPES["digits"].config.replace(execution="sparse")
    cells = STUDIES["typical-time"].plan("typical-time", Setting(base, (0,))).cells
    assert {(cell.config.method, cell.config.execution) for cell in cells} == {
        ("set-itop", "sparse"),
        ("static", "sparse"),
        ("dense", "masked"),
    }


def test_a_dense_baseline_that_no_memory_holds_is_refused_before_it_is_tried() -> None:
    config = RECIPES["million-neurons"].config.replace(execution="masked", method="dense")
    data = DataSource().get(RECIPES["digits"].config)
    with pytest.raises(
        ValueError, match=r"dense form of mlp:350000,350000,350000 takes 980 GB, more than this machine has"
    ):
        EXECUTIONS["masked"](config, build_method(config), data)
