"""The command line: what arguments mean, and how wrong ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from itop.cli.main import _parser, main
from itop.cli.text import plain_text
from itop.cli.train import plan
from itop.methods import PRESETS
from itop.training.experiment import Experiment


def planned(*arguments: str) -> Experiment:
    return plan(_parser().parse_args(["train", *arguments]))


def test_without_arguments_it_is_the_main_job() -> None:
    experiment = planned()
    assert experiment.methods == ("dense", "static", "set-itop")
    assert {run.seed for run in experiment.runs} == {0, 1, 2}
    assert {(run.data, run.sparsity) for run in experiment.runs} == {("digits", 0.9)}


def test_a_named_method_runs_once_unless_seeds_are_asked_for() -> None:
    assert [(run.method, run.seed) for run in planned("--method", "rigl").runs] == [("rigl", 0)]
    assert [run.seed for run in planned("--method", "rigl", "--seeds", "2", "--seed", "5").runs] == [5, 6]


def test_arguments_override_the_recipe() -> None:
    (run,) = planned(
        *("--recipe", "mlp-cifar10", "--epochs", "3", "--method", "set-itop", "--sparsity", "0.95"),
        *("--lr", "0.2", "--batch-size", "64", "--optimizer", "adam", "--multiplier", "2", "--data-root", "there"),
    ).runs
    assert (run.model, run.data, run.data_root, run.sparsity) == ("mlp", "cifar10", "there", 0.95)
    assert (run.num_epochs, run.learning_rate, run.batch_size, run.optimizer) == (6, 0.2, 64, "adam")
    assert run.nesterov
    assert run.recipe == "mlp-cifar10"


def test_data_and_model_choose_the_recipe_they_belong_to() -> None:
    (run,) = planned("--data", "cifar10", "--model", "vgg16", "--method", "static").runs
    assert (run.recipe, run.epochs) == ("vgg16-cifar10", 250)


def test_a_dense_run_takes_the_same_command_as_a_sparse_one() -> None:
    dense, moving = planned("--methods", "dense,set-itop", "--update-every", "7", "--drop-fraction", "0.2").runs
    assert dense.method_options == {}
    assert moving.method_options == {"update_every": 7, "drop_fraction": 0.2}


def test_set_reaches_fields_and_options_and_reads_json() -> None:
    (run,) = planned(
        *("--method", "set-itop", "--set", "final_drop_fraction=0.1", "--set", "weight-decay=0.001"),
        *("--set", "lr_milestones=[0.1, 0.2]", "--set", "lr_schedule=cosine"),
    ).runs
    assert run.method_options["final_drop_fraction"] == 0.1
    assert (run.weight_decay, run.lr_milestones, run.lr_schedule) == (0.001, (0.1, 0.2), "cosine")


def test_an_allocation_can_be_given_by_layer() -> None:
    (run,) = planned("--method", "static", "--allocation", "fc1.weight=0.9,fc2.weight=0.5").runs
    assert run.allocation == {"fc1.weight": 0.9, "fc2.weight": 0.5}


def test_all_methods_are_those_there_are() -> None:
    from itop.methods import METHODS

    assert planned("--methods", "all").methods == tuple(name for name in METHODS if name != "fixed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--sparsity", "1.3"], "sparsity must be in [0, 1), got 1.3"),
        (["train", "--sparsity", "much"], "argument --sparsity: invalid float value: 'much'"),
        (["train", "--method", "set-itp"], "unknown method 'set-itp'; did you mean 'set-itop'?"),
        (["train", "--methods", "dense,rigl-itpo"], "did you mean 'rigl-itop'?"),
        (["train", "--recipe", "mlp-cifar"], "did you mean 'mlp-cifar10'?"),
        (["train", "--data", "digit"], "'digits'"),
        (["train", "--model", "resnet334"], "'resnet34'"),
        (["train", "--optimizer", "adm"], "did you mean 'adam'?"),
        (["train", "--allocation", "erkk"], "did you mean 'erk'?"),
        (["train", "--sparsty", "0.5"], "unknown argument '--sparsty'; did you mean --sparsity?"),
        (["train", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["train", "--set", "update_every"], "expected key=value, got 'update_every'"),
        (["train", "--method", "set-itop", "--set", "update_evry=3"], "did you mean 'update_every'?"),
        (["train", "--method", "set-itop", "--update-every", "0"], "update_every must be"),
        (["train", "--method", "dense", "--methods", "static"], "--method and --methods exclude each other"),
        (["train", "--device", "gpu"], "device must be a name like 'auto', 'cpu' or 'cuda:0', got 'gpu'"),
        (["train", "--device", "meta", "--method", "static"], "device must be the CPU or a CUDA device, got 'meta'"),
        (["train", "--resume", "nowhere"], "nowhere is no run folder"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "--epochs is too much"),
        (["train", "--config", "nothing.json"], "nothing.json"),
        (["train", "--data", "folder", "--data-root", "/nonexistent", "--method", "static"], "/nonexistent"),
        (["inspect", "nothing.pt"], "no checkpoint at nothing.pt"),
        (["report", "nowhere"], "nowhere is no run folder"),
        (["methods", "rigl-itpo"], "did you mean 'rigl-itop'?"),
        (["bench", "nonsense", "--out", "x.json"], "nonsense"),
        (["trian"], "did you mean 'train'?"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_command_is_refused_in_one_sentence(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[:1] == ["bench"]:
        monkeypatch.setattr("itop.cli.bench.find_suites", lambda: {"selection": None})
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("itop: ")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "methods", "inspect", "report", "bench"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert command in capsys.readouterr().out


def test_methods_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    listed = capsys.readouterr().out
    assert main(["methods", "set-itop"]) == 0
    explained = capsys.readouterr().out
    assert "rigl-itop" in listed
    assert "update_every" in explained
    assert "1500" in explained


@pytest.mark.parametrize("columns", [80, 120])
def test_lists_of_methods_fit_the_terminal_and_break_no_name_or_cost(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    for name, preset in PRESETS.items():
        (place,) = [i for i, line in enumerate(lines) if f"{line} ".startswith(f"  {name} ")]
        below = "\n".join(lines[place : place + 3])
        assert all(text in below for text in (preset.paper.strip("-"), preset.parts, preset.cost))
    assert main(["methods", "nest"]) == 0
    explained = capsys.readouterr().out
    assert max(map(len, explained.splitlines())) <= columns
    assert "Steps between updates (?)." in explained


def test_no_escape_sequence_of_a_file_reaches_the_terminal() -> None:
    assert plain_text("fc\x1b[2J\n\u202e1") == "fc?[2J??1"
    assert len(plain_text("x" * 10_000)) == 120


def test_several_processes_of_a_launcher_are_refused_before_they_share_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "--out", str(tmp_path / "run")]) == 2
    assert "torchrun started 2 processes, but the commands run in one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["methods", "set"]) == 0
