"""Data is found where it lies, read as it is, and refused in one sentence where it is not what it should be."""

from __future__ import annotations

import gzip
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import write_folder, write_image
from PIL import Image

from itop.data import DATASETS, DataSetError, Padding, ResidentDataSet, StreamedDataSet, load_dataset
from itop.data import sources as data_sources
from itop.data.decoding import decode_images

SYSTEM_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITOP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("ITOP_DATA_ROOT", raising=False)


def write_idx(path: Path, values: np.ndarray, *, zipped: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    content = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if zipped else content)


def write_fashion_mnist(folder: Path, *, zipped: bool = True) -> Path:
    suffix = ".gz" if zipped else ""
    for prefix, count in (("train", 40), ("t10k", 20)):
        pixels = np.arange(count * 28 * 28).reshape(count, 28, 28) % 251
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", pixels, zipped=zipped)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count) % 10, zipped=zipped)
    return folder


# Digits


def test_digits_need_no_files_and_keep_one_test_set_for_all_seeds() -> None:
    first, second = load_dataset(), load_dataset("digits", seed=1)
    assert first.input_shape == (1, 8, 8)
    assert first.class_names == tuple("0123456789")
    assert (first.num_train, first.num_validation, first.num_test) == (1294, 144, 359)
    for (images, labels), (others, other_labels) in zip(first.test(100), second.test(100), strict=True):
        assert torch.equal(labels, other_labels)
        torch.testing.assert_close(images, others, atol=0.05, rtol=0)  # each has its training split's mean
    assert not torch.equal(next(iter(first.validation(144)))[0], next(iter(second.validation(144)))[0])


def test_digits_refuse_a_root_that_would_be_ignored(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match=r"digits come with scikit-learn and need no data root, got '.*'"):
        load_dataset("digits", tmp_path)


# Names and places


def test_an_unknown_data_set_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(DataSetError, match=r"unknown data set 'cifar1'; did you mean 'cifar10'\? known: digi"):
        load_dataset("cifar1")


def test_names_are_free_of_case_and_hyphens(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    assert load_dataset("Fashion_MNIST", tmp_path).name == "fashion-mnist"
    with pytest.raises(DataSetError, match="cifar10 needs a data root"):
        load_dataset("CIFAR-10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet", "fashion-mnist", "folder"])
def test_a_root_that_is_no_folder_is_refused(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(DataSetError) as failure:
        load_dataset(name, missing)
    assert str(failure.value) == f"data root '{missing}' is not a folder"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "holds no cifar10: expected cifar-10-batches-py or train/ and test/"),
        ("cifar100", "holds no cifar100: expected cifar-100-python or train/ and test/"),
        ("imagenet", "holds no imagenet: expected ILSVRC2012_img_train.tar to unpack with download or train/ and"),
        ("fashion-mnist", "holds no fashion-mnist: expected idx files or train/ and test/"),
        ("folder", "is no folder of images: it must hold train/ and test/ .* found readme.txt"),
    ],
)
def test_a_root_without_the_data_says_what_was_expected(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(DataSetError, match=expected):
        load_dataset(name, tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "imagenet"])
def test_without_a_root_a_set_says_how_to_give_one(name: str) -> None:
    with pytest.raises(DataSetError, match=f"{name} needs a data root with .*: give one, set ITOP_DATA_ROOT, or allow"):
        load_dataset(name)
    with pytest.raises(DataSetError, match="a folder of images needs its data root: give one or set ITOP_DATA_ROOT"):
        load_dataset("folder")


def test_the_environment_names_a_root_whose_sub_folders_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "cifar10", {"train": 2, "test": 1}, classes=tuple("abcdefghij"))
    monkeypatch.setenv("ITOP_DATA_ROOT", str(tmp_path))
    assert load_dataset("cifar10").num_test == 10
    monkeypatch.setenv("ITOP_DATA_ROOT", str(tmp_path / "cifar10"))
    assert load_dataset("cifar10").num_test == 10
    assert load_dataset("folder").num_test == 10
    monkeypatch.setenv("ITOP_DATA_ROOT", str(tmp_path / "gone"))
    with pytest.raises(DataSetError, match=r"ITOP_DATA_ROOT='.*gone' is not a folder"):
        load_dataset("cifar10")


