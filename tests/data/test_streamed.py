"""Labelled images of a stream: checked as they come, transformed in the same way each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.readers.reader import Reader
from torch.utils.data import DataLoader, get_worker_info

from dcnify.data.examples import StreamedExamples
from dcnify.data.readers.timm_dataset import ImageStream
from dcnify.errors import InputError


class Counting(Reader):
    """Ten grey images in all, every so many to a worker, labelled 0, 1, 0, 1, ..."""

    def __init__(self, wrong: int | None = None, target: object = 7, breaks_at: int = 99) -> None:
        super().__init__()
        self.wrong, self.target, self.breaks_at = wrong, target, breaks_at
        self.epoch = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 10

    def __iter__(self):
        worker = get_worker_info()
        for index in range(worker.id if worker else 0, 10, worker.num_workers if worker else 1):
            if index == self.breaks_at:
                raise ConnectionError("the hub\nhung up")
            image = Image.fromarray(np.full((4, 4), index, dtype=np.uint8))
            yield image, self.target if index == self.wrong else np.int64(index % 2)


def stream(reader: Counting, **options) -> StreamedExamples:
    return StreamedExamples(ImageStream(reader, "stream"), 2, **options)


def draw(image: Image.Image) -> torch.Tensor:
    return torch.tensor([float(np.asarray(image)[0, 0, 0]), torch.rand(()), np.random.rand()])


def read(examples: StreamedExamples, epoch: int = 0, **options) -> tuple[torch.Tensor, list[int]]:
    examples.transform = draw
    examples.set_epoch(epoch)
    batches = list(DataLoader(examples, batch_size=2, **options))
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_epoch_comes_out_the_same_and_another_does_not(workers):
    first, labels = read(stream(Counting()), num_workers=workers)
    assert sorted(first[:, 0].tolist()) == list(range(10))
    assert labels == [int(value) % 2 for value in first[:, 0]]
    again, _ = read(stream(Counting()), num_workers=workers)
    assert torch.equal(first, again)
    assert len(first[:, 1].unique()) == 10
    other, _ = read(stream(Counting()), 1, num_workers=workers)
    assert not torch.equal(first[:, 1], other[:, 1])
    seeded, _ = read(stream(Counting(), seed=1), num_workers=workers)
    assert not torch.equal(first[:, 1], seeded[:, 1])


def test_persistent_workers_hear_of_the_next_epoch():
    examples = stream(Counting())
    examples.transform = draw
    loader = DataLoader(examples, batch_size=2, num_workers=2, persistent_workers=True)
    read_so = []
    for epoch in (0, 1, 0):
        examples.set_epoch(epoch)
        read_so.append(torch.cat([images for images, _ in loader]))
    assert torch.equal(read_so[0], read_so[2])
    assert not torch.equal(read_so[0], read_so[1])


@pytest.mark.parametrize(
    ("target", "workers", "words"),
    [
        (7, 0, "label 7 of example 3 is not a class of the model, which has 2"),
        (7, 1, "label 7 of example 3 of worker 0 is not a class of the model, which has 2"),
        (None, 0, "example 3 has no label that is one class"),
        ([0, 1], 0, "example 3 has no label that is one class"),
    ],
)
def test_a_label_that_is_none_of_the_models_stops_the_stream(target, workers, words):
    examples = stream(Counting(3, target))
    with pytest.raises(InputError, match=f"^stream: {words}$"):
        read(examples, num_workers=workers)


def test_a_stream_that_breaks_off_is_one_line():
    with pytest.raises(InputError, match=r"^stream: example 4: the hub hung up$"):
        read(stream(Counting(breaks_at=4)))


def test_the_reader_keeps_its_length_and_hears_of_the_epoch():
    examples = stream(Counting(), mode="L")
    examples.set_epoch(4)
    assert examples.reader.epoch == 4
    assert len(examples) == 10
    assert examples.labels is None
    assert examples.unreadable() == []
    image, label = next(iter(examples))
    assert (image.mode, label) == ("L", 0)
