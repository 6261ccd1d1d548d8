"""The report of a run and the page of a study as a reader gets them: from a file, in either scheme, with and without scripts."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.browser import SCHEMES, needs_chromium, probed, probed_without_javascript, seen

from itop.studies.grid import plan_grid
from itop.studies.report import write_study_report
from itop.studies.sweep import run_sweep
from itop.training.experiment import plan_experiment, run_experiment
from itop.training.recipes import RECIPES
from itop.training.report import write_report

pytestmark = needs_chromium
BASE = RECIPES["digits"].config.replace(epochs=3, model="mlp:32")
SCHEME = pytest.mark.parametrize("scheme", list(SCHEMES))
KIND = pytest.mark.parametrize("kind", ["run", "study"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    experiment = plan_experiment(
        BASE, methods=["static", "set-itop", "edst"], seeds=[0, 1], options={}, defaults={"update_every": 20}
    )
    run_experiment(experiment, root / "run")
    write_report(root / "run")
    study = plan_grid(BASE, {"method": ["set-itop", "rigl-itop"], "update_every": [8, 20, 50]}, seeds=[0, 1])
    run_sweep(study, root / "study")
    write_study_report(root / "study")
    return {kind: root / kind / "report.html" for kind in ("run", "study")}


def charts(document: str) -> dict[str, dict[str, Any]]:
    """What pointers read off each chart, by the chart's caption."""
    found = re.findall(
        r'<figcaption>((?:(?!</figcaption>).)*)</figcaption>(?:(?!<figure).)*?class="chart-data">(.*?)</script>',
        document,
        re.S,
    )
    return {html.unescape(re.sub("<[^>]*>", "", title)): json.loads(data) for title, data in found}


def cells(document: str, row: str) -> list[str]:
    """The texts of the row that begins with `row` in the first table of results."""
    table = document[document.index('class="results"') :]
    for line in re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")], re.S):
        texts = [
            html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.S)
        ]
        if texts[0] == row:
            return texts
    raise AssertionError(f"no row {row}")


@KIND
@SCHEME
def test_a_page_opens_without_complaint_and_with_every_figure(pages: dict[str, Path], kind: str, scheme: str) -> None:
    document, complaints = seen(pages[kind], scheme=scheme)
    assert complaints == []
    written = pages[kind].read_text(encoding="utf-8")
    assert document.count("<figure") == written.count("<figure") > 10
    assert document.count("<polyline") == written.count("<polyline") > 10
    assert "Nothing recorded yet" not in document


MEASURED = """
function luminance(colour) {
  const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(function (v) {
    v /= 255; return v <= 0.03928 ? v / 12.92 : Math.pow((v + 0.055) / 1.055, 2.4); });
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}
function contrast(a, b) {
  const x = luminance(a), y = luminance(b); return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}
function under(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
  }
}
const low = [];
document.querySelectorAll("p, td, th, h1, h2, h3, figcaption, dt, dd, summary, pre, .legend button, .selection button")
  .forEach(function (e) {
    if (e.id === "probe" || !e.textContent.trim()) return;
    const ratio = contrast(getComputedStyle(e).color, under(e));
    if (ratio < 4.5) low.push([e.tagName, e.textContent.slice(0, 30), ratio]);
  });
document.querySelectorAll("svg text").forEach(function (e) {
  const ratio = contrast(getComputedStyle(e).fill, under(e.closest("figure")));
  if (ratio < 4.5) low.push(["text", e.textContent, ratio]);
});
document.querySelectorAll("polyline").forEach(function (e) {
  const ratio = contrast(getComputedStyle(e).stroke, under(e.closest("figure")));
  if (ratio < 3) low.push(["line", e.getAttribute("class"), ratio]);
});
return {
  low: low, background: luminance(getComputedStyle(document.body).backgroundColor),
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  flat: Array.from(document.querySelectorAll("figure.chart > svg")).filter(function (e) {
    return e.getBoundingClientRect().height < 30; }).length,
};
"""


