"""The study on a diffusion U-Net: the distance by which it judges images, and its parts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "studies"))

from unet_study.quality import digits, frechet


def features(mean, scale, seed=0, count=20_000):
    make = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=make).double() * torch.tensor(scale) + mean


def test_the_distance_of_gaussians_is_that_of_means_and_of_square_roots_of_covariances():
    one, other = features(1.0, [1.0, 2.0, 0.5]), features(3.0, [2.0, 2.0, 1.5], seed=1)
    assert frechet(one, other) == pytest.approx(3 * 4 + 1 + 0 + 1, rel=0.05)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)


def test_digits_have_no_scraps_around_them_and_are_from_minus_one_to_one():
    images = digits("validation", 50)
    assert images.shape == (50, 1, 16, 16)
    assert images.min() == -1
    assert 0.5 < images.max() <= 1
    assert (images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == -1).double().mean() > 0.9


@pytest.mark.slow
def test_the_same_noise_gives_the_same_images_and_training_lowers_the_loss():
    pytest.importorskip("diffusers")
    from unet_study.diffusion import drawn, noise_loss, train, unet

    images, model = digits("train", 128), unet()
    before = noise_loss(model, images)
    trained = train(model, images, 30, 2e-3, seed=0)
    assert noise_loss(model, images) < 0.9 * before
    assert torch.equal(drawn(trained, 2, steps=2), drawn(trained, 2, steps=2))
