"""What `open_labelled` finds in datasets that are no folders: torchvision's, digits, tar files."""

from __future__ import annotations

import importlib.util
import io
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.noisy_folders import fill, noise, refused

from dcnify.data import ClutteredDigits, open_labelled


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
