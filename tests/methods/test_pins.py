"""Every preset's rule is pinned by hand-computed numbers, and the map of tests names real tests."""

from __future__ import annotations

from tests.methods.pins import pinned_presets

from itop.methods import METHODS


def test_every_preset_has_a_test_with_numbers_worked_out_by_hand() -> None:
    assert set(pinned_presets()) == set(METHODS)