# Folders of images


def test_a_folder_of_images_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 10, "val": 3}, classes=("zebra", "Ant", "bee"))
    data = load_dataset("folder", tmp_path, validation_size=3)
    assert isinstance(data, ResidentDataSet)
    assert data.name == tmp_path.name
    assert data.class_names == ("Ant", "bee", "zebra")
    assert data.input_shape == (3, 6, 5)
    assert (data.num_train, data.num_validation, data.num_test) == (27, 3, 9)
    images, labels = next(iter(data.test(9)))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    first = torch.from_numpy(np.array(Image.open(tmp_path / "val" / "Ant" / "0.png"))).permute(2, 0, 1)
    torch.testing.assert_close(images[0], data.normalisation.on(torch.device("cpu"))(first[None])[0])


def test_val_beside_test_is_the_validation_set(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 4, "val": 2, "test": 3})
    for kind in (load_dataset("folder", tmp_path), load_dataset("imagenet", tmp_path)):
        assert (kind.num_train, kind.num_validation, kind.num_test) == (8, 4, 6)


def test_images_below_a_class_folder_count_and_other_files_do_not(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 1})
    write_image(tmp_path / "train" / "cat" / "more" / "9.PNG")
    write_image(tmp_path / "train" / "cat" / ".hidden.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "list.csv").write_text("")
    assert load_dataset("folder", tmp_path, validation_fraction=0).num_train == 7


def test_grey_images_have_one_channel_and_are_not_augmented(tmp_path: Path) -> None:
    data = load_dataset("folder", write_folder(tmp_path, {"train": 3, "test": 1}, mode="L"))
    assert isinstance(data, ResidentDataSet)
    assert data.input_shape == (1, 6, 5)
    assert data.augmentation.changes_nothing


def test_one_coloured_image_makes_a_set_coloured(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 2}, mode="L")
    write_image(tmp_path / "test" / "dog" / "1.png", mode="RGB")
    assert load_dataset("folder", tmp_path).input_shape == (3, 6, 5)


def test_16_bit_grey_keeps_its_upper_half(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0x1234, 0xFF00], [0x00FF, 0x8001]], dtype=np.uint16)).save(path)
    assert decode_images([str(path)])[0, 0].tolist() == [[0x12, 0xFF], [0x00, 0x80]]


def test_transparency_and_palettes_become_colours(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", mode="RGBA")
    write_image(tmp_path / "b.png", mode="P")
    assert decode_images([str(tmp_path / "a.png"), str(tmp_path / "b.png")]).shape == (2, 3, 6, 5)


def test_small_images_of_several_sizes_are_refused_unless_resized(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 1})
    odd = tmp_path / "test" / "dog" / "0.png"
    write_image(odd, size=(7, 9))
    with pytest.raises(DataSetError) as failure:
        load_dataset("folder", tmp_path)
    assert str(failure.value) == (
        f"images that live in memory must have one size: '{tmp_path}/train/cat/0.png' is 6 x 5 pixels, "
        f"'{odd}' is 7 x 9; give an image size to resize them"
    )
    data = load_dataset("folder", tmp_path, image_size=4)
    assert isinstance(data, ResidentDataSet)
    assert data.input_shape == (3, 4, 4)


