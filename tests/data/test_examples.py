"""Examples come out the same whichever process makes them, and broken images cost no training."""

from __future__ import annotations

import copy
import functools
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from dcnify.data import Examples, open_labelled
from dcnify.data.readers.folder import FileDataset
from dcnify.errors import InputError


def draw(image: Image.Image) -> torch.Tensor:
    """A transform that uses every source of random numbers, and the image."""
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
    pixels = np.asarray(image, dtype=np.float64)
    return torch.cat([torch.tensor([*drawn, pixels.mean()]), torch.rand(2).double()])


def noise(seed: int = 0, size: int = 16) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(size, size, 3))
    return Image.fromarray(values.astype(np.uint8))


def photos(root: Path, names: list[Path], labels: torch.Tensor) -> FileDataset:
    dataset = FileDataset(root, names, labels)
    dataset.origin = "photos"
    return dataset


def files(root: Path, total: int = 4, broken: dict[int, bytes] | None = None) -> Examples:
    """Numbered files, some with other content, as training examples of two classes."""
    for index in range(total):
        noise(index).save(root / f"{index:02}.png")
    for index, content in (broken or {}).items():
        (root / f"{index:02}.png").write_bytes(content)
    names = sorted(path.relative_to(root) for path in root.iterdir())
    labels = torch.arange(len(names)) % 2
    examples = Examples(photos(root, names, labels), classes=2)
    examples.transform = draw
    return examples


def digits(**options) -> Examples:
    examples = open_labelled("builtin:cluttered-digits", count=12, **options).train
    examples.transform = draw
    return examples


def epochs(examples: Examples, numbers=(0, 1), **options) -> list[torch.Tensor]:
    loader = DataLoader(examples, batch_size=3, **options)
    read = []
    for number in numbers:
        examples.set_epoch(number)
        read.append(torch.cat([images for images, _ in loader]))
    return read


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_what_the_main_process_makes_in_each_epoch(persistent):
    alone = epochs(digits(), (0, 1, 0))
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(alone[0], alone[2])
    together = epochs(digits(), (0, 1, 0), num_workers=2, persistent_workers=persistent)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_spawned_workers_hear_of_the_epoch_and_tell_of_broken_files(tmp_path):
    examples = files(tmp_path, 4, {1: b"broken"})
    alone = epochs(examples)
    again = files(tmp_path, 4, {1: b"broken"})
    spawned = epochs(again, num_workers=1, persistent_workers=True, multiprocessing_context="spawn")
    assert all(torch.equal(one, other) for one, other in zip(alone, spawned, strict=True))
    assert again.unreadable() == [("01.png", "not an image")]


@functools.cache
def same_digits(seed: int) -> Examples:
    return digits(seed=seed)


@settings(max_examples=40)
@given(
    seed=st.sampled_from([0, 1]),
    epoch=st.integers(0, 1 << 40),
    order=st.lists(st.integers(0, 11), min_size=1, max_size=6),
    ambient=st.integers(0, 1000),
)
def test_an_example_depends_on_seed_epoch_and_number_alone(seed, epoch, order, ambient):
    examples = same_digits(seed)
    examples.set_epoch(epoch)
    expected = {index: examples[index][0] for index in range(12)}
    random.seed(ambient)
    np.random.seed(ambient)
    torch.manual_seed(ambient)
    for index, (drawn, _) in zip(order, examples.__getitems__(order), strict=True):
        assert torch.equal(drawn, expected[index])
    assert len({tuple(drawn.tolist()) for drawn in expected.values()}) == 12
    examples.set_epoch(epoch + 1)
    assert not torch.equal(examples[0][0], expected[0])
    same_digits(1 - seed).set_epoch(epoch)
    assert not torch.equal(same_digits(1 - seed)[0][0][:4], expected[0][:4])


@settings(max_examples=20)
@given(ambient=st.integers(0, 1000), odd=st.booleans(), broken=st.booleans())
def test_random_numbers_go_on_as_if_no_example_had_been_made(ambient, odd, broken):
    def fail(image):
        raise ValueError(f"drew {draw(image)}")

    def drawn() -> list[float]:
        return [random.gauss(0, 1), np.random.randn(), float(torch.randn(())), random.random()]

    def start() -> None:
        random.seed(ambient)
        np.random.seed(ambient)
        torch.manual_seed(ambient)
        if odd:  # half of a pair of Gaussians is kept for later
            drawn()

    examples = same_digits(0)
    start()
    expected = drawn()
    start()
    examples.transform = fail if broken else draw
    for make in (lambda: examples[3], lambda: examples.__getitems__([1, 2])):
        if broken:
            with pytest.raises(ValueError, match="drew"):
                make()
        else:
            make()
    examples.transform = draw
    assert drawn() == expected


def test_a_transform_that_is_not_random_leaves_the_random_numbers_alone():
    examples = digits()
    examples.random = False
    random.seed(7)
    expected = random.Random(7).random()
    assert examples[0][0][0] == expected


def test_without_a_transform_there_is_an_image(tmp_path):
    examples = files(tmp_path)
    examples.transform = None
    image, label = examples[-1]
    assert isinstance(image, Image.Image)
    assert label == 1
    assert len(list(examples)) == len(examples) == 4
    with pytest.raises(IndexError):
        examples[4]


