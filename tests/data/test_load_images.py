"""Images to compare models on: photographs in installed packages, folders, built-in datasets."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from dcnify.data import load_images
from dcnify.errors import InputError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(256, size=(height, width, 3))
    return Image.fromarray(noise.astype(np.uint8))


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    """Make packages look as if they were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in hidden else find(name, *rest),
    )


def test_photographs_come_in_the_wanted_number_and_shape():
    batch = load_images(None, count=30, size=(3, 48, 64), **PLAIN)
    assert batch.tensor.shape == (30, 3, 48, 64)
    assert batch.tensor.dtype == torch.float32
    assert batch.tensor.min() >= 0
    assert batch.tensor.max() <= 1
    assert len(set(batch.names)) == 30
    assert batch.skipped == ()
    assert batch.names[0] == "china.jpg"
    assert any(name.startswith("china.jpg crop") for name in batch.names)


def test_no_two_crops_are_the_same_and_a_second_call_repeats_them():
    first = load_images(None, count=30, size=(3, 32, 32), **PLAIN).tensor
    assert len(first.flatten(1).unique(dim=0)) == 30
    assert torch.equal(first, load_images(None, count=30, size=(3, 32, 32), **PLAIN).tensor)


@pytest.mark.parametrize(
    ("hidden", "there"), [("skimage", "china.jpg"), ("sklearn", "astronaut.png")]
)
def test_one_of_the_two_packages_is_enough(monkeypatch, hidden, there):
    hide(monkeypatch, hidden)
    batch = load_images(None, count=16, size=(3, 32, 32), **PLAIN)
    assert len(batch.tensor) == 16
    assert batch.names[0] == there


def test_without_either_package_the_error_offers_both_ways_out(monkeypatch):
    hide(monkeypatch, "sklearn", "skimage")
    with pytest.raises(InputError, match=r"--images DIR.*pip install 'dcnify\[data\]'"):
        load_images(None, count=4, size=(3, 32, 32), **PLAIN)


def test_photographs_are_normalised_by_mean_and_std():
    plain = load_images(None, count=3, size=(3, 16, 16), **PLAIN).tensor
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normalised = load_images(None, count=3, size=(3, 16, 16), mean=mean, std=std).tensor
    expected = (plain - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normalised, expected)


def test_one_channel_is_grey_and_four_repeat_red_after_blue():
    options = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
    grey = load_images(None, count=2, size=(1, 16, 16), **options).tensor
    colour = load_images(None, count=2, size=(4, 16, 16), **options).tensor
    assert grey.shape == (2, 1, 16, 16)
    assert torch.equal(colour[:, 3], colour[:, 0])
    assert not torch.equal(colour[:, 1], colour[:, 0])


def test_a_folder_is_searched_to_the_bottom_in_sorted_order(tmp_path):
    (tmp_path / "b" / "deep").mkdir(parents=True)
    picture(seed=1).save(tmp_path / "b" / "deep" / "one.PNG")
    picture(seed=2).save(tmp_path / "a.jpg")
    (tmp_path / "labels.txt").write_text("not an image, and not called one")
    batch = load_images(tmp_path, count=8, size=(3, 20, 20), **PLAIN)
    assert batch.names == ("a.jpg", "b/deep/one.PNG")
    assert batch.tensor.shape == (2, 3, 20, 20)
    assert batch.skipped == ()
    assert batch.origin == str(tmp_path)


def test_a_large_folder_is_sampled_at_even_distances(tmp_path):
    for index in range(20):
        picture(8, 8, seed=index).save(tmp_path / f"{index:02}.png")
    batch = load_images(tmp_path, count=4, size=(3, 8, 8), **PLAIN)
    assert sorted(batch.names) == ["00.png", "05.png", "10.png", "15.png"]


