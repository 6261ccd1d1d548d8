"""The report of real runs, its tables and its printed figures: their numbers are the runs'."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from itop.training.experiment import plan_experiment, run_experiment
from itop.training.interruption import StopRequest
from itop.training.loop import DivergedError
from itop.training.recipes import RECIPES
from itop.training.records import UpdateRecord, read_metrics
from itop.training.report import write_report, write_report_figures
from itop.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reported experiment: two methods, two seeds."""
    folder = tmp_path_factory.mktemp("experiment") / "out"
    base = RECIPES["digits"].config.replace(epochs=3, model="mlp:32")
    experiment = plan_experiment(
        base, methods=["static", "set-itop"], seeds=[0, 1], options={}, defaults={"update_every": 20}
    )
    run_experiment(experiment, folder)
    write_report(folder)
    return folder


def page_of(root: Path) -> str:
    return (root / "report.html").read_text(encoding="utf-8")


def plain(text: str) -> str:
    """Without markup: a subscript is a letter."""
    return html.unescape(re.sub("<[^>]*>", "", text))


def charts(page: str) -> dict[str, dict[str, Any]]:
    """Each line chart's data by its caption."""
    found = re.findall(
        r'<figcaption>((?:(?!</figcaption>).)*)</figcaption>(?:(?!<figure).)*?class="chart-data">(.*?)</script>',
        page,
        re.S,
    )
    return {plain(title): json.loads(data) for title, data in found}


def test_the_table_shows_what_the_summaries_say(root: Path) -> None:
    page = page_of(root)
    for summary in json.loads((root / "summary.json").read_text())["methods"]:
        accuracy = summary["test_accuracy"]
        assert f"{accuracy['mean'] * 100:.2f} ± {accuracy['std'] * 100:.2f} %" in page
        assert f"{summary['exploration_rate'] * 100:.1f} %" in page
        assert f"{summary['reliable_rate'] * 100:.1f} %" in page or summary["num_updates"] == 0


def test_the_curves_are_the_means_of_the_recorded_rates(root: Path) -> None:
    lines = {line["label"]: line for line in charts(page_of(root))["set-itop: exploration against theory"]["series"]}
    seeds = [
        [r for r in read_metrics(root / "set-itop" / f"seed-{seed}" / "metrics.jsonl") if isinstance(r, UpdateRecord)]
        for seed in (0, 1)
    ]
    expected = [(first.exploration_rate + second.exploration_rate) / 2 for first, second in zip(*seeds, strict=True)]
    assert lines["R_s measured"]["y"] == pytest.approx(expected, rel=1e-5)
    assert lines["R_s measured"]["x"] == [update.step for update in seeds[0]]


def test_measured_random_growth_lies_on_the_theory_and_below_the_bound(root: Path) -> None:
    lines = {line["label"]: line for line in charts(page_of(root))["set-itop: exploration against theory"]["series"]}
    measured, theory = lines["R_s measured"]["y"], lines["R_s of random growth, theory"]["y"][1:]
    bound = lines["upper bound of R_s"]["y"][1:]
    # About 240 of 2400 weights are active: a draw's standard deviation is well below one percent of all weights.
    assert measured == pytest.approx(theory, abs=0.01)
    assert all(rate <= limit + 1e-6 for rate, limit in zip(measured, bound, strict=True))


def test_the_page_is_complete_without_the_network(root: Path) -> None:
    page = page_of(root)
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "@import" not in page
    assert "{{" not in page


def test_every_figure_asked_of_a_report_is_there(root: Path) -> None:
    captions = [plain(text) for text in re.findall(r"<figcaption>(.*?)</figcaption>", page_of(root))]
    assert captions[:6] == [
        "Validation accuracy",
        "Loss",
        "Explored (Rs) and reliably explored (Rr) weights",
        "set-itop: exploration against theory",
        "set-itop, seed 0: density of each layer",
        "set-itop, seed 0: explored part of each layer",
    ]
    assert captions[6:10] == [
        "Survival of grown weights",
        "Churn of each update",
        "Topology distance (NNSTD) from the start",
        "Gradient flow: after an update over before",
    ]
    assert captions[10].startswith("step 0")


def test_a_report_of_runs_that_have_not_ended_says_so(tmp_path: Path) -> None:
    stop = StopRequest(is_set=True)
    base = RECIPES["digits"].config.replace(epochs=1, model="mlp:32")
    experiment = plan_experiment(base, methods=["static"], seeds=[0, 1], options={})
    with pytest.raises(Exception, match="stopped after 1 steps"):
        run_experiment(experiment, tmp_path / "out", stop=stop)
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "running" in page
    assert "Nothing recorded yet" in page


def test_a_damaged_summary_is_named(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy" / "static" / "seed-0" / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"seed-0/summary\.json"):
        write_report(tmp_path / "copy")


NUMBERS = ("sparsity", "exploration_rate", "reliable_rate", "num_updates", "steps", "train_flops_ratio")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_run_is_a_line_of_the_table_with_the_numbers_of_its_summary(root: Path) -> None:
    rows = rows_of(root / "cells.csv")
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in ("static", "set-itop") for seed in "01"
    ]
    for row in rows:
        summary = json.loads((root / row["folder"] / "summary.json").read_text())
        for name in ("test_accuracy", "test_loss", "train_accuracy"):
            assert float(row[name]) == summary[name]["mean"]
        for name in NUMBERS:
            assert float(row[name]) == summary[name]
        if row["method"] == "set-itop":
            assert float(row["predicted_exploration_rate"]) == summary["predicted_exploration"]["rate"]
        else:
            assert row["predicted_exploration_rate"] == ""


