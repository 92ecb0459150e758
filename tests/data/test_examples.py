"""Examples come out the same whichever process makes them."""

from __future__ import annotations

import copy
import functools
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.numbered_images import draw, files
from torch.utils.data import DataLoader

from dcnify.data import Examples, open_labelled


def digits(**options) -> Examples:
    examples = open_labelled("builtin:cluttered-digits", count=12, **options).train
    examples.transform = draw
    return examples


def epochs(examples: Examples, numbers=(0, 1), **options) -> list[torch.Tensor]:
    loader = DataLoader(examples, batch_size=3, **options)
    read = []
    for number in numbers:
        examples.set_epoch(number)
        read.append(torch.cat([images for images, _ in loader]))
    return read


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_make_what_the_main_process_makes_in_each_epoch(persistent):
    alone = epochs(digits(), (0, 1, 0))
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(alone[0], alone[2])
    together = epochs(digits(), (0, 1, 0), num_workers=2, persistent_workers=persistent)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_spawned_workers_hear_of_the_epoch_and_tell_of_broken_files(tmp_path):
    examples = files(tmp_path, 4, {1: b"broken"})
    alone = epochs(examples)
    again = files(tmp_path, 4, {1: b"broken"})
    spawned = epochs(again, num_workers=1, persistent_workers=True, multiprocessing_context="spawn")
    assert all(torch.equal(one, other) for one, other in zip(alone, spawned, strict=True))
    assert again.unreadable() == [("01.png", "not an image")]


@functools.cache
def same_digits(seed: int) -> Examples:
    return digits(seed=seed)


@settings(max_examples=40)
@given(
    seed=st.sampled_from([0, 1]),
    epoch=st.integers(0, 1 << 40),
    order=st.lists(st.integers(0, 11), min_size=1, max_size=6),
    ambient=st.integers(0, 1000),
)
def test_an_example_depends_on_seed_epoch_and_number_alone(seed, epoch, order, ambient):
    examples = same_digits(seed)
    examples.set_epoch(epoch)
    expected = {index: examples[index][0] for index in range(12)}
    random.seed(ambient)
    np.random.seed(ambient)
    torch.manual_seed(ambient)
    for index, (drawn, _) in zip(order, examples.__getitems__(order), strict=True):
        assert torch.equal(drawn, expected[index])
    assert len({tuple(drawn.tolist()) for drawn in expected.values()}) == 12
    examples.set_epoch(epoch + 1)
    assert not torch.equal(examples[0][0], expected[0])
    same_digits(1 - seed).set_epoch(epoch)
    assert not torch.equal(same_digits(1 - seed)[0][0][:4], expected[0][:4])


@settings(max_examples=20)
@given(ambient=st.integers(0, 1000), odd=st.booleans(), broken=st.booleans())
def test_random_numbers_go_on_as_if_no_example_had_been_made(ambient, odd, broken):
    def fail(image):
        raise ValueError(f"drew {draw(image)}")

    def drawn() -> list[float]:
        return [random.gauss(0, 1), np.random.randn(), float(torch.randn(())), random.random()]

    def start() -> None:
        random.seed(ambient)
        np.random.seed(ambient)
        torch.manual_seed(ambient)
        if odd:  # half of a pair of Gaussians is kept for later
            drawn()

    examples = same_digits(0)
    start()
    expected = drawn()
    start()
    examples.transform = fail if broken else draw
    for make in (lambda: examples[3], lambda: examples.__getitems__([1, 2])):
        if broken:
            with pytest.raises(ValueError, match="drew"):
                make()
        else:
            make()
    examples.transform = draw
    assert drawn() == expected


def test_a_transform_that_is_not_random_leaves_the_random_numbers_alone():
    examples = digits()
    examples.random = False
    random.seed(7)
    expected = random.Random(7).random()
    assert examples[0][0][0] == expected


def test_without_a_transform_there_is_an_image(tmp_path):
    examples = files(tmp_path)
    examples.transform = None
    image, label = examples[-1]
    assert isinstance(image, Image.Image)
    assert label == 1
    assert len(list(examples)) == len(examples) == 4
    with pytest.raises(IndexError):
        examples[4]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_has_an_epoch_of_its_own_that_its_workers_see(tmp_path, twin):
    examples = files(tmp_path)
    examples.set_epoch(5)
    other = twin(examples)
    assert torch.equal(other[0][0], examples[0][0])
    other.set_epoch(6)
    assert not torch.equal(other[0][0], examples[0][0])
    options = {"num_workers": 1, "persistent_workers": True}
    for one, same in zip(epochs(twin(examples), **options), epochs(examples), strict=True):
        assert torch.equal(one, same)


def test_timms_own_loader_takes_them(tmp_path):
    from timm.data import create_loader

    examples = files(tmp_path, 8)
    options = {
        "input_size": (3, 16, 16),
        "batch_size": 4,
        "is_training": True,
        "auto_augment": "rand-m9-mstd0.5",
        "re_prob": 0.25,
        "use_prefetcher": False,
        "device": torch.device("cpu"),
    }
    read = []
    for workers in (0, 2):
        loader = create_loader(examples, num_workers=workers, **options)
        torch.manual_seed(0)  # of the order
        examples.set_epoch(3)
        images, labels = zip(*loader, strict=True)
        read.append((torch.cat(images), torch.cat(labels)))
    assert read[0][0].shape == (8, 3, 16, 16)
    assert torch.equal(read[0][0], read[1][0])
    assert torch.equal(read[0][1], read[1][1])