def test_broken_files_are_skipped_listed_and_replaced(tmp_path):
    for index in range(6):
        picture(seed=index).save(tmp_path / f"{index}.png")
    (tmp_path / "0.png").write_bytes(b"this is no image")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "1.jpg").write_bytes(b"")
    batch = load_images(tmp_path, count=4, size=(3, 16, 16), **PLAIN)
    assert len(batch.tensor) == 4
    skipped = dict(batch.skipped)
    assert skipped["0.png"] == "not an image"
    assert set(skipped) <= {"0.png", "1.jpg", "3.png"}
    assert not set(batch.names) & {"0.png", "1.jpg", "3.png"}


def test_a_decompression_bomb_is_skipped(tmp_path, monkeypatch):
    picture(100, 100).save(tmp_path / "bomb.png")
    picture(20, 20).save(tmp_path / "fine.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    batch = load_images(tmp_path, count=2, size=(3, 8, 8), **PLAIN)
    assert batch.names == ("fine.png",)
    assert batch.skipped == (("bomb.png", "more than 6,000 pixels"),)


def test_a_folder_with_only_broken_files_is_an_error_that_says_why(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"none of the 1 image files.*a\.png: not an image"):
        load_images(tmp_path, count=2, size=(3, 8, 8), **PLAIN)


def test_a_folder_without_images_or_no_folder_at_all_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no image files"):
        load_images(tmp_path, count=2, size=(3, 8, 8), **PLAIN)
    with pytest.raises(InputError, match="no folder"):
        load_images(tmp_path / "nowhere", count=2, size=(3, 8, 8), **PLAIN)


def test_one_file_may_be_given(tmp_path):
    picture().save(tmp_path / "a.png")
    assert load_images(tmp_path / "a.png", count=4, size=(3, 8, 8), **PLAIN).names == ("a.png",)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stripe = np.zeros((40, 40, 3), np.uint8)
    stripe[:20] = 255
    Image.fromarray(stripe).save(tmp_path / "turned.png", exif=exif)
    tensor = load_images(tmp_path, count=1, size=(3, 40, 40), **PLAIN).tensor[0]
    assert tensor[:, :, 25:].min() == 1
    assert tensor[:, :, :15].max() == 0


@pytest.mark.parametrize("size", [(3, 32, 32), (3, 24, 40), (3, 40, 24)])
def test_a_file_is_resized_and_cropped_as_timm_evaluates(tmp_path, size):
    from timm.data import create_transform

    gradient = np.linspace(0, 255, 90 * 120).reshape(90, 120, 1).repeat(3, 2).astype(np.uint8)
    Image.fromarray(gradient).save(tmp_path / "gradient.png")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    transform = create_transform(
        size, is_training=False, crop_pct=1.0, interpolation="bicubic", mean=mean, std=std
    )
    ours = load_images(tmp_path, count=1, size=size, mean=mean, std=std).tensor[0]
    theirs = transform(Image.open(tmp_path / "gradient.png"))
    assert (ours - theirs).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("mode", "values"),
    [("I;16", np.uint16(65535)), ("F", np.float32(1.0)), ("L", np.uint8(255)), ("1", True)],
)
def test_every_depth_of_grey_spans_black_to_white(tmp_path, mode, values):
    pixels = np.zeros((16, 16), dtype=np.asarray(values).dtype)
    pixels[:, 8:] = values
    image = Image.fromarray(pixels)
    assert image.mode == mode
    image.save(tmp_path / "grey.tiff")
    tensor = load_images(tmp_path, count=1, size=(3, 16, 16), **PLAIN).tensor
    assert tensor[..., :6].max() == 0
    assert tensor[..., 10:].min() == 1


def test_a_built_in_dataset_gives_its_training_images():
    batch = load_images("builtin:cluttered-digits", count=5, size=(3, 32, 32), **PLAIN)
    from dcnify.data import ClutteredDigits

    torch.testing.assert_close(batch.tensor[4], ClutteredDigits("train", 5)[4][0])
    assert batch.origin == "builtin:cluttered-digits"


@pytest.mark.parametrize(("count", "size"), [(0, (3, 8, 8)), (1, (0, 8, 8)), (1, (3, 8, -1))])
def test_an_impossible_request_is_an_error(count, size):
    with pytest.raises(InputError, match="must be positive"):
        load_images(None, count=count, size=size, **PLAIN)
