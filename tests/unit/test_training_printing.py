"""Figures for a paper: what is printed are the numbers of the chart, in SVG, PDF and CSV alike."""

from __future__ import annotations

import csv
import re
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from itop.training.charts import Axis, HeatMap, LineChart, LineStyle, RankedRow, Ranking, Series, Spacing
from itop.training.printing import write_figures

SVG = "{http://www.w3.org/2000/svg}"
Points = NDArray[np.float64]


def svg_points(path: Path, gid: str) -> Points:
    """Where the line of an SVG file runs, in points from the left and from the top."""
    tree = ElementTree.parse(path)
    group = next(element for element in tree.iter(f"{SVG}g") if element.get("id") == gid)
    line = group.find(f"{SVG}path")
    assert line is not None
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", str(line.get("d")))])


def pdf_lines(path: Path) -> list[Points]:
    """Every path of more than two points of a PDF file, in points from the left and from the bottom."""
    content = path.read_bytes()
    lines = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.S):
        try:
            text = zlib.decompress(stream).decode("latin-1")
        except zlib.error:
            continue
        lines += [
            np.array([[float(x), float(y)] for x, y in re.findall(r"([-\d.]+) ([-\d.]+) [ml]", run)])
            for run in re.findall(r"((?:[-\d.]+ [-\d.]+ [ml]\n){3,})", text)
        ]
    return lines


def affine_error(drawn: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """How far positions are from being a linear function of values, in points."""
    design = np.stack([values, np.ones_like(values)], axis=1)
    solution, *_ = np.linalg.lstsq(design, drawn, rcond=None)
    return float(np.abs(design @ solution - drawn).max())


def chart(*series: Series, x_axis: Axis | None = None, y_axis: Axis | None = None) -> LineChart:
    return LineChart("curve", "A curve", series, x_axis or Axis("step"), y_axis or Axis("share", percent=True))


@pytest.fixture
def wavy() -> Series:
    x = [0, 7, 20, 21, 50, 80]
    return Series("set-itop R_s", "g", 2, x, [0.1, 0.35, 0.32, 0.8, 0.81, 0.4])


def test_the_line_of_an_svg_runs_through_the_numbers(wavy: Series, tmp_path: Path) -> None:
    (path,) = write_figures([chart(wavy)], tmp_path, ["svg"])
    points = svg_points(path, "series-0")
    assert len(points) == len(wavy.x)
    assert affine_error(points[:, 0], np.array(wavy.x, dtype=float)) < 1e-3
    assert affine_error(points[:, 1], np.array(wavy.y)) < 1e-3
    assert points[3, 1] < points[0, 1], "larger values are higher up, and SVG counts from the top"


def test_the_line_of_a_pdf_runs_through_the_numbers(wavy: Series, tmp_path: Path) -> None:
    (path,) = write_figures([chart(wavy)], tmp_path, ["pdf"])
    (points,) = [line for line in pdf_lines(path) if len(line) == len(wavy.x)]
    assert affine_error(points[:, 0], np.array(wavy.x, dtype=float)) < 1e-3
    assert affine_error(points[:, 1], np.array(wavy.y)) < 1e-3
    assert points[3, 1] > points[0, 1]


def test_csv_holds_every_number_with_all_its_digits(tmp_path: Path) -> None:
    line = Series("a", "a", 0, [1, 2, 3], [1 / 3, float("nan"), 0.1 + 0.2], [0.01, 0.0, 1e-17])
    (path,) = write_figures([chart(line, Series("b", "b", 1, [9], [0.5]))], tmp_path, ["csv"])
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["series", "x", "y", "spread"]
    assert [(name, float(x), float(y), spread) for name, x, y, spread in rows[1:]] == [
        ("a", 1.0, 1 / 3, "0.01"),
        ("a", 3.0, 0.1 + 0.2, "1e-17"),
        ("b", 9.0, 0.5, ""),
    ]


def test_rows_and_heat_maps_are_printed_with_their_numbers(tmp_path: Path) -> None:
    ranking = Ranking(
        "accuracy", "T", [RankedRow("low", 0, [0.5, 0.6]), RankedRow("high", 1, [0.9])], Axis("accuracy", percent=True)
    )
    heat = HeatMap("density", "T", ["fc1", "fc2"], ["update 1", "update 2"], [[0.0, 0.25], [0.5, 1.0]])
    write_figures([ranking, heat], tmp_path)
    assert (tmp_path / "accuracy.csv").read_text() == "row,value\nhigh,0.9\nlow,0.5\nlow,0.6\n"
    assert (tmp_path / "density.csv").read_text() == "row,update 1,update 2\nfc1,0.0,0.25\nfc2,0.5,1.0\n"
    svg = (tmp_path / "accuracy.svg").read_text()
    assert ">high<" in svg
    assert ">low<" in svg
    assert (tmp_path / "density.pdf").read_bytes().startswith(b"%PDF")
    assert ">fc2<" in (tmp_path / "density.svg").read_text()


def test_a_chart_with_nothing_to_show_leaves_no_file(tmp_path: Path) -> None:
    nan = Series("a", "a", 0, [0, 1], [float("nan"), float("inf")])
    assert write_figures([chart(), chart(nan), HeatMap("h", "T", [], [], [])], tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_the_same_chart_is_the_same_file(wavy: Series, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_figures([chart(wavy)], tmp_path / "a")]
    second = [path.read_bytes() for path in write_figures([chart(wavy)], tmp_path / "b")]
    assert first == second


def test_text_stays_text_with_subscripts_and_dollars(wavy: Series, tmp_path: Path) -> None:
    odd = Series("50 $ & <b> $", "o", 1, [0, 1], [0.0, 1.0])
    (path,) = write_figures([chart(wavy, odd)], tmp_path, ["svg"])
    texts = ["".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text")]
    assert "50 $ & <b> $" in texts
    assert "share (%)" in texts
    assert any(text.replace("\n", "").replace(" ", "").startswith("set-itop") for text in texts)


@pytest.mark.parametrize("style", list(LineStyle))
@pytest.mark.parametrize("spread", [None, [0.1, 0.2]])
@pytest.mark.parametrize("has_dots", [False, True])
def test_every_kind_of_line_can_be_printed(
    style: LineStyle, spread: list[float] | None, has_dots: bool, tmp_path: Path
) -> None:
    line = Series("a", "a", 0, [1, 1000], [0.2, 0.4], spread, style, has_dots=has_dots)
    axes = {"x_axis": Axis("steps", spacing=Spacing.LOGARITHMIC), "y_axis": Axis("y", low=0, settled=True)}
    written = write_figures([chart(line, **axes)], tmp_path)
    assert [path.suffix for path in written] == [".svg", ".pdf", ".csv"]


def test_the_axis_of_the_print_is_that_of_the_page(tmp_path: Path) -> None:
    line = Series("a", "a", 0, list(range(20)), [100.0] + [1.0 + 0.01 * index for index in range(19)])
    (path,) = write_figures([chart(line, y_axis=Axis("loss", settled=True))], tmp_path, ["svg"])
    texts = ["".join(element.itertext()) for element in ElementTree.parse(path).iter(f"{SVG}text")]
    assert "100" not in texts, "the steep beginning is cut off"
