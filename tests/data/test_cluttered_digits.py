"""The built-in dataset: the same images for everybody, and nothing of validation in training."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import DataLoader

from dcnify.data import ClutteredDigits, open_dataset
from dcnify.errors import InputError


def test_an_image_has_three_equal_channels_between_zero_and_one():
    image, label = ClutteredDigits("train", 10)[3]
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    assert image.min() == 0
    assert 0.5 < image.max() <= 1
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert label in range(10)


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    first, again, other = (ClutteredDigits("train", 50, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_an_image_does_not_depend_on_how_many_there_are():
    few, many = ClutteredDigits("validation", 1000), ClutteredDigits("validation", 1500)
    assert torch.equal(few.images, many.images[:1000])


def test_an_image_does_not_depend_on_order_or_workers():
    dataset = ClutteredDigits("train", 64)
    straight = torch.cat([images for images, _ in DataLoader(dataset, batch_size=16)])
    by_workers = DataLoader(dataset, batch_size=16, num_workers=2)
    assert torch.equal(straight, torch.cat([images for images, _ in by_workers]))
    assert torch.equal(straight[40], dataset[40][0])


def test_train_and_validation_share_no_digit():
    """Without clutter an image holds its digit and nothing else."""
    options = {"canvas": 16, "pieces": 0}
    train = ClutteredDigits("train", 20_000, **options).images.flatten(1).unique(dim=0)
    validation = ClutteredDigits("validation", 5_000, **options).images.flatten(1).unique(dim=0)
    assert len(train) > 1400
    assert len(validation) > 330
    together = torch.cat([train, validation]).unique(dim=0)
    assert len(together) == len(train) + len(validation)


def test_every_class_is_in_both_splits():
    for split in ("train", "validation"):
        counts = ClutteredDigits(split, 2000).labels.bincount(minlength=10)
        assert counts.min() > 150


def test_the_digit_is_anywhere_and_the_clutter_is_there():
    bare = ClutteredDigits("train", 2000, pieces=0).images
    assert (bare > 0).float().mean(0).max() < 0.7
    assert (bare > 0).any(0).float().mean() > 0.95
    cluttered = ClutteredDigits("train", 2000).images
    assert (cluttered > 0).float().mean() > (bare > 0).float().mean() + 0.03


def test_a_transform_is_applied_to_the_image():
    dataset = ClutteredDigits("train", 5, transform=lambda image: image.mean())
    assert dataset[0][0].shape == ()


def test_an_index_past_the_end_is_an_index_error():
    with pytest.raises(IndexError):
        ClutteredDigits("train", 5)[5]


@pytest.mark.parametrize(
    ("split", "options", "words"),
    [
        ("valid", {}, "did you mean 'validation'?"),
        ("xyz", {}, "there are train, validation"),
        ("train", {"size": 0}, "size must be at least 1"),
        ("train", {"digit": 40}, "digit=40, canvas=32"),
        ("train", {"piece": 20}, "piece=20"),
    ],
)
def test_options_that_make_no_sense_are_named(split, options, words):
    with pytest.raises(InputError, match="cluttered digits") as caught:
        ClutteredDigits(split, **options)
    assert words in str(caught.value)


def test_a_dataset_opens_by_name():
    dataset = open_dataset("builtin:cluttered-digits", "validation", size=7, canvas=40)
    assert len(dataset) == 7
    assert dataset[0][0].shape == (3, 40, 40)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("builtin:clutterd-digits", "did you mean 'builtin:cluttered-digits'?"),
        ("builtin:mnist", "there are builtin:cluttered-digits"),
        ("imagenet", "there are builtin:cluttered-digits"),
    ],
)
def test_an_unknown_dataset_names_the_known_ones(name, words):
    with pytest.raises(InputError) as caught:
        open_dataset(name)
    assert name in str(caught.value)
    assert words in str(caught.value)


def test_an_unknown_option_is_named():
    with pytest.raises(InputError, match="colour"):
        open_dataset("builtin:cluttered-digits", colour="red")


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install 'dcnify\[data\]'"):
        ClutteredDigits("train", 4)
