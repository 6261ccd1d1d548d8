"""Charts: the drawing follows the numbers, and no text gets out of its place."""

from __future__ import annotations

import html
import json
import re
from xml.etree import ElementTree

import pytest

from itop.training.charts import Axis, HeatMap, LineChart, RankedRow, Ranking, Series, Spacing
from itop.training.drawing import draw
from itop.training.scales import Scale


def chart(*series: Series, y_axis: Axis | None = None) -> str:
    return draw(LineChart("t", "T", series, Axis("step"), y_axis or Axis("y")))


def heat_map(*values: float) -> str:
    return draw(HeatMap("t", "T", ["fc1"], [f"u{index}" for index in range(1, len(values) + 1)], [values]))


def test_a_figure_is_well_formed_and_has_a_line_and_a_legend_entry_each() -> None:
    figure = chart(Series("a", "a", 0, [0, 1], [0, 1]), Series("b", "b", 1, [0, 1], [1, 0], [0.1, 0.1]))
    tree = ElementTree.fromstring(re.sub(r"<div class=\"tooltip\" hidden>", '<div class="tooltip">', figure))
    assert len(tree.findall(".//polyline")) == 2
    assert len(tree.findall(".//polygon")) == 1
    assert [json.loads(str(button.get("data-groups"))) for button in tree.findall(".//button")] == [["a"], ["b"]]


def test_lines_of_one_legend_text_share_an_entry() -> None:
    figure = chart(*(Series(name, name, 8, [0, 1], [0, 1], legend="theory of R_s") for name in "ab"))
    (groups,) = re.findall(r'data-groups="([^"]*)"', figure)
    assert json.loads(html.unescape(groups)) == ["a", "b"]
    assert "<span>theory of R<sub>s</sub></span>" in figure


def test_points_with_a_deviation_get_a_bar_each() -> None:
    figure = chart(
        Series("a", "a", 0, [0, 5], [0.25, 0.5], [0.0, 0.25], has_dots=True), y_axis=Axis("y", low=0, high=1)
    )
    bars = re.findall(r'<line x1="([\d.]+)" x2="\1" y1="([\d.]+)" y2="([\d.]+)"/>', figure)
    # Marks have room: the axis reaches 4 % beyond the first and the last.
    assert bars == [("76.1", "195.0", "195.0"), ("527.9", "195.0", "73.0")]
    assert "<polygon" not in figure


@pytest.mark.parametrize(
    ("step", "value", "shown"), [(0.025, 0.075, "7.5 %"), (0.2, 0.4, "40 %"), (0.0025, 0.0075, "0.75 %")]
)
def test_ticks_are_not_rounded_to_other_values(step: float, value: float, shown: str) -> None:
    assert Axis("y", percent=True).format(value, step) == shown


def test_a_difference_of_fractions_may_be_negative() -> None:
    line = Series("a", "a", 0, [0, 1], [-0.04, 0.02])
    assert "-4 %" in chart(line, y_axis=Axis("gap", percent=True, is_difference=True))
    assert "-4 %" not in chart(line, y_axis=Axis("share", percent=True))


def test_a_ranking_has_the_best_on_top_and_all_its_runs() -> None:
    rows = [RankedRow("low", 0, [0.5, 0.6]), RankedRow("high", 1, [0.9])]
    figure = draw(Ranking("t", "T", rows, Axis("accuracy", percent=True)))
    assert figure.index("high") < figure.index("low")
    assert figure.count("<circle") == 3
    assert figure.count('data-group="high runs"') == 2, "its dots and its mean are hidden together"
    assert "55.00 %" in figure


def test_the_ends_of_a_line_lie_on_the_ends_of_the_axes() -> None:
    figure = chart(Series("a", "a", 0, [0, 10], [0.0, 1.0]), y_axis=Axis("y", low=0, high=1))
    (points,) = re.findall(r'<polyline[^>]* points="([^"]*)"', figure)
    assert points == "58.0,256.0 546.0,12.0"


