"""One dataset of images serves both: measuring, and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dcnify.data import Examples, load_images
from dcnify.data.dataset import ImageDataset, ImageSubset
from dcnify.data.images import load_batch
from dcnify.errors import InputError

SIZE = {"size": (1, 4, 4), "mean": (0.0,), "std": (1.0,)}


class Greys(ImageDataset):
    """Image ``i`` has the value 10 i everywhere and the class ``i % 2``; number 3 is broken."""

    origin = "greys"
    classes = ("even", "odd")

    def __init__(self) -> None:
        self.labels = torch.arange(8) % 2

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3:
            raise InputError("broken")
        return Image.fromarray(np.full((4, 4), 10 * index, dtype=np.uint8)), index % 2


def test_a_reader_is_measured_on_without_another_line():
    batch = load_batch(Greys(), 8, **SIZE)
    values = (batch.tensor[:, 0, 0, 0] * 25.5).round().int().tolist()
    assert sorted(values) == [0, 1, 2, 4, 5, 6, 7]
    assert batch.labels.tolist() == [value % 2 for value in values]
    assert batch.skipped == (("greys 3", "broken"),)
    assert batch.classes == ("even", "odd")


def test_a_reader_is_trained_on_without_another_line():
    examples = Examples(Greys(), classes=2, mode="L")
    values = [np.asarray(image)[0, 0] // 10 for image, _ in examples]
    assert values == [0, 1, 2, 4, 4, 5, 6, 7]
    assert examples.unreadable() == [("greys 3", "broken")]


def test_a_subset_keeps_names_and_may_number_the_classes_otherwise():
    subset = ImageSubset(
        Greys(), torch.tensor([5, 2]), numbers=torch.tensor([40, 41]), classes=("x",) * 42
    )
    assert len(subset) == 2
    assert subset.name(0) == "greys 5"
    assert subset.labels.tolist() == [41, 40]
    assert [label for _, label in subset] == [41, 40]


def test_options_of_a_built_in_dataset_are_read_for_measuring_too():
    name = "builtin:cluttered-digits"
    size = {"size": (1, 40, 40), "mean": (0.0,), "std": (1.0,), "count": 3}
    bare = load_images(f"{name}?canvas=40&pieces=0", **size).tensor
    assert (
        0 < bare.count_nonzero() < load_images(f"{name}?canvas=40", **size).tensor.count_nonzero()
    )
    with pytest.raises(InputError, match="did you mean 'canvas'"):
        load_images(f"{name}?canvs=40", **size)
