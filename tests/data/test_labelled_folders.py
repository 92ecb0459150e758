"""What `open_labelled` finds in class folders: parts, classes, images kept; and what it refuses."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from support.noisy_folders import fill, noise, refused

from dcnify.data import load_images, open_labelled
from dcnify.data.dataset import ImageDataset
from dcnify.data.labels import check_same_classes
from dcnify.errors import InputError


def names(examples) -> list[str]:
    return [examples.dataset.name(place) for place in range(len(examples))]


@pytest.mark.parametrize("held_out", ["val", "validation", "test", "Valid"])
def test_a_folder_of_parts_is_trained_on_one_and_validated_on_the_other(tmp_path, held_out):
    fill(tmp_path / "train", each=3)
    fill(tmp_path / held_out, each=1)
    labelled = open_labelled(tmp_path, classes=3)
    assert labelled.class_names == ("a", "b", "c")
    assert labelled.classes == 3
    assert labelled.warnings == ()
    assert labelled.origin == f"{tmp_path / 'train'}: 9 images, 3 classes"
    assert labelled.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert labelled.validation.labels.tolist() == [0, 1, 2]
    image, label = labelled.train[5]
    assert label == 1
    np.testing.assert_array_equal(np.asarray(image), np.asarray(noise(1002)))


def test_validation_images_are_preferred_to_test_images(tmp_path):
    for part, each in (("train", 3), ("test", 2), ("val", 1)):
        fill(tmp_path / part, each=each)
    assert len(open_labelled(tmp_path).validation) == 3
    assert len(open_labelled(tmp_path, val_split="test").validation) == 6
    assert len(open_labelled(tmp_path, split="test").train) == 6


def test_of_bare_class_folders_one_in_ten_of_each_class_is_kept_for_validation(tmp_path):
    fill(tmp_path, each=20)
    fill(tmp_path, "d", each=2)
    fill(tmp_path, "e", each=1)
    labelled = open_labelled(tmp_path, classes=5)
    kept, trained = names(labelled.validation), names(labelled.train)
    assert labelled.validation.labels.bincount().tolist() == [2, 2, 2, 1]
    assert sorted(kept + trained) == sorted(
        str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")
    )
    assert [Path(name).parts[0] for name in kept] == [
        "abcde"[i] for i in labelled.validation.labels
    ]
    assert labelled.warnings == (
        f"{tmp_path}: no validation images, so 7 of the 63, one in 10 of each class, "
        "are kept for it and not trained on",
    )
    assert names(open_labelled(tmp_path).validation) == kept


def test_images_kept_for_validation_lie_in_the_middle_of_their_ten(tmp_path):
    fill(tmp_path, each=10)
    kept = open_labelled(tmp_path).validation
    assert names(kept) == ["a/5.png", "b/5.png", "c/5.png"]
    np.testing.assert_array_equal(np.asarray(kept[1][0]), np.asarray(noise(1005)))


def test_classes_in_another_order_are_refused():
    train, validation = ImageDataset(), ImageDataset()
    train.origin, train.classes = "train", ("a", "b", "c")
    validation.origin, validation.classes = "val", ("a", "c", "b")
    with pytest.raises(InputError, match="class 1 is 'b' in train and 'c' in val"):
        check_same_classes(train, validation)


def test_a_count_takes_training_images_of_every_class_and_leaves_validation_alone(tmp_path):
    fill(tmp_path / "train", each=10)
    fill(tmp_path / "val")
    labelled = open_labelled(tmp_path, count=6)
    assert labelled.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(labelled.validation) == 6
    assert len(open_labelled(tmp_path, count=1000).train) == 30


def test_a_folder_of_parts_without_training_images_is_not_trained_on_by_accident(tmp_path):
    fill(tmp_path / "val")
    assert "no training images" in refused(tmp_path)
    assert "--split" in refused(tmp_path)
    labelled = open_labelled(tmp_path, split="val")
    assert len(labelled.train) + len(labelled.validation) == 6


def test_the_part_can_be_named_where_other_folders_lie_beside_it(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    fill(tmp_path / "devkit")
    assert refused(tmp_path).endswith("to train on train in it, name it with --split")
    assert len(open_labelled(tmp_path, split="train").validation) == 6


def test_validating_on_the_training_images_is_said(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    words = "the validation images are the training images"
    assert words in open_labelled(tmp_path, val_split="train").warnings[0]
    digits = open_labelled("builtin:cluttered-digits", count=5, val_split="train")
    assert words in digits.warnings[0]


def test_another_number_of_class_folders_than_outputs_is_refused(tmp_path):
    fill(tmp_path / "train", "abcdefghi")
    assert refused(tmp_path, classes=10) == (
        f"{tmp_path / 'train'} has 9 class folders and the model 10 outputs"
    )
    assert "classes=0" in refused(tmp_path, classes=0)
    assert "count=0" in refused(tmp_path, count=0)


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ("abd", "abcd", "{root}/train lacks class 'c', which {root}/val has"),
        ("abcd", "acd", "{root}/val lacks class 'b', which {root}/train has"),
        ("ab", "cd", "{root}/train lacks classes 'c' and 'd', which {root}/val has"),
    ],
)
def test_both_parts_have_the_same_class_folders(tmp_path, train, val, words):
    fill(tmp_path / "train", train)
    fill(tmp_path / "val", val)
    assert refused(tmp_path) == words.format(root=tmp_path)


@pytest.mark.parametrize("reader", ["ImageFolder", "torch/image_folder"])
def test_class_folders_are_read_by_timm_and_by_torchvision(tmp_path, reader):
    fill(tmp_path / "train", ("2", "10"), each=3)
    fill(tmp_path / "val", ("2", "10"), each=1)
    assert "--data ImageFolder (timm) or torch/image_folder" in refused(tmp_path)
    labelled = open_labelled(reader, data_dir=tmp_path, classes=2)
    order = ("2", "10") if reader == "ImageFolder" else ("10", "2")
    assert labelled.class_names == order
    for examples, total in ((labelled.train, 6), (labelled.validation, 2)):
        assert len(examples) == total
        folders = [Path(name).parts[0] for name in names(examples)]
        assert [order[label] for label in examples.labels] == folders
        assert [order[label] for _, label in examples] == folders
    kept = open_labelled(reader, data_dir=tmp_path / "train")
    assert sorted(kept.validation.labels.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "no image files in"),
        (("1.png", "2.png"), "the images are not in a class folder"),
        (("a/1.png", "2.png"), "not every image is in a class folder"),
        (("a/1.png",), "there is only one class folder"),
        (("a/1.png", "b/1.png", "c/"), "the folder c has no images"),
        (("a/x/1.png", "b/1.png"), "the class folders have folders in them"),
        (("train/a/1.png", "train/b/1.png", "val/"), "no image files in"),
        (("train/a/1.png", "train/b/1.png", "val/c.txt"), "no image files in"),
    ],
)
def test_images_without_labels_are_one_line(tmp_path, files, words):
    for name in files:
        path = tmp_path / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            noise().save(path)
    assert words in refused(tmp_path)


def test_what_is_no_folder_is_one_line(tmp_path):
    noise().save(tmp_path / "one.png")
    assert "is one file, not a folder of class folders" in refused(tmp_path / "one.png")
    assert "there is no folder" in refused(tmp_path / "nowhere")
    assert "there is no folder" in refused("")
    assert "--data-dir is for a dataset" in refused(tmp_path, data_dir=tmp_path)
    assert "no split 'tset'" in refused(fill(tmp_path / "x"), val_split="tset")


def test_an_error_begins_with_the_option_that_named_the_images(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.tar").write_bytes(b"")
    fill(tmp_path / "some")
    asked = [
        ("empty", None),
        ("nowhere", None),
        ("some", "tset"),
        ("wds/", None),  # a folder without shards
        ("empty.tar", "train"),
    ]
    for where, split in asked:
        options = {"data_dir": tmp_path / "empty"} if where == "wds/" else {}
        path = where if where == "wds/" else tmp_path / where
        if where == "wds/" and importlib.util.find_spec("webdataset") is None:
            continue
        assert refused(path, split=split, **options).startswith("data: ")
        for called, given in (("images", {}), ("data", {"called": "data"})):
            how = {"count": 2, "size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}
            with pytest.raises(InputError, match=f"^{called}: "):
                load_images(path, split=split, **how, **given, **options)


@pytest.mark.skipif(os.name != "posix", reason="links are POSIX's")
def test_links_to_nowhere_are_told(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val")
    for index in range(10):
        (tmp_path / "train" / "a" / f"gone{index}.jpg").symlink_to("nowhere")
    warnings = open_labelled(tmp_path).warnings
    assert len(warnings) == 9
    assert "a/gone0.jpg: a link to nowhere" in warnings[0]
    assert warnings[-1] == f"{tmp_path / 'train'}: 2 more could not be read"


def test_folders_of_some_classes_of_imagenet_get_its_numbers(tmp_path):
    fill(tmp_path / "train", ("n01440764", "n02102040", "n03888257"))
    fill(tmp_path / "val", ("n01440764", "n02102040", "n03888257"), each=1)
    labelled = open_labelled(tmp_path, classes=1000)
    assert labelled.validation.labels.tolist() == [0, 217, 701]
    assert [label for _, label in labelled.validation] == [0, 217, 701]
    assert labelled.class_names[217] == "n02102040"
    assert labelled.warnings[0].startswith("the model has 1,000 classes, the training images 3: ")
    assert labelled.warnings[0].endswith("and 989 more have no image")
    assert "3 class folders and the model 999 outputs" in refused(tmp_path, classes=999)