@KIND
@SCHEME
@pytest.mark.parametrize("width", [500, 1280])
def test_a_page_is_legible_and_fits_its_window(pages: dict[str, Path], kind: str, scheme: str, width: int) -> None:
    found = probed(pages[kind], MEASURED, scheme=scheme, width=width)
    assert found["low"] == []
    assert (found["background"] < 0.1) == (scheme == "dark")
    assert found["overflow"] <= 0
    assert found["flat"] == 0


TABLES = """
return Array.from(document.querySelectorAll(".card > table, details > table")).map(function (table) {
  const card = table.parentElement;
  if (card.tagName === "DETAILS") card.open = true;
  card.scrollLeft = 1e6;
  const text = document.createRange();
  text.selectNodeContents(table.querySelector("tbody tr").lastElementChild);
  const right = card.getBoundingClientRect().right;
  return [right - text.getBoundingClientRect().right, right - table.getBoundingClientRect().right];
});
"""


@KIND
@pytest.mark.parametrize("width", [390, 800, 1100, 1280])
def test_tables_keep_off_the_edge_of_their_card(pages: dict[str, Path], kind: str, width: int) -> None:
    gaps = probed(pages[kind], TABLES, width=width)
    assert gaps
    for text, table in gaps:
        assert text > 15, "the last column, scrolled to where it ends"
        assert table < 3, "lines between rows go to the edge"


@KIND
def test_a_page_is_readable_without_javascript(pages: dict[str, Path], kind: str) -> None:
    found = probed_without_javascript(
        pages[kind],
        """
        function tall(selector) {
          return Array.from(doc.querySelectorAll(selector)).map(function (e) { return e.getBoundingClientRect().height; });
        }
        return { charts: tall("figure.chart > svg"), tables: tall("table.results"), bars: tall(".selection"),
                 tooltips: tall(".tooltip"), text: doc.querySelector("table.results").innerText };
        """,
    )
    assert len(found["charts"]) > 10
    assert min(found["charts"]) > 60
    assert min(found["tables"]) > 60
    assert set(found["bars"]) == set(found["tooltips"]) == {0}  # what only scripts can serve is not there
    assert "set-itop" in found["text"]


@KIND
def test_a_legend_hides_and_shows_its_lines_and_a_double_click_leaves_one(pages: dict[str, Path], kind: str) -> None:
    found = probed(
        pages[kind],
        """
        const chart = Array.from(document.querySelectorAll("figure.chart")).find(function (e) {
          return e.querySelectorAll(".legend button").length > 1 && e.querySelector("polyline"); });
        function visible() {
          return Array.from(chart.querySelectorAll("polyline, .dots[data-group]")).filter(function (e) {
            return getComputedStyle(e).display !== "none"; }).length;
        }
        const buttons = chart.querySelectorAll(".legend button"), states = [visible()];
        buttons[0].click(); states.push(visible());
        const pressed = buttons[0].getAttribute("aria-pressed");
        buttons[0].click(); states.push(visible());
        buttons[1].dispatchEvent(new MouseEvent("dblclick", {bubbles: true})); states.push(visible());
        buttons[1].dispatchEvent(new MouseEvent("dblclick", {bubbles: true})); states.push(visible());
        return { states: states, pressed: pressed };
        """,
    )
    everything, without_one, again, alone, all_again = found["states"]
    assert found["pressed"] == "false"
    assert 0 < without_one < everything == again == all_again
    assert 0 < alone < everything


@KIND
def test_the_selection_hides_a_series_in_all_charts_at_once(pages: dict[str, Path], kind: str) -> None:
    found = probed(
        pages[kind],
        """
        const bar = document.querySelector(".selection"), button = bar.querySelector("button");
        function visible() {
          return Array.from(document.querySelectorAll("[data-group]")).filter(function (e) {
            return e.dataset.group.indexOf(button.dataset.prefix) === 0 && !e.classList.contains("off"); }).length;
        }
        const before = visible(); button.click(); const after = visible(); button.click();
        return { shown: !bar.hidden, counts: [before, after, visible()] };
        """,
    )
    assert found["shown"]
    before, hidden, again = found["counts"]
    assert before == again > 1
    assert hidden == 0


