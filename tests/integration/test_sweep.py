"""Sweeps of real runs: killed and resumed, failing cells, theory, advice and reports."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itop.cli.main import main
from itop.studies.grid import plan_grid
from itop.studies.results import read_results
from itop.studies.study import Study
from itop.studies.sweep import SweepObserver, run_sweep
from itop.training.recipes import RECIPES

BASE = RECIPES["digits"].config.replace(model="mlp:32", epochs=4, checkpoint_seconds=0.0)
GRID = """
seeds = 2
[config]
model = "mlp:32"
epochs = 6
checkpoint_seconds = 0.0
[grid]
method = ["set-itop"]
update_every = [4, 20]
"""


def table_of(root: Path) -> list[dict[str, str]]:
    with (root / "cells.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def start(config: Path, root: Path, jobs: int, **environment: str) -> subprocess.Popen[bytes]:
    program = [str(Path(__file__).parents[1] / "killed_sweep.py")] if environment else ["-m", "itop"]
    command = [sys.executable, *program, "sweep", "--config", str(config), "--out", str(root), "--quiet"]
    return subprocess.Popen(
        [*command, "--jobs", str(jobs)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grid") / "grid.toml"
    path.write_text(GRID, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "study"
    assert main(["sweep", "--config", str(config), "--out", str(root), "--quiet"]) == 0
    return root


@pytest.mark.parametrize(
    ("whole_group", "jobs"), [(False, 1), (True, 2)], ids=["the parent alone", "with its two workers at once"]
)
def test_a_sweep_killed_at_several_moments_ends_with_the_table_of_one_never_killed(
    config: Path, uninterrupted: Path, tmp_path: Path, whole_group: bool, jobs: int
) -> None:
    root = tmp_path / "study"
    finished: dict[Path, int] = {}
    for seconds_after_start in (0.3, 0.8, 1.5):
        process = start(config, root, jobs)
        deadline = time.monotonic() + 60
        while process.poll() is None and not list(root.glob("cells/*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(seconds_after_start)
        if process.poll() is None:
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        finished |= {
            path: path.stat().st_mtime_ns for path in root.glob("cells/*/summary.json") if path not in finished
        }
    assert start(config, root, jobs).wait(timeout=120) == 0
    assert table_of(root) == table_of(uninterrupted)
    for path, written in finished.items():
        assert path.stat().st_mtime_ns == written, "a finished cell was run again"


MOMENTS = [
    ("study.json", "after"),
    ("last.pt", "before"),
    ("last.pt", "after"),
    ("topology.npz", "after"),
    ("summary.json", "before"),
    ("summary.json", "after"),
    ("cells.csv", "before"),
    ("points.tex", "before"),
    ("report.html", "before"),
]
"""Files of a sweep in the order in which they are written: a chain of starts, each killed at the next moment."""


@pytest.mark.parametrize(
    ("jobs", "moments"),
    [(1, MOMENTS), (2, [moment for moment in MOMENTS if moment[0] == "summary.json"])],
    ids=["one worker", "two workers"],
)
def test_a_sweep_killed_whenever_it_writes_a_file_ends_with_the_files_of_one_never_killed(
    config: Path, uninterrupted: Path, tmp_path: Path, jobs: int, moments: list[tuple[str, str]]
) -> None:
    root = tmp_path / "study"
    finished: dict[Path, int] = {}
    for name, when in moments:
        process = start(config, root, jobs, KILL_FILE=name, KILL_WHEN=when, KILL_WHOM="group")
        assert process.wait(timeout=120) == -signal.SIGKILL, f"{when} {name} never came"
        for path, written in finished.items():
            assert path.stat().st_mtime_ns == written, f"a finished cell was run again, killed {when} {name}"
        finished |= {path: path.stat().st_mtime_ns for path in root.glob("cells/*/summary.json")}
    assert finished
    assert start(config, root, jobs).wait(timeout=120) == 0
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())
    for name in ("cells.csv", "points.csv", "points.tex"):
        assert (root / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_a_worker_that_dies_is_a_failed_cell_that_the_next_start_completes(
    config: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    root = tmp_path / "study"
    process = start(config, root, 2, KILL_FILE="summary.json", KILL_WHEN="before", KILL_WHOM="self")
    assert process.wait(timeout=120) == 1
    assert {row["status"] for row in table_of(root)} == {"failed"}
    assert "killed by signal 9" in (root / "report.html").read_text(encoding="utf-8")
    assert start(config, root, 2).wait(timeout=120) == 0
    assert table_of(root) == table_of(uninterrupted)


def test_an_interruption_of_the_whole_group_fails_no_cell(config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    root = tmp_path / "study"
    process = start(config, root, 2)
    deadline = time.monotonic() + 60
    while not list(root.glob("cells/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=120) in (0, 130)
    assert not list(root.glob("cells/*/failure.json"))
    assert start(config, root, 2).wait(timeout=120) == 0
    assert table_of(root) == table_of(uninterrupted)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a stopped process with its parent")
def test_a_worker_that_hangs_does_not_outlive_its_parent(config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    root = tmp_path / "study"
    process = start(config, root, 1)
    deadline = time.monotonic() + 60
    while not list(root.glob("cells/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGSTOP)
    process.kill()
    process.wait()
    # The stopped worker held the lock of its cell; had it lived on, this start would wait for ever.
    assert start(config, root, 1).wait(timeout=120) == 0
    assert table_of(root) == table_of(uninterrupted)


def test_a_failed_cell_is_reported_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    study = plan_grid(BASE.replace(epochs=1), {"learning_rate": [1e30, 0.05]}, seeds=[0])
    result = run_sweep(study, tmp_path / "study")
    results = read_results(tmp_path / "study")
    assert len(result.summaries) == 1
    assert [failed.axes for failed in results.failures] == [{"learning_rate": 1e30}]
    assert "loss" in str(results.failures[0].failure) or "NaN" in str(results.failures[0].failure)


def test_finished_cells_are_taken_over_and_not_run_again(tmp_path: Path) -> None:
    class Started(SweepObserver):
        def __init__(self) -> None:
            self.labels: list[str] = []

        def cell_started(self, cell: object) -> None:
            self.labels.append(cell.label)  # type: ignore[attr-defined]

    root = tmp_path / "study"
    base = BASE.replace(epochs=1)
    run_sweep(plan_grid(base, {"update_every": [10]}, seeds=[0]), root)
    wider = plan_grid(base, {"update_every": [10, 30]}, seeds=[0])
    with pytest.raises(ValueError, match="other cells"):
        run_sweep(wider, root)
    started = Started()
    result = run_sweep(wider, root, observer=started, extend=True)
    assert started.labels == ["update every 30, seed 0"]
    assert len(result.summaries) == 2


def test_exploration_of_every_random_growth_cell_lies_within_sampling_error_of_the_closed_form(
    uninterrupted: Path,
) -> None:
    deviations = [result.prediction_deviation for result in read_results(uninterrupted).cells]
    assert len(deviations) == 4
    # Four standard deviations: one false alarm in 4,000 runs of this test, and the seeds are fixed.
    assert all(deviation is not None and abs(deviation) < 4 for deviation in deviations)


@pytest.mark.parametrize(
    "setting",
    [
        ["--model", "mlp:32", "--epochs", "4", "--sparsity", "0.9", "--rate", "0.3"],
        ["--model", "mlp:32", "--epochs", "4", "--sparsity", "0.9", "--rate", "0.4", "--min-interval", "15"],
        ["--model", "mlp:32", "--epochs", "4", "--sparsity", "0.9", "--rate", "0.9"],
        ["--model", "mlp:64,64", "--epochs", "1", "--sparsity", "0.95", "--rate", "0.09", "--batch-size", "256"],
        ["--model", "mlp:64,64", "--epochs", "2", "--sparsity", "0.5", "--rate", "0.55", "--allocation", "uniform"],
        ["--model", "lenet-300-100", "--epochs", "1", "--sparsity", "0.98", "--rate", "0.3", "--drop-fraction", "1.0"],
        [
            "--model",
            "lenet-300-100",
            "--epochs",
            "2",
            "--sparsity",
            "0.9",
            "--rate",
            "0.11",
            "--drop-fraction",
            "0.003",
        ],
        ["--model", "mlp:100", "--epochs", "1", "--sparsity", "0.8", "--rate", "0.6", "--min-interval", "2"],
    ],
    ids=" ".join,
)
def test_what_is_advised_explores_what_was_predicted(
    setting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *setting, "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    command = shlex.split(advice["command"])
    assert command[:2] == ["itop", "train"]
    assert main([*command[1:], "--out", str(tmp_path / "run"), "--quiet"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_updates"] == advice["num_updates"]
    assert summary["exploration_rate"] == pytest.approx(advice["exploration_rate"], abs=0.02)
    assert advice["exploration_rate"] >= float(setting[setting.index("--rate") + 1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "0.05"], "--rate must be at most 1 and above 0.1, the density"),
        (["--rate", "1.5"], "got 1.5"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--min-interval", "0"], "--min-interval must be at least 1, got 0"),
        (["--drop-fraction", "0"], "--drop-fraction must be in (0, 1], got 0"),
        (["--data", "folder"], "--data must be one of"),
    ],
)
def test_advice_asked_for_wrongly_is_refused_by_the_names_of_the_arguments(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_advice_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise"]) == 0
    assert main(["advise", "--rate", "0.999", "--min-interval", "50"]) == 1
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_what_cannot_be_reached_is_refused_with_what_can(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", "--model", "mlp:32", "--epochs", "2", "--rate", "0.99", "--min-interval", "30"]
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "cannot be reached" in said
    assert "as it is" in said


def test_the_study_page_shows_the_numbers_of_its_runs(uninterrupted: Path) -> None:
    page = (uninterrupted / "report.html").read_text(encoding="utf-8")
    for point in read_results(uninterrupted).points:
        accuracy = point.spread("test_accuracy")
        assert accuracy is not None
        assert f"{accuracy.mean * 100:.2f} ± {accuracy.std * 100:.2f} %" in page
        assert f"{(point.mean('exploration_rate') or 0) * 100:.2f} %" in page


def test_a_study_is_what_its_file_says(uninterrupted: Path) -> None:
    study = Study.load(uninterrupted)
    assert [cell.config.seed for cell in study.cells] == [0, 0, 1, 1]
    assert [cell.config.method_options["update_every"] for cell in study.cells] == [4, 20, 4, 20]


def test_figures_are_written_in_both_formats(uninterrupted: Path) -> None:
    assert main(["report", str(uninterrupted), "--figures"]) == 0
    names = {path.name for path in (uninterrupted / "figures").iterdir()}
    assert {"accuracy.svg", "accuracy.pdf", "exploration.svg", "exploration.pdf"} <= names


def test_the_loss_between_two_tickets_is_that_of_the_runs_at_both_ends_in_either_execution(tmp_path: Path) -> None:
    root = tmp_path / "study"
    # No batch normalisation, whose statistics would be renewed at the ends too.
    base = BASE.replace(epochs=1, sparsity=0.8, model="lenet-300-100")
    run_sweep(plan_grid(base, {"execution": ["masked", "sparse"]}, seeds=[0, 1, 2], options={"update_every": 10}), root)
    assert main(["report", str(root), "--interpolate", "--figures", "csv"]) == 0
    paths = json.loads((root / "landscape.json").read_text())
    assert set(paths) == {"execution masked", "execution sparse"}
    for point in read_results(root).points:
        path = paths[point.label]
        ends = [run.number("test_loss") for run in point.complete[:2]]
        # Seeds hold out other samples, so their normalisation of the test images is not quite the same.
        assert [path["losses"][0], path["losses"][-1]] == pytest.approx(ends, rel=5e-3)
        assert path["barrier"] >= 0
        assert path["seeds"] == [0, 1]
    # Both executions hold the same topologies at the same steps.
    assert paths["execution sparse"]["distance"] == pytest.approx(paths["execution masked"]["distance"])
    assert paths["execution sparse"]["union_density"] == pytest.approx(paths["execution masked"]["union_density"])
    assert "Between two tickets" in (root / "report.html").read_text(encoding="utf-8")
    assert (root / "figures" / "landscape.csv").exists()


def test_there_is_nothing_between_the_tickets_of_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "study"
    run_sweep(plan_grid(BASE.replace(epochs=1), {"update_every": [10]}, seeds=[0]), root)
    assert main(["report", str(root), "--interpolate"]) == 2
    assert "needs a point with two complete runs" in capsys.readouterr().err


def test_what_is_drawn_along_must_be_numbers() -> None:
    with pytest.raises(ValueError, match=r"must have numbers as values, 'method' has \['set', 'rigl'\]"):
        plan_grid(BASE, {"method": ["set", "rigl"]}, seeds=[0], x="method")


def test_a_study_is_reported_at_any_stage_with_what_there_is(tmp_path: Path) -> None:
    root = tmp_path / "study"
    study = plan_grid(
        BASE.replace(epochs=1), {"method": ["set-itop", "dense"]}, seeds=[0, 1], options={"update_every": 10}
    )
    study.save(root)
    assert main(["report", str(root), "--figures"]) == 0
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "0 of 4 runs complete" in page
    assert "Inside the runs" not in page
    assert not (root / "figures").exists()
    assert {row["status"] for row in table_of(root)} == {"open"}
    run_sweep(study, root)
    first = study.cells[0].folder(root)
    first.summary.unlink()
    first.record_failure("the training loss of epoch 1 is nan", kind="DivergedError")
    assert main(["report", str(root), "--figures"]) == 0
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "1 run failed" in page
    assert "One run of each point, seed 1" in page, "seed 0 did not end"
    assert (root / "figures" / "explored-over-time.svg").exists()
    assert "nan" not in re.sub(r"<[^>]*>", "", page).replace("epoch 1 is nan", "")