def test_large_images_are_streamed_whatever_their_sizes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 2, "test": 1}, size=(150, 140))
    write_image(tmp_path / "train" / "cat" / "wide.png", size=(20, 200))
    data = load_dataset("folder", tmp_path)
    assert isinstance(data, StreamedDataSet)
    assert data.input_shape == (3, 224, 224)
    assert isinstance(load_dataset("folder", tmp_path, image_size=32), ResidentDataSet)
    assert load_dataset("folder", tmp_path, image_size=160).input_shape == (3, 160, 160)
    with pytest.raises(DataSetError, match="folder is streamed with random resized crops and takes no other augment"):
        load_dataset("folder", tmp_path, augmentation=data_sources.NO_AUGMENTATION)


def test_many_small_images_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_sources, "RESIDENT_MAX_BYTES", 3 * 6 * 5 * 8 - 1)
    assert isinstance(load_dataset("folder", write_folder(tmp_path, {"train": 3, "test": 1})), StreamedDataSet)


def test_imagenet_is_streamed_from_class_folders_at_224_pixels(tmp_path: Path) -> None:
    data = load_dataset("imagenet", write_folder(tmp_path, {"train": 2, "val": 1}), validation_fraction=0)
    assert isinstance(data, StreamedDataSet)
    assert next(data.train(2).epoch(0))[0].shape == (2, 3, 224, 224)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_folder_is_refused(split: str, tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "train" / "emu").mkdir()
    write_image(tmp_path / "train" / "emu" / "0.png")
    (tmp_path / "test" / "emu").mkdir()
    write_image(tmp_path / "test" / "emu" / "0.png")
    (tmp_path / split / "emu" / "0.png").unlink()
    with pytest.raises(DataSetError, match=f"class folder '.*{split}/emu' holds no images"):
        load_dataset("folder", tmp_path)


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(DataSetError, match="train' must hold at least two class folders with images, found none"):
        load_dataset("folder", tmp_path)
    write_image(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(DataSetError, match="train' must hold at least two class folders with images, found only 'cat'"):
        load_dataset("folder", tmp_path)


def test_test_classes_must_be_those_of_training(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 2}, classes=("cat", "dog", "emu"))
    write_folder(tmp_path, {"test": 2}, classes=("cat", "cow", "dog"))
    with pytest.raises(DataSetError) as failure:
        load_dataset("folder", tmp_path)
    assert str(failure.value) == (
        f"the classes of '{tmp_path}/test' must be those of '{tmp_path}/train': missing emu; not in train/: cow"
    )


@pytest.mark.parametrize("content", [b"", b"not an image", "truncated"])
@pytest.mark.parametrize("place", ["train/cat/0.png", "train/dog/1.png", "test/dog/0.png"])
def test_a_corrupt_image_is_named(content: bytes | str, place: str, tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 2, "test": 1}, size=(30, 30))
    broken = tmp_path / place
    broken.write_bytes(content if isinstance(content, bytes) else broken.read_bytes()[:-60])
    with pytest.raises(DataSetError) as failure:
        load_dataset("folder", tmp_path)
    assert str(failure.value) == f"cannot read image '{broken}': corrupt or not an image"


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "test" / "cat" / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataSetError, match=r"cannot read image '.*link.png': No such file or directory"):
        load_dataset("folder", tmp_path)


def test_progress_is_told_from_nothing_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itop.data.decoding._CHUNK", 3)
    calls: list[tuple[int, int]] = []
    load_dataset("folder", write_folder(tmp_path, {"train": 3, "test": 1}), progress=lambda *call: calls.append(call))
    assert calls == [(3, 8), (6, 8), (8, 8)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_decoding_does_not_depend_on_the_number_of_threads(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itop.data.decoding._CHUNK", 2)
    write_folder(tmp_path, {"train": 5})
    paths = sorted(str(path) for path in tmp_path.rglob("*.png"))
    expected = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])
    assert np.array_equal(decode_images(paths, threads=threads), expected)


@pytest.mark.parametrize("image_size", [0, -3])
def test_an_image_size_below_one_is_refused(image_size: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"image_size must be at least 1, got {image_size}"):
        load_dataset("folder", tmp_path, image_size=image_size)


