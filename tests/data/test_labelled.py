"""What `open_labelled` finds: parts, classes, images kept for validation; and what it refuses."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcnify.data import ClutteredDigits, load_images, open_labelled
from dcnify.data.dataset import ImageDataset
from dcnify.data.labels import check_same_classes
from dcnify.errors import InputError


def noise(seed: int = 0, size: int = 12) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(size, size, 3))
    return Image.fromarray(values.astype(np.uint8))


def fill(root: Path, kinds: Iterable[str] = "abc", each: int = 2) -> Path:
    """Class folders with images in them."""
    for number, kind in enumerate(kinds):
        (root / kind).mkdir(parents=True)
        for index in range(each):
            noise(1000 * number + index).save(root / kind / f"{index}.png")
    return root


def mnist(root: Path, train: Iterable[int], test: Iterable[int]) -> Path:
    """The files of MNIST with images of these labels."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, labels in (("train", bytes(train)), ("t10k", bytes(test))):
        pixels = np.random.default_rng(0).integers(256, size=(len(labels), 28, 28))
        head = struct.pack(">IIII", 2051, len(labels), 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.astype(np.uint8).tobytes())
        head = struct.pack(">II", 2049, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels)
    return root


def names(examples) -> list[str]:
    return [examples.dataset.name(place) for place in range(len(examples))]


def refused(where, **options) -> str:
    with pytest.raises(InputError) as caught:
        open_labelled(where, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def test_a_torchvision_dataset_is_validated_on_its_test_images(tmp_path):
    mnist(tmp_path, [*range(10)] * 2, range(10))
    labelled = open_labelled("torch/mnist", data_dir=tmp_path, classes=10)
    assert labelled.train.labels.tolist() == [*range(10)] * 2
    assert labelled.validation.labels.tolist() == [*range(10)]
    assert labelled.train[3][0].mode == "RGB"
    assert labelled.train[3][1] == 3
    assert labelled.origin == f"torch/mnist in {tmp_path}: 20 images, 10 classes"
    assert labelled.warnings == ()
    assert len(open_labelled("torch/mnist", data_dir=tmp_path, count=7).train) == 7
    twice = open_labelled("torch/mnist", data_dir=tmp_path, split="test")
    assert "the validation images are the training images" in twice.warnings[0]


def test_a_class_without_an_image_is_a_warning_until_it_is_asked_for(tmp_path):
    mnist(tmp_path / "one", [0, 1, 2, 3, 4, 5, 6, 8, 9], [0, 1, 2])
    labelled = open_labelled("torch/mnist", data_dir=tmp_path / "one", classes=10)
    assert labelled.warnings == (
        "the model has 10 classes, the training images 9: class 7 ('7 - seven') has no image",
    )
    mnist(tmp_path / "two", [0, 1, 2, 3, 4, 5, 6, 8, 9], [7])
    assert refused("torch/mnist", data_dir=tmp_path / "two") == (
        f"torch/mnist in {tmp_path / 'two'} has no image of class 7 ('7 - seven'), "
        "which the validation images show"
    )


def test_a_label_beyond_the_model_is_told_before_anything_is_read(tmp_path):
    mnist(tmp_path, [*range(10), 17, 18], range(10))
    assert refused("torch/mnist", data_dir=tmp_path, classes=10) == (
        f"torch/mnist in {tmp_path}: label 17 of torch/mnist in {tmp_path} 10 is not a class of "
        "the model, which has 10 (and 1 more)"
    )
    assert "has 10 classes and the model 1,000 outputs" in refused(
        "torch/mnist", data_dir=tmp_path, classes=1000
    )


def test_an_empty_part_is_one_line(tmp_path):
    mnist(tmp_path, range(10), [])
    assert f"torch/mnist in {tmp_path}: " in refused("torch/mnist", data_dir=tmp_path)


def test_a_tar_file_of_class_folders_is_trained_on_and_a_tenth_kept(tmp_path):
    fill(tmp_path / "in", each=10)
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for kind in "abc":
            tar.add(tmp_path / "in" / kind, kind)
    labelled = open_labelled(tmp_path / "all.tar", classes=3)
    assert len(labelled.train) == 27
    assert labelled.validation.labels.tolist() == [0, 1, 2]
    labelled.train.transform = np.array
    loader = torch.utils.data.DataLoader(labelled.train, 4, num_workers=2)
    read = torch.cat([images for images, _ in loader])
    assert torch.equal(read, torch.stack([torch.tensor(image) for image, _ in labelled.train]))
    assert "one file and has no split" in refused(tmp_path / "all.tar", split="train")


def test_cluttered_digits_come_with_options():
    labelled = open_labelled("builtin:cluttered-digits?canvas=40&seed=3", classes=10, count=30)
    truth = ClutteredDigits("train", 30, seed=3, canvas=40)
    assert torch.equal(labelled.train.labels, truth.labels)
    for (image, label), (expected, digit) in zip(labelled.train, truth, strict=True):
        assert image.mode == "RGB"
        assert label == digit
        pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)
        assert torch.equal(pixels, (expected * 255).round().byte())
    assert len(labelled.validation) == 2000
    assert labelled.class_names == tuple("0123456789")
    assert labelled.origin == (
        "builtin:cluttered-digits?canvas=40&seed=3 train: 30 images, 10 classes"
    )
    assert open_labelled("builtin:cluttered-digits", count=3, mode="L").train[0][0].mode == "L"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?canvs=40", "unknown option 'canvs', did you mean 'canvas'?"),
        ("?transform=1", "unknown option 'transform', there are seed, canvas, digit"),
        ("?canvas=wide", "canvas must be a whole number, not 'wide'"),
        ("?canvas=8", "piece <= digit <= canvas is needed"),
    ],
)
def test_an_option_that_digits_do_not_have_is_one_line(query, words):
    assert words in refused(f"builtin:cluttered-digits{query}", count=3)
    assert "unknown split 'val'" in refused("builtin:cluttered-digits", val_split="val", count=3)
    assert "did you mean" in refused("builtin:cluttered-digit?canvas=40")


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("hfds/owner/name", "datasets", "pip install datasets"),
        ("hfids/owner/name", "datasets", "pip install datasets"),
        ("tfds/name", "tensorflow_datasets", "pip install tensorflow tensorflow-datasets"),
        ("wds/name", "webdataset", "pip install webdataset"),
    ],
)
def test_a_missing_package_is_named_as_pip_knows_it(tmp_path, name, package, install):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    assert install in refused(name, data_dir=tmp_path)


