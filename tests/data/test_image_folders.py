"""Folders as people keep images in them: classes, parts of a dataset, links, any order on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcnify.data import load_images
from dcnify.data.dataset import spread
from dcnify.errors import InputError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def fill(root: Path, *names: str) -> Path:
    """Save an image of its own colour under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(np.random.default_rng(list(name.encode())).integers(256, size=3).tolist())
        Image.new("RGB", (8, 8), colour).save(root / name)
    return root


def load(where: Path | str, count: int = 100, **options):
    return load_images(where, count=count, size=(3, 8, 8), **PLAIN, **options)


def test_class_folders_are_numbered_by_name_as_timm_and_torchvision_do(tmp_path):
    from timm.data import create_dataset

    names = [f"{kind}/{index}.png" for kind in ("dog", "ant", "cat") for index in range(3)]
    batch = load(fill(tmp_path, *names))
    assert batch.classes == ("ant", "cat", "dog")
    assert batch.labels.dtype == torch.int64
    assert sorted(batch.labels.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    ours = dict(zip(batch.names, batch.labels.tolist(), strict=True))
    timms = create_dataset("", root=str(tmp_path), search_split=False)
    assert ours == {timms.filename(i): timms[i][1] for i in range(len(timms))}
    visions = create_dataset("torch/image_folder", root=str(tmp_path), search_split=False)
    assert ours == {os.path.relpath(path, tmp_path): label for path, label in visions.samples}


def test_a_sample_of_a_large_folder_keeps_the_labels_of_the_whole(tmp_path):
    fill(tmp_path, *(f"c{kind}/{index}.png" for kind in range(5) for index in range(4)))
    batch = load(tmp_path, count=5)
    assert sorted(batch.names) == ["c0/0.png", "c1/0.png", "c2/0.png", "c3/0.png", "c4/0.png"]
    assert batch.labels.tolist() == [int(name[1]) for name in batch.names]
    assert load(tmp_path, count=2).labels.tolist() == [0, 2]


def test_the_first_quarter_of_the_images_shows_all_classes_again(tmp_path):
    fill(tmp_path, *(f"{kind}/{index}.png" for kind in "abcd" for index in range(8)))
    labels = load(tmp_path, count=32).labels
    assert labels.bincount().tolist() == [8] * 4
    assert labels[:8].bincount(minlength=4).tolist() == [2] * 4
    assert len(labels[:4].unique()) == 4


@pytest.mark.parametrize("total", [1, 2, 3, 7, 64, 65])
def test_whatever_the_count_each_image_has_its_turn_once(total):
    for count in (1, 2, 5, total, total + 3):
        order = list(spread(count, total))
        assert sorted(order) == list(range(total))
        wanted = min(count, total)
        assert sorted(order[:wanted]) == [index * total // wanted for index in range(wanted)]


def test_labels_stay_with_their_images_when_some_are_broken(tmp_path):
    fill(tmp_path, *(f"{kind}/{index}.png" for kind in "abc" for index in range(3)))
    for broken in ("a/0.png", "b/1.png", "c/0.png"):
        (tmp_path / broken).write_bytes(b"")
    batch = load(tmp_path, count=6)
    assert len(batch.names) == 6
    assert batch.labels.tolist() == ["abc".index(name[0]) for name in batch.names]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("1.png", "2.png"), "the images are not in a class folder"),
        (("a/1.png", "b/1.png", "2.png"), "not every image is in a class folder"),
        (("a/1.png", "a/2.png"), "only one class folder"),
        (("a/1.png", "b/deep/1.png"), "the class folders have folders in them"),
        (("2/1.png", "10/1.png"), "timm and torchvision number these class folders differently"),
        (("Zebra/1.png", "ant/1.png"), "timm and torchvision number"),
        (("Cat/1.png", "cat/1.png"), "timm and torchvision number"),
        (("²/1.png", "3/1.png"), "timm and torchvision number"),
    ],
)
def test_folders_that_are_no_clear_classes_give_no_labels_and_the_reason(tmp_path, names, reason):
    batch = load(fill(tmp_path, *names))
    assert len(batch.names) == len(names)
    assert batch.labels is None
    assert batch.classes is None
    assert reason in batch.unlabelled


