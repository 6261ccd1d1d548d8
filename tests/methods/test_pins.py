"""Every preset's rule is pinned by hand-computed numbers, and the map of tests names real tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.methods.pins import pinned_presets

from itop.methods import METHODS, PRESETS
from itop.methods.descriptions import DESCRIPTIONS


def test_every_preset_has_a_test_with_numbers_worked_out_by_hand() -> None:
    assert set(pinned_presets()) == set(METHODS)


def test_the_page_of_methods_is_that_of_the_registry() -> None:
    root = Path(__file__).resolve().parents[2]
    written = subprocess.run(
        [sys.executable, str(root / "scripts" / "methods-table")], capture_output=True, text=True, check=True
    )
    assert written.stdout == (root / "docs" / "methods.md").read_text(encoding="utf-8"), (
        "scripts/methods-table > docs/methods.md"
    )


def test_every_preset_is_described() -> None:
    assert DESCRIPTIONS.keys() == METHODS.keys()


def test_defaults_that_could_not_be_checked_are_marked() -> None:
    assert PRESETS["dsr"].unchecked == {"fraction", "threshold", "doubles_at", "allocation"}
    assert "drop_fraction" not in PRESETS["rigl"].unchecked
    assert "gate_speed" in PRESETS["l0"].unchecked