def bomb() -> bytes:
    """A BMP of a few bytes that says it is 60,000 pixels wide and high."""
    head = np.array([60_000, 60_000], dtype="<i4").tobytes()
    return b"BM" + bytes(8) + b"\x36\0\0\0\x28\0\0\0" + head + b"\x01\0\x18\0" + bytes(64)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_place_of_a_broken_file_is_taken_by_the_next_and_it_is_told(tmp_path, workers):
    noise(3).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "whole.png").unlink()
    broken = {1: b"", 2: b"just text", 4: whole[: len(whole) // 2], 6: bomb(), 9: b"\x89PNG"}
    examples = files(tmp_path, 10, broken)
    assert examples.unreadable() == []
    for index in range(4):
        examples[0 if index else 3]
    assert examples.unreadable() == []
    examples.transform = np.array
    batches = list(DataLoader(examples, batch_size=5, num_workers=workers))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    taken = [0, 3, 3, 3, 5, 5, 7, 7, 8, 0]
    expected = torch.stack([torch.tensor(np.asarray(noise(index))) for index in taken])
    assert torch.equal(images, expected)
    assert labels.tolist() == [index % 2 for index in taken]
    reasons = dict(examples.unreadable())
    assert list(reasons) == ["01.png", "02.png", "04.png", "06.png", "09.png"]
    assert reasons["01.png"] == "empty file"
    assert reasons["02.png"] == "not an image"
    assert "truncated" in reasons["04.png"]
    assert reasons["06.png"] == "more than 89,478,485 pixels"


def test_a_file_that_can_be_read_again_is_told_as_such(tmp_path):
    examples = files(tmp_path, 2, {0: b""})
    examples[0]
    noise().save(tmp_path / "00.png")
    assert examples.unreadable() == [("00.png", "could not be read before; now it can")]


@pytest.mark.parametrize(("total", "workers"), [(3, 0), (60, 0), (60, 1)])
def test_nothing_but_broken_files_is_one_line_from_a_worker_too(tmp_path, total, workers):
    examples = files(tmp_path, total, {index: b"text" for index in range(total)})
    with pytest.raises(InputError) as caught:
        list(DataLoader(examples, batch_size=2, num_workers=workers))
    row = "50 images in a row" if total == 60 else "3 images"
    assert str(caught.value) == f"photos: {row} cannot be read; 00.png: not an image"


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "png"), ("P", "png"), ("RGBA", "png"), ("I;16", "png"), ("CMYK", "tiff"), ("1", "png")],
)
@pytest.mark.parametrize("wanted", ["RGB", "L"])
def test_every_kind_of_image_comes_in_one_mode(tmp_path, mode, ending, wanted):
    if mode == "I;16":
        values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        Image.fromarray(values).save(tmp_path / "a.png")
    else:
        noise().convert(mode).save(tmp_path / f"a.{ending}")
    dataset = FileDataset(tmp_path, [Path(f"a.{ending}")], torch.zeros(1, dtype=torch.int64))
    image, _ = Examples(dataset, classes=1, mode=wanted)[0]
    assert image.mode == wanted
    if mode == "I;16":
        spread = np.asarray(image.convert("L"))
        assert (spread.min(), spread.max()) == (0, 255)
        assert len(np.unique(spread)) > 200


def test_a_photograph_is_turned_upright(tmp_path):
    image = Image.new("RGB", (20, 10), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    dataset = FileDataset(tmp_path, [Path("a.jpg")], torch.zeros(1, dtype=torch.int64))
    assert Examples(dataset, classes=1)[0][0].size == (10, 20)


class Unlabelled(FileDataset):
    """Files of which only reading tells the label."""

    def __getitem__(self, index):
        return super().__getitem__(index)[0], self.given[index]


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (7, "label 7 of 01.png is not a class of the model, which has 2"),
        (-1, "label -1 of 01.png is not a class of the model, which has 2"),
        (None, "01.png has no label that is one class"),
    ],
)
def test_a_label_that_only_reading_tells_is_checked_as_it_comes(tmp_path, label, words):
    noise().save(tmp_path / "00.png")
    noise().save(tmp_path / "01.png")
    dataset = Unlabelled(tmp_path, [Path("00.png"), Path("01.png")], torch.zeros(2))
    dataset.origin, dataset.given = "photos", [1, label]
    examples = Examples(dataset, classes=2)
    examples.transform = draw
    assert examples[0][1] == 1
    with pytest.raises(InputError) as caught:
        list(DataLoader(examples, batch_size=1))
    assert str(caught.value) == f"photos: {words}"


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_has_an_epoch_of_its_own_that_its_workers_see(tmp_path, twin):
    examples = files(tmp_path)
    examples.set_epoch(5)
    other = twin(examples)
    assert torch.equal(other[0][0], examples[0][0])
    other.set_epoch(6)
    assert not torch.equal(other[0][0], examples[0][0])
    options = {"num_workers": 1, "persistent_workers": True}
    for one, same in zip(epochs(twin(examples), **options), epochs(examples), strict=True):
        assert torch.equal(one, same)


def test_timms_own_loader_takes_them(tmp_path):
    from timm.data import create_loader

    examples = files(tmp_path, 8)
    options = {
        "input_size": (3, 16, 16),
        "batch_size": 4,
        "is_training": True,
        "auto_augment": "rand-m9-mstd0.5",
        "re_prob": 0.25,
        "use_prefetcher": False,
        "device": torch.device("cpu"),
    }
    read = []
    for workers in (0, 2):
        loader = create_loader(examples, num_workers=workers, **options)
        torch.manual_seed(0)  # of the order
        examples.set_epoch(3)
        images, labels = zip(*loader, strict=True)
        read.append((torch.cat(images), torch.cat(labels)))
    assert read[0][0].shape == (8, 3, 16, 16)
    assert torch.equal(read[0][0], read[1][0])
    assert torch.equal(read[0][1], read[1][1])