def test_sets_of_one_size_refuse_another() -> None:
    with pytest.raises(DataSetError, match="image_size resizes folders of images, not digits, got 16"):
        load_dataset("digits", image_size=16)


# The cache of decoded images


def counted(root: Path) -> int:
    """How many images are decoded when the folder is loaded."""
    decoded = 0

    def progress(done: int, _: int) -> None:
        nonlocal decoded
        decoded = done

    load_dataset("folder", root, progress=progress)
    return decoded


def test_images_are_decoded_once_and_again_only_after_a_change(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 1})
    assert [counted(tmp_path), counted(tmp_path)] == [8, 0]
    write_image(tmp_path / "train" / "cat" / "new.png")
    assert [counted(tmp_path), counted(tmp_path)] == [9, 0]
    changed = tmp_path / "train" / "cat" / "0.png"
    write_image(changed, level=77)
    os.utime(changed, ns=(1, 1))
    assert [counted(tmp_path), counted(tmp_path)] == [9, 0]


def test_cached_images_are_the_decoded_ones_and_one_state_is_kept(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 1})
    first, second = (next(iter(load_dataset("folder", tmp_path).test(2))) for _ in range(2))
    assert torch.equal(first[0], second[0])
    write_image(tmp_path / "train" / "cat" / "new.png")
    load_dataset("folder", tmp_path)
    assert len(list(Path(os.environ["ITOP_CACHE_DIR"]).rglob("*.*"))) == 1


@pytest.mark.parametrize("damage", ["truncated", "emptied", "other"])
def test_a_damaged_cache_entry_is_replaced(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path, {"train": 3, "test": 1})
    counted(tmp_path)
    (entry,) = Path(os.environ["ITOP_CACHE_DIR"]).rglob("*.npy")
    if damage == "other":
        np.save(entry, np.zeros((2, 3), dtype=np.uint8))
    else:
        entry.write_bytes(entry.read_bytes()[:-10] if damage == "truncated" else b"")
    with caplog.at_level(logging.WARNING):
        assert [counted(tmp_path), counted(tmp_path)] == [8, 0]
    assert len(caplog.records) == 1


def test_a_cache_entry_is_never_unpickled(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 3, "test": 1})
    counted(tmp_path)
    (entry,) = Path(os.environ["ITOP_CACHE_DIR"]).rglob("*.npy")
    with entry.open("wb") as file:
        np.save(file, np.array([{"an": "object"}], dtype=object), allow_pickle=True)
    assert counted(tmp_path) == 8
    entry.write_bytes(pickle.dumps("anything"))
    assert counted(tmp_path) == 8


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("ITOP_CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert counted(write_folder(tmp_path / "data", {"train": 3, "test": 1})) == 8
    assert "cannot keep decoded images" in caplog.text


# CIFAR


@pytest.mark.parametrize(("name", "padding"), [("cifar10", Padding.REFLECT), ("cifar100", Padding.ZERO)])
def test_cifar_in_class_folders_has_the_papers_augmentation(name: str, padding: Padding, tmp_path: Path) -> None:
    classes = tuple(f"{number:03d}" for number in range(int(name.removeprefix("cifar"))))
    data = load_dataset(name, write_folder(tmp_path, {"train": 2, "test": 1}, classes=classes, size=(32, 32)))
    assert isinstance(data, ResidentDataSet)
    assert data.name == name
    assert (data.augmentation.pad, data.augmentation.padding, data.augmentation.flip) == (4, padding, True)


def test_class_folders_of_another_set_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": 2, "test": 1})
    with pytest.raises(DataSetError, match=r"cifar10 has 10 classes, '.*' has 2; the data set 'folder' takes any"):
        load_dataset("cifar10", tmp_path)


def test_damaged_cifar_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataSetError, match=r"cannot read '.*cifar-10-batches-py': Dataset not found or corrupted"):
        load_dataset("cifar10", tmp_path)


