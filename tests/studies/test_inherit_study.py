"""The parts of the study on models trained here that need no training."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "studies"))
pytest.importorskip("skimage")

from inherit_study import stretched
from inherit_study.conversions import chosen, patched, prepared, zeroed
from inherit_study.models import SUBJECTS
from inherit_study.variants import VARIANTS

import dcnify

PER_PHOTOGRAPH = stretched.DIRECTIONS


def elongation(crops: np.ndarray) -> float:
    """How much slower grey levels change sideways than upwards: below 1 if stretched upwards."""
    along, across = (np.abs(np.diff(crops, axis=axis)).mean() for axis in (1, 2))
    return along / across


def test_what_is_held_out_is_no_part_of_what_is_trained_on():
    for seen, held_out in stretched._sides():
        assert seen.height == held_out.height
        assert seen.width > held_out.width > 1.5 * stretched.SIZE


def test_the_label_says_in_which_direction_a_photograph_is_stretched():
    images, labels = stretched.crops(600, seed=3, held_out=True)
    images, directions = images.float().numpy(), (labels % PER_PHOTOGRAPH).numpy()
    sideways, upwards = elongation(images[directions == 0]), elongation(images[directions == 2])
    assert sideways > 1.2
    assert upwards < 1 / 1.2
    assert 0.8 < elongation(images[directions % 2 == 1]) < 1.25


def test_the_mean_of_a_crop_does_not_tell_its_photograph():
    images, labels = stretched.crops(300, seed=3, held_out=False)
    means = images.float().mean((1, 2))
    assert labels.unique().numel() == len(stretched.PHOTOGRAPHS) * PER_PHOTOGRAPH
    assert (means - 128).abs().max() < 12


def test_crops_are_the_same_each_time():
    once, again = (stretched.crops(5, seed=1, held_out=False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [subject.name for subject in SUBJECTS])
def test_every_subject_has_layers_that_its_recipe_takes(name):
    subject = next(one for one in SUBJECTS if one.name == name)
    model = timm.create_model(subject.architecture, num_classes=10, **subject.options).eval()
    size = {"digits": 32, "photographs": 96, "stretched photographs": 64}[subject.task]
    plan = dcnify.plan(model, dcnify.Recipe.load(subject.recipe), torch.zeros(1, 3, size, size))
    half = subject.half or range(0, len(plan.swaps), 2)
    assert 0 < len(half) < len(plan.swaps)
    assert max(half) < len(plan.swaps)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_changes_what_there_is(name):
    with patched(VARIANTS[name].get("patch", {})):
        pass


@pytest.mark.slow
def test_layers_that_are_parts_of_a_forward_can_be_zeroed():
    subject = next(one for one in SUBJECTS if one.name == "Swin")
    model = timm.create_model(subject.architecture, num_classes=10, **subject.options).eval()
    images = torch.randn(2, 3, 32, 32)
    paths = chosen(model, subject, "half")
    modules = prepared(model, subject)
    assert torch.equal(modules(images), model(images))
    assert not torch.equal(zeroed(modules, paths)(images), model(images))


def test_zeroed_layers_give_nothing_and_the_original_stays():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2, bias=False))
    images = torch.randn(4, 3)
    assert not zeroed(model, ["0"])(images).any()
    assert model(images).any()
