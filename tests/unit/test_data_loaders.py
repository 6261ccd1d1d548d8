"""Batches follow from (seed, epoch, batch index) alone, in memory and streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import write_folder
from PIL import Image
from torch import Tensor

from itop.data import Augmentation, BatchLoader, DataSet, DataSetError, Holdout, LabelledImages, ResidentDataSet
from itop.data.folder import ImageFolder
from itop.data.streamed import CentreCrop, RandomResizedCrop, StreamedDataSet

Epoch = list[tuple[Tensor, Tensor]]


def resident(_: Path) -> DataSet:
    """45 training images in two classes, 4 validation, 10 test; the first pixel is the image's number, never moved."""
    images = np.random.Generator(np.random.Philox(0)).integers(0, 256, (59, 3, 9, 8), dtype=np.uint8)
    labels = np.arange(59, dtype=np.int64) % 2
    return ResidentDataSet(
        "tiny",
        ("even", "odd"),
        train=LabelledImages(images[:49], labels[:49]),
        test=LabelledImages(images[49:], labels[49:]),
        validation=Holdout(size=4),
        augmentation=Augmentation(pad=2, flip=True),
    )


def streamed(root: Path) -> DataSet:
    """20 training images of two classes, 4 validation, 6 test."""
    write_folder(root, {"train": 12, "test": 3}, size=(20, 30))
    return StreamedDataSet("tiny", ImageFolder.list(root), holdout=Holdout(size=4), image_size=16)


both_kinds = pytest.mark.parametrize("make", [resident, streamed])


def same(first: Epoch, second: Epoch) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a, b) and torch.equal(s, t) for (a, s), (b, t) in zip(first, second, strict=True)
    )


@both_kinds
def test_an_epoch_repeats_itself_and_differs_from_others_and_other_seeds(
    make: Callable[[Path], DataSet], tmp_path: Path
) -> None:
    data = make(tmp_path)
    epoch = list(data.train(8, seed=3).epoch(5))
    assert same(epoch, list(data.train(8, seed=3).epoch(5)))
    assert not same(epoch, list(data.train(8, seed=3).epoch(6)))
    assert not same(epoch, list(data.train(8, seed=4).epoch(5)))


@both_kinds
@pytest.mark.parametrize("start_batch", [0, 1, 2, 3])
def test_a_resumed_epoch_continues_the_uninterrupted_one(
    make: Callable[[Path], DataSet], start_batch: int, tmp_path: Path
) -> None:
    data = make(tmp_path)
    whole = list(data.train(7, seed=2).epoch(4))
    assert same(whole[start_batch:], list(data.train(7, seed=2).epoch(4, start_batch=start_batch)))


@both_kinds
def test_an_epoch_has_the_batches_its_length_tells(make: Callable[[Path], DataSet], tmp_path: Path) -> None:
    data = make(tmp_path)
    loader = data.train(7)
    sizes = [len(labels) for _, labels in loader.epoch(0)]
    assert len(loader) == len(sizes) == -(-data.num_train // 7)
    assert sum(sizes) == data.num_train
    assert set(sizes[:-1]) == {7}
    assert list(loader.epoch(0, start_batch=len(loader))) == []


@both_kinds
def test_batches_are_normalised_floats_with_their_labels(make: Callable[[Path], DataSet], tmp_path: Path) -> None:
    data = make(tmp_path)
    images, labels = next(data.train(8).epoch(0))
    assert images.shape == (8, *data.input_shape)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.abs().max() < 4


@both_kinds
def test_validation_and_test_are_whole_in_fixed_order_and_not_augmented(
    make: Callable[[Path], DataSet], tmp_path: Path
) -> None:
    data = make(tmp_path)
    for loader, count in ((data.validation(3), data.num_validation), (data.test(3), data.num_test)):
        first = list(loader)
        assert sum(len(labels) for _, labels in first) == count
        assert same(first, list(loader.epoch(9)))
        assert same(first[1:], list(loader.epoch(0, start_batch=1)))


@both_kinds
def test_loaders_leave_torchs_global_randomness_alone(make: Callable[[Path], DataSet], tmp_path: Path) -> None:
    data = make(tmp_path)
    state = torch.get_rng_state()
    list(data.train(8).epoch(0))
    list(data.test(8))
    assert torch.equal(state, torch.get_rng_state())


@both_kinds
def test_a_last_training_batch_of_one_is_dropped(make: Callable[[Path], DataSet], tmp_path: Path) -> None:
    data = make(tmp_path)
    batch_size = data.num_train - 1
    loader = data.train(batch_size)
    assert [len(labels) for _, labels in loader.epoch(0)] == [batch_size]
    assert len(loader) == 1
    assert len(data.train(1)) == data.num_train
    assert sum(len(labels) for _, labels in data.test(data.num_test - 1)) == data.num_test


@both_kinds
def test_impossible_requests_of_a_loader_are_refused(make: Callable[[Path], DataSet], tmp_path: Path) -> None:
    data = make(tmp_path)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        data.train(0)
    loader = data.train(7)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        loader.epoch(-1)
    with pytest.raises(ValueError, match=rf"start_batch must be in \[0, {len(loader)}\], got {len(loader) + 1}"):
        loader.epoch(0, start_batch=len(loader) + 1)


def test_no_image_is_in_two_splits(tmp_path: Path) -> None:
    data = resident(tmp_path)

    def images(loader: BatchLoader) -> set[bytes]:
        return {image.numpy().tobytes() for batch, _ in loader.epoch(0) for image in batch}

    splits = [images(data.train(10, augment=False)), images(data.validation(10)), images(data.test(10))]
    assert [len(split) for split in splits] == [45, 4, 10]
    assert len(set.union(*splits)) == 59


def test_no_file_is_in_two_splits(tmp_path: Path) -> None:
    data = streamed(tmp_path)
    assert isinstance(data, StreamedDataSet)
    files = [data._train_files.paths, data._validation_files.paths, data._test_files.paths]
    assert [len(paths) for paths in files] == [20, 4, 6]
    assert len(set(sum(files, ()))) == 30


def test_an_unaugmented_epoch_holds_every_training_image_once_with_its_label(tmp_path: Path) -> None:
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    labels = np.arange(12, dtype=np.int64) % 3
    pool = LabelledImages(images, labels)
    data = ResidentDataSet(
        "numbers", ("0", "1", "2"), train=pool, test=pool, validation=Holdout(0.0), augmentation=Augmentation()
    )
    batches = list(data.train(5, seed=1).epoch(0))
    values = torch.cat([batch.flatten() for batch, _ in batches])
    order = torch.round(values * 143**0.5 / 12**0.5 + 5.5).int()  # the variance of 0..11 is 143 / 12
    assert sorted(order.tolist()) == list(range(12))
    assert order.tolist() != list(range(12))
    assert torch.equal(torch.cat([labels for _, labels in batches]), order.long() % 3)


def test_channels_have_zero_mean_and_unit_variance_over_the_training_split_alone(tmp_path: Path) -> None:
    ((images, _),) = resident(tmp_path).train(45, augment=False).epoch(0)
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-6, rtol=0)


