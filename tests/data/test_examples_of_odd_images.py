"""Odd images are examples like any others, and broken ones cost no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.numbered_images import draw, files, noise
from torch.utils.data import DataLoader

from dcnify.data import Examples
from dcnify.data.readers.folder import FileDataset
from dcnify.errors import InputError


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
