"""The report of real runs: its numbers are the runs'."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from itop.training.experiment import plan_experiment, run_experiment
from itop.training.interruption import StopRequest
from itop.training.recipes import RECIPES
from itop.training.records import UpdateRecord, read_metrics
from itop.training.report import write_report


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
    found = re.findall(r'<figcaption>(.*?)</figcaption>(?:(?!<figure).)*?class="chart-data">(.*?)</script>', page, re.S)
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