def test_sparsities_are_as_far_apart_as_the_logarithms_of_what_is_left() -> None:
    axis = Axis("sparsity", percent=True, spacing=Spacing.COMPLEMENT)
    scale = Scale.over([0.9, 0.99, 0.999], axis, 0.0, 100.0)
    places = [scale(value) for value in (0.9, 0.99, 0.999)]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert [axis.format(tick, scale.step) for tick in scale.ticks()] == ["90 %", "97 %", "99 %", "99.7 %", "99.9 %"]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([1, 1000], [1, 10, 100, 1000]), ([21, 5280], [30, 100, 300, 1000, 3000]), ([0.95, 1.1], [0.95, 1.0, 1.05])],
)
def test_logarithmic_ticks_are_round_and_where_ratios_are_small_evenly_apart(
    values: list[float], ticks: list[float]
) -> None:
    found = Scale.over(values, Axis("x", spacing=Spacing.LOGARITHMIC), 0.0, 1.0).ticks()
    assert found[: len(ticks)] == pytest.approx(ticks)
    assert len(found) >= 3


def test_what_a_pointer_reads_are_the_values_drawn() -> None:
    figure = chart(Series("a", "a", 0, [0, 5], [0.25, 0.5], [0.0, 0.125]))
    (data,) = re.findall(r'class="chart-data">(.*?)</script>', figure)
    (line,) = json.loads(data)["series"]
    assert (line["x"], line["y"], line["spread"]) == ([0, 5], [0.25, 0.5], [0, 0.125])


def test_text_in_names_cannot_become_markup() -> None:
    hostile = "</script><script>alert(1)</script>\"'&"
    line = Series(hostile, hostile, 0, [0, 1], [0, 1])
    figure = draw(LineChart("t", hostile, [line], Axis(hostile), Axis("y")))
    figure += draw(HeatMap("t", hostile, [hostile], [hostile], [[0.5]]))
    figure += draw(Ranking("t", hostile, [RankedRow(hostile, 0, [0.5])], Axis(hostile)))
    assert "<script>" not in figure
    assert figure.count("</script>") == 1


def test_many_points_are_thinned_but_the_last_stays() -> None:
    line = Series("a", "a", 0, list(range(5001)), [float(value) for value in range(5001)]).finite(400)
    assert len(line.x) <= 402
    assert line.x[-1] == 5000


def test_points_that_are_no_numbers_are_left_out() -> None:
    line = Series("a", "a", 0, [0, 1, 2], [0.0, float("nan"), 2.0]).finite()
    assert list(line.x) == [0, 2]


@pytest.mark.parametrize("series", [(), (Series("a", "a", 0, [], []),)])
def test_nothing_to_draw_is_said(series: tuple[Series, ...]) -> None:
    assert "Nothing recorded yet" in chart(*series)


def test_a_constant_and_a_single_point_can_be_drawn() -> None:
    assert "<polyline" in chart(Series("a", "a", 0, [0, 1], [0.0, 0.0]))
    assert "<circle" in chart(Series("a", "a", 0, [3], [0.5]))


def test_a_settled_axis_follows_the_end_of_the_lines() -> None:
    values = [100.0] + [1.0 + 0.01 * index for index in range(19)]
    figure = chart(Series("a", "a", 0, list(range(20)), values), y_axis=Axis("y", settled=True))
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)</text>', figure)]
    assert max(ticks) < 2


def test_equal_neighbours_of_a_heat_map_are_one_cell() -> None:
    figure = heat_map(0.1, 0.1, 0.9)
    assert re.findall(r"<title>(.*?)</title>", figure) == ["fc1, u1 to u2: 10.0 %", "fc1, u3: 90.0 %"]


def test_a_full_cell_has_the_last_colour_and_an_empty_one_the_first() -> None:
    figure = heat_map(0.0, 1.0)
    assert re.findall(r'class="heat-(\d+)"', figure) == ["0", "31"]