def test_points_are_means_and_deviations_over_seeds_in_csv_and_latex(root: Path) -> None:
    latex = (root / "points.tex").read_text()
    points = rows_of(root / "points.csv")
    assert len(points) == 2
    for point in points:
        summary = json.loads((root / point["method"] / "summary.json").read_text())
        accuracy = summary["test_accuracy"]
        assert point["runs"] == "2"
        assert float(point["test_accuracy"]) == accuracy["mean"]
        assert float(point["test_accuracy_std"]) == accuracy["std"]
        line = next(line for line in latex.splitlines() if line.startswith(point["method"]))
        cells = [cell.strip() for cell in line.removesuffix("\\\\").split("&")]
        assert cells[1] == f"{accuracy['mean'] * 100:.2f} $\\pm$ {accuracy['std'] * 100:.2f}"
        assert cells[2] == f"{summary['exploration_rate']:.3f}"
        assert cells[5] == f"{summary['num_updates']:g}"
    page = html.unescape(page_of(root))
    assert latex.strip() in page
    assert (root / "cells.csv").read_text().strip() in page


def test_every_chart_of_the_page_is_printed_with_the_numbers_of_the_page(root: Path) -> None:
    written = write_report_figures(root)
    assert {path.parent for path in written} == {root / "figures"}
    names = {path.stem for path in written}
    assert {path.name for path in written} == {f"{name}.{kind}" for name in names for kind in ("svg", "pdf", "csv")}
    drawn = charts(page_of(root))
    assert len(names) == len(drawn) + 2, "those with lines, and the two heat maps of the method that explores"
    titles = {
        "loss": "Loss",
        "accuracy": "Validation accuracy",
        "exploration-set-itop": "set-itop: exploration against theory",
        "survival": "Survival of grown weights",
    }
    for name, title in titles.items():
        rows = rows_of(root / "figures" / f"{name}.csv")
        for line in drawn[title]["series"]:
            of_line = [row for row in rows if row["series"] == line["label"]]
            assert [float(row["x"]) for row in of_line] == pytest.approx(line["x"])
            assert [float(row["y"]) for row in of_line] == pytest.approx(line["y"], rel=1e-5)


def test_printed_numbers_are_exactly_the_records(root: Path) -> None:
    write_report_figures(root, ["csv"])
    updates = [
        record
        for record in read_metrics(root / "set-itop" / "seed-0" / "metrics.jsonl")
        if isinstance(record, UpdateRecord)
    ]
    rows = rows_of(root / "figures" / "density-set-itop.csv")
    for row in rows:
        for update in updates:
            assert float(row[f"update {update.update}"]) == update.layers[row["row"]].density
    survival = json.loads((root / "set-itop" / "seed-0" / "analysis.json").read_text())["survival"]
    printed = [row for row in rows_of(root / "figures" / "survival.csv") if row["series"] == "set-itop"]
    assert [float(row["y"]) for row in printed[1:]] == survival["survival"]


def test_the_folder_of_a_single_run_is_reported_like_one_of_many(tmp_path: Path) -> None:
    base = RECIPES["digits"].config.replace(epochs=2, model="mlp:32")
    experiment = plan_experiment(base, methods=["set-itop"], seeds=[3], options={"update_every": 20})
    run_experiment(experiment, tmp_path / "run")
    write_report(tmp_path / "run")
    (row,) = rows_of(tmp_path / "run" / "cells.csv")
    assert (row["seed"], row["folder"], row["status"]) == ("3", ".", "complete")
    (point,) = rows_of(tmp_path / "run" / "points.csv")
    assert float(point["test_accuracy_std"]) == 0.0
    assert "pm" not in (tmp_path / "run" / "points.tex").read_text()
    assert (tmp_path / "run" / "figures" / "accuracy.svg") in write_report_figures(tmp_path / "run", ["svg"])


def test_runs_that_failed_or_never_began_are_told_apart(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for seed in (0, 1):
        (copy / "static" / f"seed-{seed}" / "summary.json").unlink()
    RunFolder(copy / "static" / "seed-0").record_failure("the training loss is nan\nat step 3", kind="ValueError")
    shutil.rmtree(copy / "set-itop" / "seed-1")
    write_report(copy)
    page = page_of(copy)
    assert "1 run failed" in page
    assert "the training loss is nan at step 3" in page
    assert [row["status"] for row in rows_of(copy / "cells.csv")] == ["failed", "open", "complete", "open"]
    (static, _) = rows_of(copy / "points.csv")
    assert (static["runs"], static["test_accuracy"]) == ("0", "")
    assert "<td>1/2</td>" in page
    assert write_report_figures(copy, ["csv"])


def test_a_run_that_diverged_says_so_in_its_folder_and_on_its_page_until_it_is_resumed(tmp_path: Path) -> None:
    base = RECIPES["digits"].config.replace(epochs=1, model="mlp:16", learning_rate=1e30)
    experiment = plan_experiment(base, methods=["static"], seeds=[0], options={})
    with pytest.raises(DivergedError, match="loss"):
        run_experiment(experiment, tmp_path / "run")
    assert "loss" in str(RunFolder(tmp_path / "run").read_failure())
    write_report(tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert "1 run failed" in page
    assert '<span class="kind">failed</span>' in page
    assert [row["status"] for row in rows_of(tmp_path / "run" / "cells.csv")] == ["failed"]
    with pytest.raises(Exception, match="stopped after 1 steps"):
        run_experiment(experiment, tmp_path / "run", stop=StopRequest(is_set=True), resume=True)
    assert RunFolder(tmp_path / "run").read_failure() is None