@KIND
def test_a_pointer_reads_off_the_nearest_value(pages: dict[str, Path], kind: str) -> None:
    found = probed(
        pages[kind],
        """
        const chart = document.querySelector("figure.chart .chart-data").closest("figure");
        const svg = chart.querySelector(":scope > svg"), box = svg.getBoundingClientRect();
        svg.dispatchEvent(new PointerEvent("pointermove", {
          clientX: box.left + box.width * 0.97, clientY: box.top + 40, bubbles: true }));
        const tooltip = chart.querySelector(".tooltip");
        const said = { hidden: tooltip.hidden, text: tooltip.innerText, right: tooltip.getBoundingClientRect().right };
        svg.dispatchEvent(new PointerEvent("pointerleave"));
        return Object.assign(said, { left: tooltip.hidden, data: JSON.parse(chart.querySelector(".chart-data").textContent) });
        """,
    )
    assert (found["hidden"], found["left"]) == (False, True)
    assert found["right"] <= 1280
    line = found["data"]["series"][0]
    assert f"{line['y'][-1] * 100:.2f} %" in found["text"]
    assert f"{line['x'][-1]}" in found["text"].splitlines()[0]


def test_the_numbers_of_a_run_are_those_of_its_files(pages: dict[str, Path]) -> None:
    document, _ = seen(pages["run"])
    summaries = json.loads((pages["run"].parent / "summary.json").read_text(encoding="utf-8"))["methods"]
    for summary in summaries:
        row = cells(document, summary["method"])
        accuracy = summary["test_accuracy"]
        assert row[2] == f"{accuracy['mean'] * 100:.2f} ± {accuracy['std'] * 100:.2f} %"
        assert row[4] == f"{summary['exploration_rate'] * 100:.1f} %"
    tickets = json.loads((pages["run"].parent / "edst" / "seed-1" / "summary.json").read_text(encoding="utf-8"))[
        "tickets"
    ]
    ensembles = document[document.index('class="ensembles"') :]
    assert (
        f"edst, tickets of seed 1</th><td>3</td><td>{sum(tickets['member_accuracies']) / 3 * 100:.2f} %</td>"
        f"<td><strong>{tickets['accuracy'] * 100:.2f} %</strong></td><td>{tickets['negative_log_likelihood']:.4f}</td>"
        f"<td>{tickets['calibration_error'] * 100:.2f} %</td><td>{tickets['disagreement'] * 100:.2f} %</td>"
        f"<td>{tickets['kl_divergence']:.4f}</td>"
    ) in ensembles


def test_the_numbers_of_a_study_are_those_of_its_runs(pages: dict[str, Path]) -> None:
    document, _ = seen(pages["study"])
    with (pages["study"].parent / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for method in ("set-itop", "rigl-itop"):
        drawn = next(
            line
            for line in charts(document)["Test accuracy against update interval ΔT (steps)"]["series"]
            if line["label"] == method
        )
        for every, accuracy in zip(drawn["x"], drawn["y"], strict=True):
            of_point = [row for row in rows if row["method"] == method and row["update_every"] == f"{every:g}"]
            accuracies = [
                json.loads((pages["study"].parent / row["folder"] / "summary.json").read_text())["test_accuracy"][
                    "mean"
                ]
                for row in of_point
            ]
            assert accuracy == pytest.approx(sum(accuracies) / 2, abs=1e-6)
            mean = sum(float(row["exploration_rate"]) for row in of_point) / 2
            assert cells(document, f"{method}, update every {every:g}")[4] == f"{mean * 100:.2f} %"
