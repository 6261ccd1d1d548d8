"""Crops and flips of a tiny image, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from itop.data import Augmentation, DataSetError, Normalisation, Padding
from itop.data.augmentation import Shifts

IMAGE = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]], dtype=torch.uint8)


def augmented(augmentation: Augmentation, row: int, column: int, *, flip: bool) -> list[list[int]]:
    shifts = Shifts(torch.tensor([row]), torch.tensor([column]), torch.tensor([flip]))
    result: Tensor = augmentation.apply(IMAGE[None, None].clone(), shifts)
    assert result.dtype == torch.uint8
    values: list[list[int]] = result[0, 0].tolist()
    return values


def test_no_shift_and_no_flip_is_the_image() -> None:
    assert augmented(Augmentation(pad=1, flip=True), 0, 0, flip=False) == IMAGE.tolist()


def test_a_flip_swaps_left_and_right() -> None:
    assert augmented(Augmentation(flip=True), 0, 0, flip=True) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]


def test_reflect_padding_mirrors_without_the_border_pixel() -> None:
    # Padded by one: the row above the first is the second; the column left of the first is the second.
    assert augmented(Augmentation(pad=1), -1, -1, flip=False) == [[5, 4, 5], [2, 1, 2], [5, 4, 5]]
    assert augmented(Augmentation(pad=2), 2, 0, flip=False) == [[7, 8, 9], [4, 5, 6], [1, 2, 3]]


def test_zero_padding_is_black() -> None:
    assert augmented(Augmentation(pad=1, padding=Padding.ZERO), 1, -1, flip=False) == [[0, 4, 5], [0, 7, 8], [0, 0, 0]]


def test_zero_padding_may_be_wider_than_the_image() -> None:
    assert augmented(Augmentation(pad=5, padding=Padding.ZERO), 2, 5, flip=False) == [[0, 0, 0]] * 3


def test_the_crop_is_taken_before_the_flip() -> None:
    assert augmented(Augmentation(pad=1, padding=Padding.ZERO), 0, 1, flip=True) == [[0, 3, 2], [0, 6, 5], [0, 9, 8]]


def test_each_image_and_all_of_its_channels_move_as_told() -> None:
    images = torch.stack([torch.stack([IMAGE, IMAGE + 10]), torch.stack([IMAGE + 20, IMAGE + 30])])
    shifts = Shifts(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([True, False]))
    result = Augmentation(pad=1, padding=Padding.ZERO, flip=True).apply(images, shifts)
    assert result[0, 1].tolist() == [[13, 12, 11], [16, 15, 14], [19, 18, 17]]
    assert result[1, 0].tolist() == [[24, 25, 26], [27, 28, 29], [0, 0, 0]]
    assert result[1, 1].tolist() == [[34, 35, 36], [37, 38, 39], [0, 0, 0]]


def test_shifts_and_flips_are_uniform_and_independent() -> None:
    shifts = Augmentation(pad=4, flip=True).draw(81 * 2 * 200, seed=5, epoch=3)
    cells = ((shifts.rows + 4) * 9 + shifts.columns + 4) * 2 + shifts.flips
    counts = torch.bincount(cells, minlength=162)
    assert len(counts) == 162
    # Chi-square with 161 degrees of freedom: 5 standard deviations are 161 + 5 * sqrt(322) = 251.
    assert ((counts - 200) ** 2 / 200).sum().item() < 251


def test_without_flips_none_is_drawn_and_shifts_stay() -> None:
    with_flips, without = (Augmentation(pad=2, flip=flip).draw(50, seed=1, epoch=0) for flip in (True, False))
    assert torch.equal(with_flips.rows, without.rows)
    assert with_flips.flips.any()
    assert not without.flips.any()


def test_images_too_small_to_be_reflected_are_refused() -> None:
    with pytest.raises(DataSetError, match="reflect padding of 4 pixels needs images larger than that, got 4 x 8"):
        Augmentation(pad=4).check(4, 8)
    Augmentation(pad=4, padding=Padding.ZERO).check(4, 8)


def test_negative_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="pad must be at least 0, got -1"):
        Augmentation(pad=-1)


def test_normalisation_measures_the_chosen_samples_alone() -> None:
    images = torch.tensor([[[[0, 4]]], [[[2, 2]]], [[[250, 250]]]], dtype=torch.uint8)
    normalisation = Normalisation.of(images, torch.tensor([0, 1]))
    assert normalisation == Normalisation(mean=(2.0,), std=(2**0.5,))
    normalised = normalisation.on(torch.device("cpu"))(images[:1])
    torch.testing.assert_close(normalised, torch.tensor([[[[-(2**0.5), 2**0.5]]]]))


def test_a_channel_of_one_colour_becomes_zero() -> None:
    images = torch.full((3, 2, 4, 4), 9, dtype=torch.uint8)
    normalise = Normalisation.of(images, torch.arange(3)).on(torch.device("cpu"))
    assert torch.equal(normalise(images), torch.zeros(3, 2, 4, 4))