def test_a_set_without_validation_images_says_so(tmp_path: Path) -> None:
    pool = LabelledImages(np.zeros((4, 1, 2, 2), dtype=np.uint8), np.array([0, 1, 0, 1]))
    data = ResidentDataSet(
        "blank", ("a", "b"), train=pool, test=pool, validation=Holdout(0.0), augmentation=Augmentation()
    )
    assert data.num_validation == 0
    with pytest.raises(DataSetError, match="blank has no validation images: none were held out of its training set"):
        data.validation(2)


@pytest.mark.parametrize("workers", [1, 2])
def test_streamed_batches_do_not_depend_on_the_number_of_workers(workers: int, tmp_path: Path) -> None:
    data = streamed(tmp_path)
    alone = list(data.train(6, seed=1).epoch(2, start_batch=1))
    assert same(alone, list(data.train(6, seed=1, workers=workers).epoch(2, start_batch=1)))
    assert same(list(data.test(4)), list(data.test(4, workers=workers)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_met_while_streaming_is_named_in_one_sentence(workers: int, tmp_path: Path) -> None:
    data = streamed(tmp_path)
    broken = tmp_path / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataSetError) as failure:
        list(data.test(2, workers=workers))
    assert str(failure.value) == f"cannot read image '{broken}': corrupt or not an image"


def test_a_negative_number_of_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        streamed(tmp_path).train(4, workers=-1)


def test_random_rectangles_stay_inside_with_the_published_area_and_shape() -> None:
    crop = RandomResizedCrop(side=8, seed=0)
    draws = np.random.Generator(np.random.Philox(1)).random((500, 40)).tolist()
    for draw in draws:
        left, upper, right, lower = crop._box(300, 200, draw)
        assert 0 <= left < right <= 300
        assert 0 <= upper < lower <= 200
        area, ratio = (right - left) * (lower - upper), (right - left) / (lower - upper)
        assert 0.078 < area / 60_000 <= 1
        assert 0.73 < ratio < 1.37


def test_a_rectangle_follows_from_seed_epoch_and_image() -> None:
    image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))

    def cut(seed: int, epoch: int, position: int) -> bytes:
        return RandomResizedCrop(side=8, seed=seed)(image, (epoch, position)).tobytes()

    assert cut(0, 0, 0) == cut(0, 0, 0)
    assert len({cut(0, 0, 0), cut(1, 0, 0), cut(0, 1, 0), cut(0, 0, 1)}) == 4


def test_the_central_crop_of_an_image_of_8_to_7_is_cut_without_resizing() -> None:
    pixels = np.random.Generator(np.random.Philox(0)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    cropped = CentreCrop(side=14)(Image.fromarray(pixels), (0, 0))
    assert np.array_equal(np.asarray(cropped), pixels[1:15, 1:15])


def test_an_image_too_long_for_any_rectangle_gives_its_centre() -> None:
    # Of 1000 x 10 pixels every rectangle of 8 % area and ratio up to 4:3 is too high.
    assert RandomResizedCrop(side=8, seed=0)._box(1000, 10, [0.5] * 40) == (493, 0, 506, 10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@both_kinds
def test_the_gpu_gets_the_cpus_batches(make: Callable[[Path], DataSet], tmp_path: Path) -> None:
    data = make(tmp_path)
    on_gpu = [(images.cpu(), labels.cpu()) for images, labels in data.train(8, seed=3, device="cuda").epoch(1)]
    assert same(on_gpu, list(data.train(8, seed=3).epoch(1)))
