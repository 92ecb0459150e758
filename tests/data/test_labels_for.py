"""Whether the labels of some images are the classes of a model, and why not."""

from __future__ import annotations

import pytest
import torch
from timm.data import ImageNetInfo

from dcnify.data import ImageBatch, labels_for


def batch(labels: list[int] | None, classes: tuple[str, ...] | None = None, **more) -> ImageBatch:
    known = None if labels is None else torch.tensor(labels)
    count = 0 if labels is None else len(labels)
    return ImageBatch(
        torch.zeros(count, 3, 2, 2), ("",) * count, (), "here", known, classes, **more
    )


def test_as_many_classes_as_the_model_has_are_its_own():
    labels, reason = labels_for(batch([2, 0, 1], ("ant", "bee", "cat")), 3)
    assert labels.tolist() == [2, 0, 1]
    assert reason == ""


def test_labels_without_names_are_taken_if_they_are_in_range():
    assert labels_for(batch([9, 0]), 10)[0].tolist() == [9, 0]
    assert labels_for(batch([9, 0]), 9) == (None, "label 9 is not one of the model's 9 classes")
    assert labels_for(batch([-1, 0]), 9)[1] == "label -1 is not one of the model's 9 classes"


@pytest.mark.parametrize("num_classes", [2, 4, 1000])
def test_another_number_of_classes_is_the_reason_for_none(num_classes):
    labels, reason = labels_for(batch([0, 1], ("ant", "bee", "cat")), num_classes)
    assert labels is None
    assert reason == f"the images have 3 classes, the model {num_classes}"


def test_without_labels_the_source_says_why():
    assert labels_for(batch(None), 10) == (None, "the images have no labels")
    assert labels_for(batch(None, unlabelled="one file has no label"), 10)[1].startswith("one file")
    assert labels_for(batch([0]), 0) == (None, "the model has no classes")


@pytest.mark.parametrize(
    ("subset", "num_classes"), [("imagenet-1k", 1000), ("imagenet-12k", 11821)]
)
def test_some_folders_of_imagenet_keep_their_number_in_it(subset, num_classes):
    ids = ImageNetInfo(subset).label_names()
    assert len(ids) == num_classes
    picked = [700, 3, 41]
    classes = tuple(sorted(ids[number] for number in picked))
    labels, reason = labels_for(batch([0, 2, 1, 0], classes), num_classes)
    assert reason == ""
    assert [ids[label] for label in labels] == [classes[i] for i in (0, 2, 1, 0)]
    assert labels.dtype == torch.int64
    assert labels_for(batch([0], ("n00000000", *classes)), num_classes)[0] is None
