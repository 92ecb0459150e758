"""What timm's auto-augment policies make of training images, with the Pillow that is installed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from support.finetune_cases import digits

from dcnify.data import random_state
from dcnify.errors import InputError
from dcnify.finetune.training.loaders import training_loader
from dcnify.recipe import load_finetune

POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand-m10-n4-p1-mstd101",
    "rand-m1-n4-p1",
    "rand-m30-n4-p1-mmax30-inc1",
    "rand-m9-mstd0.5-inc1-t3aw",
    "augmix-m10-w2",
    "augmix-m5-d2-b1",
    "original-mstd2",
    "originalr-mstd2",
    "v0-mstd2",
    "v0r",
    "3a",
)
GREY, COLOUR = 1, 3


def loader(tmp_path, policy, channels, *, mean=None):
    """Of a stage with this policy, over a few digits."""
    file = tmp_path / "stages.yaml"
    file.write_text(
        "stages:\n  - {name: one, steps: 1, batch_size: 8, losses: {labels: 1}, "
        f"optimizer: {{lr: 1.0e-3}}, augment: {{auto: {policy}}}}}\n"
    )
    dataset = digits(10, "L" if channels == GREY else "RGB", 32).train
    mean = mean or (0.5,) * channels
    data = {"input_size": (channels, 32, 32), "mean": mean, "std": mean}
    return training_loader(dataset, load_finetune(str(file)).stages[0], data, 0)


def noise(channels):
    """A PIL image with every value in it."""
    shape = (32, 32) if channels == GREY else (32, 32, channels)
    values = np.arange(np.prod(shape)) % 256
    return Image.fromarray(np.random.default_rng(0).permutation(values).astype("u1").reshape(shape))


def ops(transform):
    """The operations of the policy in a transform."""
    (policy,) = (one for one in transform.transforms if hasattr(one, "ops"))
    return policy.ops


@pytest.mark.parametrize("channels", [GREY, COLOUR])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_of_timm_never_ends_a_training(policy, channels, tmp_path):
    transform = loader(tmp_path, policy, channels).dataset.transform
    random_state.seed(0)
    image = noise(channels)
    for _ in range(150):
        made = transform(image)
        assert made.shape == (channels, 32, 32)
        assert made.isfinite().all()


@pytest.mark.parametrize("channels", [GREY, COLOUR])
@pytest.mark.parametrize("policy", ["rand", "rand-inc1", "rand-t3a", "rand-inc1-tweights"])
def test_every_operation_works_at_every_magnitude(policy, channels, tmp_path):
    image = noise(channels)
    for op in ops(loader(tmp_path, policy, channels).dataset.transform):
        op.prob = 1.0
        for magnitude in (0, 1, 2.4, 2.5, 5, 9.99, 10):
            op.magnitude = magnitude
            for _ in range(4):  # half of them to the other side
                made = op(image)
                assert (made.mode, made.size) == (image.mode, image.size)


@pytest.mark.parametrize("channels", [GREY, COLOUR])
@pytest.mark.parametrize(("policy", "magnitude"), [("rand", 0), ("rand-inc1", 10)])
def test_an_image_of_which_no_bit_is_kept_is_black(policy, magnitude, channels, tmp_path):
    found = ops(loader(tmp_path, policy, channels).dataset.transform)
    (op,) = (one for one in found if one.name.startswith("Posterize"))
    op.prob, op.magnitude = 1.0, magnitude
    assert not np.asarray(op(noise(channels))).any()
    op.magnitude = 5
    assert np.array_equal(np.asarray(op(noise(channels))), np.asarray(noise(channels)) & 0b11000000)


def test_timm_itself_is_not_changed(tmp_path):
    from timm.data import auto_augment

    loader(tmp_path, "rand-m9-mstd0.5-inc1", COLOUR)
    assert auto_augment.NAME_TO_OP["Posterize"] is auto_augment.posterize
    assert auto_augment.AugmentOp("Posterize").aug_fn is auto_augment.posterize
    assert auto_augment.posterize.__module__ == auto_augment.__name__


@pytest.mark.parametrize("policy", ["rand-m10-mstd1-inc1", "augmix-m10", "v0"])
def test_what_a_worker_process_is_sent_makes_the_same_images(policy, tmp_path):
    dataset = loader(tmp_path, policy, COLOUR).dataset
    sent = pickle.loads(pickle.dumps(dataset))
    for place in range(len(dataset)):
        assert torch.equal(dataset[place][0], sent[place][0])
        assert torch.equal(dataset[place][0], dataset[place][0])


@pytest.mark.parametrize(
    ("policy", "words"),
    [("rand-n20-tweights", "larger sample than population"), ("augmix-a0", "alpha")],
)
def test_a_policy_that_works_on_no_image_is_told_before_the_training(policy, words, tmp_path):
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=f"augment: no image can be changed so: .*{words}"):
        loader(tmp_path, policy, COLOUR)
    assert torch.equal(before, torch.get_rng_state())


def test_a_grey_model_that_says_nothing_of_its_input_gets_one_channel(tmp_path):
    made = loader(tmp_path, "rand-m9-mstd0.5-inc1", GREY, mean=(0.4, 0.5, 0.6))
    assert next(iter(made))[0].shape == (8, 1, 32, 32)
