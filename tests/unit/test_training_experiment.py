"""Planning several methods and seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from itop.training.config import RunConfig
from itop.training.experiment import Experiment, plan_experiment


def test_every_method_runs_with_every_seed_the_first_comparison_first() -> None:
    experiment = plan_experiment(RunConfig(), methods=["dense", "set-itop"], seeds=[3, 4], options={})
    assert [(run.seed, run.method) for run in experiment.runs] == [
        (3, "dense"),
        (3, "set-itop"),
        (4, "dense"),
        (4, "set-itop"),
    ]


def test_an_option_goes_to_the_methods_that_know_it() -> None:
    experiment = plan_experiment(RunConfig(), methods=["dense", "set-itop"], seeds=[0], options={"update_every": 9})
    assert [dict(run.method_options) for run in experiment.runs] == [{}, {"update_every": 9}]


def test_an_option_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'update_evry'; did you mean 'update_every'\?"):
        plan_experiment(RunConfig(), methods=["dense", "set-itop"], seeds=[0], options={"update_evry": 9})


def test_a_default_is_not_missed_where_nobody_knows_it() -> None:
    experiment = plan_experiment(RunConfig(), methods=["dense"], seeds=[0], options={}, defaults={"update_every": 9})
    assert dict(experiment.runs[0].method_options) == {}


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="method 'dense' with seed 0 is there twice"):
        plan_experiment(RunConfig(), methods=["dense", "dense"], seeds=[0], options={})


def test_a_single_run_has_the_folder_to_itself() -> None:
    single = Experiment((RunConfig(),))
    several = plan_experiment(RunConfig(), methods=["set-itop"], seeds=[0, 1], options={})
    assert single.folder_of(single.runs[0], Path("out")) == Path("out")
    assert several.folder_of(several.runs[1], Path("out")) == Path("out/set-itop/seed-1")


def test_an_experiment_read_back_is_equal(tmp_path: Path) -> None:
    experiment = plan_experiment(RunConfig(), methods=["dense", "static"], seeds=[0, 1], options={})
    experiment.save(tmp_path)
    assert Experiment.load(tmp_path) == experiment


def test_a_folder_that_is_none_of_an_experiment_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        Experiment.load(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"runs": [3]}', '{"runs": []}', '{"runs": [{"sparsity": 2}]}', "{"])
def test_a_damaged_description_of_an_experiment_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(ValueError, match=r"experiment\.json"):
        Experiment.load(tmp_path)
