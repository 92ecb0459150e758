"""Requests for images: JSON in and out, opened without another word."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dcnify.data import DataSpec, ImageSpec, load_images, open_labelled
from dcnify.errors import InputError

DIGITS = "builtin:cluttered-digits"


@pytest.mark.parametrize(
    "spec", [ImageSpec(), ImageSpec(DIGITS, "validation", None, 5), DataSpec(DIGITS, image_count=9)]
)
def test_a_request_survives_json(spec):
    assert type(spec).from_json(spec.to_json()) == spec


def test_a_request_loads_what_load_images_loads():
    spec = ImageSpec(DIGITS, split="validation", image_count=5)
    loaded = spec.load((3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    asked = {"count": 5, "size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert torch.equal(loaded.tensor, load_images(DIGITS, split="validation", **asked).tensor)


def test_no_request_leaves_the_images_to_the_caller():
    assert ImageSpec().load((3, 8, 8)) is None
    assert len(ImageSpec().load((3, 8, 8), count=2).names) == 2


def test_a_request_opens_what_open_labelled_opens():
    data = DataSpec(DIGITS, image_count=9).open(classes=10, mode="L")
    expected = open_labelled(DIGITS, count=9, classes=10, mode="L")
    assert data.origin == expected.origin
    assert data.train[3][0].tobytes() == expected.train[3][0].tobytes()


def test_training_images_are_measured_on_under_the_same_name():
    spec = DataSpec("nowhere", split="train", data_dir=None).image_spec(4)
    with pytest.raises(InputError, match=r"^data: there is no folder nowhere"):
        spec.load((3, 8, 8), called="data")


@pytest.mark.parametrize("count", [0, -1, 5000])
def test_a_number_of_images_out_of_range_is_refused(count):
    with pytest.raises(InputError, match=r"--image-count.*1 to 4096"):
        ImageSpec(image_count=count)


def test_a_request_is_made_without_importing_torch():
    code = "import sys, dcnify.data.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