def test_torchvisions_cifar_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    names = [f"class {number}" for number in range(10)]
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": names}))
    for filename, _ in CIFAR10.train_list + CIFAR10.test_list:
        pixels = np.arange(20 * 3072).reshape(20, 3072) % 256
        batch = {"data": pixels.astype(np.uint8), "labels": [number % 10 for number in range(20)]}
        (folder / filename).write_bytes(pickle.dumps(batch))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load_dataset("cifar10", tmp_path)
    assert data.class_names == tuple(names)
    assert (data.num_train, data.num_validation, data.num_test) == (90, 10, 20)
    assert data.input_shape == (3, 32, 32)
    raw = torch.arange(3072).reshape(1, 3, 32, 32).remainder(256).to(torch.uint8)
    assert isinstance(data, ResidentDataSet)
    torch.testing.assert_close(next(iter(data.test(1)))[0], data.normalisation.on(torch.device("cpu"))(raw))


def test_a_download_happens_only_when_asked_and_when_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(self: object) -> None:
        asked.append("download")
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", download)
    with pytest.raises(DataSetError, match="holds no cifar10"):
        load_dataset("cifar10", tmp_path)
    assert not asked
    with pytest.raises(DataSetError, match="cannot download cifar10: no network"):
        load_dataset("cifar10", tmp_path / "new", download=True)
    assert asked == ["download"]
    write_folder(tmp_path, {"train": 2, "test": 1}, classes=tuple("abcdefghij"))
    assert load_dataset("cifar10", tmp_path, download=True).num_train == 18
    assert asked == ["download"]


# Fashion-MNIST


@pytest.mark.parametrize("place", [".", "FashionMNIST/raw", "raw", "fashion-mnist"])
@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_is_read_from_idx_files(place: str, zipped: bool, tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / place, zipped=zipped)
    data = load_dataset("fashion-mnist", tmp_path)
    assert data.class_names[0] == "T-shirt/top"
    assert data.class_names[9] == "Ankle boot"
    assert data.input_shape == (1, 28, 28)
    assert (data.num_train, data.num_validation, data.num_test) == (36, 4, 20)
    assert next(iter(data.test(20)))[1].tolist() == [number % 10 for number in range(20)]


@pytest.mark.skipif(not SYSTEM_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_systems_fashion_mnist_is_found_without_a_root() -> None:
    data = load_dataset("fashion-mnist")
    assert (data.num_train, data.num_validation, data.num_test) == (54_000, 6_000, 10_000)
    assert torch.bincount(next(iter(data.validation(6_000)))[1]).tolist() == [600] * 10


def test_a_missing_or_damaged_idx_file_is_named(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path, zipped=False)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    content = labels.read_bytes()
    labels.write_bytes(content[:-1])
    with pytest.raises(DataSetError, match=r"t10k-labels-idx1-ubyte' is truncated .* announces 28 bytes and has 27"):
        load_dataset("fashion-mnist", tmp_path)
    labels.write_bytes(b"\x00\x00\x0d" + content[3:])
    with pytest.raises(DataSetError, match="t10k-labels-idx1-ubyte' is no idx file of bytes"):
        load_dataset("fashion-mnist", tmp_path)
    write_idx(labels, np.arange(19), zipped=False)
    with pytest.raises(DataSetError, match=r"the t10k images and labels in '.*' do not belong together"):
        load_dataset("fashion-mnist", tmp_path)
    labels.unlink()
    with pytest.raises(DataSetError, match=r"holds no t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"):
        load_dataset("fashion-mnist", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content)[:-4])
    with pytest.raises(DataSetError, match=r"cannot read '.*t10k-labels-idx1-ubyte.gz': "):
        load_dataset("fashion-mnist", tmp_path)


def test_every_data_set_is_described() -> None:
    assert list(DATASETS) == ["digits", "fashion-mnist", "cifar10", "cifar100", "imagenet", "folder"]
    assert all(source.__doc__ for source in DATASETS.values())
