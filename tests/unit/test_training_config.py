"""A run configuration checks itself and survives its JSON form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from itop.training.config import FIELDS, RunConfig


def test_a_configuration_read_back_from_its_file_is_equal(tmp_path: Path) -> None:
    config = RunConfig(
        method="rigl-itop",
        method_options={"update_every": 7},
        allocation={"fc1.weight": 0.5},
        exclude=("fc3.*",),
        lr_milestones=(0.25, 0.5),
        gradient_clip=1.5,
    )
    config.save(tmp_path / "config.json")
    assert RunConfig.load(tmp_path / "config.json") == config


def test_the_file_holds_every_field(tmp_path: Path) -> None:
    RunConfig().save(tmp_path / "config.json")
    assert set(json.loads((tmp_path / "config.json").read_text())) == set(FIELDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in [0, 1), got 1.0"),
        ({"sparsity": -0.1}, "sparsity must be in [0, 1), got -0.1"),
        ({"sparsity": float("nan")}, "sparsity must be in [0, 1), got nan"),
        ({"sparsity": "half"}, "sparsity must be in [0, 1), got 'half'"),
        ({"sparsity": True}, "sparsity must be in [0, 1), got True"),
        ({"learning_rate": 0}, "learning_rate must be in (0, inf), got 0"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, got 1.5"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"seed": 2**63}, "seed must be below 2^63"),
        ({"threads": 0}, "threads must be a whole number of at least 1, got 0"),
        ({"multiplier": 0}, "multiplier must be in (0, inf), got 0"),
        ({"momentum": 1}, "momentum must be in [0, 1), got 1"),
        ({"lr_gamma": 2.0}, "lr_gamma must be in (0, 1], got 2.0"),
        ({"compile": "yes"}, "compile must be true or false, got 'yes'"),
        ({"exclude": "fc*"}, "exclude must be a list of globs, got 'fc*'"),
        ({"include": [3]}, "include must be a list of globs, got [3]"),
        ({"device": 3}, "device must be a name like 'auto', 'cpu' or 'cuda:0', got 3"),
        ({"lr_milestones": 0.5}, "lr_milestones must be fractions of the run, got 0.5"),
        ({"lr_milestones": [0.5, 0.25]}, "lr_milestones must be increasing fractions in (0, 1), got [0.5, 0.25]"),
        ({"lr_milestones": [1.0]}, "lr_milestones must be increasing fractions in (0, 1), got [1.0]"),
        ({"warmup_epochs": 10, "epochs": 10}, "warmup_epochs must be below the 10 epochs, got 10"),
        ({"method": "set-itp"}, "did you mean 'set-itop'?"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'?"),
        ({"model": "resnet334"}, "'resnet34'"),
        ({"model": None}, "model must be a name, got None"),
        ({"data": "cifar1"}, "'cifar10"),
        ({"amp": "float32"}, "unknown amp 'float32'"),
        ({"allocation": "erkk"}, "did you mean 'erk'?"),
        ({"allocation": {"fc1.weight": 1.5}}, "allocation of layer 'fc1.weight' must be in [0, 1], got 1.5"),
        ({"allocation": 3}, "allocation must be a name or map layers to sparsities, got 3"),
        ({"method_options": [1]}, "method_options must map names to values, got [1]"),
        ({"sparsty": 0.5}, "unknown configuration field 'sparsty'; did you mean 'sparsity'?"),
    ],
)
def test_a_wrong_field_is_refused_by_a_sentence_that_names_it(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as refusal:
        RunConfig().replace(**changes)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object, got list"),
        ('{"sparsity": 3}', "sparsity must be in [0, 1), got 3"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_its_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config\.json") as refusal:
        RunConfig.load(path)
    assert message in str(refusal.value)


def test_other_spellings_of_a_network_and_a_data_set_are_the_same_configuration() -> None:
    assert RunConfig(model="VGG16", data="CIFAR-10") == RunConfig(model="vgg-c", data="cifar10")


def test_extended_training_stretches_epochs_and_milestones_but_not_the_warm_up() -> None:
    config = RunConfig(epochs=100, multiplier=2.0, lr_milestones=(0.3,), warmup_epochs=5)
    assert config.num_epochs == 200
    schedule = config.schedule()
    assert schedule.factor(2.5 / 200) == pytest.approx(0.5)
    assert schedule.factor(5 / 200) == 1.0
    assert schedule.factor(59.99 / 200) == 1.0
    assert schedule.factor(60 / 200) == pytest.approx(0.1)