def test_a_folder_without_images_leaves_it_open_whether_it_is_a_class(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "bee").mkdir()
    batch = load(tmp_path)
    assert batch.labels is None
    assert "the folder bee has no images" in batch.unlabelled
    (tmp_path / "bee").rmdir()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert load(tmp_path).labels.tolist() == [0, 1]


def test_of_a_folder_of_splits_the_training_images_are_taken(tmp_path):
    names = [f"{split}/{kind}/1.png" for split in ("val", "train", "test") for kind in "ab"]
    batch = load(fill(tmp_path, *names))
    assert batch.names == ("a/1.png", "b/1.png")
    assert batch.origin == f"{tmp_path}/train"
    assert batch.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("split", "folder"), [("val", "val"), ("validation", "val"), ("test", "Test")]
)
def test_a_split_is_found_under_its_usual_names(tmp_path, split, folder):
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "Test/3.png")
    assert load(tmp_path, split=split).origin == f"{tmp_path}/{folder}"


def test_where_there_are_no_training_images_the_others_will_do(tmp_path):
    fill(tmp_path, "test/a/1.png", "valid/a/2.png", "valid/b/2.png")
    assert load(tmp_path).origin == f"{tmp_path}/valid"


def test_a_class_that_is_called_train_is_no_split(tmp_path):
    batch = load(fill(tmp_path, "boat/1.png", "train/1.png"))
    assert batch.classes == ("boat", "train")
    assert batch.labels.tolist() == [0, 1]


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    fill(tmp_path, "train/a/1.png", "val/a/1.png")
    with pytest.raises(InputError, match=r"no split 'tset' in .*; its folders are train, val"):
        load(tmp_path, split="tset")
    with pytest.raises(InputError, match="it has no folders"):
        load(tmp_path / "train" / "a", split="train")
    with pytest.raises(InputError, match="is one file and has no split"):
        load(tmp_path / "train" / "a" / "1.png", split="train")


def test_the_order_on_disk_makes_no_difference(tmp_path, monkeypatch):
    names = [f"{kind}/{index}.png" for kind in ("b", "a") for index in (2, 10, 1)]
    one, two = fill(tmp_path / "one", *names), fill(tmp_path / "two", *reversed(names))
    first, second = load(one, count=4), load(two, count=4)
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: list(scandir(path))[::-1])
    third = load(one, count=4)
    for other in (second, third):
        assert other.names == first.names
        assert torch.equal(other.tensor, first.tensor)
        assert torch.equal(other.labels, first.labels)


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_class_folders_may_be_links_and_no_image_is_taken_twice(tmp_path):
    elsewhere = fill(tmp_path / "elsewhere", "x/1.png", "y/2.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "ant").symlink_to(elsewhere / "x")
    (root / "bee").symlink_to(elsewhere / "y")
    (root / "wasp").symlink_to(elsewhere / "y")
    batch = load(root)
    assert batch.names == ("ant/1.png", "bee/2.png")
    assert batch.labels.tolist() == [0, 1]


def test_an_empty_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no image files in"):
        load(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="no image files in"):
        load(tmp_path)
    with pytest.raises(InputError, match="no folder ''"):
        load("")


def test_a_built_in_dataset_has_labels_and_parts():
    from dcnify.data import ClutteredDigits

    batch = load("builtin:cluttered-digits", count=20)
    assert batch.classes == tuple("0123456789")
    assert torch.equal(batch.labels, ClutteredDigits("train", 20).labels)
    held_out = load("builtin:cluttered-digits", count=20, split="validation")
    assert torch.equal(held_out.labels, ClutteredDigits("validation", 20).labels)
    assert held_out.origin == "builtin:cluttered-digits validation"
    with pytest.raises(InputError, match="did you mean 'validation'"):
        load("builtin:cluttered-digits", split="val")


def test_photographs_have_no_labels_and_no_parts():
    batch = load_images(None, count=2, size=(3, 8, 8), **PLAIN)
    assert batch.labels is None
    assert batch.unlabelled == "the photographs have no labels"
    with pytest.raises(InputError, match="--split is for a dataset"):
        load_images(None, count=2, size=(3, 8, 8), split="train", **PLAIN)
