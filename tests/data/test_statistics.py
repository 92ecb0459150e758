"""How images become a model's input: what a person gives, what a file says, what is done."""

import pytest
import torch

from dcnify.data import ImageSpec, load_images
from dcnify.data.statistics import IMAGENET, Statistics
from dcnify.errors import InputError

SIZE = (3, 16, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5", (0.5, 0.5, 0.5)),
        ("0.485,0.456,0.406", (0.485, 0.456, 0.406)),
        ("0.485 0.456 0.406", (0.485, 0.456, 0.406)),
        ((0.25, 0.75), (0.25, 0.75)),
        (0.5, (0.5, 0.5, 0.5)),
    ],
)
def test_one_number_stands_for_all_channels(text, expected):
    assert ImageSpec(mean=text).statistics.mean == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mean": "half"}, "--mean half: expected 0.5, or one for each channel"),
        ({"mean": ""}, "--mean : expected 0.5"),
        ({"mean": "127.5"}, "--mean 127.5: .*from 0 to 1.*did you mean 0.5?"),
        ({"mean": "nan"}, "--mean nan: .*from 0 to 1"),
        ({"std": "0"}, "--std 0: .*from 0 to 1"),
        ({"interpolation": "bilinaer"}, "--interpolation bilinaer, did you mean 'bilinear'"),
    ],
)
def test_statistics_that_cannot_be_are_refused_when_they_are_given(given, words):
    with pytest.raises(InputError, match=words):
        ImageSpec(**given)


def test_what_is_asked_for_wins_over_the_models_own():
    spec = ImageSpec(image_count=2, mean="0.1,0.2,0.3", interpolation="bilinear")
    batch = spec.load(SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="nearest")
    assert batch.statistics == Statistics((0.1, 0.2, 0.3), (0.25, 0.25, 0.25), "bilinear")
    how = {"mean": (0.1, 0.2, 0.3), "std": (0.25,) * 3, "interpolation": "bilinear"}
    assert torch.equal(batch.tensor, load_images(None, count=2, size=SIZE, **how).tensor)
    assert ImageSpec.from_json(spec.to_json()) == spec


def test_statistics_alone_ask_for_no_images():
    assert ImageSpec(mean="0.5").load(SIZE) is None


def test_resampling_is_the_one_that_is_named():
    known = {"count": 1, "size": SIZE, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    default, bicubic, bilinear = (
        load_images(None, **known, **how).tensor
        for how in ({}, {"interpolation": "bicubic"}, {"interpolation": "bilinear"})
    )
    assert torch.equal(default, bicubic)
    assert not torch.equal(default, bilinear)


@pytest.mark.parametrize(
    "config",
    [None, {}, {"mean": 0.5}, {"mean": ["a"]}, {"mean": []}, {"interpolation": "random"}],
)
def test_what_a_file_says_otherwise_than_in_numbers_is_unknown(config):
    assert Statistics.of(config) == Statistics()
    assert Statistics.of(config).over(IMAGENET) == IMAGENET


def test_statistics_are_shown_as_short_as_they_can_be():
    assert str(Statistics((0.5,) * 3, (0.229, 0.224, 0.225))) == "mean 0.5, std 0.229,0.224,0.225"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_images_are_the_same_again_by_the_statistics_that_they_record(channels):
    size = (channels, 16, 16)
    first = load_images(None, count=2, size=size, **IMAGENET.known())
    again = load_images(None, count=2, size=size, **first.statistics.known())
    assert torch.equal(first.tensor, again.tensor)