def test_a_local_hugging_face_dataset_tells_its_labels(tmp_path):
    pytest.importorskip("datasets")
    fill(tmp_path / "photos" / "train", each=3)
    fill(tmp_path / "photos" / "test", each=1)
    name = f"hfds/{tmp_path / 'photos'}"
    labelled = open_labelled(name, data_dir=tmp_path / "cache", classes=3)
    assert labelled.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [label for _, label in labelled.train] == labelled.train.labels.tolist()
    assert len(labelled.validation) == 3
    assert labelled.warnings == ()
    assert "3 classes and the model 4 outputs" in refused(
        name, data_dir=tmp_path / "cache", classes=4
    )
    assert 'Unknown split "val"' in refused(name, data_dir=tmp_path / "cache", split="val")


def test_a_local_webdataset_is_an_epoch_of_as_many_as_asked_for(tmp_path):
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for index in range(6):
            image = io.BytesIO()
            noise(index).save(image, "PNG")
            for ending, content in (("png", image.getvalue()), ("cls", str(index % 3).encode())):
                member = tarfile.TarInfo(f"{index:04}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert "give a count" in refused("wds/mine", data_dir=tmp_path, classes=3)
    assert "say how many there are" in refused("wds/mine", data_dir=tmp_path, count=6)
    labelled = open_labelled("wds/mine", data_dir=tmp_path, classes=3, count=6)
    assert len(labelled.train) == 6
    assert sorted(label for _, label in labelled.train) == [0, 0, 1, 1, 2, 2]
    assert labelled.validation is None
    assert labelled.origin == f"wds/mine in {tmp_path}: a stream of 6 images, 3 classes"
    assert "no validation images" in labelled.warnings[0]
