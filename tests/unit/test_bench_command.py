"""``itop bench``: what it prints and what it writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from itop.benchmarks.measure import Row, Suite
from itop.cli.bench import is_met
from itop.cli.main import main


@pytest.mark.parametrize(
    ("ratio", "limit", "expected"),
    [
        (1.02, "<= 1.02", True),
        (1.021, "<= 1.02", False),
        (45.0, ">= 45", True),
        (3.9, ">= 4x (floor 10x)", False),
        (1.0, "< 1", False),
        (1.0, "> 1", False),
        (13.3, "3 bits", None),
        (1.2, "(the usual way)", None),
        (None, "<= 1", None),
    ],
)
def test_a_limit_is_read_as_it_is_printed(ratio: float | None, limit: str, expected: bool | None) -> None:
    assert is_met(ratio, limit) is expected


def rows() -> Iterator[Row]:
    yield Row("fast", "1 ms", "5 ms peer", 5.0, ">= 4x")
    yield Row("slow", "5 ms", "5 ms peer", 1.0, ">= 4x")


def test_each_figure_is_printed_beside_its_peer_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itop.cli.bench.find_suites", lambda: {"made-up": Suite("made-up", "Two figures", rows)})
    assert main(["bench", "made-up", "--out", str(tmp_path / "figures.json")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    fast, slow = (next(i for i, line in enumerate(lines) if line.strip() == name) + 1 for name in ("fast", "slow"))
    assert lines[fast].split() == ["5x", "wanted", ">=", "4x", "1", "ms", "beside", "5", "ms", "peer"]
    assert "MISSED" in lines[slow]
    assert "MISSED" not in lines[fast]
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["made-up"][1] == {
        "name": "slow",
        "ours": "5 ms",
        "peer": "5 ms peer",
        "ratio": 1.0,
        "limit": ">= 4x",
    }
    assert written["environment"]["threads"] >= 1
