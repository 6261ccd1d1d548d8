"""Training real, small things from end to end."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import StopAt, final_state

from itop.cli.main import main
from itop.methods import METHODS, Method
from itop.training.checkpoint import CheckpointError, load_checkpoint
from itop.training.config import RunConfig
from itop.training.experiment import plan_experiment, run_experiment
from itop.training.interruption import Interrupted
from itop.training.loop import DivergedError, train_run
from itop.training.meter import evaluate
from itop.training.observers import TrainingObserver
from itop.training.recipes import RECIPES
from itop.training.records import EpochRecord, UpdateRecord, read_metrics
from same_bits import assert_same

TINY = RECIPES["digits"].config.replace(epochs=2, model="mlp:32", method_options={"update_every": 20})


def learned(folder: Path) -> dict[str, Any]:
    """What a run learned: everything of its last checkpoint but times and file sizes."""
    return {key: value for key, value in final_state(folder).items() if key not in ("seconds", "metrics_bytes")}


def records(folder: Path) -> list[Any]:
    """All records without their times."""
    return [
        {**json.loads(line), "seconds": None} for line in (folder / "metrics.jsonl").read_text().strip().splitlines()
    ]


def test_a_run_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    summary = train_run(TINY, tmp_path / "run")
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    records = {"config.json", "metrics.jsonl", "summary.json", "analysis.json", "topology.npz", "predictions.npz"}
    assert files == records | {"checkpoints/last.pt", "checkpoints/best.pt"}
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert RunConfig.load(tmp_path / "run" / "config.json") == TINY


def test_the_summary_agrees_with_the_records(tmp_path: Path) -> None:
    summary = train_run(TINY, tmp_path)
    metrics = list(read_metrics(tmp_path / "metrics.jsonl"))
    epochs = [record for record in metrics if isinstance(record, EpochRecord)]
    updates = [record for record in metrics if isinstance(record, UpdateRecord)]
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert [update.step for update in updates] == [20 * (i + 1) for i in range(len(updates))]
    assert summary["num_updates"] == len(updates) > 0
    assert summary["exploration_rate"] == updates[-1].exploration_rate > 0.1
    assert summary["reliable_rate"] == updates[-1].reliable_rate > 0
    assert abs(summary["sparsity"] - 0.9) < 1e-3
    assert summary["train_flops_ratio"] == pytest.approx(0.1, abs=0.01)
    assert summary["steps"] == epochs[-1].step
    for update in updates:
        assert all(layer.dropped == layer.grown for layer in update.layers.values())


def test_training_learns(tmp_path: Path) -> None:
    assert train_run(TINY.replace(epochs=15), tmp_path)["test_accuracy"]["mean"] > 0.85


def test_the_same_configuration_gives_the_same_masks(tmp_path: Path) -> None:
    train_run(TINY, tmp_path / "first")
    train_run(RunConfig.load(tmp_path / "first" / "config.json"), tmp_path / "second")
    assert_same(learned(tmp_path / "first"), learned(tmp_path / "second"))


@pytest.mark.parametrize("method", ["dense", "static", "set", "set-itop", "rigl", "rigl-itop"])
@pytest.mark.parametrize(
    ("optimizer", "step"), [("sgd", 1), ("sgd", 25), ("sgd", 38), ("sgd", 39), ("sgd", 77), ("adamw", 25)]
)
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, method: str, optimizer: str, step: int) -> None:
    # Epochs have 39 steps: a stop at the first, between updates, before, at and after an epoch's end.
    options = {"update_every": 20} if "itop" in method else {}
    config = TINY.replace(method=method, method_options=options, optimizer=optimizer, learning_rate=0.01)
    train_run(config, tmp_path / "whole")
    stop = StopAt(step)
    with pytest.raises(Interrupted) as interruption:
        train_run(config, tmp_path / "parts", observer=stop, stop=stop.request)
    assert interruption.value.step == step
    assert not (tmp_path / "parts" / "summary.json").exists()
    train_run(config, tmp_path / "parts", resume=True)
    assert_same(learned(tmp_path / "whole"), learned(tmp_path / "parts"))
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


@pytest.mark.parametrize("execution", ["masked", "sparse"])
def test_a_run_of_limited_steps_ends_inside_an_epoch_and_resumes_bit_for_bit(tmp_path: Path, execution: str) -> None:
    # 39 steps an epoch, and a checkpoint after every step: each of them is a place to go on from.
    config = TINY.replace(
        epochs=5, max_steps=57, execution=execution, method="set", method_options={"update_every": 20},
        lr_fan_in=8.0, lr_schedule="cosine", checkpoint_seconds=1e-9,
    )  # fmt: skip
    summary = train_run(config, tmp_path / "whole")
    epochs = [
        record for record in read_metrics(tmp_path / "whole" / "metrics.jsonl") if isinstance(record, EpochRecord)
    ]
    assert [record.step for record in epochs] == [39, 57]
    assert summary["num_updates"] == 2
    stop = StopAt(49)
    with pytest.raises(Interrupted):
        train_run(config, tmp_path / "parts", observer=stop, stop=stop.request)
    train_run(config, tmp_path / "parts", resume=True)
    assert_same(learned(tmp_path / "whole"), learned(tmp_path / "parts"))
    assert records(tmp_path / "whole") == records(tmp_path / "parts")


def test_a_long_epoch_is_saved_inside(tmp_path: Path) -> None:
    class Died(RuntimeError):
        pass

    class DieAt(TrainingObserver):
        def step_taken(self, step: int) -> None:
            if step == 20:
                raise Died

    config = TINY.replace(checkpoint_seconds=1e-9)
    train_run(config, tmp_path / "whole")
    with pytest.raises(Died):
        train_run(config, tmp_path / "parts", observer=DieAt())
    assert load_checkpoint(tmp_path / "parts" / "checkpoints" / "last.pt").position["step"] == 19
    train_run(config, tmp_path / "parts", resume=True)
    assert_same(learned(tmp_path / "whole"), learned(tmp_path / "parts"))


def test_a_checkpoint_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    stop = StopAt(5)
    with pytest.raises(Interrupted):
        train_run(TINY, tmp_path, observer=stop, stop=stop.request)
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(CheckpointError, match="not of this run"):
        train_run(TINY.replace(model="mlp:16"), tmp_path, resume=True)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before


def test_a_damaged_checkpoint_is_named_and_moved_away_the_run_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_run(TINY, tmp_path / "whole")
    stop = StopAt(20)
    with pytest.raises(Interrupted):
        train_run(TINY, tmp_path / "parts", observer=stop, stop=stop.request)
    last = tmp_path / "parts" / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    before = (tmp_path / "parts" / "metrics.jsonl").read_bytes()
    assert main(["train", "--resume", str(tmp_path / "parts"), "--no-tensorboard"]) == 2
    assert capsys.readouterr().err == (
        f"itop: {last} is no itop checkpoint, or damaged: it is truncated or another kind of file; move it away, and the run starts "
        "anew when it is resumed\n"
    )
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == before
    last.unlink()
    train_run(TINY, tmp_path / "parts", resume=True)
    assert_same(learned(tmp_path / "whole"), learned(tmp_path / "parts"))


def test_methods_and_seeds_share_a_folder_and_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    experiment = plan_experiment(
        TINY.replace(epochs=1, method_options={}), methods=["static", "set-itop"], seeds=[0, 1], options={}
    )
    result = run_experiment(experiment, tmp_path / "out")
    assert [summary["method"] for summary in result.summaries] == ["static", "set-itop"]
    whole = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [len(method["test_accuracy"]["values"]) for method in whole["methods"]] == [2, 2]
    of_method = json.loads((tmp_path / "out" / "static" / "summary.json").read_text())
    of_runs = [json.loads((tmp_path / "out" / "static" / f"seed-{s}" / "summary.json").read_text()) for s in (0, 1)]
    assert of_method["test_accuracy"]["values"] == [run["test_accuracy"]["mean"] for run in of_runs]

    (tmp_path / "out" / "set-itop" / "seed-1" / "summary.json").unlink()
    started: list[tuple[str, int]] = []

    class Listener(TrainingObserver):
        def run_started(self, config: RunConfig, folder: Path, step: int, total_steps: int) -> None:
            started.append((config.method, config.seed))

    again = run_experiment(experiment, tmp_path / "out", observer=Listener(), resume=True)
    assert started == [("set-itop", 1)]
    assert [s["test_accuracy"] for s in again.summaries] == [s["test_accuracy"] for s in result.summaries]


def test_a_folder_with_other_things_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    experiment = plan_experiment(TINY, methods=["static"], seeds=[0], options={})
    with pytest.raises(FileExistsError, match="is not empty"):
        run_experiment(experiment, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_resuming_with_another_configuration_names_the_difference(tmp_path: Path) -> None:
    run_experiment(plan_experiment(TINY.replace(epochs=1), methods=["static"], seeds=[0], options={}), tmp_path / "out")
    other = plan_experiment(TINY.replace(epochs=1, sparsity=0.5), methods=["static"], seeds=[0], options={})
    with pytest.raises(ValueError, match=r"its sparsity is 0\.9, the one asked for is 0\.5"):
        run_experiment(other, tmp_path / "out", resume=True)


class FailingMethod(Method):
    """A method that refuses the network."""

    @property
    def name(self) -> str:
        return "failing"

    def initialise(self, context: Any) -> None:
        raise ValueError("this network is not for me")

    def update(self, context: Any) -> None:
        return None


def know(monkeypatch: pytest.MonkeyPatch, **methods: Any) -> None:
    """Lets the training know methods of the test."""
    for module in ("config", "session"):
        monkeypatch.setattr(f"itop.training.{module}.METHODS", {**METHODS, **methods})


def test_one_run_that_fails_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, failing=FailingMethod)
    base = TINY.replace(epochs=1, method_options={})
    experiment = plan_experiment(base, methods=["failing", "static"], seeds=[0], options={})
    result = run_experiment(experiment, tmp_path / "out")
    assert [summary["method"] for summary in result.summaries] == ["static"]
    assert result.failures == {"failing, seed 0": "this network is not for me"}


def test_a_method_that_the_network_has_nothing_for_is_skipped_whatever_the_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "mlp:16", "--epochs", "1", "--seeds", "2", "--quiet", "--no-tensorboard"]
    out = tmp_path / "out"
    assert main(["train", "--methods", "early-bird,static", *arguments, "--out", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("skipped early-bird: method 'early-bird' ranks channels by batch normalisation") == 1
    summary = json.loads((out / "summary.json").read_text())
    assert [method["method"] for method in summary["methods"]] == ["static"]
    assert list(summary["skipped"]) == ["early-bird"]


def test_the_only_method_is_refused_where_the_network_has_nothing_for_it(tmp_path: Path) -> None:
    base = TINY.replace(method_options={})
    experiment = plan_experiment(base, methods=["early-bird"], seeds=[0, 1], options={})
    with pytest.raises(ValueError, match="ranks channels by batch normalisation"):
        run_experiment(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_when_every_run_is_refused_nothing_has_been_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, failing=FailingMethod)
    experiment = plan_experiment(TINY.replace(method_options={}), methods=["failing"], seeds=[0, 1], options={})
    with pytest.raises(ValueError, match="no run could be completed: this network is not for me"):
        run_experiment(experiment, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_explodes_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises((DivergedError, ValueError), match=r"learning rate|NaN|infinity"):
        train_run(TINY.replace(method="static", method_options={}, learning_rate=1e30), tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_threads_are_limited_for_the_run_only(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    during: list[int] = []

    class Listener(TrainingObserver):
        def epoch_ended(self, record: EpochRecord) -> None:
            during.append(torch.get_num_threads())

    train_run(TINY.replace(epochs=1, threads=before + 1), tmp_path, observer=Listener())
    assert during == [before + 1]
    assert torch.get_num_threads() == before


def test_without_a_validation_split_only_the_last_model_is_reported(tmp_path: Path) -> None:
    summary = train_run(TINY.replace(validation_fraction=0.0, epochs=1), tmp_path)
    assert summary["test_accuracy_of_best"] is None
    assert not (tmp_path / "checkpoints" / "best.pt").exists()


@pytest.mark.parametrize("amp", ["bfloat16", "auto"])
def test_mixed_precision_trains_on_the_cpu(tmp_path: Path, amp: str) -> None:
    assert math.isfinite(train_run(TINY.replace(amp=amp, epochs=1), tmp_path)["test_loss"]["mean"])


def test_clipping_smoothing_and_sparing_biases_from_decay_train(tmp_path: Path) -> None:
    config = TINY.replace(model="mlp:16", epochs=1, gradient_clip=1.0, label_smoothing=0.1, decay_vectors=False)
    assert train_run(config, tmp_path)["steps"] == 39


@pytest.mark.parametrize("method", ["snip", "imp", "group-lasso", "top-kast"])
def test_methods_that_need_batches_rounds_or_penalties_train_like_any_other(method: str, tmp_path: Path) -> None:
    summary = train_run(TINY.replace(method=method, method_options={}, epochs=2), tmp_path)
    assert summary["steps"] == 2 * 39
    assert 0.0 <= summary["test_accuracy"]["mean"] <= 1.0


def test_tensorboard_events_are_written_where_it_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    arguments = ["train", "--recipe", "digits", "--method", "set-itop", "--epochs", "1", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))


def test_the_command_line_trains_inspects_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["train", "--epochs", "1", "--seeds", "1", "--no-tensorboard", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    for expected in ("dense", "static", "set-itop", "R_s", "R_r", "FLOPs", "report.html"):
        assert expected in printed
    run = out / "static" / "seed-0"
    assert main(["inspect", str(run), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    summary = json.loads((run / "summary.json").read_text())
    assert [(row["name"], row["num_active"]) for row in inspected["layers"]] == [
        (row["name"], row["num_active"]) for row in summary["layers"]
    ]
    assert main(["inspect", str(run / "checkpoints" / "best.pt")]) == 0
    assert "fc1.weight" in capsys.readouterr().out
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").exists()


COMMAND = [sys.executable, "-m", "itop", "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def arguments() -> list[str]:
    """A run long enough to be stopped on the way, with a checkpoint at every epoch."""
    return ["--method", "set-itop", "--epochs", "25", "--set", "checkpoint_seconds=0", "--no-tensorboard", "--out"]


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *arguments, str(folder)]) == 0
    return folder


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_from_outside_resumes_to_the_same_end(
    tmp_path: Path, arguments: list[str], whole: Path, signum: int
) -> None:
    folder = tmp_path / "parts"
    process = subprocess.Popen([*COMMAND, *arguments, folder], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    printed, _ = process.communicate(timeout=120)
    assert not (folder / "summary.json").exists(), "it was stopped on the way"
    if signum != signal.SIGKILL:
        assert process.returncode == 130
        assert f"itop train --resume {folder}\n" in printed
    assert main(["train", "--resume", str(folder), "--no-tensorboard"]) == 0
    assert_same(learned(whole), learned(folder))
    assert records(whole) == records(folder)


def test_a_run_too_short_for_its_update_interval_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["train", "--methods", "static,set-itop", "--model", "mlp:16", "--epochs", "1", "--quiet"]
    assert main([*common, "--update-every", "1500", "--out", str(tmp_path / "short")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("set-itop changes its topology every 1,500 steps, and this run has") == 1
    assert "static changes" not in printed
    assert main([*common, "--update-every", "10", "--out", str(tmp_path / "right")]) == 0
    assert "changes its topology" not in capsys.readouterr().out


def test_a_log_file_gets_a_line_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["train", "--epochs", "1", "--seeds", "1", "--methods", "static", "--no-tensorboard"]
    assert main([*common, "--out", str(tmp_path / "short")]) == 0
    assert "step" not in capsys.readouterr().out  # a short run needs none
    monkeypatch.setattr("itop.cli.train_display._LINE_SECONDS", 0.0)
    assert main([*common, "--out", str(tmp_path / "long")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(re.match(r"static, seed 0  step \d+ of \d+  .*/s.*  \d:\d\d:\d\d left$", line) for line in lines)
    assert any(re.match(r"static, seed 0  testing on \d+ images$", line) for line in lines)


def test_a_run_of_few_steps_scores_as_few_training_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []

    def count(model: Any, batches: Any, *arguments: Any, **options: Any) -> Any:
        kept = list(batches)
        scored.append(sum(len(labels) for _, labels in kept))
        return evaluate(model, kept, *arguments, **options)

    monkeypatch.setattr("itop.training.loop.evaluate", count)
    train_run(TINY.replace(max_steps=3, batch_size=32), tmp_path / "short")
    train_run(TINY, tmp_path / "whole")
    assert scored[-1] > 1000
    assert min(scored) <= 256  # 96 samples, rounded up to an evaluation's batch


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_once_and_before_anything(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--device", device, "--out", str(tmp_path / "out")]) != 0
    captured = capsys.readouterr()
    assert "failed" not in captured.out
    assert captured.err.count(device) == 1
    assert not (tmp_path / "out").exists()
