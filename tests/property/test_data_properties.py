"""Splits, crops and epochs of any size against plain NumPy."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itop.data import Augmentation, DataSetError, Holdout, LabelledImages, Normalisation, Padding
from itop.data.augmentation import Shifts
from itop.data.resident import ResidentTrainLoader


@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=8), data=st.data(), seed=st.integers())
def test_a_holdout_is_a_partition_with_each_share_within_one_of_the_exact(
    counts: list[int], data: st.DataObject, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[np.random.Generator(np.random.Philox(seed % 2**32)).permutation(len(labels))]
    size = data.draw(st.integers(0, len(labels)))
    try:
        kept, held_out = Holdout(size=size, seed=seed).split(labels)
    except DataSetError:
        assert size > len(labels) - len(counts)
        return
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(len(labels)))
    assert len(held_out) == size
    shares = np.bincount(labels[held_out], minlength=len(counts))
    assert (np.bincount(labels[kept], minlength=len(counts)) >= 1).all()
    exact = np.array(counts) * size / len(labels)
    capped = np.minimum(np.ceil(exact), np.array(counts) - 1)
    assert (shares >= np.floor(exact)).all()
    # A class beyond its rounded share only makes up for classes that would have lost their last sample.
    assert (shares <= np.ceil(exact)).all() or (shares == capped).any()


@settings(deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 3),
    batch=st.integers(1, 6),
    pad=st.integers(0, 5),
    padding=st.sampled_from(Padding),
    flip=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_augmentation_is_numpys_pad_slice_and_flip(
    height: int, width: int, channels: int, batch: int, pad: int, padding: Padding, flip: bool, seed: int
) -> None:
    if padding is Padding.REFLECT:
        pad = min(pad, height - 1, width - 1)
    augmentation = Augmentation(pad, padding, flip)
    images = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (batch, channels, height, width), np.uint8)
    shifts = augmentation.draw(batch, seed=seed, epoch=0)
    result = augmentation.apply(torch.from_numpy(images), shifts).numpy()
    frame = ((0, 0), (pad, pad), (pad, pad))
    for sample in range(batch):
        row, column = int(shifts.rows[sample]) + pad, int(shifts.columns[sample]) + pad
        assert min(row, column) >= 0
        assert max(row, column) <= 2 * pad
        padded = np.pad(images[sample], frame, mode="reflect" if padding is Padding.REFLECT else "constant")
        expected = padded[:, row : row + height, column : column + width]
        assert np.array_equal(result[sample], expected[:, :, ::-1] if shifts.flips[sample] else expected)


@settings(deadline=None)
@given(
    num_samples=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    seed=st.integers(-(2**70), 2**70),
    epoch=st.integers(0, 10_000),
    data=st.data(),
)
def test_an_epoch_is_a_permutation_that_can_be_entered_at_any_batch(
    num_samples: int, batch_size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    pool = LabelledImages(np.zeros((num_samples, 1, 2, 2), dtype=np.uint8), np.arange(num_samples))
    loader = ResidentTrainLoader(
        pool,
        torch.arange(num_samples),
        batch_size,
        device=torch.device("cpu"),
        seed=seed,
        augmentation=Augmentation(pad=1, flip=True),
        normalisation=Normalisation(mean=(0.0,), std=(1.0,)),
    )
    batches = [labels.tolist() for _, labels in loader.epoch(epoch)]
    seen = [label for labels in batches for label in labels]
    assert len(set(seen)) == len(seen) == loader.num_samples
    assert loader.num_samples >= num_samples - 1
    assert len(batches) == len(loader)
    start_batch = data.draw(st.integers(0, len(loader)))
    resumed = [labels.tolist() for _, labels in loader.epoch(epoch, start_batch=start_batch)]
    assert resumed == batches[start_batch:]


@given(count=st.integers(1, 30))
def test_shifts_of_a_slice_are_the_slice_of_the_shifts(count: int) -> None:
    shifts = Augmentation(pad=3, flip=True).draw(count, seed=0, epoch=0)
    part = shifts[1:5]
    assert isinstance(part, Shifts)
    assert torch.equal(part.rows, shifts.rows[1:5])
    assert torch.equal(part.columns, shifts.columns[1:5])
    assert torch.equal(part.flips, shifts.flips[1:5])
