"""Strength of input neurons."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itop.analysis import input_strength, select_features, strength_image


def test_strength_is_the_sum_of_absolute_outgoing_weights() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.0], [-3.0, 0.5, 4.0]])
    assert input_strength(weight).tolist() == [4.0, 2.5, 4.0]
    mask = torch.tensor([[True, True, True], [False, True, True]])
    assert input_strength(weight, mask).tolist() == [1.0, 2.5, 4.0]


def test_a_kernel_is_summed_over() -> None:
    weight = torch.tensor([[[1.0, -1.0], [2.0, 2.0]]])  # [1 output, 2 inputs, kernel 2]
    assert input_strength(weight).tolist() == [2.0, 4.0]


def test_the_strongest_features_come_first_and_the_earlier_of_equal_ones() -> None:
    strength = torch.tensor([4.0, 2.5, 4.0, 9.0])
    assert select_features(strength, 3).tolist() == [3, 0, 2]
    assert select_features(strength, 0).tolist() == []
    with pytest.raises(ValueError, match=r"num_features must be in \[0, 4\], got 5"):
        select_features(strength, 5)


def test_grey_images_are_scaled_to_one() -> None:
    image = strength_image(torch.tensor([1.0, 2.0, 0.0, 4.0]), (2, 2))
    assert image.tolist() == [[0.25, 0.5], [0.0, 1.0]]
    assert strength_image(torch.zeros(4), (2, 2)).max() == 0.0


def test_colour_images_have_their_channels_last_and_others_are_averaged() -> None:
    strength = torch.arange(12.0)
    image = strength_image(strength, (3, 2, 2))
    assert image.shape == (2, 2, 3)
    assert image[0, 1].tolist() == pytest.approx([1 / 11, 5 / 11, 9 / 11])
    averaged = strength_image(strength[:8], (2, 2, 2))
    np.testing.assert_allclose(averaged, np.array([[2, 3], [4, 5]]) / 5)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"of 4 inputs, got \(3, 2\)"):
        strength_image(torch.zeros(4), (3, 2))
    with pytest.raises(ValueError, match="at least two dimensions"):
        input_strength(torch.zeros(4))
    with pytest.raises(ValueError, match="mask must have the weight's shape"):
        input_strength(torch.zeros(4, 2), torch.ones(2, 4, dtype=torch.bool))
